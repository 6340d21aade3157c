"""The stack of DyHead blocks: the neck of this package's detectors, and of any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar, cast

from dyhead_kernels import Pyramid
from torch import Tensor, nn

from dyzoo.config import DyHeadConfig
from dyzoo.config.values import build
from dyzoo.dyhead.block import NORM_GROUPS, DyHeadBlock
from dyzoo.dyhead.median import concat_to_median, is_known, split_from_median
from dyzoo.dyhead.tensor_form import TensorDyHeadBlock
from dyzoo.errors import CheckpointError, SettingError

Levels = TypeVar("Levels", bound=Sequence[Tensor] | dict[str, Tensor])


class DyHead(nn.Module):
    """Feature maps in, attended feature maps out: between any feature pyramid and the heads behind it.

    Maps (N, C_in, H, W), finest first, become maps (N, C, H, W) of the same sizes; see docs/neck.md.

    Args:
        channels: C, a multiple of 16.
        blocks: the configuration's `num_blocks`; 0 leaves the attention out.
        in_channels: C_in. None is `channels`. One number: of every level, and the first block makes C of them. A number
            for each level, finest first: a 1x1 convolution for each level makes C of them, whatever they are.
        fields: other fields of `dyzoo.config.DyHeadConfig`, which says what they are: `form`, `scale`,
            `spatial`, `task`, `offset_mode`, `conv_bias`.

    Attributes:
        config: the `DyHeadConfig` of all this.
        in_channels: C_in, one number or a tuple of one for each level.
        out_channels: C, or C_in where there is neither a block nor a projection; torchvision asks a backbone for it.

    Raises:
        SettingError: a setting is unknown, of a wrong type or out of its range.
    """

    def __init__(
        self, channels: int = 256, blocks: int = 6, in_channels: int | Sequence[int] | None = None, **fields: Any
    ) -> None:
        super().__init__()
        self.config = _checked(dict(channels=channels, num_blocks=blocks, **fields))
        self.in_channels = _input_widths(channels if in_channels is None else in_channels)
        self.projections: nn.ModuleList | None = None
        width = channels
        if isinstance(self.in_channels, tuple):
            self.projections = nn.ModuleList(_projection(of_level, channels) for of_level in self.in_channels)
        else:
            width = self.in_channels
        self.out_channels = channels if blocks else width
        self.blocks = nn.ModuleList(_block(self.config, channels if index else width) for index in range(blocks))

    @classmethod
    def from_config(cls, config: DyHeadConfig, in_channels: int | Sequence[int] | None = None) -> DyHead:
        """The stack that a configuration describes; errors as above."""
        fields = asdict(config)
        return cls(fields.pop("channels"), fields.pop("num_blocks"), in_channels, **fields)

    def forward(self, levels: Levels) -> Levels:
        """Attend.

        Args:
            levels: one map (N, C_in, H, W) or more, finest first, as a list, a tuple, or a dict from name to map. In
                the pyramid form each is half the size of the one before, rounded up; in the tensor form sizes are any.

        Returns:
            Maps (N, C, H, W) of the same sizes, in a list, a tuple or a dict of the same names. Their dtype is the
            common one of maps and weights, or autocast's where it is on; they may be views in channels-last memory.

        Raises:
            ValueError: no levels, other channels, images or sizes than expected; the level is named.
            TypeError: something else than a list, tuple or dict of floating-point tensors on the weights' device.
        """
        outputs = self.attend(self.project(levels))
        if isinstance(levels, dict):
            named = levels.copy()  # which torch.compile follows for every kind of dict
            for name, output in zip(levels, outputs, strict=True):
                named[name] = output
            return cast(Levels, named)
        return cast(Levels, tuple(outputs) if isinstance(levels, tuple) else outputs)

    def project(self, levels: Sequence[Tensor] | dict[str, Tensor]) -> list[Tensor]:
        """Check the levels and bring them to the width of the first block."""
        maps = self._check(levels)
        if self.projections is None:
            return maps
        return [projection(level) for projection, level in zip(self.projections, maps, strict=True)]

    def attend(self, maps: list[Tensor]) -> list[Tensor]:
        """The blocks, on maps that `project` gave."""
        if not self.blocks:
            return maps
        if self.config.form == "tensor":
            tensor, size = concat_to_median(maps)
            for block in self.blocks:
                tensor = block(tensor, size)
            return split_from_median(tensor, size, [(level.shape[2], level.shape[3]) for level in maps])
        pyramid = Pyramid.from_levels(maps)  # packed once
        for block in self.blocks:
            pyramid = block(pyramid)
        return pyramid.levels()

    def _check(self, levels: Any) -> list[Tensor]:
        if not isinstance(levels, list | tuple | dict):
            came = f"a tensor {tuple(levels.shape)}" if isinstance(levels, Tensor) else type(levels).__name__
            raise TypeError(f"levels is {came}, expected a list, tuple or dict of maps (N, C, H, W), finest first")
        names = list(levels) if isinstance(levels, dict) else range(len(levels))
        maps: list[Tensor] = list(levels.values() if isinstance(levels, dict) else levels)
        if not maps:
            raise ValueError("levels is empty, expected one map (N, C, H, W) or more, finest first")
        widths = self.in_channels if isinstance(self.in_channels, tuple) else (self.in_channels,) * len(maps)
        if len(widths) != len(maps):
            raise ValueError(f"levels has {len(maps)} maps, expected {len(widths)}: in_channels is {self.in_channels}")
        for name, level, width in zip(names, maps, widths, strict=True):
            if not isinstance(level, Tensor):
                raise TypeError(f"level {name} is {type(level).__name__}, expected a map (N, {width}, H, W)")
            if level.ndim != 4 or level.shape[1] != width or _differs_or_is_empty(level, maps[0].shape[0]):
                images = "N" if level is maps[0] else maps[0].shape[0]
                raise ValueError(
                    f"level {name} is {tuple(level.shape)}, expected ({images}, {width}, H, W) of one pixel or more: "
                    f"in_channels is {self.in_channels}"
                )
        return maps


def _differs_or_is_empty(level: Tensor, images: int) -> bool:
    """Whether a map is of another number of images, or without pixels."""
    return is_known(level.shape[0] != images) or any(is_known(side == 0) for side in level.shape[2:])


def _checked(settings: dict[str, Any]) -> DyHeadConfig:
    try:
        config = build(DyHeadConfig, settings, "DyHead: ")
    except CheckpointError as error:
        raise SettingError(str(error).replace("num_blocks", "blocks")) from None
    if config.num_blocks and config.channels % NORM_GROUPS:
        raise SettingError(
            f"DyHead: channels is {config.channels}, expected a multiple of {NORM_GROUPS}: each block's GroupNorm has "
            f"{NORM_GROUPS} groups; in_channels may be any"
        )
    return config


def _input_widths(in_channels: Any) -> int | tuple[int, ...]:
    widths = tuple(in_channels) if isinstance(in_channels, Sequence) else (in_channels,)
    if not widths or not all(type(width) is int and width > 0 for width in widths):
        raise SettingError(f"DyHead: in_channels is {in_channels!r}, expected a positive number, or one for each level")
    return widths if isinstance(in_channels, Sequence) else widths[0]


def _projection(in_channels: int, channels: int) -> nn.Conv2d:
    projection = nn.Conv2d(in_channels, channels, 1)
    nn.init.kaiming_uniform_(projection.weight, a=1)  # as those of a feature pyramid
    nn.init.zeros_(cast(Tensor, projection.bias))
    return projection


def _block(config: DyHeadConfig, in_channels: int) -> DyHeadBlock | TensorDyHeadBlock:
    switches: dict[str, Any] = {"scale": config.scale, "spatial": config.spatial, "task": config.task}
    if config.form == "tensor":
        return TensorDyHeadBlock(in_channels, config.channels, **switches)
    return DyHeadBlock(in_channels, config.channels, config.offset_mode, config.conv_bias, **switches)
