"""Small detectors as files, whose graph is traced once for all precisions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from dyzoo.export import ExportOptions, ExportReport
from dyzoo.model.detector import Detector
from tests.export.detectors import small_detector

_traced: dict[Any, Any] = {}


class Exported(NamedTuple):
    model: Detector
    options: ExportOptions
    report: ExportReport


def export_small(folder: Path, options: ExportOptions, head: str, **settings: str) -> Exported:
    """An export of a small detector, whose graph is traced once for all precisions."""
    import onnx_ir

    from dyzoo.export import graph
    from dyzoo.export.exporting import export_detector

    trace = graph.detections_and_maps

    def traced(model: Detector, options: ExportOptions) -> Any:
        key = (head, *sorted(settings.items()), replace(options, precision="fp32", calibration=None))
        if key not in _traced:
            _traced[key] = onnx_ir.to_proto(trace(model, options))
        return onnx_ir.from_proto(_traced[key])

    model = small_detector(head, **settings)
    with patch.object(graph, "detections_and_maps", traced):
        return Exported(model, options, export_detector(model, folder / "small.onnx", options))
