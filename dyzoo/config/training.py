"""The settings of a training run: frozen dataclasses without torch, so that the command line starts fast."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class TransformConfig:
    """Strength of the augmentation.

    Attributes:
        horizontal_flip, vertical_flip: probability of mirroring left to right, top to bottom.
        rotate90: probability of turning by 90, 180 or 270 degrees, for pictures without an upright.
        scale_range: size of the picture relative to the size evaluation uses, log-uniform.
        crop: probability of cutting out a window.
        crop_min_side: least width and height of the window, as a share of the picture's.
        crop_min_visible: an object stays in the target if at least this share of its area is inside the window.
        colour: strength of the changes to brightness, contrast, saturation and hue, 0 (none) to 1.
        mosaic: probability of putting a picture together from parts of four.
        copy_paste: probability of pasting objects of another picture into free places.
        mix_until: share of the epochs after which pictures are no longer mixed: the last epochs see them as they are.
    """

    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    rotate90: float = 0.0
    scale_range: tuple[float, float] = (0.75, 1.33)
    crop: float = 0.5
    crop_min_side: float = 0.5
    crop_min_visible: float = 0.5
    colour: float = 0.5
    mosaic: float = 0.0
    copy_paste: float = 0.0
    mix_until: float = 0.9

    def __post_init__(self) -> None:
        shares = ("horizontal_flip", "vertical_flip", "rotate90", "crop", "crop_min_visible", "colour")
        for name in (*shares, "mosaic", "copy_paste"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if not 0 < self.crop_min_side <= 1:
            raise ValueError(f"crop_min_side is {self.crop_min_side}, expected more than 0 and at most 1")
        if not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise ValueError(f"scale_range is {self.scale_range}, expected (least, greatest), both above 0")
        if not 0 < self.mix_until <= 1:
            raise ValueError(f"mix_until is {self.mix_until}, expected more than 0 and at most 1")

    def mixed_epochs(self, epochs: int) -> int:
        """How many of the first epochs mix pictures; at least one, so that one epoch alone has what it asks for."""
        if not (self.mosaic or self.copy_paste):
            return 0
        return max(math.floor(epochs * self.mix_until + 1e-9), 1)  # 0.29 * 100 is a little less than 29


LEFT_OPEN = ("epochs", "batch_size", "size_px")
"""The settings of a run that its data decides, unless they are given."""

Precision = Literal["auto", "bf16", "fp16", "fp32"]


@dataclass(frozen=True)
class TrainConfig:
    """One training run. What is left open, as None, is chosen when the data is known: `dyzoo.training.defaults`.

    Attributes:
        data: dataset folder: COCO JSON, Pascal VOC or YOLO.
        model: architecture name, see `dyzoo.list_models()`.
        backbone: a timm backbone in the place of the architecture's.
        pretrained_backbone: start from timm's published weights.
        backbone_weights: start from this local file of them instead, .safetensors or .pth.
        weights: start from this trained detector, a checkpoint's name or a folder; its architecture takes the place of
            `model`. Classes of the same name keep what they have learnt.
        out: the run's folder; default `runs/<model>`.
        epochs: passes over the data; None: by the number of images.
        size_px: shortest edge of training and evaluation images; None: the architecture's, less where images are far
            smaller or the memory is short of it.
        batch_size: images in a forward pass of one process; None: by the number of images and the free memory.
        accumulate: forward passes to a step. A step learns from `batch_size * accumulate` images of each process; the
            losses of a pass are divided by what that pass holds, their mean is the step's.
        sync_bn: batch norms normalise over the images of all processes instead of their own (GPUs only).
        lr: peak learning rate of AdamW at 16 images in a step; scaled linearly with their number.
        backbone_lr_factor: the backbone's learning rate relative to the rest.
        layer_decay: each stage of the backbone learns slower than the one behind it by this factor.
        freeze: so many of the backbone's first stages do not learn, "backbone": none does.
        warmup_epochs: linear warm-up, then half a cosine down to `final_lr_factor * lr`. Unless 0, it takes 100 steps
            or a tenth of the run at least.
        ema_decay: decay of the averaged weights, the ones that are evaluated and kept; 0 turns averaging off.
        average_last: the plain mean of the weights at the ends of so many last epochs is one more candidate for the
            best (stochastic weight averaging, Izmailov et al., UAI 2018; the statistics of batch norms are averaged,
            too, not measured anew); 0: none.
        precision: "auto" is what `accelerate launch` was told, else bf16 where the device computes in it natively,
            else float32.
        validate_every: epochs between evaluations; the last epoch is always evaluated.
        patience: stop after so many evaluations without a better AP; None trains all epochs.
        save_every: when to write a checkpoint within an epoch: "10m" after so many minutes, "500" after so many steps,
            "epoch" not at all. At the end of an epoch there is always one.
        keep: how many of the newest checkpoints to keep.
        resume: go on from the newest whole checkpoint in `out`.
    """

    data: Path
    model: str = "dyhead_atss_resnet10t"
    backbone: str | None = None
    out: Path | None = None
    train_split: str = "train"
    val_split: str = "val"
    epochs: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    sync_bn: bool = False
    size_px: int | None = None
    lr: float = 1e-3
    backbone_lr_factor: float = 1.0
    layer_decay: float = 1.0
    freeze: str = "0"
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    final_lr_factor: float = 0.01
    clip_norm: float = 10.0
    ema_decay: float = 0.999
    average_last: int = 0
    precision: Precision = "auto"
    pretrained_backbone: bool = True
    backbone_weights: Path | None = None
    weights: str | None = None
    patience: int | None = None
    validate_every: int = 1
    workers: int = 2
    device: str | None = None
    seed: int = 0
    save_every: str = "10m"
    keep: int = 2  # a damaged newest one has another behind it
    resume: bool = False
    transform: TransformConfig = field(default_factory=TransformConfig)

    def __post_init__(self) -> None:
        for name in ("data", "out", "backbone_weights"):
            if isinstance(path := getattr(self, name), str):
                object.__setattr__(self, name, Path(path))
        for name in ("epochs", "batch_size", "size_px", "accumulate", "validate_every", "keep", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}, expected more than 0 and at most 1")
        if self.freeze != "backbone" and not self.freeze.isdecimal():
            raise ValueError(f"freeze is {self.freeze!r}, expected a number of stages or backbone")
        if self.weights is not None and (self.backbone is not None or self.backbone_weights is not None):
            raise ValueError("weights is a whole detector, expected no backbone and no backbone_weights beside it")
        for name in ("lr", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}, expected 0 <= ema_decay < 1")
        for name in ("workers", "average_last"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")
        parse_save_every(self.save_every)

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.out if self.out is not None else Path("runs") / self.model


@dataclass(frozen=True)
class ResolvedConfig(TrainConfig):
    """A run with nothing left open; saved as `train.json` in its folder."""

    epochs: int = 0
    batch_size: int = 0
    size_px: int = 0

    def to_json(self) -> str:
        """The text of `train.json`."""
        return json.dumps(asdict(self), indent=2, default=str) + "\n"


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
