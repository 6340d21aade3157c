"""Annotated films, in which the frames that an earlier run has done are drawn once more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from dyzoo.errors import ImageError
from dyzoo.images.film_writing import FILM_SUFFIX, FilmWriter
from dyzoo.images.sources.ahead import read_all
from dyzoo.images.sources.base import Reading, Source
from dyzoo.images.sources.film import Film
from dyzoo.prediction.journal import JOURNAL_NAME, Journal, read_lines
from dyzoo.prediction.outputs import Found, try_to


class Films:
    """Annotated films, OUT/STEM.mp4: an output that takes the frames of each film or stream in order.

    A film has its name when the last of its frames is written. One that can be read again is begun anew when the job is
    resumed, with what the journal has of it; what there is of a stream when the job is stopped is kept, and resumed as
    OUT/STEM_2.mp4.

    Args:
        out: the folder.
        journal: what is done.
        labels: name of every class the detector knows.
        sources: those of the job, as far as they are known; film files among them can be read again.
        reading: how frames are read.

    Attributes:
        paths: the films that are finished.
    """

    def __init__(
        self, out: Path, journal: Journal, labels: Sequence[str], sources: Iterable[Source], reading: Reading
    ) -> None:
        self.out, self.paths = out, list[Path]()
        self._journal, self._labels, self._reading = journal, labels, reading
        self._films = {each.source: each for each in sources if isinstance(each, Film)}
        self._is_resumed = bool(journal.done.stems)
        self._begun = self._films.keys() & journal.done.frames.keys()  # in an earlier run
        self._source: str | None = None
        self._writer: FilmWriter | None = None

    def add(self, found: Found) -> None:
        """Write a frame; a picture that is none ends the film before. A film that fails does so once, as a whole."""
        source = str(found.detections.source)
        if found.detections.frame is None or source != self._source:
            try:
                self._finish()
            finally:
                if found.detections.frame is not None:
                    self._start(source, str(Path(found.stem).parent))
                    self._write(found)
        else:
            self._write(found)

    def end(self) -> list[str]:
        """Finish the last film, and those that an earlier run has left with nothing but their drawing to do.

        Returns:
            A line for each that cannot be written.

        Raises:
            OSError: the disk is full.
        """
        failures = [try_to(self._finish, "a film")]
        for name in sorted(self._begun):
            path = self._path(self._journal.done.stems[name])
            if _is_whole(path):
                self.paths.append(path)
            else:
                failures.append(try_to(partial(self._draw_again, name), str(path)))
        return [line for line in failures if line is not None]

    def close(self) -> None:
        if self._source in self._films:
            self._give_up()
        with suppress(OSError):
            self._finish()

    def _path(self, stem: str) -> Path:
        return self.out / f"{stem}{FILM_SUFFIX}"

    def _start(self, source: str, stem: str) -> None:
        """Open a film, with the frames of it that are done."""
        self._source = source
        path = self._path(stem)
        if self._is_resumed and source not in self._films:
            numbered = (self._path(f"{stem}_{number}") for number in count(2))
            path = path if not path.exists() else next(each for each in numbered if not each.exists())
        if _is_whole(path):
            path.unlink()  # it would tell a resumed run that this film is done
        self._writer = FilmWriter(path)
        if source in self._begun:
            self._begun.discard(source)
            try:
                for found in self._done(source):
                    self._write(found)
            except Exception:
                self._give_up()
                raise

    def _draw_again(self, name: str) -> None:
        self._start(name, self._journal.done.stems[name])
        self._finish()

    def _write(self, found: Found) -> None:
        if self._writer is None:
            return
        picture = found.plot
        try:
            self._writer.add(picture, found.detections.time_s)
        except Exception:
            self._give_up()
            raise

    def _give_up(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.discard()

    def _finish(self) -> None:
        self._source = None
        if self._writer is not None and not self._writer.count:
            self._give_up()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.finish()
            self.paths.append(writer.path)

    def _done(self, name: str) -> Iterator[Found]:
        """The frames of a film that the journal has, with their pictures; both are in order."""
        lines = read_lines(self.out / JOURNAL_NAME)  # of an earlier run, where this process has a file of its own
        rows = (line.row for line in lines if line.row.found["source"] == name)
        with closing(read_all([self._films[name]], self._reading, lambda picture: picture, workers=0)) as pictures:
            frames = (each for each in pictures if not isinstance(each, ImageError))
            picture = next(frames, None)
            for row in rows:
                while picture is not None and (picture.frame or 0) < row.found["frame"]:
                    picture = next(frames, None)
                if picture is None:
                    return
                if picture.frame == row.found["frame"]:
                    yield Found(replace(self._journal.detections(row, self._labels), picture=picture), row.stem)


def _is_whole(path: Path) -> bool:
    """Whether a film is there; no link or device, which stay what they are, and do not tell."""
    return path.is_file() and not path.is_symlink()
