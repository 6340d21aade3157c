"""`dyzoo data`: look at a dataset folder, and write it in another format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from dyzoo.cli.options import note, progress_bar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Check dataset folders, and convert them: COCO JSON, Pascal VOC and YOLO.",
)

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Dataset folder: COCO JSON, Pascal VOC or YOLO.")]


@app.command()
def convert(
    folder: FolderArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new folder, absent or empty.")],
    to: Annotated[Literal["coco", "voc", "yolo"], typer.Option("--to", help="The new format.")] = "coco",
    split: Annotated[
        float | None,
        typer.Option("--split", metavar="SHARE", help="Set this share of the images aside for validation, say 0.2."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Which images --split sets aside.")] = 0,
    link: Annotated[
        bool, typer.Option("--link/--copy", help="Hard links to the images, which take no space, or copies.")
    ] = False,
) -> None:
    """Write a dataset in another format, or split it into train and val.

    Boxes, classes and their order are kept; masks, keypoints and attributes are not. What else the new format cannot
    hold is counted and named. OUT is there as a whole or not at all.

    \b
    Examples:
      dyzoo data convert export/ pets --to yolo
      dyzoo data convert export/ pets --split 0.2 --seed 1
      dyzoo data convert voc/ coco --to coco --link
    """
    from dyzoo.data import convert_dataset

    with progress_bar() as bar:
        conversion = convert_dataset(folder, out, to, val_fraction=split, seed=seed, link=link, track=Tracked(bar))
    for line in conversion.notes:
        note(line)
    for name, images in conversion.images.items():
        print(f"{name}: {images} images, {conversion.boxes[name]} boxes")
    print(f"written to {out}")


class Tracked:
    """Shows loops of the library on a progress bar."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]:
        yield from self.bar.track(items, total=total, description=description)
