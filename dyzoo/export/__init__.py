"""Detectors outside of PyTorch: exporting to ONNX, with every file compared with the detector before it is done."""

from __future__ import annotations

from dyzoo.export.options import ExportOptions
from dyzoo.export.report import ExportReport

__all__ = ["ExportOptions", "ExportReport"]
