"""From a detector to an ONNX file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dyzoo.export import graph as graphs
from dyzoo.export.calibration import calibration_files
from dyzoo.export.comparison import Comparison
from dyzoo.export.networks import map_names
from dyzoo.export.options import ExportOptions
from dyzoo.export.precision import in_precision
from dyzoo.files import replacing
from dyzoo.model.detector import Detector
from dyzoo.runtime.runners import OnnxRunner

if TYPE_CHECKING:
    import onnx_ir as ir


def write_onnx(
    model: Detector, options: ExportOptions, told: Mapping[str, str], comparison: Comparison, path: Path
) -> float:
    """Write an ONNX file that has been compared, and give the seconds without the comparison.

    Args:
        model: in evaluation mode, float32, on the CPU.
        told: metadata.
    """
    calibration = () if options.calibration is None else calibration_files(options.calibration)
    with replacing(path) as aside:  # before the work, so that a place that cannot be written costs none
        started = time.perf_counter()
        graph = graphs.detections_and_maps(model, options)
        graph, facts = in_precision(graph, map_names(model), model.config.preprocess, options, calibration)
        graph.metadata_props.update({**told, **facts})
        seconds = time.perf_counter() - started
        if options.decode:
            with tempfile.TemporaryDirectory(prefix="dyzoo_") as folder:
                everything = Path(folder) / "everything.onnx"
                _save(graph, everything)
                comparison.run(OnnxRunner(everything))
            graphs.without_maps(graph)
        _save(graph, aside)
        comparison.run(OnnxRunner(aside))
    return seconds


def _save(model: ir.Model, path: Path) -> None:
    import onnx_ir

    onnx_ir.save(model, path)
