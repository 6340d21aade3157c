"""From a detector's ONNX graph to OpenVINO's intermediate representation."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from dyzoo.export import graph as graphs
from dyzoo.export.comparison import Comparison
from dyzoo.export.options import ExportOptions
from dyzoo.files import replacing
from dyzoo.model.detector import Detector
from dyzoo.runtime.openvino_files import METADATA, WEIGHTS_DIGEST
from dyzoo.runtime.runners import OpenVinoRunner

if TYPE_CHECKING:
    import onnx_ir as ir


def write_openvino(
    model: Detector, options: ExportOptions, told: Mapping[str, str], comparison: Comparison, path: Path
) -> float:
    """Write an .xml file, with the weights in a .bin file beside it, and give the seconds without the comparison.

    Weights stay in float32.

    Args:
        model: in evaluation mode, float32, on the CPU.
        told: metadata, which OpenVINO keeps in the part `METADATA` of the runtime information.
    """
    with ExitStack() as both:  # before the work, so that a place that cannot be written costs none
        aside = [both.enter_context(replacing(target)) for target in (path, path.with_suffix(".bin"))]
        started = time.perf_counter()
        graph = graphs.detections_and_maps(model, options)
        graph.metadata_props.update(told)
        seconds = time.perf_counter() - started
        if options.decode:
            comparison.run(OpenVinoRunner(*_contents(graph)))
            graphs.without_maps(graph)
        xml, weights = _contents(graph)
        comparison.run(OpenVinoRunner(xml, weights))
        for target, content in zip(aside, (xml, weights), strict=True):
            target.write_bytes(content)
    return seconds


def _contents(graph: ir.Model) -> tuple[bytes, bytes]:
    """Contents of the .xml and the .bin file."""
    import onnx_ir
    import openvino

    with tempfile.TemporaryDirectory(prefix="dyzoo_") as folder:
        file, xml, weights = (Path(folder) / f"detector.{suffix}" for suffix in ("onnx", "xml", "bin"))
        onnx_ir.save(graph, file)
        converted = openvino.Core().read_model(file)
        openvino.serialize(converted, xml, weights)
        converted.set_rt_info(hashlib.sha256(weights.read_bytes()).hexdigest(), [METADATA, WEIGHTS_DIGEST])
        openvino.serialize(converted, xml, weights)
        return xml.read_bytes(), weights.read_bytes()
