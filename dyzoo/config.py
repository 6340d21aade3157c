"""Frozen dataclasses that describe a detector, and their way to and from `config.json`.

A variant is made with `dataclasses.replace`; nothing here holds state. Defaults are those of the official
DyHead ATSS release (microsoft/DynamicHead) unless a field says otherwise.
"""

from __future__ import annotations

import json
import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from dyzoo.errors import CheckpointError

CONFIG_VERSION = 1

OffsetMode = Literal["flat", "crop", "resize"]


@dataclass(frozen=True)
class BackboneConfig:
    """A timm backbone. `stride_in_1x1` moves a bottleneck's stride to its first convolution (MSRA/caffe ResNets)."""

    name: str = "resnet50"
    stride_in_1x1: bool = False
    frozen_norm: bool = False  # batch norms keep their statistics and affine parameters while training


@dataclass(frozen=True)
class FPNConfig:
    """Feature pyramid of Lin et al. (CVPR 2017) over strides 8, 16, 32 with P6 and P7 made from P5's output."""

    channels: int = 256
    relu_before_p7: bool = True  # detectron2 yes; mmdetection's `on_output` no


@dataclass(frozen=True)
class DyHeadConfig:
    """Stack of DyHead blocks. `offset_mode`: how the `high` branch reads its oversize offset map.

    Weights trained with microsoft/DynamicHead and with mmdetection both need "flat": either operator indexes the raw
    offset buffer by the size of its output.
    """

    channels: int = 256
    num_blocks: int = 6
    offset_mode: OffsetMode = "resize"
    conv_bias: bool = True


@dataclass(frozen=True)
class ATSSConfig:
    """ATSS head (Zhang et al., CVPR 2020): prediction layers, assignment, losses and decoding.

    mmdetection's ATSS DyHead differs in `rank_by="class"` and `clip_before_nms=True`, and its `r50_fpn` also in
    `kernel_size=3` and `anchor_center_offset=0`; assignment and losses are the same.
    """

    type: Literal["atss"] = "atss"
    kernel_size: int = 1
    anchor_scale: float = 8.0  # anchor side in units of the level's stride
    anchor_center_offset: float = 0.5  # of the first anchor's centre, in units of the stride
    num_candidates: int = 9  # nearest anchors per level considered for each ground-truth box
    box_code_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    prior_probability: float = 0.01
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_loss_weight: float = 2.0
    score_threshold: float = 0.05  # on the class score, before centerness is multiplied in
    rank_by: Literal["product", "class"] = "product"  # what the candidates of a level are ranked by
    candidates_per_level: int = 1000
    clip_before_nms: bool = False  # overlaps inside the image instead of between the full boxes
    nms_threshold: float = 0.6
    max_detections: int = 100


HeadConfig = ATSSConfig


@dataclass(frozen=True)
class PreprocessConfig:
    """How an image becomes network input. Mean and std are on the 0..255 scale, in `channel_order`."""

    shortest_edge: int = 800
    longest_edge: int = 1333
    channel_order: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    size_divisor: int = 128


@dataclass(frozen=True)
class DetectorConfig:
    """Everything needed to build a detector without its weights."""

    architecture: str = "dyhead_atss_resnet50"
    labels: tuple[str, ...] = ()
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    fpn: FPNConfig = field(default_factory=FPNConfig)
    dyhead: DyHeadConfig = field(default_factory=DyHeadConfig)
    head: HeadConfig = field(default_factory=ATSSConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)

    def to_json(self) -> str:
        """The text of `config.json`."""
        return json.dumps({"version": CONFIG_VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str | Path = "config.json") -> DetectorConfig:
        """Read `config.json`; a `CheckpointError` names the first field that is unknown or of a wrong type."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{source} is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{source} holds {type(values).__name__}, expected an object of settings")
        version = values.pop("version", CONFIG_VERSION)
        if version != CONFIG_VERSION:
            raise CheckpointError(
                f"{source} has version {version}, this dyzoo reads version {CONFIG_VERSION}: update dyzoo"
            )
        return from_dict(cls, values, str(source))


ConfigT = TypeVar("ConfigT")


def from_dict(config_type: type[ConfigT], values: dict[str, Any], where: str) -> ConfigT:
    """Build a frozen dataclass from plain JSON values, checking names and types on the way.

    Raises:
        CheckpointError: a field is unknown or has a value of another type; `where` leads the message.
    """
    hints = get_type_hints(config_type)
    known = {f.name for f in fields(config_type)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise CheckpointError(f"{where}: unknown setting {unknown[0]!r}, expected some of {', '.join(sorted(known))}")
    return config_type(**{name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise CheckpointError(f"{where} is {value!r}, expected an object of settings")
        return from_dict(typing.cast(type, hint), value, where)
    origin = get_origin(hint)
    if origin is Literal:
        if value not in get_args(hint):
            raise CheckpointError(f"{where} is {value!r}, expected one of {', '.join(map(repr, get_args(hint)))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        item_hints = get_args(hint)
        if item_hints[-1] is Ellipsis:
            item_hints = (item_hints[0],) * len(value)
        if len(item_hints) == len(value):
            return tuple(_convert(item, v, where) for item, v in zip(item_hints, value, strict=True))
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(a for a in get_args(hint) if a is not type(None)), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise CheckpointError(f"{where} is {value!r}, expected {getattr(hint, '__name__', hint)}")
