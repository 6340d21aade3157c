"""Launches of Triton kernels: tables, parts of sums, the choice of precision, launch parameters."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from dyhead_kernels.device_cache import DeviceCache
from dyhead_kernels.launch import launching, tuning

from tests.kernels.launch_cases import recorded_launches

CPU = torch.device("cpu")


@pytest.mark.parametrize("groups", [((0, 7),), ((0, 90), (90, 95), (95, 95)), ((3, 4),), ((0, 0),)])
@pytest.mark.parametrize("images", [0, 1, 3])
def test_parts_of_a_sum_cover_every_tile_of_every_image_once(groups: tuple[tuple[int, int], ...], images: int) -> None:
    parts = launching.parts_table(DeviceCache(CPU), groups, images)
    assert len(parts.of_group) == len(groups)
    for (first, end), part in zip(groups, parts.of_group, strict=True):
        seen = []
        for start, count, low, high in parts.table[part].tolist():
            seen += [(index // count, start + index % count) for index in range(low, high)]
        assert sorted(seen) == [(image, tile) for image in range(images) for tile in range(first, end)]
    assert len(parts.table) <= launching.MOST_PARTS + len(groups)


@pytest.mark.parametrize(("size", "block"), [(1, 16), (16, 16), (17, 32), (256, 256), (500, 512)])
def test_blocks_are_powers_of_two_that_hold_all(size: int, block: int) -> None:
    assert launching.power_of_two(size) == block
    assert launching.block_size(64, size) == min(64, block)


@pytest.mark.parametrize(
    ("switch", "precision"),
    [
        ("pass", "tf32x3"),
        ("torch.set_float32_matmul_precision('high')", "tf32"),
        ("torch.backends.cuda.matmul.allow_tf32 = True", "tf32"),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", "tf32"),
        ("torch.backends.cuda.matmul.fp32_precision = 'ieee'", "tf32x3"),
    ],
)
def test_float32_products_follow_pytorch_s_switches(switch: str, precision: str) -> None:
    """Each switch has a process of its own: PyTorch refuses old and new switches in one."""
    code = (
        f"import torch; {switch}; from dyhead_kernels.launch.launching import dot_precision as dot;"
        "print(dot(), dot(exact=True))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [precision, "tf32x3"]


def test_an_unknown_gpu_gets_the_defaults_and_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Unheard Of 9000")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    tuning._table_of.cache_clear()
    device = torch.device("cuda", 0)
    with pytest.warns(UserWarning, match=r"Unheard Of 9000.*python -m benchmarks tune"):
        first = tuning.launch_parameters("mix_forward", torch.float32, device)
    assert first == tuning.load_table(tuning.DEFAULT)["mix_forward"]["any"]
    assert tuning.launch_parameters("mix_forward", torch.float32, device) == first  # and no second warning
    tuning._table_of.cache_clear()


def test_parameters_can_be_overridden_for_one_kernel() -> None:
    other = {"mix_forward": {"any": {"BLOCK_P": 64, "TILE_W": 8, "BLOCK_C": 16, "num_warps": 2}}}
    with tuning.overriding(other):
        assert tuning.launch_parameters("mix_forward", torch.float32, CPU)["BLOCK_P"] == 64
        assert tuning.launch_parameters("mix_backward", torch.float32, CPU)["BLOCK_P"] != 64
    assert tuning.launch_parameters("mix_forward", torch.float32, CPU)["BLOCK_P"] != 64


def test_importing_the_operators_does_not_define_kernels() -> None:
    code = "import sys, dyhead_kernels; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = [name for name in done.stdout.split() if name.startswith("dyhead_kernels.")]
    assert "dyhead_kernels.dyhead_block.op" in own
    assert not [name for name in own if name.endswith((".triton", "kernels", ".launching", ".columns"))]


def test_a_batch_too_large_for_a_launch_is_named() -> None:
    with pytest.raises(ValueError, match="a batch of 70000 is more than a launch can hold, expected 65535"):
        launching.launch(None, (1, 1, 70_000), torch.zeros(1))


def test_tables_for_an_architecture_lie_over_the_defaults() -> None:
    """Every shipped table is whole, and has no entry that the kernels do not know."""
    for path in tuning.FOLDER.glob("*.json"):
        table = tuning.load_table(path.stem)
        assert table.keys() == tuning.load_table(tuning.DEFAULT).keys()
    assert tuning.architecture_table("sm_90") == "sm_90"
    assert tuning.architecture_table("sm_89") == tuning.DEFAULT


def test_the_package_s_diagram_shows_every_launch_in_order() -> None:
    launched = [each.name for each in recorded_launches(dtype=torch.bfloat16)]
    diagram = str(importlib.import_module("dyhead_kernels.dyhead_block").__doc__)
    assert re.findall(r"^\[?((?:offsets|deform_conv|attention|mix)_\w+)", diagram, re.MULTILINE) == launched
