"""Page of the measured rows of benchmarks/results: tables and a plot of each device, as `dyzoo bench` makes them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from docs.site.places import ROOT

PAGE = "measurements.md"
INTRO = """\
# Measurements

All rows that are kept in `benchmarks/results/`, the newest of each kind. [Speed](speed.md) says how they are
measured, and [the notes](../benchmarks/NOTES.md) what each one means. `dyzoo bench` measures them again, and
`dyzoo bench table CSV` prints what is here.
"""


def pages() -> dict[str, str | bytes]:
    """The page, and its pictures."""
    from benchmarks import session

    made: dict[str, str | bytes] = {}
    parts = [INTRO]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.csv")):
        picture = f"images/measured-{path.stem}.png"
        with tempfile.TemporaryDirectory() as folder:
            made[picture] = session.plot(path, Path(folder) / "plot.png").read_bytes()
        parts += [f"## {path.stem}\n", f"![Bars of the rows below]({picture})\n", session.table(path) + "\n"]
    return {PAGE: "\n".join(parts), **made}
