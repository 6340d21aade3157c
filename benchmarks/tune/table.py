"""Tables of launch parameters as files."""

from __future__ import annotations

import json
from pathlib import Path

from dyhead_kernels.launch import tuning

from dyzoo.files import write_text

from .search import Chosen


def merge(path: Path, found: Chosen) -> None:
    """Write what was found over what the file has; other kernels and dtypes stay. Never a half-written file.

    Raises:
        tuning.TableError: the file is none of these tables.
        OSError: the folder cannot be written to.
    """
    table = {kernel: dict(entries) for kernel, entries in (tuning.read_table(path) if path.is_file() else {}).items()}
    for kernel, entries in found.items():
        table[kernel] = {**table.get(kernel, {}), **entries}
    write_text(path, _text(table))


def _text(table: tuning.Table) -> str:
    """JSON of a table, one entry a line, kernels in the default table's order."""
    kernels = []
    for kernel in tuning.load_table(tuning.DEFAULT):
        if kernel in table:
            entries = [f"    {json.dumps(kind)}: {json.dumps(table[kernel][kind])}" for kind in sorted(table[kernel])]
            kernels.append(f"  {json.dumps(kernel)}: {{\n" + ",\n".join(entries) + "\n  }")
    return "{\n" + ",\n".join(kernels) + "\n}\n"
