"""`dyzoo predict`: find objects in pictures."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from dyzoo.cli.flips import FlipOption, parse_flips
from dyzoo.cli.options import (
    ClassesOption,
    DeviceOption,
    ModelOption,
    SizeOption,
    lift_limit,
    load_for_classes,
    make_folder,
    optimize_option,
    optimized,
    parse_size,
    parse_tiles,
)
from dyzoo.cli.settings import option_of, takes_settings
from dyzoo.cli.terminal import complain, note, plain, progress_bar, say, show_table
from dyzoo.cli.thresholds import ThresholdOption, parse_thresholds
from dyzoo.config.prediction import PredictConfig
from dyzoo.environment import launched_processes

if TYPE_CHECKING:
    from dyzoo.images.detections import Detections
    from dyzoo.prediction import Job, JobResult
    from dyzoo.prediction.formats import Format
    from dyzoo.prediction.screen import Screen

_TABLE_IMAGES, _TABLE_ROWS = 3, 30  # more would scroll away

OPTIMIZED_FROM = 20
"""Pictures from which on it takes less time to optimise a detector first: that costs the time of some ten."""


@takes_settings(PredictConfig)
def predict(
    config: PredictConfig,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Files, folders, globs, lists, archives, films, addresses, cameras (0).",
            show_default="a sample image",
        ),
    ] = None,
    model: ModelOption = None,
    classes: ClassesOption = None,
    threshold: ThresholdOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")] = Path("predictions"),
    save: Annotated[
        list[str] | None,
        typer.Option(
            "--save",
            metavar="FORMAT,...",
            help="Detections as json, coco, yolo or csv; jsonl: no more than DIR/detections.jsonl.",
            show_default="json",
        ),
    ] = None,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Detections as JSON.", show_default="DIR/detections.json"),
    ] = None,
    save_crops: Annotated[
        bool, typer.Option("--save-crops", help="Write the objects, cut out, to DIR/crops/CLASS/.")
    ] = False,
    save_frames: Annotated[
        bool, typer.Option("--save-frames", help="Write each annotated frame of films as a picture, too.")
    ] = False,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Write no annotated pictures and films.")] = False,
    track: Annotated[bool, typer.Option("--track", help="Give each object of a film an id that it keeps.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show annotated pictures in a window.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run into the same folder has stopped.")
    ] = False,
    device: DeviceOption = None,
    size: SizeOption = None,
    tiles: Annotated[str | None, option_of(PredictConfig, "tiles", shown="off")] = None,
    flips: FlipOption = None,
    optimize: Annotated[bool | None, optimize_option(f"on a CPU, from {OPTIMIZED_FROM} pictures on")] = None,
) -> None:
    """Find objects in pictures and films.

    Writes an annotated PNG of each picture, an annotated MP4 of each film, and all detections as JSON; while it runs,
    a line for each picture or frame into DIR/detections.jsonl, from which --resume goes on. What cannot be read is
    named on one line; the others still come out, and the exit code is 1.

    torchrun divides the pictures among several GPUs or machines, and --resume takes up what any number of processes has
    left.

    --threshold may be given several times: X for all classes, NAME=X for one, and the thresholds.json beside the
    report of an evaluation or a training for those that it suggests.

    \b
    Examples:
      dyzoo predict
      dyzoo predict cells.jpg --threshold 0.5 --threshold Platelets=0.2
      dyzoo predict photos/ 'more/**/*.png' --out seen --json seen.json
      dyzoo predict photos/ --model runs/mine --size 640 --device cuda
      dyzoo predict cells.jpg --model mmdet_glip_t_a --classes "blood cell, dust"
      dyzoo predict photos/ --model runs/mine --save coco,csv --save-crops
      dyzoo predict photos/ --out seen --resume
      dyzoo predict film.mp4 --track --frame-stride 2
      torchrun --nproc-per-node 2 -m dyzoo predict photos/ --out seen
    """
    from dyzoo.distributed import MAIN, enter, leave, process_index
    from dyzoo.model.missed import MissedWarning
    from dyzoo.prediction import Job
    from dyzoo.zoo.catalog import sample_image
    from dyzoo.zoo.names import DEFAULT_MODEL

    config = replace(config, size=parse_size(size), tiles=parse_tiles(tiles), flips=tuple(parse_flips(flips)))
    thresholds, formats = parse_thresholds(threshold), _parse_formats(save, json_path)
    if config.max_pixels is not None:
        lift_limit(config.max_pixels)
    if show and launched_processes() > 1:
        raise typer.BadParameter(f"{launched_processes()} processes have no window in common", param_hint="--show")
    screen = _open_screen() if show else None
    detector, kept = load_for_classes(model, device, classes)
    if optimize is not None:
        detector = optimized(detector, optimize)
    make_folder(out)
    if "json" in formats:
        _check_json_path(json_path or out / "detections.json", out)
    config = replace(config, classes=kept, threshold=thresholds.for_classes(detector.labels))
    warnings.simplefilter("ignore", MissedWarning)  # the notes say the same of each picture
    enter()
    is_main = process_index() == MAIN
    with Job(
        detector, images or [sample_image()], out, formats=formats, pictures=not no_pictures, frames=save_frames,
        crops=save_crops, track=track, resume=resume, model_name=model or DEFAULT_MODEL, json_path=json_path,
        outputs=[screen] if screen else [], together=True, **config.given(),
    ) as job:  # fmt: skip
        count = job.expected() if optimize is None else 0
        if count is None or count >= OPTIMIZED_FROM:
            detector = job.model = optimized(detector, None, config.precision)
        tables = _run(job, is_main)
        files = job.finish()
        for detections in filter(len, tables):
            _print_table(detections)
        for path in job.films.paths if job.films is not None else ():
            say(f"annotated film: {path}")
        for path in files.values():
            say(f"all detections: {path}")
        if screen is not None:
            screen.wait()
    leave()
    if job.failures and is_main:  # the exit code of all: a launcher stops the others when one has another than 0
        raise typer.Exit(1)


def _run(job: Job, is_main: bool) -> list[Detections]:
    """Let the job run and say what it does; the detections of the only few images."""
    count = "?" if job.total is None else job.total + job.done
    if job.done and is_main:
        note(f"{job.done} of {count} images are in {job.journal.path} already")
    tables: list[Detections] = []
    noted = _Noted()
    try:
        with progress_bar(is_main) as bar:
            for result in bar.track(job.run(), total=job.expected(), description="detecting"):
                for line in result.failures:
                    complain(line)
                if result.detections is None:
                    continue
                noted.add(result)
                if is_main:
                    say(_line(result, result.detections))
                if len(tables) <= _TABLE_IMAGES:
                    tables.append(result.detections)
    except BaseException as error:
        if job.journal.count and not isinstance(error, BrokenPipeError):
            note(f"{len(job.journal.done.stems)} of {count} images are in {job.journal.path}: --resume goes on")
        raise
    is_short = launched_processes() == 1 and job.total is not None and job.total <= _TABLE_IMAGES
    return tables if is_short else []


class _Noted:
    """Prints each note once for each source, of which those of one source come together."""

    def __init__(self) -> None:
        self.source: str | None = None
        self.lines: set[str] = set()

    def add(self, result: JobResult) -> None:
        assert result.detections is not None
        if result.source != self.source:
            self.source, self.lines = result.source, set()
        for line in result.detections.notes:
            if line not in self.lines:
                self.lines.add(line)
                note(f"{self.source}: {line}")


def _line(result: JobResult, detections: Detections) -> str:
    counts = ", ".join(f"{number} {name}" for name, number in detections.counts().items()) or "nothing found"
    place = "" if detections.frame is None else f" frame {detections.frame}"
    return f"{result.source}{place}: {counts}" + (f" -> {result.picture}" if result.picture else "")


def _parse_formats(texts: Sequence[str] | None, json_path: Path | None) -> list[Format]:
    """`--save`, with JSON where --json asks for it."""
    from dyzoo.prediction.formats import FORMATS

    names = [name.strip() for text in texts or ["json"] for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            expected = f"some of {', '.join(FORMATS)}"
            raise typer.BadParameter(f"{name!r} is no format, expected {expected}", param_hint="--save")
    return cast("list[Format]", list(dict.fromkeys([*names, *(["json"] if json_path is not None else [])])))


def _check_json_path(path: Path, out: Path) -> None:
    """Refuse what cannot be written before any work is done for it."""
    from dyzoo.prediction import JOURNAL_NAME

    make_folder(path.parent)
    if path.is_dir():
        raise OSError(errno.EISDIR, "is a folder, expected a file to write to", str(path))
    if os.path.realpath(path) == os.path.realpath(out / JOURNAL_NAME):
        raise typer.BadParameter(f"{path} is written line by line while the command runs", param_hint="--json")


def _open_screen() -> Screen:
    from dyzoo.prediction.screen import Screen

    return Screen()


def _print_table(detections: Detections) -> None:
    from rich.table import Table

    table = Table("class", title=plain(str(detections.path or detections.source)), title_justify="left")
    for name in ("score", "x1", "y1", "x2", "y2"):
        table.add_column(name, justify="right")
    for detection in detections[:_TABLE_ROWS]:
        table.add_row(
            plain(detection.name), f"{detection.score:.2f}", *(f"{value:.0f}" for value in detection.box_xyxy)
        )
    if len(detections) > _TABLE_ROWS:
        table.add_row(f"and {len(detections) - _TABLE_ROWS} more")
    show_table(table)
