"""timm backbones as feature extractors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.layers import Format
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn

from dyzoo.config import BackboneConfig
from dyzoo.errors import UnknownModelError, first_line
from dyzoo.model.backbones.creation import create_timm_model
from dyzoo.model.backbones.families import is_known_to_fit
from dyzoo.model.backbones.layers import (
    keep_mobilevit_sizes,
    move_stride_to_first_conv,
    pad_swin_blocks,
    slice_for_few_channels,
)

TRIAL_SIZES = ((96, 160), (64, 1056))  # odd multiples of 32, and a side longer than any model is made for
OTHERS = "`dyzoo list --backbones` names those that fit, such as resnet50 or convnext_tiny"


class Backbone(nn.Module):
    """Any timm model that supports `features_only` and has maps of the strides asked for.

    Args:
        config: the timm model and the deviations from timm's own layout.
        strides_px: strides of the maps, finest first.
        pretrained: load timm's published weights (needs the network or a filled cache), or those of a file.

    Attributes:
        channels: number of channels of each map, finest first.
        strides_px: strides of the maps, finest first.

    Raises:
        UnknownModelError: timm has no such model, its maps have other strides or sizes, it takes images of one size
            only, or its weights cannot be loaded.
    """

    def __init__(
        self, config: BackboneConfig, strides_px: Sequence[int] = (8, 16, 32), pretrained: bool | Path = False
    ) -> None:
        super().__init__()
        self.config = config
        self.model = create_timm_model(config, pretrained)
        self.indices = map_indices(config, self.model, strides_px)
        self.channels = [self.model.feature_info.channels()[index] for index in self.indices]
        self.channels_last = getattr(self.model, "output_fmt", Format.NCHW) == Format.NHWC
        self.output_norms = nn.ModuleList(map(nn.LayerNorm, self.channels)) if config.output_norm else None
        if config.stride_in_1x1:
            move_stride_to_first_conv(self.model)
        if config.norm == "frozen":
            self.model = freeze_batch_norm_2d(self.model)
        pad_swin_blocks(self.model)
        keep_mobilevit_sizes(self.model)
        slice_for_few_channels(self.model)
        self.strides_px = tuple(strides_px)
        if not is_known_to_fit(config.name):
            self.try_out()

    def forward(self, batch: Tensor) -> list[Tensor]:
        """Normalised images (N, 3, H, W), sides multiples of 32 -> maps (N, C, h, w), finest first."""
        outputs = self.model(batch)
        maps = [outputs[index] for index in self.indices]
        if not self.channels_last:
            maps = [level.permute(0, 2, 3, 1) for level in maps]
        if self.output_norms is not None:
            maps = [norm(level) for norm, level in zip(self.output_norms, maps, strict=True)]
        return [level.permute(0, 3, 1, 2) for level in maps]

    @torch.no_grad()
    def try_out(self) -> None:
        """Raise an `UnknownModelError` where the model takes images of one size only, or its maps have odd sizes."""
        parameter = next(self.parameters())
        self.eval()
        for size in TRIAL_SIZES:
            try:
                maps = self(parameter.new_zeros(1, 3, *size))
            except Exception as error:  # each model has a way of its own to fail
                raise UnknownModelError(
                    f"backbone {self.config.name!r} cannot take an image of {size[0]} x {size[1]} "
                    f"({first_line(error)}): {OTHERS}"
                ) from error
            found = [tuple(level.shape[-2:]) for level in maps]
            expected = [(size[0] // stride, size[1] // stride) for stride in self.strides_px]
            if found != expected:
                raise UnknownModelError(
                    f"backbone {self.config.name!r} makes maps of {_sizes(found)} from an image of "
                    f"{size[0]} x {size[1]}, expected {_sizes(expected)}: {OTHERS}"
                )
        self.train()

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        if self.config.norm == "eval":
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def map_indices(config: BackboneConfig, model: Any, strides_px: Sequence[int]) -> list[int]:
    """The places of the maps of these strides among those that a timm model gives.

    Raises:
        UnknownModelError: it has no map of one of the strides.
    """
    strides = model.feature_info.reduction()
    if missing := [stride for stride in strides_px if stride not in strides]:
        raise UnknownModelError(
            f"backbone {config.name!r} has maps of strides {strides}, expected {', '.join(map(str, missing))} "
            f"too: {OTHERS}"
        )
    # the last map of a stride is the deepest one
    return [len(strides) - 1 - strides[::-1].index(stride) for stride in strides_px]


def _sizes(sizes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(f"{height} x {width}" for height, width in sizes)
