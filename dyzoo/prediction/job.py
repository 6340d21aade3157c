"""The job of `dyzoo predict`: sources -> detections -> files, nothing of which a kill, a full disk or a broken
picture loses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from dyzoo.distributed import MAIN, Meeting, deal_from_main, do_on_main, gather_on_main, process_count, process_index
from dyzoo.errors import DyzooError, ImageError
from dyzoo.images.detections import Detections
from dyzoo.images.sources.base import Reading, Source
from dyzoo.images.sources.film import Film
from dyzoo.images.sources.given import Given, given_sources
from dyzoo.images.sources.naming import list_sources
from dyzoo.locks import RunLock
from dyzoo.prediction.films import Films
from dyzoo.prediction.formats import Format, write_format, write_json
from dyzoo.prediction.journal import JOURNAL_NAME, Journal
from dyzoo.prediction.names import OutputNames
from dyzoo.prediction.outputs import Crops, Found, Output, Pictures, try_to_add
from dyzoo.prediction.shares import Listing, Share, find_shards, is_in_order, join_shards, shard_name
from dyzoo.prediction.tracking import least_scores, load_tracker, track

ALWAYS_RECORDED = ("threshold", "flips", "size")
RECORDED = ("classes", "iou", "max_detections", "tiles", "precision", "frame_stride")  # where they are given
_DEFAULTS: dict[str, Any] = {"threshold": 0.3, "flips": (), "size": None}


class Predicting(Protocol):
    """A `Detector`, or another object with its `predict` and `labels`."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def predict(self, images: Any, *args: Any, **settings: Any) -> Any:
        """As `Detector.predict`, with `stream`, `on_error` and `keep_pictures`."""


@dataclass(frozen=True)
class JobResult:
    """One picture's way through the job.

    Attributes:
        source: what it was read from; None where that could not be read.
        detections: what was found, without the picture itself; None where it could not be read.
        picture: the annotated one, if it was written.
        failures: a line for each thing that went wrong.
    """

    source: str | None
    detections: Detections | None
    picture: Path | None = None
    failures: tuple[str, ...] = ()


