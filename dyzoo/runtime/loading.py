"""Exported detectors by the suffix of their file."""

from __future__ import annotations

from pathlib import Path

from dyzoo.errors import CheckpointError
from dyzoo.runtime import onnx_detector, openvino_detector
from dyzoo.runtime.exported_detector import ExportedDetector
from dyzoo.runtime.onnx_detector import OnnxDetector
from dyzoo.runtime.openvino_detector import OpenVinoDetector

PROGRAM_SUFFIX = ".pt2"
SUFFIXES = (onnx_detector.SUFFIX, openvino_detector.SUFFIX, PROGRAM_SUFFIX)


def load_exported(path: Path) -> ExportedDetector:
    """The detector in a file that `dyzoo export` wrote.

    Raises:
        CheckpointError: its runtime is not installed, the file is something else or damaged, or it is a .pt2 file.
        OSError: it cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == PROGRAM_SUFFIX:
        raise CheckpointError(
            f"{path} is a program that could do anything once it is loaded: load one that you trust with "
            "torch.export.load or torch._inductor.aoti_load_package (docs/export.md), or export to ONNX or OpenVINO"
        )
    kind = OnnxDetector if suffix == onnx_detector.SUFFIX else OpenVinoDetector
    return kind.from_file(path)
