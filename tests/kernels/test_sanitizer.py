"""Kernels under NVIDIA's compute-sanitizer: no access outside of allocations, no race, nothing read unwritten."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

SCRIPT = """
import sys
import torch
from dyhead_kernels import BlockParameters, Pyramid, dyhead_block, modulated_deform_conv2d

dtype = getattr(torch, sys.argv[1])
torch.manual_seed(0)
shapes, channels = ((9, 7), (5, 4), (3, 2)), 48
sizes = {
    "offset_weight": (27, channels, 3, 3), "offset_bias": (27,), "conv_weight": (3, channels, channels, 3, 3),
    "conv_bias": (3, channels), "norm_weight": (3, channels), "norm_bias": (3, channels), "scale_weight": (channels,),
    "scale_bias": (1,), "relu_weight1": (12, channels), "relu_bias1": (12,), "relu_weight2": (4 * channels, 12),
    "relu_bias2": (4 * channels,),
}

def leaf(*shape):
    return torch.randn(shape).mul(0.2).to("cuda", dtype).requires_grad_()

for deterministic in (False, True):
    torch.use_deterministic_algorithms(deterministic)
    for mode in ("flat", "crop", "resize"):
        parameters = BlockParameters(**{name: leaf(*size) for name, size in sizes.items()})
        pyramid = Pyramid(leaf(2, sum(h * w for h, w in shapes), channels), shapes)
        dyhead_block(pyramid, parameters, offset_mode=mode, backend="triton").values.float().sum().backward()
    maps, offset, mask = leaf(2, 12, 9, 7), leaf(2, 54, 5, 4), leaf(2, 27, 5, 4)
    modulated_deform_conv2d(maps, offset, leaf(8, 6, 3, 3), leaf(8), 2, 1, 1, mask, backend="triton").sum().backward()
torch.cuda.synchronize()
"""


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_compute_sanitizer_finds_nothing(tool: str, dtype: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    script = tmp_path / "run.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [
        sanitizer,
        "--tool",
        tool,
        "--error-exitcode",
        "9",
        "--kernel-regex",
        "kns=_kernel",
        "--print-limit",
        "5",
    ]
    done = subprocess.run(
        [*command, sys.executable, str(script), dtype],
        capture_output=True,
        text=True,
        check=False,
        # Every tensor its own allocation, so that a step beyond its end is seen.
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
