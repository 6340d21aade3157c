"""Sessions of onnxruntime, and what has to be installed for them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dyzoo.errors import ExportError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
WITH_DEFORM_CONV = (1, 25, 1)
INSTALL = "pip install 'dyzoo[onnx]'"


def check_installed(deform_conv: str) -> None:
    """Raise an `ExportError` unless all is here that exporting and comparing need."""
    absent = [name for name in PACKAGES if find_spec(name) is None]
    if absent:
        raise ExportError(f"{', '.join(absent)} not installed, exporting needs it: {INSTALL}")
    import onnxruntime

    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:3] if part.isdecimal())
    if deform_conv == "node" and version < WITH_DEFORM_CONV:
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} has no DeformConv, expected "
            f"{'.'.join(map(str, WITH_DEFORM_CONV))} or later: install a later one, or choose the form grid-sample"
        )


def open_session(path: Path) -> Any:
    """A session on the CPU, with as many threads as torch has."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
