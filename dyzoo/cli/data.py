"""`dyzoo data`: look at a dataset folder, and write it in another format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from dyzoo.cli.options import (
    ClassesOption,
    DeviceOption,
    ModelOption,
    SizeOption,
    load_for_classes,
    make_folder,
    parse_size,
)
from dyzoo.cli.terminal import complain, note, progress_bar, say, show
from dyzoo.errors import DatasetError

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Check dataset folders, convert, split and make them.",
)

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Dataset folder: COCO JSON, Pascal VOC or YOLO.")]

LinkOption = Annotated[
    bool, typer.Option("--link/--copy", help="Hard links to the images, which take no space, or copies.")
]


@app.command()
def check(
    folder: FolderArgument,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Look at this one alone.", show_default="all")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for check.json and contact_sheet.png.")
    ] = Path("data_check"),
    size: Annotated[
        int | None,
        typer.Option(
            "--size", metavar="PX", min=1, help="Shortest edge in training.", show_default="that of `dyzoo train`"
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Which images fill the contact sheet.")] = 0,
) -> None:
    """Look for what is suspicious in a dataset.

    Prints classes, sizes and findings: boxes without area, outside or given twice, damaged images, the same picture in
    train and val, classes that a split lacks, tiny boxes, and more. The exit code is 1 if nothing of it is usable.

    \b
    Examples:
      dyzoo data check DIR
      dyzoo data check DIR --split train --out report --size 640
    """
    from dyzoo.config.training import TrainConfig
    from dyzoo.data import check_dataset
    from dyzoo.zoo.names import model_config

    make_folder(out)
    trained = model_config(TrainConfig.model).preprocess
    seen = trained if size is None else trained.at(size)
    size_px = (seen.shortest_edge, seen.longest_edge)
    with progress_bar() as bar:
        report = check_dataset(folder, split, size_px=size_px, track=Tracked(bar))
        report.save(out, seed)
    show(f"{report.text()}\n")
    say(f"report in {out}")
    if not report.usable:
        raise DatasetError(f"{folder} holds no usable object")


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
    link: LinkOption = False,
) -> None:
    """Write a dataset in another format, or split it.

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
        say(f"{name}: {images} images, {conversion.boxes[name]} boxes")
    say(f"written to {out}")


@app.command()
def label(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Files, folders, globs.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The new folder, absent or empty.")],
    model: ModelOption = None,
    to: Annotated[
        Literal["coco", "voc", "yolo", "label-studio", "cvat"],
        typer.Option("--to", help="A dataset format, or what an annotation tool imports."),
    ] = "coco",
    classes: ClassesOption = None,
    threshold: Annotated[
        float, typer.Option("--threshold", "-t", metavar="X", min=0, max=1, help="Leave out what scores lower.")
    ] = 0.3,
    class_threshold: Annotated[
        list[str] | None,
        typer.Option("--class-threshold", metavar="NAME=X", help="Another threshold for one class; may be repeated."),
    ] = None,
    size: SizeOption = None,
    device: DeviceOption = None,
    link: LinkOption = False,
) -> None:
    """Label pictures with a detector, to be corrected by hand.

    Writes a dataset with one split, train; for Label Studio tasks.json and label_config.xml, for CVAT annotations.xml,
    each beside a folder `images`. Pictures in which nothing is found are in it, too. One that cannot be read is named
    and left out, and the exit code is 1.

    \b
    Examples:
      dyzoo data label photos/ -o labelled
      dyzoo data label photos/ -o labelled --to yolo --classes RBC,WBC --threshold 0.5
      dyzoo data label photos/ -o labelled --model runs/mine --class-threshold Platelets=0.2
      dyzoo data label photos/ -o tasks --to label-studio
      dyzoo data label photos/ -o seen --model mmdet_glip_t_a --classes names.txt
    """
    from dyzoo.data import label_images
    from dyzoo.images.finding import list_images

    thresholds = _named_numbers(class_threshold or [])
    size_px = parse_size(size)
    detector, kept = load_for_classes(model, device, classes)
    with progress_bar() as bar:
        labelling = label_images(
            detector, list_images(images), out, to, classes=kept, threshold=threshold, thresholds=thresholds,
            model_name=detector.config.architecture, link=link, track=Tracked(bar), size=size_px,
        )  # fmt: skip
    for error in labelling.failures:
        complain(str(error))
    for line in labelling.notes:
        note(line)
    found = ", ".join(f"{number} {name}" for name, number in labelling.boxes.items() if number)
    say(f"{labelling.images} image{'s' if labelling.images != 1 else ''}: {found or 'nothing found'}")
    say(f"written to {out}")
    if labelling.failures:
        raise typer.Exit(1)


def _named_numbers(texts: Iterable[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            name = ""
        if not name.strip():
            raise typer.BadParameter(f"{text!r} is no NAME=X such as RBC=0.5", param_hint="--class-threshold")
    return found


class Tracked:
    """Shows loops of the library on a progress bar."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]:
        yield from self.bar.track(items, total=total, description=description)
