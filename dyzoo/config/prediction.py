"""The settings of a prediction, without torch, so that the command line starts fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from dyzoo.config.settings import Setting, check_ranges, documented
from dyzoo.config.values import Range

AtLeast1 = Annotated[int, Range(1)]
AtLeast1OrOpen = Annotated[int | None, Range(1)]
Tiles = Literal["auto", "off"] | int


@documented
@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """Settings of how a detector looks at pictures, and of what it shows, under the names of `Detector.predict`."""

    threshold: Annotated[
        float | Mapping[str, float],
        Setting("Leave out what scores lower.", "By class, too.", short="-t", metavar="X|NAME=X|FILE"),
    ] = 0.3
    size: Annotated[
        int | Literal["native"] | None,
        Setting(
            "Shortest edge to resize images to, or `native` for none.", metavar="PX|native", left_open="as trained"
        ),
    ] = None
    tiles: Annotated[
        Tiles,
        Setting(
            "Look at large pictures in parts, too: N x N, or as many as it takes.",
            "For small objects; each part costs what a picture costs.",
            metavar="auto|N|off",
        ),
    ] = "off"
    flips: Annotated[
        tuple[str, ...],
        Setting(
            "Detect in the flipped image too and merge what is found.",
            'One or both of "horizontal" and "vertical".',
            option="--flip",
            metavar="horizontal|vertical",
        ),
    ] = ()
    classes: Annotated[
        tuple[str, ...] | None, Setting("Keep only these classes.", metavar="A,B,...", left_open="the model's")
    ] = None
    iou: Annotated[
        float | None,
        Range(0, 1),
        Setting("Of two boxes of a class that overlap more, one is left.", metavar="X", left_open="the model's"),
    ] = None
    max_detections: Annotated[AtLeast1OrOpen, Setting("Most objects in a picture.", left_open="the model's")] = None
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        Setting("Precision of the network's numbers.", left_open="as the weights are"),
    ] = None
    max_pixels: Annotated[AtLeast1OrOpen, Setting("Largest image that is decoded.", left_open="134 million")] = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def given(self) -> dict[str, Any]:
        """The settings that are not at their defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}


@documented
@dataclass(frozen=True, kw_only=True)
class PredictConfig(DetectConfig):
    """Settings of `Detector.predict`, under its names: `predict(images, **config.given())`."""

    batch_size: Annotated[AtLeast1, Setting("Pictures at a time.")] = 1
    workers: Annotated[
        int | None, Range(0), Setting("Threads that read pictures ahead.", metavar="N", left_open="by the processor")
    ] = None
    frame_stride: Annotated[AtLeast1, Setting("Look at every Nth frame of films and streams.")] = 1
