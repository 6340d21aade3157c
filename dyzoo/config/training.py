"""The settings of a training run: frozen dataclasses without torch, so that the command line starts fast."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from dyzoo.config.detector import MOST_BLOCKS
from dyzoo.config.settings import Setting, check_ranges, documented
from dyzoo.config.values import Range

RUNS_FOLDER = Path("runs")  # where runs go that are given no folder

Share = Annotated[float, Range(0, 1)]
PartOfAll = Annotated[float, Range(above=0, highest=1)]
AtLeast1 = Annotated[int, Range(1)]
AtLeast1OrOpen = Annotated[int | None, Range(1)]
AboveZero = Annotated[float, Range(above=0)]
AtLeastZero = Annotated[float, Range(0)]


@documented
@dataclass(frozen=True)
class TransformConfig:
    """Strength of the augmentation."""

    horizontal_flip: Annotated[Share, Setting("How often images are mirrored left to right in training.")] = 0.5
    vertical_flip: Annotated[Share, Setting("How often images are mirrored top to bottom in training.")] = 0.0
    rotate90: Annotated[
        Share,
        Setting(
            "How often images are turned by a multiple of 90 degrees in training.", "For pictures without an upright."
        ),
    ] = 0.0
    scale_range: Annotated[
        tuple[float, float],
        Setting(
            "Image size in training, relative to the size in evaluation.",
            "Log-uniform between the two.",
            metavar="LEAST MOST",
        ),
    ] = (0.75, 1.33)
    crop: Annotated[Share, Setting("How often images are cropped in training.")] = 0.5
    crop_min_side: Annotated[PartOfAll, Setting("Least width and height of a crop, as a share of the image's.")] = 0.5
    crop_min_visible: Annotated[
        Share, Setting("Least share of an object's area inside the crop for the object to count.")
    ] = 0.5
    colour: Annotated[
        Share,
        Setting("Strength of changes to colours in training.", "To brightness, contrast, saturation and hue."),
    ] = 0.5
    mosaic: Annotated[Share, Setting("How often images are put together from parts of four in training.")] = 0.0
    copy_paste: Annotated[
        Share, Setting("How often images are given objects of another image in training.", "They go to free places.")
    ] = 0.0
    mix_until: Annotated[
        PartOfAll,
        Setting(
            "Share of the epochs after which mosaic and copy-paste end.", "The last epochs see images as they are."
        ),
    ] = 0.9

    def __post_init__(self) -> None:
        check_ranges(self)
        if not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise ValueError(f"scale_range is {self.scale_range}, expected (least, greatest), both above 0")

    def mixed_epochs(self, epochs: int) -> int:
        """How many of the first epochs mix pictures; at least one, so that one epoch alone has what it asks for."""
        if not (self.mosaic or self.copy_paste):
            return 0
        return max(math.floor(epochs * self.mix_until + 1e-9), 1)  # 0.29 * 100 is a little less than 29


LEFT_OPEN = ("epochs", "batch_size", "size_px")
"""The settings of a run that its data decides, unless they are given."""

Precision = Literal["auto", "bf16", "fp16", "fp32"]

ATTENTIONS = ("scale", "spatial", "task")


@documented
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. What is left open, as None, is chosen when the data is known: `dyzoo.training.defaults`."""

    data: Annotated[Path, Setting("Dataset folder: COCO JSON, Pascal VOC or YOLO.", metavar="DIR")] = field(
        kw_only=False
    )
    model: Annotated[
        str, Setting("Architecture, see `dyzoo list`.", "In Python: `dyzoo.list_models()`.", short="-m", metavar="NAME")
    ] = "dyhead_atss_resnet10t"
    backbone: Annotated[
        str | None, Setting("Any other timm backbone.", metavar="NAME", left_open="the architecture's")
    ] = None
    blocks: Annotated[int | None, Range(0, MOST_BLOCKS), Setting("DyHead blocks.", left_open="the architecture's")] = (
        None
    )
    attentions: Annotated[
        str | None,
        Setting(
            "Those of the blocks: some of scale,spatial,task, or none.",
            "`DyHeadConfig` says what takes the place of the others.",
            metavar="A,A",
            left_open="the architecture's",
        ),
    ] = None
    form: Annotated[
        Literal["pyramid", "tensor"] | None,
        Setting("Form of the blocks, see `DyHeadConfig`.", left_open="the architecture's"),
    ] = None
    epochs: Annotated[
        AtLeast1OrOpen, Setting("Passes over the data.", left_open="12 to 300, fewer for more images")
    ] = None
    batch_size: Annotated[
        AtLeast1OrOpen,
        Setting("Images at a time, in each process.", left_open="by images and free memory, 16 in all"),
    ] = None
    accumulate: Annotated[
        AtLeast1,
        Setting(
            "Batches that a step learns from.",
            "A step learns from `batch_size * accumulate` images of each process; the losses of a batch are divided by "
            "what that batch holds, their mean is the step's.",
        ),
    ] = 1
    lr: Annotated[AboveZero, Setting("Peak learning rate of AdamW at 16 images in a step, scaled to yours.")] = 1e-3
    backbone_lr_factor: Annotated[AtLeastZero, Setting("The backbone's learning rate relative to the rest.")] = 1.0
    layer_decay: Annotated[PartOfAll, Setting("Each backbone stage learns this much slower than the next.")] = 1.0
    freeze: Annotated[
        str,
        Setting("First backbone stages that do not learn.", '"backbone": none learns.', metavar="N|backbone"),
    ] = "0"
    warmup_epochs: Annotated[
        AtLeastZero,
        Setting(
            "Epochs of linear warm-up before the learning rate falls.",
            "Unless 0, it takes 100 steps or a tenth of the run at least.",
        ),
    ] = 1.0
    final_lr_factor: Annotated[
        AtLeastZero, Setting("Learning rate at the end relative to the peak.", "It falls by half a cosine.")
    ] = 0.01
    weight_decay: Annotated[AtLeastZero, Setting("AdamW's weight decay.", "Biases and norms do not decay.")] = 0.05
    size_px: Annotated[
        AtLeast1OrOpen,
        Setting(
            "Shortest edge of images.",
            "The same in training and evaluation; less than the architecture's also where memory is short.",
            option="--size",
            metavar="PX",
            left_open="the architecture's, less for small images",
        ),
    ] = None
    out: Annotated[Path | None, Setting("The run's folder.", short="-o", metavar="DIR", left_open="runs/NAME")] = None
    resume: Annotated[bool, Setting("Go on from the folder's newest checkpoint.")] = False
    save_every: Annotated[
        str,
        Setting(
            "Checkpoints: after X minutes, N steps, or epochs only.",
            "At the end of an epoch there is always one.",
            metavar="Xm|N|epoch",
        ),
    ] = "10m"
    # a damaged newest one has another behind it
    keep: Annotated[AtLeast1, Setting("Newest checkpoints that are kept.")] = 2
    train_split: Annotated[str, Setting("Part of the dataset to learn from.", metavar="NAME")] = "train"
    val_split: Annotated[str, Setting("Part of the dataset to evaluate on.", metavar="NAME")] = "val"
    pretrained_backbone: Annotated[bool, Setting("Start from timm's published backbone weights.")] = True
    backbone_weights: Annotated[
        Path | None,
        Setting("Start the backbone from this file (.safetensors, .pth) instead.", metavar="FILE"),
    ] = None
    weights: Annotated[
        str | None,
        Setting(
            "Start from this trained detector: a checkpoint's name or a folder.",
            "Its architecture takes the place of `model`. Classes of the same name keep what they have learnt.",
            metavar="M",
        ),
    ] = None
    precision: Annotated[
        Precision,
        Setting(
            "Precision of matrix products; auto is bf16 where the hardware has it.",
            "Under `accelerate launch` auto is what that was told first.",
        ),
    ] = "auto"
    clip_norm: Annotated[AboveZero, Setting("Longest gradient, as a norm over all parameters.")] = 10.0
    ema_decay: Annotated[
        float,
        Range(0, below=1),
        Setting("Decay of the averaged weights; 0: no averaging.", "The averaged ones are evaluated and kept."),
    ] = 0.999
    average_last: Annotated[
        int,
        Range(0),
        Setting(
            "Try the mean of the weights after the last N epochs, too.",
            "Stochastic weight averaging (Izmailov et al., UAI 2018), one more candidate for the best; the statistics "
            "of batch norms are averaged, too, not measured anew. 0: none.",
        ),
    ] = 0
    validate_every: Annotated[
        AtLeast1, Setting("Epochs between evaluations.", "The last epoch is always evaluated.")
    ] = 1
    patience: Annotated[
        AtLeast1OrOpen,
        Setting("Stop after N evaluations without a better AP.", "None: all epochs are trained."),
    ] = None
    sync_bn: Annotated[bool, Setting("Batch norms over the images of all GPUs.")] = False
    seed: Annotated[int, Range(0), Setting("Start of all random numbers.")] = 0
    workers: Annotated[int, Range(0), Setting("Processes that read images.", "0: this one.")] = 2
    device: Annotated[str | None, Setting("cpu, cuda, cuda:1, ...", metavar="D", left_open="a GPU if there is one")] = (
        None
    )
    transform: Annotated[TransformConfig, Setting("Augmentation of training images.")] = field(
        default_factory=TransformConfig
    )

    def __post_init__(self) -> None:
        for name in ("data", "out", "backbone_weights"):
            if isinstance(path := getattr(self, name), str):
                object.__setattr__(self, name, Path(path))
        check_ranges(self)
        if self.freeze != "backbone" and not self.freeze.isdecimal():
            raise ValueError(f"freeze is {self.freeze!r}, expected a number of stages or backbone")
        if self.weights is not None and (self.backbone is not None or self.backbone_weights is not None):
            raise ValueError("weights is a whole detector, expected no backbone and no backbone_weights beside it")
        if self.weights is not None and any(each is not None for each in (self.blocks, self.attentions, self.form)):
            raise ValueError("weights is a whole detector, expected no blocks, attentions and form beside it")
        if self.attentions is not None:
            parse_attentions(self.attentions)
        parse_save_every(self.save_every)

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.out if self.out is not None else RUNS_FOLDER / self.model


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(TrainConfig):
    """A run with nothing left open; saved as `train.json` in its folder."""

    epochs: int = 0
    batch_size: int = 0
    size_px: int = 0

    def to_json(self) -> str:
        """The text of `train.json`."""
        return json.dumps(asdict(self), indent=2, default=str) + "\n"


def parse_attentions(text: str) -> dict[str, bool]:
    """`TrainConfig.attentions` as the switches of `DyHeadConfig`.

    Raises:
        ValueError: it names something else.
    """
    named = [] if text == "none" else [name.strip() for name in text.split(",")]
    if not set(named) <= set(ATTENTIONS):
        raise ValueError(f"attentions is {text!r}, expected some of {', '.join(ATTENTIONS)} as in scale,task, or none")
    return {name: name in named for name in ATTENTIONS}


def parse_save_every(text: str) -> tuple[int | None, float | None]:
    """`TrainConfig.save_every` as (steps, seconds), one of which is None; both for "epoch".

    Raises:
        ValueError: it is none of the three kinds.
    """
    if text == "epoch":
        return None, None
    number = text.removesuffix("m")
    try:
        count = float(number) if text.endswith("m") else int(number)
    except ValueError:
        count = 0
    if not 0 < count < float("inf"):
        raise ValueError(f"save_every is {text!r}, expected minutes like 10m, a number of steps like 500, or epoch")
    return (None, count * 60.0) if text.endswith("m") else (int(count), None)