@dataclass
class Written:
    """The outcome of a job.

    Attributes:
        images: number of pictures and frames there are results of, those of resumed runs among them; of several
            processes the main one has that of all, the others have their own.
        files: by format, the file or the folder of many.
        films: the annotated ones.
        failures: a line for each picture that could not be read or written.
    """

    images: int = 0
    files: dict[str, Path] = field(default_factory=dict)
    films: list[Path] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Job:
    """Detects in many pictures and writes what it finds. A context manager, in which `run` and then `finish` is called.

    Several processes may divide the work: each writes a journal of its own into the folder, and `finish` joins these.
    While they work none waits for another.

    Args:
        model: the detector.
        images: whatever `Detector.predict` takes: files, folders, globs, films, ...
        out: the folder to write to; made if it is not there.
        formats: some of `FORMATS`; the journal, detections.jsonl, is written in any case.
        pictures: write annotated pictures, and of films and streams annotated films.
        frames: write the annotated frames of films and streams as pictures, too.
        track: give the objects of films and streams ids, as `dyzoo.track` does it.
        crops: write the objects, cut out.
        resume: go on where an earlier job with the same settings has stopped.
        model_name: what the results say that they come from.
        json_path: where the format "json" goes in place of detections.json.
        outputs: others that take each result, such as a film.
        together: divide the work among the processes of a distributed job, which all have to make one and call its
            methods. None of what `run` gives, and of what `outputs` take, is another's.
        settings: what `Detector.predict` takes besides: `threshold`, `size`, `batch_size`, ...

    Attributes:
        total: number of pictures that are left to do for this process; None if only the end will tell.
        done: number of sources that an earlier run has done, among all.
        journal: the lines that are written already; those of this process until all are joined.
        failures: a line for each thing that went wrong; on the main process, in the end, those of all.

    Raises:
        OSError: `out` cannot be written to.
        DyzooError: an earlier run is to be resumed that had other settings, or another one writes to the folder.
    """

    def __init__(
        self,
        model: Predicting,
        images: Given,
        out: str | Path,
        *,
        formats: Iterable[Format] = ("json",),
        pictures: bool = True,
        frames: bool = False,
        track: bool = False,
        crops: bool = False,
        resume: bool = False,
        model_name: str = "dyzoo",
        json_path: Path | None = None,
        outputs: Sequence[Output] = (),
        together: bool = False,
        **settings: Any,
    ) -> None:
        self.model, self.out, self.formats, self.settings = model, Path(out), tuple(formats), settings
        self.json_path = json_path
        if track:
            load_tracker()  # before anything is written
        self._tracks, self._threshold = track, settings.get("threshold", _DEFAULTS["threshold"])
        self.pictures = Pictures(self.out) if pictures else None
        self.frames = Pictures(self.out) if frames else None
        self.failures: list[str] = []
        extras = {name: True for name, is_asked in (("crops", crops), ("track", track)) if is_asked}
        self._record = {"model": model_name, **_recorded(settings), **extras}
        self._count, self._order = process_count() if together else 1, dict[str, int]()
        self._lock, self._meeting = RunLock(self.out), Meeting() if together else None
        with ExitStack() as stack:  # what is open closes if the rest fails
            shares: list[Share] = []

            def begin() -> None:
                self._lock.take()
                stack.push(self._lock)
                shares.extend(self._begin(images, resume))

            if together:
                do_on_main(begin)
                share = deal_from_main(shares)
            else:
                begin()
                (share,) = shares
            self.out.mkdir(parents=True, exist_ok=True)
            path = self.out / shard_name(process_index() if together else MAIN, self._count)
            if self._count == 1:
                self.journal = Journal(path, self._record, resume)
            else:
                self.journal = Journal(path, self._record, resume=False, done=share.done)
            stack.callback(self.journal.close)
            self._closing = stack.pop_all()
        self.total, self.done = share.total, share.skipped
        self.names = OutputNames(self.out, [], {**self.journal.done.stems, **share.stems})
        known = share.sources if isinstance(share.sources, Sequence) else ()
        reading = Reading(max_pixels=settings.get("max_pixels"), frame_stride=settings.get("frame_stride", 1))
        self.films = Films(self.out, self.journal, model.labels, known, reading) if pictures else None
        made = [Crops(self.out) if crops else None, self.films]
        self.outputs = [*(each for each in made if each is not None), *outputs]
        self._keep = pictures or frames or bool(self.outputs)
        self._sources = [self._rest(each) for each in known] if known and not track else share.sources

    def __enter__(self) -> Job:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._closing as closing:
            for output in self.outputs:
                closing.callback(output.close)

    def _begin(self, images: Given, resume: bool) -> list[Share]:
        """The shares of all processes; what an earlier run has left is in one journal, or gone."""
        sources = _listed(images)
        is_listed = isinstance(sources, Sequence) or self._count > 1
        listing = Listing(list(sources) if is_listed else [])
        self._order = listing.order
        if resume and find_shards(self.out):
            join_shards(self.out, self._record, self._order)
        for path in find_shards(self.out):
            path.unlink(missing_ok=True)
        if not is_listed:
            return [Share(sources)]  # one after the other, as they are needed
        with Journal(self.out / JOURNAL_NAME, self._record, resume) as journal:
            return listing.divide(journal.done, self.out, self._count, self.settings.get("frame_stride", 1))

    def run(self) -> Iterator[JobResult]:
        """Detect and write, a result for each picture when all of it is on the disk.

        Raises:
            OSError: the disk is full, or a disk has failed; what is done is kept.
        """
        keep = {"keep_pictures": True} if self._keep else {}
        asked = self.settings | (
            {"threshold": least_scores(self.model.labels, self._threshold)} if self._tracks else {}
        )
        answers = self.model.predict(self._sources, on_error="return", stream=True, **keep, **asked)
        for answer in track(answers, self._threshold) if self._tracks else answers:
            if isinstance(answer, ImageError):
                result = JobResult(None, None, failures=(str(answer),))
            elif not self.journal.done.has(source := answer.source or str(answer.path), answer.frame):
                result = self._write(answer, source)
            else:
                continue
            self.failures += result.failures
            yield result
        for failure in self.films.end() if self.films is not None else ():
            self.failures.append(failure)
            yield JobResult(None, None, failures=(failure,))

    def expected(self) -> int | None:
        """About how many pictures and frames are left to do, for a bar; None where a source does not tell."""
        if self.total is not None or not isinstance(self._sources, Sequence):
            return self.total
        stride = self.settings.get("frame_stride", 1)
        counts = [each.count(stride) for each in self._sources]
        return None if None in counts else sum(filter(None, counts))

    def finish(self) -> dict[str, Path]:
        """Write the formats, if there is any result; by format the file, or the folder of many.

        Of several processes the main one waits for the others and writes what all have found, in the order of the
        sources, as one would have done; the others get no files.

        Raises:
            OSError: the disk is full, or cannot be written to; the journal is whole.
            DyzooError: another process has ended before its work was done, or has written elsewhere; what is done is
                kept.
        """
        if self._meeting is not None and not self._meet(self._meeting):
            return {}
        if self._count > 1 or not is_in_order(self.journal.done, self._order):
            self.journal.close()
            join_shards(self.out, self._record, self._order)
            self.journal = Journal(self.out / JOURNAL_NAME, self._record, resume=True)
            self._closing.callback(self.journal.close)
        if not self.journal.count:
            return {}
        files: dict[str, Path] = {}
        for name in self.formats:
            if name == "json" and self.json_path is not None:
                files[name] = write_json(self.journal, self.json_path)
            else:
                files[name] = write_format(name, self.journal, self.out, self.model.labels)
        return files

    def _rest(self, source: Source) -> Source:
        """The source without what is done of it: a film begins behind its last frame in the journal."""
        done = self.journal.done.frames.get(str(source.source))
        return replace(source, first=done + 1) if isinstance(source, Film) and done is not None else source

    def _meet(self, meeting: Meeting) -> bool:
        """Wait for the other processes and learn what they have done; whether this is the main one."""
        if self._count == 1:
            return True
        self.journal.close()
        meeting.wait()
        others = gather_on_main((self.journal.path.name, self.journal.count, self.failures))
        if process_index() != MAIN:
            return False
        self.failures = [line for *_, failures in others for line in failures]
        for index, (name, count, _) in enumerate(others):
            if count and not (self.out / name).is_file():
                raise DyzooError(
                    f"{self.out / name} of process {index} is not here but on its own machine: copy all that the "
                    f"machines have in {self.out} into one folder, and --resume joins it"
                )
        return True

    def _write(self, detections: Detections, source: str) -> JobResult:
        found = Found(detections, self.names.stem(source, detections.frame))
        failures = []
        picture: Path | None = None
        pictures = self.pictures if detections.frame is None else self.frames
        if pictures is not None:
            picture = pictures.path(found.stem)
            if failure := try_to_add(pictures, found, str(picture)):
                failures.append(failure)
                picture = None
        for output in self.outputs:
            if failure := try_to_add(output, found, source):
                failures.append(failure)
        name = None if picture is None else str(picture.relative_to(self.out))
        self.journal.add({**detections.to_dict(), "source": source}, found.stem, name)
        return JobResult(source, replace(detections, picture=None), picture, tuple(failures))


