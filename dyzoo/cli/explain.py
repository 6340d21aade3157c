"""`dyzoo explain`: see why a detector found what it found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dyzoo.cli.options import (
    ClassesOption,
    DeviceOption,
    ModelOption,
    SizeOption,
    lift_limit,
    load_for_classes,
    make_folder,
    parse_size,
)
from dyzoo.cli.settings import option_of
from dyzoo.cli.terminal import note, say
from dyzoo.cli.thresholds import ThresholdOption, parse_thresholds
from dyzoo.config.prediction import PredictConfig

if TYPE_CHECKING:
    from dyzoo.explain import Explanation

_MOST_DIGITS = 12


def explain(
    image: Annotated[Path | None, typer.Argument(metavar="IMAGE", show_default="a sample image")] = None,
    model: ModelOption = None,
    classes: ClassesOption = None,
    threshold: ThresholdOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")] = Path("explained"),
    number: Annotated[
        int | None,
        typer.Option("--object", metavar="I", help="Number of the detection, from 0.", show_default="the best one, 0"),
    ] = None,
    block: Annotated[
        int | None, typer.Option("--block", metavar="K", help="Block to look at, from 0.", show_default="the last one")
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(
            "--level",
            metavar="L",
            help="Level to look at, from 0, the finest.",
            show_default="that of the detection",
        ),
    ] = None,
    place: Annotated[
        str | None,
        typer.Option(
            "--place",
            metavar="X,Y",
            help="Place in the picture to show sampling points for, in pixels.",
            show_default="that of the detection",
        ),
    ] = None,
    device: DeviceOption = None,
    size: SizeOption = None,
    max_pixels: Annotated[int | None, option_of(PredictConfig, "max_pixels")] = None,
) -> None:
    """See what the attentions do to a picture, and what made a detection.

    Writes DIR/explain.html, a page with all blocks and levels that opens anywhere and fetches nothing, DIR/explain.json
    with the numbers, and a PNG each of the maps, the sampling points and the channels of one block and of what made
    the detection.

    \b
    Examples:
      dyzoo explain
      dyzoo explain cells.jpg --object 2 --out seen
      dyzoo explain cells.jpg --model runs/mine --block 0 --level 1
      dyzoo explain cells.jpg --place 120,80
    """
    from dyzoo.zoo.catalog import sample_image

    network_size, at, thresholds = parse_size(size), _parse_place(place), parse_thresholds(threshold)
    if max_pixels is not None:
        lift_limit(max_pixels)
    detector, kept = load_for_classes(model, device, classes)
    make_folder(out)
    explanation = detector.explain(
        sample_image() if image is None else image,
        block=block,
        level=level,
        detection=number,
        threshold=thresholds.for_classes(detector.labels),
        size=network_size,
        place=at,
        classes=kept,
        max_pixels=max_pixels,
    )
    page, *others = explanation.save(out)
    _say(explanation)
    say(f"page: {page}")
    say(f"also in {out}: {', '.join(path.name for path in others)}")


def _say(explanation: Explanation) -> None:
    """Say on one line which detection is explained and which level it comes from."""
    from dyzoo.explain.numbers import attribution_shares

    found = explanation.detections
    for line in found.notes:
        note(f"{found.source}: {line}")
    if explanation.detection is None:
        note(f"{found.source}: nothing found that could be explained; a lower --threshold finds more")
        return
    shares = attribution_shares(explanation)[-1]
    chosen, level = found[explanation.detection], shares.index(max(shares))
    x1, y1, x2, y2 = chosen.box_xyxy
    say(
        f"{found.source}: object {explanation.detection} of {len(found)}, {chosen.name} {chosen.score:.2f} at "
        f"({x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f}), from level {level}"
    )


def _parse_place(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    numbers = text.split(",")
    if len(numbers) != 2 or not all(
        len(number) <= _MOST_DIGITS and number.strip().replace(".", "", 1).isdecimal() for number in numbers
    ):
        raise typer.BadParameter(f"{text[:40]!r} is no place, expected X,Y in pixels", param_hint="--place")
    return float(numbers[0]), float(numbers[1])
