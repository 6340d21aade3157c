"""Small detectors as files, whose graph is traced once for all precisions and formats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from dyzoo.export import ExportOptions, ExportReport
from dyzoo.export.options import SUFFIXES
from dyzoo.model.detector import Detector
from tests.export.detectors import small_detector

_traced: dict[Any, Any] = {}


class Exported(NamedTuple):
    model: Detector
    options: ExportOptions
    report: ExportReport


def export_small(folder: Path, options: ExportOptions, head: str, **settings: Any) -> Exported:
    """An export of a small detector, as `small.onnx`, or with the suffix of its format."""
    from dyzoo.export.exporting import export_detector

    model = small_detector(head, **settings)
    with traced_once():
        report = export_detector(model, folder / f"small{SUFFIXES[options.to]}", options)
    return Exported(model, options, report)


@contextmanager
def traced_once() -> Iterator[None]:
    """Let exports within take the graph that the same detector had before, where it was traced already."""
    import onnx_ir

    from dyzoo.export import graph
    from dyzoo.export.metadata import weights_digest

    trace = graph.detections_and_maps

    def traced(model: Detector, options: ExportOptions) -> Any:
        form = replace(options, precision="fp32", calibration=None, to="onnx")
        key = (weights_digest(model), model.config, form)
        if key not in _traced:
            _traced[key] = onnx_ir.to_proto(trace(model, options))
        return onnx_ir.from_proto(_traced[key])

    with patch.object(graph, "detections_and_maps", traced):
        yield
