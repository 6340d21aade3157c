"""Options that several commands share, and what becomes of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from dyzoo.cli.settings import option_of
from dyzoo.config.prediction import PredictConfig, Tiles
from dyzoo.config.training import TrainConfig
from dyzoo.environment import index_on_machine, launched_processes
from dyzoo.errors import first_line
from dyzoo.files import read_regular, write_text

if TYPE_CHECKING:
    import torch

    from dyzoo.model.detector import Detector

_MAX_NAMES_BYTES = 1 << 24

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="M",
        help="A checkpoint of `dyzoo list`, which is fetched if need be, the folder of a run or of save_pretrained, or "
        "a Hugging Face Hub id, org/name or org/name@revision, or an exported ONNX or OpenVINO file (.onnx, .xml).",
        show_default="the embedded one",
    ),
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="FILE|A,B,...",
        help="Classes to keep, in this order; of a checkpoint whose classes are words (`mmdet_glip_t_a`), any that are "
        "to be found. A list, or a file with one on each line.",
        show_default="the model's",
    ),
]
DataOption = Annotated[Path, option_of(TrainConfig, "data")]
DeviceOption = Annotated[str | None, option_of(TrainConfig, "device")]
SizeOption = Annotated[str | None, option_of(PredictConfig, "size")]


def optimize_option(left_open: str) -> Any:
    """--optimize of a command that optimises `left_open` where neither form is given."""
    text = "Fold, fuse and pack the weights for a CPU beforehand, which detects the same sooner."
    return typer.Option("--optimize/--no-optimize", help=text, show_default=left_open)


def load_detector(model: str | None, device: str | None, words: Sequence[str] | None = None) -> Detector:
    """The detector that --model and --device name; `words` are its classes, if these are words."""
    from dyzoo.zoo.creation import is_exported_file, load_model
    from dyzoo.zoo.names import DEFAULT_MODEL

    if device is None and model is not None and is_exported_file(model):
        device = "cpu"  # whatever else there is
    return load_model(model or DEFAULT_MODEL, choose_device(device), words)


def load_for_classes(
    model: str | None, device: str | None, classes: str | None
) -> tuple[Detector, tuple[str, ...] | None]:
    """The detector that --model, --device and --classes name, and which of its classes are to be kept, None for all.

    Where classes are words, those of --classes are all that the detector has.
    """
    if classes is None:
        return load_detector(model, device), None
    from dyzoo.zoo.creation import takes_words
    from dyzoo.zoo.names import DEFAULT_MODEL

    names = parse_names(classes, "--classes")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise typer.BadParameter(f"{name!r} is there {count} times, expected once", param_hint="--classes")
    detector = load_detector(model, device, names)
    if takes_words(model or DEFAULT_MODEL):
        return detector, detector.labels
    if unknown := [name for name in names if name not in detector.labels]:
        near = get_close_matches(unknown[0], detector.labels, n=3, cutoff=0.4) or detector.labels[:3]
        raise typer.BadParameter(
            f"the model knows no class {unknown[0]!r}: did you mean {', '.join(near)}?", param_hint="--classes"
        )
    return detector, tuple(names)


def optimized(detector: Detector, wanted: bool | None, precision: str | None = None) -> Detector:
    """The detector as --optimize wants it; None: optimised where that is possible and makes it faster."""
    from dyzoo.model.detector import Detector

    if wanted is None:
        is_plain = isinstance(detector, Detector) and detector.device.type == "cpu"
        wanted = is_plain and precision in (None, "fp32")
    elif wanted and not isinstance(detector, Detector):
        raise typer.BadParameter("an exported file is run by another runtime", param_hint="--optimize")
    return cast("Detector", detector.optimize()) if wanted else detector


def parse_names(text: str, option: str) -> list[str]:
    """Class names of an option: a list with commas, or a text file with one on each line."""
    path = Path(text)
    if path.is_file():
        try:
            lines = read_regular(path, _MAX_NAMES_BYTES).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise typer.BadParameter(f"{text} is not a text file", param_hint=option) from None
        names = [line.strip() for line in lines if line.strip()]
    else:
        names = [name.strip() for name in text.split(",")]
    if not all(names) or not names:
        raise typer.BadParameter(f"{text!r} has a class without a name", param_hint=option)
    return names


def choose_device(name: str | None) -> torch.device:
    """The named device, or the best there is; of several processes on a machine each takes the next GPU."""
    import torch

    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if launched_processes() > 1 and torch.cuda.is_available() and name.startswith("cuda"):
        if name != "cuda":
            raise typer.BadParameter(
                f"{name!r} is one for {launched_processes()} processes: leave the number out, each takes its own",
                param_hint="--device",
            )
        name = f"cuda:{index_on_machine() % torch.cuda.device_count()}"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise typer.BadParameter(f"{name!r} cannot be used: {first_line(error)}", param_hint="--device") from None


def parse_size(text: str | None) -> int | Literal["native"] | None:
    """`--size` as `Detector.predict` takes it."""
    if text is None or text == "native":
        return cast(Literal["native"] | None, text)
    from dyzoo.model.sizes import MAX_BATCH_PIXELS

    if not text.isdecimal() or not text.strip("0"):
        raise typer.BadParameter(f"{text!r} is neither a number of pixels nor 'native'", param_hint="--size")
    most = int(MAX_BATCH_PIXELS**0.5)
    if len(text) > len(str(most)) or int(text) > most:  # Python turns no text of more than 4300 digits into a number
        raise typer.BadParameter(f"{text[:20]} is too large, expected at most {most} pixels", param_hint="--size")
    return int(text)


def parse_tiles(text: str | None) -> Tiles:
    """`--tiles` as `Detector.predict` takes it."""
    if text is None or text == "off":
        return "off"
    if text == "auto":
        return "auto"
    if not text.isdecimal() or not text.strip("0") or len(text) > 4:
        raise typer.BadParameter(f"{text[:20]!r} is neither a number of tiles, auto nor off", param_hint="--tiles")
    return int(text)


def lift_limit(max_pixels: int) -> None:
    """Pillow has a limit of its own, for the whole process, which is the user's here."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = max(max_pixels, Image.MAX_IMAGE_PIXELS or 0)


def make_folder(path: Path) -> None:
    """Make the output folder, before any work is done for it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OSError(error.errno, "is a file, expected a folder to write to", str(path)) from None


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, written aside and renamed."""
    write_text(path, json.dumps(value, indent=2) + "\n")
