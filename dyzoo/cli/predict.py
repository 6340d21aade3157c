"""`dyzoo predict`: find objects in pictures."""

from __future__ import annotations

import errno
import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dyzoo.cli.flips import FlipOption, parse_flips
from dyzoo.cli.journal import JOURNAL_NAME, Journal
from dyzoo.cli.options import DeviceOption, ModelOption, SizeOption, load_detector, make_folder, parse_size
from dyzoo.cli.terminal import complain, note, plain, progress_bar, say, show_table
from dyzoo.errors import ImageError, first_line
from dyzoo.files import replacing

if TYPE_CHECKING:
    from dyzoo.images.detections import Detections
    from dyzoo.images.reading import Picture
    from dyzoo.model.detector import Detector

_LONGEST_STEM = 240  # bytes of a name, of which file systems take 255
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_TABLE_IMAGES, _TABLE_ROWS = 3, 30  # more would scroll away


def predict(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE", help="Files, folders, globs.", show_default="a sample image"),
    ] = None,
    model: ModelOption = None,
    threshold: Annotated[
        float, typer.Option("--threshold", "-t", metavar="X", min=0, max=1, help="Leave out what scores lower.")
    ] = 0.3,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for annotated pictures.")] = Path(
        "predictions"
    ),
    json_path: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Detections as JSON.", show_default="DIR/detections.json"),
    ] = None,
    device: DeviceOption = None,
    size: SizeOption = None,
    flip: FlipOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run into the same folder has stopped.")
    ] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            "--max-pixels", metavar="N", min=1, help="Largest image that is decoded.", show_default="134 million"
        ),
    ] = None,
) -> None:
    """Find objects in pictures.

    Writes an annotated PNG of each, and all detections as JSON; while it runs, a line for each image into
    DIR/detections.jsonl, from which --resume goes on. An image that cannot be read is named on one line; the others
    still come out, and the exit code is 1.

    \b
    Examples:
      dyzoo predict
      dyzoo predict cells.jpg --threshold 0.5
      dyzoo predict photos/ 'more/**/*.png' --out seen --json seen.json
      dyzoo predict photos/ --model runs/mine --size 640 --device cuda
      dyzoo predict photos/ --out seen --resume
    """
    from dyzoo.images.finding import list_images
    from dyzoo.zoo.catalog import sample_image
    from dyzoo.zoo.names import DEFAULT_MODEL

    size_px, flips = parse_size(size), parse_flips(flip)
    make_folder(out)
    json_path = json_path or out / "detections.json"
    _check_json_path(json_path, out)
    settings = {"model": model or DEFAULT_MODEL, "threshold": threshold, "flips": list(flips), "size": size_px}
    if max_pixels is not None:
        _lift_limit(max_pixels)
    detector = load_detector(model, device)
    sources = list_images(images) if images else [sample_image()]
    tables: list[Detections] = []
    failed = 0
    with Journal(out / JOURNAL_NAME, settings, resume) as journal:
        pairs = picture_paths([source for source in sources if str(source) not in journal.done], out, journal.pictures)
        if len(pairs) < len(sources):
            note(f"{len(sources) - len(pairs)} of {len(sources)} images are in {journal.path} already")
        try:
            with progress_bar() as bar:
                for source, target in bar.track(pairs, description="detecting"):
                    try:
                        picture = _read(detector, source, size_px, max_pixels)
                        detections = detector.predict(picture, threshold, size=size_px, flips=flips)[0]
                    except ImageError as error:
                        complain(str(error))
                        failed += 1
                        continue
                    drawn = _draw(detections, picture, target)
                    journal.add(detections.to_dict(), target.name if drawn else None)
                    failed += not drawn
                    say(f"{source}: {_counts(detections)}" + (f" -> {target}" if drawn else ""))
                    if len(sources) <= _TABLE_IMAGES:
                        tables.append(detections)
        except BaseException as error:
            if journal.done and not isinstance(error, BrokenPipeError):
                note(f"{len(journal.done)} of {len(sources)} images are in {journal.path}: --resume goes on")
            raise
        if journal.done:
            journal.save(json_path)
    for detections in filter(len, tables):
        _print_table(detections)
    if journal.done:
        say(f"all detections: {json_path}")
    if failed:
        raise typer.Exit(1)


def _check_json_path(path: Path, out: Path) -> None:
    """Refuse what cannot be written before any work is done for it."""
    make_folder(path.parent)
    if path.is_dir():
        raise OSError(errno.EISDIR, "is a folder, expected a file to write to", str(path))
    if os.path.realpath(path) == os.path.realpath(out / JOURNAL_NAME):
        raise typer.BadParameter(f"{path} is written line by line while the command runs", param_hint="--json")


def _lift_limit(max_pixels: int) -> None:
    """Pillow has a limit of its own, for the whole process, which is the user's here."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = max(max_pixels, Image.MAX_IMAGE_PIXELS or 0)


def _read(detector: Detector, source: Path, size: int | Literal["native"] | None, max_pixels: int | None) -> Picture:
    from dyzoo.images.reading import read_picture
    from dyzoo.model.sizes import network_size

    return read_picture(
        source, lambda image_size: network_size(detector.config.preprocess, image_size, size), max_pixels
    )


def _draw(detections: Detections, picture: Picture, target: Path) -> bool:
    """Write the annotated picture; one that cannot be is named and costs no other, but for a disk that is full."""
    try:
        with replacing(target) as aside:
            detections.draw(picture).save(aside, format="PNG")
    except (OSError, ValueError, struct.error) as error:  # PNG has limits of its own
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise
        complain(f"{target} cannot be written: {getattr(error, 'strerror', None) or first_line(error)}")
        return False
    return True


def picture_paths(sources: Sequence[Path], out: Path, taken_names: Iterable[str] = ()) -> list[tuple[Path, Path]]:
    """Each source with the path of its annotated PNG in `out`, no two the same and none that of a source.

    The picture of `a/cell.jpg` is `cell.png`, the next one of that name `cell_2.png`. `taken_names` are those of other
    pictures there.
    """
    # Compared in lower case, since some file systems do not tell cases apart.
    there = os.path.realpath(out)
    taken = {source.name.lower() for source in sources if os.path.realpath(source.parent) == there}
    taken.update(name.lower() for name in taken_names)
    numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(1))
    pairs = []
    for source in sources:
        stem = source.stem
        if len(os.fsencode(stem)) > _LONGEST_STEM:  # there has to be room for .png, and maybe a number
            stem = os.fsencode(stem)[:_LONGEST_STEM].decode("utf-8", "ignore")
        numbered = (f"{stem}_{n}" if n > 1 else stem for n in numbers[stem.lower()])
        name = next(f"{each}.png" for each in numbered if f"{each}.png".lower() not in taken)
        taken.add(name.lower())
        pairs.append((source, out / name))
    return pairs


def _counts(detections: Detections) -> str:
    return ", ".join(f"{number} {name}" for name, number in detections.counts().items()) or "nothing found"


def _print_table(detections: Detections) -> None:
    from rich.table import Table

    table = Table("class", title=plain(str(detections.path)), title_justify="left")
    for name in ("score", "x1", "y1", "x2", "y2"):
        table.add_column(name, justify="right")
    for detection in detections[:_TABLE_ROWS]:
        table.add_row(
            plain(detection.name), f"{detection.score:.2f}", *(f"{value:.0f}" for value in detection.box_xyxy)
        )
    if len(detections) > _TABLE_ROWS:
        table.add_row(f"and {len(detections) - _TABLE_ROWS} more")
    show_table(table)
