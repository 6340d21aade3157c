"""A job divided among processes: what each of them does, and what all have written joined into one journal."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from heapq import heapify, heapreplace
from itertools import pairwise
from pathlib import Path
from typing import Any

from dyzoo.files import replacing
from dyzoo.images.sources.base import Source
from dyzoo.prediction.journal import JOURNAL_NAME, Done, read_lines
from dyzoo.prediction.names import OutputNames

_SHARD = re.compile(r"detections\.[0-9]+of[0-9]+\.jsonl")
_ENDLESS = 10**9  # pictures of a camera, which keeps a process busy for ever
_PIECE = 2**20


@dataclass(frozen=True)
class Share:
    """The part of a job that one process does.

    Attributes:
        sources: in the order of the whole.
        stems: those of all their pictures' files, by the names of the pictures.
        done: pictures of theirs that an earlier run has done.
        total: number of pictures that are left; None if only the end will tell.
        skipped: number of sources of the whole job that an earlier run has done.
    """

    sources: Iterable[Source]
    stems: dict[str, str] = field(default_factory=dict)
    done: Done = field(default_factory=Done)
    total: int | None = None
    skipped: int = 0


class Listing:
    """All sources of a job, and the names of all their pictures, in order."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self.names = [source.names() for source in sources]
        self.order = {name: place for place, name in enumerate(name for names in self.names for name in names)}

    def divide(self, done: Done, out: Path, count: int, frame_stride: int = 1) -> list[Share]:
        """The shares of `count` processes, about equal in pictures; films and archives stay whole.

        The stems are given in the order of the sources, so that they do not depend on the number of processes.

        Args:
            done: what an earlier run has done, which is left out.
            out: the folder that is written to.
            count: number of processes.
            frame_stride: every n-th frame of films and streams is looked at.
        """
        stems = OutputNames(out, self.order, done.stems)
        for name in self.order:
            stems.stem(name)
        left = [place for place, names in enumerate(self.names) if not all(map(done.has, names))]
        skipped = len(self.sources) - len(left)
        return [self._share(places, stems, done, skipped) for places in self._dealt(left, count, frame_stride)]

    def _dealt(self, left: Sequence[int], count: int, frame_stride: int) -> list[list[int]]:
        """The largest go first, each to the process that has the least so far."""
        if count == 1:
            return [list(left)]

        def size(place: int) -> int:
            source = self.sources[place]
            if source.is_live:
                return _ENDLESS
            return (source.count(frame_stride) or 0) if source.is_film else len(self.names[place])

        sizes = {place: size(place) for place in left}
        loads = [(0, index) for index in range(count)]
        heapify(loads)
        dealt: list[list[int]] = [[] for _ in range(count)]
        for place in sorted(left, key=sizes.__getitem__, reverse=True):
            load, index = loads[0]
            dealt[index].append(place)
            heapreplace(loads, (load + sizes[place], index))
        return [sorted(places) for places in dealt]

    def _share(self, places: Sequence[int], stems: OutputNames, done: Done, skipped: int) -> Share:
        sources = [self.sources[place] for place in places]
        names = [name for place in places for name in self.names[place]]
        old = Done(
            {name: done.stems[name] for name in names if name in done.stems},
            {name: done.frames[name] for name in names if name in done.frames},
        )
        total = None if any(source.is_film for source in sources) else sum(not old.has(name) for name in names)
        return Share(sources, {name: stems.stem(name) for name in names}, old, total, skipped)


def shard_name(index: int, count: int) -> str:
    """The name of a process's journal; alone, that of the whole."""
    return JOURNAL_NAME if count == 1 else f"detections.{index}of{count}.jsonl"


def find_shards(out: Path) -> list[Path]:
    """Journals of processes in a folder, of however many."""
    return sorted(path for path in out.glob("detections.*of*.jsonl") if _SHARD.fullmatch(path.name))


def join_shards(out: Path, settings: Mapping[str, Any], order: Mapping[str, int], names: Iterable[str] = ()) -> None:
    """Put the whole journal and all shards into one, in the order of the sources; then the shards go.

    A picture that is in several comes once. One whose source is not known stays behind the one that it follows.

    Args:
        out: the folder.
        settings: those that all lines must have.
        order: places of the sources' names.
        names: shards that there are, whether or not a network's file system lists them already.

    Raises:
        OSError: a file cannot be read or written; nothing has changed.
        DyzooError: a line is not of a job, or was made with other settings; nothing has changed.
    """
    whole = out / JOURNAL_NAME
    shards = sorted({*find_shards(out), *(out / name for name in names)} - {whole})
    files = [*([whole] if whole.exists() else []), *shards]
    runs = _sorted_runs(files, settings, order)
    if runs:
        with ExitStack() as stack, replacing(whole) as aside:
            opened = [stack.enter_context(path.open("rb")) for path in files]
            joined = stack.enter_context(aside.open("wb"))
            for number, start, end in runs:
                opened[number].seek(start)
                while start < end:
                    piece = opened[number].read(min(_PIECE, end - start))
                    if not piece:
                        raise OSError(errno.EIO, "has become shorter while it was read", str(files[number]))
                    joined.write(piece)
                    start += len(piece)
            joined.flush()
    for path in shards:
        path.unlink(missing_ok=True)


def _sorted_runs(
    files: Sequence[Path], settings: Mapping[str, Any], order: Mapping[str, int]
) -> list[tuple[int, int, int]]:
    """Pieces of files, each of whole lines of one source, in order: the file's number, start and end in bytes."""
    done = Done()
    runs: list[tuple[int, int, int, int]] = []
    for number, path in enumerate(files):
        place = -1
        source: str | None = None
        for line in read_lines(path, settings):
            before, source = source, line.row.found["source"]
            if done.has(source, line.row.found["frame"]):
                continue
            done.add(line.row)
            place = order.get(source, place)
            if source == before and runs and runs[-1][1::2] == (number, line.start):
                runs[-1] = (*runs[-1][:3], line.end)
            else:
                runs.append((place, number, line.start, line.end))
    return [run[1:] for run in sorted(runs)]


def is_in_order(done: Done, order: Mapping[str, int]) -> bool:
    """Whether the lines of a journal, of which `done` is made, are in the order of the sources."""
    places = [order[source] for source in done.stems if source in order]
    return all(first <= second for first, second in pairwise(places))
