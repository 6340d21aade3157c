"""Options that several commands share, and what becomes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from dyzoo.cli.settings import option_of
from dyzoo.config.prediction import PredictConfig
from dyzoo.config.training import TrainConfig
from dyzoo.errors import first_line
from dyzoo.files import write_text

if TYPE_CHECKING:
    import torch

    from dyzoo.model.detector import Detector

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="M",
        help="A checkpoint of `dyzoo list`, which is fetched if need be, the folder of a run or of save_pretrained, or "
        "a Hugging Face Hub id, org/name or org/name@revision.",
        show_default="the embedded one",
    ),
]
DataOption = Annotated[Path, option_of(TrainConfig, "data")]
DeviceOption = Annotated[str | None, option_of(TrainConfig, "device")]
SizeOption = Annotated[str | None, option_of(PredictConfig, "size")]


def load_detector(model: str | None, device: str | None) -> Detector:
    """The detector that --model and --device name."""
    from dyzoo.zoo.creation import load_model
    from dyzoo.zoo.names import DEFAULT_MODEL

    return load_model(model or DEFAULT_MODEL, choose_device(device))


def choose_device(name: str | None) -> torch.device:
    """The named device, or the best there is."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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


def make_folder(path: Path) -> None:
    """Make the output folder, before any work is done for it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OSError(error.errno, "is a file, expected a folder to write to", str(path)) from None


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, written aside and renamed."""
    write_text(path, json.dumps(value, indent=2) + "\n")
