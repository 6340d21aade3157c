"""Sessions of onnxruntime, and what has to be installed for them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dyzoo.errors import DyzooError

TO_EXPORT = ("onnx", "onnxscript", "onnxruntime")
TO_RUN = ("onnx", "onnxruntime")
WITH_DEFORM_CONV = (1, 25, 1)


def check_installed(packages: Sequence[str], error: type[DyzooError], purpose: str, extra: str = "onnx") -> None:
    """Raise that error unless these packages are here; the extra has them all."""
    if absent := [name for name in packages if find_spec(name) is None]:
        raise error(f"{', '.join(absent)} not installed, {purpose} needs it: pip install 'dyzoo[{extra}]'")


def check_deform_conv(error: type[DyzooError], way_out: str) -> None:
    """Raise that error unless onnxruntime has `DeformConv`."""
    import onnxruntime

    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:3] if part.isdecimal())
    if version < WITH_DEFORM_CONV:
        raise error(
            f"onnxruntime {onnxruntime.__version__} has no DeformConv, expected "
            f"{'.'.join(map(str, WITH_DEFORM_CONV))} or later: install a later one, {way_out}"
        )


def open_session(model: Path | bytes) -> Any:
    """A session on the CPU, with as many threads as torch has; of a file, or of a file's content."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors come as exceptions besides
    content = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
