"""Resources of the kernels on GPUs that are not at hand, kept within a budget. Compiled in a process of its own: here
Triton may be interpreting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("triton")

PRODUCTS = {
    "deform_conv_forward",
    "deform_conv_backward",
    "deform_conv_window_backward",
    "deform_conv_weight_backward",
    "offsets_forward",
    "offsets_values_backward",
    "offsets_weight_backward",
}
# Products whose output tile is too narrow for the larger matrix instructions: 32 rows, for 27 offsets and masks.
NARROW = {"offsets_weight_backward"}
# Two products, of which the first may have too few channels or positions.
PARTLY_NARROW = {"deform_conv_window_backward"}
INSTRUCTIONS = {"sm_80": "mma.sync", "sm_89": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}


def static(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "dyhead_kernels.static", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module", params=INSTRUCTIONS)
def rows(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Every kernel of a block with its shipped launch parameters, compiled for one target."""
    done = static("--json", "--target", request.param, "--dtype", "float32", "bfloat16", "--channels", "256")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_stays_within_its_budget(rows: list[dict[str, Any]]) -> None:
    """No spilled registers, and at least one program fits on a multiprocessor."""
    assert {row["kernel"] for row in rows} >= PRODUCTS | {"mix_forward", "attention_backward"}
    for row in rows:
        assert row["spill_bytes"] == 0, row
        assert row["programs"] >= 1, row


def test_products_use_the_target_s_matrix_instructions(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["kernel"] in PARTLY_NARROW:
            assert INSTRUCTIONS[row["target"]] in row["matrix"], row
        elif row["kernel"] in PRODUCTS - NARROW:
            assert row["matrix"] == INSTRUCTIONS[row["target"]], row
        elif row["kernel"] in NARROW:
            assert row["matrix"], row
        else:
            assert not row["matrix"], row


@pytest.mark.parametrize(
    ("target", "dtypes", "channels"),
    [
        *(("sm_90", ("bfloat16", "float16"), channels) for channels in (16, 96, 512)),
        ("sm_80", ("float32",), 96),  # where the assembler's unrolling of the channels' loop once took all registers
        ("gfx942", ("float32",), 16),  # far fewer rows in a matrix than a program can hold
    ],
)
def test_other_widths_stay_within_the_budget(target: str, dtypes: tuple[str, ...], channels: int) -> None:
    done = static("--json", "--target", target, "--dtype", *dtypes, "--channels", str(channels))
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["dtype"].split(",")[0] for row in found} == set(dtypes)
    for row in found:
        assert row["spill_bytes"] == 0, row
        assert row["programs"] >= 1, row


def test_the_table_is_markdown() -> None:
    done = static("--target", "sm_90", "--dtype", "float16", "--channels", "16", "--workers", "1")
    assert done.returncode == 0, done.stderr
    header, rule, *lines = done.stdout.splitlines()
    assert {line.count("|") for line in (header, rule, *lines)} == {11}


def test_an_interpreter_cannot_compile() -> None:
    command = [sys.executable, "-m", "dyhead_kernels.static"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"}, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: TRITON_INTERPRET is 1")
