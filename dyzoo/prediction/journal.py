"""Detections on disk while a job runs, a line of JSON for each picture: a run that is killed loses nothing."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from dyzoo.errors import DyzooError, first_line
from dyzoo.files import open_regular
from dyzoo.images.detections import Detections
from dyzoo.prediction.names import leads_outside

JOURNAL_NAME = "detections.jsonl"

_FOUND = ("path", "source", "frame", "time_s", "height_px", "width_px", "notes", "detections")  # `Detections.to_dict`
_OTHERS = ("stem", "picture")


class Row(NamedTuple):
    """One line: what was found, `Detections.to_dict`, the stem of its files, the name of the annotated picture."""

    number: int
    found: dict[str, Any]
    stem: str
    picture: str | None


@dataclass
class Done:
    """The pictures that there are lines of.

    Attributes:
        stems: their sources, with the stems of their files.
        frames: the last frame of those sources that are films or streams.
    """

    stems: dict[str, str] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)

    def has(self, source: str, frame: int | None = None) -> bool:
        """Whether a picture is done, or a frame of a film; without `frame` a film never is, which may go on."""
        if frame is None:
            return source in self.stems and source not in self.frames
        return frame <= self.frames.get(source, -1)

    def add(self, row: Row) -> None:
        """Remember a picture."""
        source, frame = row.found["source"], row.found["frame"]
        self.stems[source] = row.stem if frame is None else row.stem.rpartition("/")[0]
        if frame is not None:
            self.frames[source] = frame


class Journal:
    """A file of JSON Lines, each with the settings it was made with and what was found in a picture.

    Args:
        path: the file; written anew unless it is to be resumed.
        settings: plain values that a resumed run must have the same of; in JSON they come back as they are.
        resume: keep the lines that are there. One that a killed process left unfinished is cut off.
        done: pictures that another file has lines of.

    Attributes:
        done: pictures that there are lines of, here or in another file.
        count: number of lines.

    Raises:
        OSError: the file cannot be opened, or is none.
        DyzooError: it is to be resumed, but was made with other settings or holds something else.
    """

    def __init__(self, path: Path, settings: dict[str, Any], resume: bool, done: Done | None = None) -> None:
        self.path, self.settings = path, settings
        self.done = done or Done()
        self.count = 0
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "is no regular file, expected one to write results to", str(path))
        kept = self._read() if resume and path.exists() else 0
        self._file = path.open("r+b" if kept else "wb", buffering=0)
        self._file.truncate(kept)
        self._file.seek(kept)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Take no more lines; a file without any goes."""
        if self._file.closed:
            return
        self._file.close()
        if not self.count:
            self.path.unlink(missing_ok=True)

    def add(self, found: dict[str, Any], stem: str, picture: str | None) -> None:
        """Write one picture's line.

        Args:
            found: `Detections.to_dict`, with a source.
            stem: that of its files.
            picture: the name of the annotated one, if there is one.

        Raises:
            OSError: it cannot be written, and is not there in part.
        """
        left = json.dumps({**self.settings, **found, "stem": stem, "picture": picture}).encode() + b"\n"
        start = self._file.tell()
        try:
            while left:  # a full disk takes a part before it refuses
                left = left[self._file.write(left) :]
        except OSError as error:
            self._file.truncate(start)
            self._file.seek(start)
            error.filename = str(self.path)
            raise
        self._remember(Row(self.count + 1, found, stem, picture))

    def rows(self) -> Iterator[Row]:
        """The lines that are whole. Raises `DyzooError` where one is not of a job."""
        for line in read_lines(self.path):
            yield line.row

    def detections(self, row: Row, labels: Sequence[str]) -> Detections:
        """The detections of a line; `labels` are all classes of the detector. Raises `DyzooError` if it holds none."""
        try:
            return Detections.from_dict(row.found, labels)
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise _damaged(self.path, row.number, f"its detections are none: {first_line(error)}") from None

    def _read(self) -> int:
        """Learn what is done; the length in bytes of the whole lines."""
        end = 0
        for line in read_lines(self.path, self.settings):
            end = line.end
            self._remember(line.row)
        return end

    def _remember(self, row: Row) -> None:
        self.done.add(row)
        self.count += 1


class Line(NamedTuple):
    """A row, and the bytes of the file that it takes."""

    row: Row
    start: int
    end: int


def read_lines(path: Path, settings: Mapping[str, Any] | None = None) -> Iterator[Line]:
    """The whole lines of a journal; one that a killed process left unfinished is passed over.

    Args:
        path: the file.
        settings: those that all lines must have; None for any.

    Raises:
        OSError: it cannot be read, or is no regular file.
        DyzooError: a line is not of a job, or was made with other settings.
    """
    end = 0
    with open_regular(path) as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            start, end = end, end + len(line)
            try:
                values = json.loads(line)
                row = Row(number, {name: values.pop(name) for name in _FOUND}, *map(values.pop, _OTHERS))
            except KeyError as error:
                raise _damaged(path, number, f"it lacks {error.args[0]}") from None
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise _damaged(path, number, first_line(error)) from None
            if why := _wrong(row):
                raise _damaged(path, number, why)
            if settings is not None:
                _check_settings(path, values, settings)
            yield Line(row, start, end)


def _check_settings(path: Path, made_with: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for name in {**settings, **made_with}:
        if made_with.get(name) != settings.get(name):
            raise DyzooError(
                f"{path} was made with {name} {made_with.get(name)!r}, not {settings.get(name)!r}: "
                "choose another --out, or leave --resume away to write it anew"
            )


def _damaged(path: Path, number: int, why: str) -> DyzooError:
    return DyzooError(
        f"{path} line {number} is not of `dyzoo predict` ({why}): remove the line, or choose another --out"
    )


def _wrong(row: Row) -> str:
    """Why a line is none that was written here, if it is not; the names in it become those of files."""
    frame = row.found["frame"]
    if not isinstance(row.found["source"], str):
        return "its source is no text"
    if frame is not None and (not isinstance(frame, int) or isinstance(frame, bool) or frame < 0):
        return "its frame is no number"
    if not isinstance(row.stem, str) or leads_outside(row.stem) or ("/" in row.stem) != (frame is not None):
        return "its stem is no name of a file"
    return "" if row.picture is None or isinstance(row.picture, str) else "its picture is no name"
