"""A detector whose network is an ONNX file."""

from __future__ import annotations

from pathlib import Path

from dyzoo.errors import CheckpointError, first_line
from dyzoo.runtime.exported_detector import ExportedDetector
from dyzoo.runtime.files import read_detector
from dyzoo.runtime.runners import OnnxRunner
from dyzoo.runtime.sessions import TO_RUN, check_deform_conv, check_installed

SUFFIX = ".onnx"


class OnnxDetector(ExportedDetector):
    """A detector that onnxruntime runs."""

    @classmethod
    def from_file(cls, path: str | Path) -> OnnxDetector:
        """Load what `dyzoo export` wrote, pictures to detections.

        Raises:
            CheckpointError: onnxruntime is not installed, or the file is something else or damaged.
            OSError: the file cannot be read.
        """
        check_installed(TO_RUN, CheckpointError, "an ONNX file")
        content, config, told = read_detector(Path(path))
        if told.get("deform_conv") == "node":
            check_deform_conv(CheckpointError, "or export it with --deform-conv grid-sample")
        try:
            runner = OnnxRunner(content)
        except Exception as error:  # onnxruntime has a class of its own for each reason
            raise CheckpointError(f"onnxruntime cannot run {path}: {first_line(error)}") from None
        return cls(runner, config, told["input"], str(path), len(content))
