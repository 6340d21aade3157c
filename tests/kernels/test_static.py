"""Resources of the kernels on GPUs that are not at hand, kept within a budget. Compiled in a process of its own: here
Triton may be interpreting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.static_command import static

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
# Two products, of which the first may have too few channels or positions.
PARTLY_NARROW = {"deform_conv_window_backward"}
INSTRUCTIONS = {
    "sm_75": "",  # Triton knows none of its matrix units
    "sm_80": "mma.sync",
    "sm_89": "mma.sync",
    "sm_90": "wgmma",
    "sm_100": "tcgen05.mma",
    "gfx942": "v_mfma",
}


@pytest.fixture(scope="module", params=INSTRUCTIONS)
def rows(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Every kernel of a block with its shipped launch parameters, compiled for one target."""
    done = static("--json", "--target", request.param, "--dtype", "float32", "bfloat16", "--channels", "256")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_stays_within_its_budget(rows: list[dict[str, Any]]) -> None:
    """No spilled registers, and at least one program fits on a multiprocessor."""
    launched = {row["kernel"] for row in rows}
    without_windows = PARTLY_NARROW if rows[0]["target"] == "sm_75" else set()  # they spill without matrix units
    assert launched >= (PRODUCTS - without_windows) | {"mix_forward", "attention_backward"}
    for row in rows:
        assert row["spill_bytes"] == 0, row
        assert row["programs"] >= 1, row


def test_products_use_the_target_s_matrix_instructions(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["kernel"] in PARTLY_NARROW:
            assert INSTRUCTIONS[row["target"]] in row["matrix"], row
        elif row["kernel"] in PRODUCTS:
            assert row["matrix"] == INSTRUCTIONS[row["target"]], row
        else:
            assert not row["matrix"], row


COUNTS = Path(__file__).parent / "loop_counts.json"
REWRITE = "python -m dyhead_kernels.static --loops > tests/kernels/loop_counts.json"
MARGIN, MARGIN_OF_OTHERS = 0.03, 0.5
"""How much longer an inner loop may become: with the version of Triton that the counts are of, and with others, whose
compilers choose other instructions."""


def test_no_inner_loop_grows(rows: list[dict[str, Any]]) -> None:
    """The instructions of every innermost loop are no more than those counted before."""
    known = json.loads(COUNTS.read_text(encoding="utf-8"))
    same = known["triton"] == version("triton")
    seen: Counter[str] = Counter()  # a kernel is launched more than once, with other constants
    for row in rows:
        if not row["loops"]:
            continue
        name = f"{row['kernel']}, {row['dtype']}, {row['channels']}"
        counted = known["loops"].get(row["target"], {}).get(name, [])
        expected = counted[seen[name]] if seen[name] < len(counted) else None
        seen[name] += 1
        if expected is None and not same:
            continue
        assert expected is not None, f"{name} on {row['target']} has no counts: {REWRITE}"
        if same:
            assert len(row["loops"]) == len(expected), f"{row} had {expected}: look why, then {REWRITE}"
        allowed = (1 + (MARGIN if same else MARGIN_OF_OTHERS)) * max(expected)
        assert max(row["loops"]) <= allowed, f"{row} had {expected}: mend it, or if it is wanted {REWRITE}"


@pytest.mark.parametrize(
    ("target", "dtypes", "channels"),
    [
        *(("sm_90", ("bfloat16", "float16"), channels) for channels in (16, 96, 512)),
        ("sm_75", ("float16",), 512),
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
    assert {line.count("|") for line in (header, rule, *lines)} == {12}


def test_an_interpreter_cannot_compile() -> None:
    command = [sys.executable, "-m", "dyhead_kernels.static"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"}, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: TRITON_INTERPRET is 1")
