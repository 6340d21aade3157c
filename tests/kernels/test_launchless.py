"""The host's way of a CUDA launch, from specialisation to the grid, for GPUs that are not at hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
TOO_MUCH = """
from dyhead_kernels.launch import tuning
from tests.kernels import launchless

launchless.install("sm_90")
with tuning.overriding({"deform_conv_forward": {"any": {
    "BLOCK_P": 128, "TILE_W": 8, "BLOCK_C": 128, "BLOCK_O": 256, "num_warps": 8, "num_stages": 6
}}}):
    launchless.convolution(launchless.Case(channels=256, out_channels=256), launchless.torch.bfloat16)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Another process, in which Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_75", "sm_80", "sm_90", "sm_100"])
def test_every_launch_gets_as_far_as_the_gpu(target: str) -> None:
    done = run("-m", "tests.kernels.launchless", target)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    names = {dtype: {name for name, of, _ in rows if of == dtype} for dtype in ("float32", "bfloat16")}
    own = {"_offsets_split_kernel"}  # of float32 weights into two bfloat16
    if target != "sm_75":
        own.add("_deform_conv_window_backward_kernel")
    assert names["bfloat16"] - names["float32"] == own
    assert names["float32"] <= names["bfloat16"]
    assert len(names["float32"]) == 15


@pytest.mark.slow
def test_what_a_gpu_cannot_hold_is_refused() -> None:
    """The driver that launches nothing is as strict as one that does."""
    done = run("-c", TOO_MUCH)
    assert done.returncode == 1
    assert "OutOfResources: out of resource: shared memory" in done.stderr
