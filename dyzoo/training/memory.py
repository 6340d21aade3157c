"""Memory that a training will need, and memory that is free."""

from __future__ import annotations

import contextlib
from functools import lru_cache
from pathlib import Path

import psutil
import torch
from torch import Tensor

from dyzoo.config import DetectorConfig
from dyzoo.environment import processes_of_machine
from dyzoo.model.detector import Detector

# Peak of a training step over what the forward pass keeps for the backward pass, which is counted in float32: 1.1 to
# 1.7 were measured in float32 and 0.7 to 0.9 in bfloat16, over backbones, heads and image sizes.
_OVER_KEPT = {torch.float32: 2.0, torch.bfloat16: 1.1, torch.float16: 1.1}
_CGROUP = Path("/sys/fs/cgroup")


@lru_cache(maxsize=1)
def _without_values(detector: DetectorConfig) -> Detector:
    with torch.random.fork_rng(devices=[]):  # the weights of the run must not depend on whether anybody asked
        return Detector(detector).to("meta").train()


@lru_cache(maxsize=64)
def bytes_per_image(detector: DetectorConfig, size: tuple[int, int], precision: torch.dtype) -> float:
    """Memory that each image of (H, W) in a batch takes in a training step, estimated without computing anything.

    A forward pass over tensors without values counts what autograd would keep; the head's losses are small beside it.
    """
    model = _without_values(detector)
    divisor = max(detector.preprocess.size_divisor, detector.fpn.backbone_strides_px[-1])
    height, width = (-(-side // divisor) * divisor for side in size)
    held = {value.untyped_storage()._cdata for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # the tensors stay alive, or another would get the number of one that has gone

    def keep(value: Tensor) -> Tensor:
        number = value.untyped_storage()._cdata
        if number not in held:
            kept[number] = value
        return value

    image = torch.empty(1, 3, height, width, device="meta").contiguous(memory_format=torch.channels_last)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model.forward_head(model.forward_features(image))
    return _OVER_KEPT[precision] * sum(value.untyped_storage().nbytes() for value in kept.values())


def state_bytes(detector: DetectorConfig, averaged: bool) -> float:
    """Memory of the model, its gradients, AdamW's two moments and the averaged weights."""
    return sum(parameter.numel() for parameter in _without_values(detector).parameters()) * 4.0 * (4 + averaged)


def free_bytes(device: torch.device) -> float:
    """Memory that this process may still take on the device; on a CPU its share of what the machine or the container
    has left."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    limits = [psutil.virtual_memory().available]
    with contextlib.suppress(OSError, ValueError, KeyError):  # "max" is no number: no limit
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        used = int((_CGROUP / "memory.current").read_text()) - int(statistics["inactive_file"])  # caches can go
        limits.append(int((_CGROUP / "memory.max").read_text()) - used)
    return max(min(limits), 0) / processes_of_machine()
