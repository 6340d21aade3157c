"""The command `python -m dyhead_kernels.static` in a process of its own: in the tests' Triton may be interpreting."""

from __future__ import annotations

import os
import subprocess
import sys


def static(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "dyhead_kernels.static", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
