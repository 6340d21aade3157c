"""Launch parameters for the GPU at hand: `python -m benchmarks tune`, or `dyzoo bench tune`."""

from __future__ import annotations

import torch
from dyhead_kernels.backends import kernels_are_interpreted

from dyzoo.errors import DyzooError


class TuneError(DyzooError, RuntimeError):
    """Tuning that cannot start or go on."""


def check_device(device: torch.device) -> None:
    """Refuse a device that cannot be tuned, before anything that needs Triton is imported.

    Raises:
        TuneError: nothing can be measured on `device`.
    """
    if device.type != "cuda":
        raise TuneError(
            "launch parameters can only be measured on the GPU they are for, and there is none here that PyTorch can "
            "use: run this where there is one"
        )
    if kernels_are_interpreted():
        raise TuneError("TRITON_INTERPRET is 1, so nothing would run on the GPU: unset it")
