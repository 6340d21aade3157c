"""Busy processes beside those that are measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..options import cores

# It ends by itself when the process that has started it does, however that ends.
_NEIGHBOUR = """
import os, sys
parent = int(sys.argv[1])
print(flush=True)
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""


@contextmanager
def load(name: str, threads: int | None = None) -> Iterator[list[int]]:
    """Inside, the load of that name goes on; gives the ids of the processes that make it.

    Args:
        threads: busy processes; None for one on each core. They have this process's priority.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        if name == "full":
            command = [sys.executable, "-S", "-E", "-c", _NEIGHBOUR, str(os.getpid())]
            for _ in range(threads or cores()):
                processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                    )
                )
            for process in processes:
                assert process.stdout is not None
                process.stdout.readline()  # it runs now
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()
