"""Kernels under ttsem: no access outside of tensors, no race between programs, nothing read unwritten. No GPU needed.

Compiled and run in processes of their own: here Triton may be interpreting.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import dyhead_kernels
import pytest

pytest.importorskip("ttsem", reason="ttsem is not installed: pip install dyzoo[sanitize], Python 3.12 or newer")
if tuple(map(int, version("triton").split(".")[:2])) < (3, 8):
    pytest.skip("ttsem reads what Triton 3.8 and newer compile to", allow_module_level=True)

ROOT = Path(__file__).parents[2]


def lines_of(*arguments: str) -> dict[str, str]:
    """Lines that a run of `sanitized_runs` printed, by what stands before the first colon."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.sanitized_runs", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def names_of_kernels() -> set[str]:
    """Every kernel that the package defines."""
    folder = Path(dyhead_kernels.__file__).parent
    return {
        node.name
        for path in folder.rglob("*kernels*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel")
    }


def test_planted_faults_are_found_at_the_kernel_s_line() -> None:
    found = lines_of("faults")
    assert found["race"].startswith("kernel `_adds_in_place_kernel`")
    assert "tl.store(total_ptr + at, total)" in found["race"]
    assert "both touch element 0 of `total_ptr`" in found["race"]
    assert "writes 12 element(s) past the end of the tensor passed as `copy_ptr`" in found["write"]
    assert "reads 3 element(s) past the end of the tensor passed as `values_ptr`" in found["read"]
    assert "memory was read before it was written" in found["unwritten"]


@pytest.mark.slow
def test_every_kernel_forward_and_backward_is_clean() -> None:
    launched = {name for line in lines_of().values() for name in line.split()}
    assert launched == names_of_kernels()
