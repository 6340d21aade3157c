"""Detections on disk while the command runs, a line of JSON for each image: a run that is killed loses nothing."""

from __future__ import annotations

import errno
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from dyzoo.errors import DyzooError, first_line
from dyzoo.files import open_regular, replacing

JOURNAL_NAME = "detections.jsonl"


class Journal:
    """A file of JSON Lines, each with the settings it was made with, an image's `Detections.to_dict`, and its picture.

    Args:
        path: the file; written anew unless it is to be resumed.
        settings: plain values that a resumed run must have the same of; in JSON they come back as they are.
        resume: keep the lines that are there. One that a killed process left unfinished is cut off.

    Attributes:
        done: the images there are lines of, as `Detections.path` has them.
        pictures: names of the annotated pictures of theirs.

    Raises:
        OSError: the file cannot be opened, or is none.
        DyzooError: it is to be resumed, but was made with other settings or holds something else.
    """

    def __init__(self, path: Path, settings: dict[str, Any], resume: bool) -> None:
        self.path, self.settings = path, settings
        self.done: set[str] = set()
        self.pictures: set[str] = set()
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "is no regular file, expected one to write results to", str(path))
        kept = self._read() if resume and path.exists() else 0
        self._file = path.open("r+b" if kept else "wb", buffering=0)
        self._file.truncate(kept)
        self._file.seek(kept)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()
        if not self.done:
            self.path.unlink(missing_ok=True)

    def add(self, found: dict[str, Any], picture: str | None) -> None:
        """Write one image's line; `picture` is the name of the annotated one.

        Raises:
            OSError: it cannot be written, and is not there in part.
        """
        left = json.dumps({**self.settings, **found, "picture": picture}).encode() + b"\n"
        start = self._file.tell()
        try:
            while left:  # a full disk takes a part before it refuses
                left = left[self._file.write(left) :]
        except OSError as error:
            self._file.truncate(start)
            self._file.seek(start)
            error.filename = str(self.path)
            raise
        self._remember(found["path"], picture)

    def save(self, path: Path) -> None:
        """Write all as one JSON: the settings, then `images`. One image at a time is in memory."""
        head = json.dumps({**self.settings, "images": []}, indent=2).removesuffix("[]\n}")
        with replacing(path) as aside, aside.open("w", encoding="utf-8") as out:
            out.write(head + "[")
            for number, (row, _) in enumerate(self._rows()):
                found = {name: value for name, value in row.items() if name not in (*self.settings, "picture")}
                out.write((",\n" if number else "\n") + textwrap.indent(json.dumps(found, indent=2), "    "))
            out.write("\n  ]\n}\n" if self.done else "]\n}\n")

    def _read(self) -> int:
        """Learn what is done; the length in bytes of the whole lines."""
        end = 0
        for row, after in self._rows():
            end = after
            for name, value in self.settings.items():
                if row[name] != value:
                    raise DyzooError(
                        f"{self.path} was made with {name} {row[name]!r}, not {value!r}: choose another --out, or "
                        "leave --resume away to write it anew"
                    )
            self._remember(row["path"], row["picture"])
        return end

    def _remember(self, path: str, picture: str | None) -> None:
        self.done.add(path)
        if picture is not None:
            self.pictures.add(picture)

    def _rows(self) -> Iterator[tuple[dict[str, Any], int]]:
        """The lines with the places in the file where they end."""
        end = 0
        with open_regular(self.path) as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                try:
                    row = json.loads(line)
                    missing = [name for name in (*self.settings, "path", "picture") if name not in row]
                except (ValueError, TypeError, RecursionError) as error:
                    raise self._damaged(number, first_line(error)) from None
                if missing or not isinstance(row, dict) or not isinstance(row["path"], str):
                    raise self._damaged(number, f"it lacks {', '.join(missing) or 'a path'}")
                yield row, end

    def _damaged(self, number: int, why: str) -> DyzooError:
        return DyzooError(
            f"{self.path} line {number} is not of `dyzoo predict` ({why}): remove the line, or choose another --out"
        )