def predict_to_folder(model: Predicting, images: Given, out: str | Path, **options: Any) -> Written:
    """Detect in many pictures and write what is found, as `dyzoo predict` does.

    Args:
        model: the detector.
        images: whatever `Detector.predict` takes: files, folders, globs, films, ...
        out: the folder to write to.
        options: those of `Job` and, among them, of `Detector.predict`.

    Raises:
        OSError: `out` cannot be written to, or the disk is full; with `resume` another call goes on.
        DyzooError: an earlier run is to be resumed that had other settings.
    """
    written = Written()
    with Job(model, images, out, **options) as job:
        for _ in job.run():
            pass
        written.files, written.images, written.failures = job.finish(), job.journal.count, job.failures
        written.films = job.films.paths if job.films is not None else []
    return written


def _recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change what is found, as JSON gives them back."""
    values = {name: settings.get(name, _DEFAULTS[name]) for name in ALWAYS_RECORDED}
    values |= {name: settings[name] for name in RECORDED if settings.get(name) is not None}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _listed(images: Given) -> Sequence[Source] | Iterator[Source]:
    """The sources, each with a name; a sequence where all of them are known before any is read."""
    if isinstance(images, str | Path):
        return list_sources(images)
    named = _named(given_sources(images))
    if not isinstance(images, Sequence):
        return named
    paths = [each for each in images if isinstance(each, str | Path)]
    return list_sources(paths) if len(paths) == len(images) else list(named)


def _named(sources: Iterable[Source]) -> Iterator[Source]:
    """The sources, those in memory called image_1, image_2, ... by their places."""
    for number, source in enumerate(sources, 1):
        yield replace(source, source=f"image_{number}") if source.source is None else source  # type: ignore[type-var]
