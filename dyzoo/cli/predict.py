"""`dyzoo predict`: find objects in pictures."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dyzoo.cli.flips import FlipOption, parse_flips
from dyzoo.cli.options import (
    DeviceOption,
    ModelOption,
    SizeOption,
    load_detector,
    make_folder,
    parse_size,
    progress_bar,
    write_json,
)
from dyzoo.errors import ImageError
from dyzoo.files import replacing

if TYPE_CHECKING:
    from dyzoo.detections import Detections

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
) -> None:
    """Find objects in pictures.

    Writes an annotated PNG of each, and all detections as JSON. An image that cannot be read is named on
    one line; the others still come out, and the exit code is 1.

    \b
    Examples:
      dyzoo predict
      dyzoo predict cells.jpg --threshold 0.5
      dyzoo predict photos/ 'more/**/*.png' --out seen --json seen.json
      dyzoo predict photos/ --model runs/mine --size 640 --device cuda
    """
    from dyzoo.catalog import sample_image
    from dyzoo.images import list_images, read_image
    from dyzoo.zoo import DEFAULT_MODEL

    size_px, flips = parse_size(size), parse_flips(flip)
    make_folder(out)
    detector = load_detector(model, device)
    sources = list_images(images) if images else [sample_image()]
    found: list[Detections] = []
    with progress_bar() as bar:
        for source, target in bar.track(picture_paths(sources, out), description="detecting"):
            try:
                picture = read_image(source)
                detections = replace(detector.predict(picture, threshold, size_px, flips=flips)[0], path=source)
            except ImageError as error:
                print(f"error: {error}", file=sys.stderr)
                continue
            found.append(detections)
            with replacing(target) as aside:
                detections.draw(picture).save(aside, format="PNG")
            print(f"{source}: {_counts(detections)} -> {target}")
    if found:
        json_path = json_path or out / "detections.json"
        write_json(json_path, _as_json(model or DEFAULT_MODEL, threshold, flips, found))
        if len(sources) <= _TABLE_IMAGES:
            for detections in filter(len, found):
                _print_table(detections)
        print(f"all detections: {json_path}")
    if len(found) < len(sources):
        raise typer.Exit(1)


def picture_paths(sources: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Each source with the path of its annotated PNG in `out`, no two the same and none that of a source.

    The picture of `a/cell.jpg` is `cell.png`, the next one of that name `cell_2.png`.
    """
    # Compared in lower case, since some file systems do not tell cases apart.
    taken = {source.name.lower() for source in sources if source.resolve().parent == out.resolve()}
    numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(1))
    pairs = []
    for source in sources:
        numbered = (f"{source.stem}_{n}" if n > 1 else source.stem for n in numbers[source.stem.lower()])
        name = next(f"{stem}.png" for stem in numbered if f"{stem}.png".lower() not in taken)
        taken.add(name.lower())
        pairs.append((source, out / name))
    return pairs


def _as_json(model: str, threshold: float, flips: Sequence[str], found: Iterable[Detections]) -> dict[str, Any]:
    images = [detections.to_dict() for detections in found]
    return {"model": model, "threshold": threshold, "flips": list(flips), "images": images}


def _counts(detections: Detections) -> str:
    return ", ".join(f"{number} {name}" for name, number in detections.counts().items()) or "nothing found"


def _print_table(detections: Detections) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("class", title=str(detections.path), title_justify="left")
    for name in ("score", "x1", "y1", "x2", "y2"):
        table.add_column(name, justify="right")
    for detection in detections[:_TABLE_ROWS]:
        table.add_row(detection.name, f"{detection.score:.2f}", *(f"{value:.0f}" for value in detection.box_xyxy))
    if len(detections) > _TABLE_ROWS:
        table.add_row(f"and {len(detections) - _TABLE_ROWS} more")
    Console().print(table)
