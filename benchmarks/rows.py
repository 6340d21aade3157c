"""Measurements as rows of a CSV file, one file for each device."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path

from dyzoo.errors import DyzooError
from dyzoo.files import replacing

from .options import CASE_ALIASES
from .timing import Percentiles

CHECKOUT_RESULTS = Path(__file__).parent / "results"


class ResultsError(DyzooError, ValueError):
    """A file of results that cannot be used."""


@dataclass(frozen=True)
class Machine:
    """The columns that all rows of a run share."""

    device: str
    threads: int
    torch: str
    triton: str
    commit: str


@dataclass(frozen=True)
class Row:
    """One measurement, complete in itself.

    Attributes:
        p20_ms, p50_ms, p80_ms: percentiles of the time of one run.
        peak_mib: most memory allocated during a run, beyond what was there before; None where nothing counts it.
        tflop_per_s, gb_per_s: the operations and bytes that the case cannot do without, over the median.
        commit: the checkout's commit, or the version of the installed package.
        load: what else the CPU did, one of `options.LOADS`; empty where nobody saw to it.
    """

    op: str
    pass_: str
    shape: str
    dtype: str
    provider: str
    p20_ms: float
    p50_ms: float
    p80_ms: float
    peak_mib: float | None
    tflop_per_s: float | None
    gb_per_s: float | None
    device: str
    threads: int
    torch: str
    triton: str
    commit: str
    load: str = ""

    @classmethod
    def of(
        cls,
        op: str,
        pass_: str,
        shape: str,
        dtype: str,
        provider: str,
        times: Percentiles,
        peak_mib: float | None,
        where: Machine,
    ) -> Row:
        """A row without rates."""
        return cls(
            op=op,
            pass_=pass_,
            shape=shape,
            dtype=dtype,
            provider=provider,
            p20_ms=round(times.p20, 4),
            p50_ms=round(times.p50, 4),
            p80_ms=round(times.p80, 4),
            peak_mib=None if peak_mib is None else round(peak_mib, 2),
            tflop_per_s=None,
            gb_per_s=None,
            **asdict(where),
        )

    def with_rates(self, flop: float | None, bytes_: float | None) -> Row:
        """The same row with achieved TFLOP/s and GB/s."""
        seconds = self.p50_ms / 1e3
        return replace(
            self,
            tflop_per_s=None if flop is None else round(flop / seconds / 1e12, 4),
            gb_per_s=None if bytes_ is None else round(bytes_ / seconds / 1e9, 2),
        )

    @property
    def conditions(self) -> str:
        """Threads and load where they were chosen for the row, else empty."""
        return f"{self.threads} thread{'s' * (self.threads > 1)}, load {self.load}" if self.load else ""

    @property
    def key(self) -> tuple[str, ...]:
        """Identity of a measurement: in tables and plots a later row of the same key replaces an earlier one."""
        under = (self.conditions,) if self.conditions else ()
        return self.op, self.pass_, self.shape, self.dtype, self.provider, *under


HEADER = [field.name.rstrip("_") for field in fields(Row)]
FORMER_HEADER = HEADER[:-1]
"""Columns of files from before there was a load."""
_FLOATS = {"p20_ms", "p50_ms", "p80_ms", "peak_mib", "tflop_per_s", "gb_per_s"}


def default_folder() -> Path:
    """`results/` of a checkout; the current folder for an installed package, whose own is not to be written to."""
    return CHECKOUT_RESULTS if CHECKOUT_RESULTS.is_dir() else Path.cwd()


def path_for(device: str, folder: Path) -> Path:
    """`<device>.csv`, the name in lower case with dashes."""
    return folder / (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".csv")


def write(rows: Iterable[Row], path: Path) -> None:
    """Write a file anew, of any devices."""
    with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(map(_values, rows))


def check(device: str, folder: Path) -> None:
    """Raise a `ResultsError` now where rows of a device could not be appended later."""
    path = path_for(device, folder)
    if path.is_file():
        read(path)


def append(rows: Sequence[Row], folder: Path) -> Path:
    """Append rows of one device to its file and give the path; a file without loads gets their column first.

    Raises:
        ResultsError: the file has other columns.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = path_for(rows[0].device, folder)
    is_new = not path.exists() or path.stat().st_size == 0
    if not is_new:
        with path.open(encoding="utf-8", newline="") as file:
            is_former = _header(path, next(csv.reader(file), [])) == FORMER_HEADER
        if is_former:
            write(read(path), path)
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(HEADER)
        writer.writerows(map(_values, rows))
    return path


def read(path: Path) -> list[Row]:
    """All rows of a file, oldest first.

    Raises:
        ResultsError: other columns, or a row that does not fit them.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        header = _header(path, next(reader, []))
        return [_parse(path, reader.line_num, header, values) for values in reader]


def latest(rows: Iterable[Row]) -> list[Row]:
    """The last row of every key, in the order in which the keys first appeared."""
    return list({row.key: row for row in rows}.values())


def _values(row: Row) -> list[object]:
    return ["" if value is None else value for value in astuple(row)]


def _parse(path: Path, line: int, header: list[str], values: list[str]) -> Row:
    try:
        named = dict(zip(header, values, strict=True))
        numbers = {name: float(text) if text else None for name, text in named.items() if name in _FLOATS}
        text = {name: value for name, value in named.items() if name not in {*_FLOATS, "pass", "threads"}}
        text["op"] = CASE_ALIASES.get(named["op"], named["op"])
        return Row(**text, **numbers, pass_=named["pass"], threads=int(named["threads"]))  # type: ignore[arg-type]
    except ValueError:
        raise ResultsError(f"{path}, line {line} is no measurement: expected {len(header)} values") from None


def _header(path: Path, found: list[str]) -> list[str]:
    if found not in (HEADER, FORMER_HEADER):
        raise ResultsError(
            f"{path} has the columns {','.join(found) or '(none)'}, expected {','.join(HEADER)}: move it aside or give "
            "another folder with --out"
        )
    return found
