"""timm backbones as feature extractors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from timm.layers import Format
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn

from dyzoo.backbones.creation import create_timm_model
from dyzoo.backbones.layers import move_stride_to_first_conv, pad_swin_blocks, slice_for_few_channels
from dyzoo.config import BackboneConfig
from dyzoo.errors import UnknownModelError


class Backbone(nn.Module):
    """Any timm model that supports `features_only` and has maps of the strides asked for.

    Args:
        config: the timm model and the deviations from timm's own layout.
        strides_px: of the maps, finest first.
        pretrained: load timm's published weights (needs the network or a filled cache), or those of a file.

    Attributes:
        channels: of the maps, finest first.

    Raises:
        UnknownModelError: timm has no such model, its maps have other strides, or its weights cannot be loaded.
    """

    def __init__(
        self, config: BackboneConfig, strides_px: Sequence[int] = (8, 16, 32), pretrained: bool | Path = False
    ) -> None:
        super().__init__()
        self.config = config
        self.model = create_timm_model(config, pretrained)
        strides = self.model.feature_info.reduction()
        if missing := [stride for stride in strides_px if stride not in strides]:
            raise UnknownModelError(
                f"backbone {config.name!r} has maps of strides {strides}, expected {', '.join(map(str, missing))} "
                "too: choose a hierarchical backbone such as resnet50, swin_tiny_patch4_window7_224 or convnext_tiny"
            )
        # the last map of a stride is the deepest one
        self.indices = [len(strides) - 1 - strides[::-1].index(stride) for stride in strides_px]
        self.channels = [self.model.feature_info.channels()[index] for index in self.indices]
        self.channels_last = getattr(self.model, "output_fmt", Format.NCHW) == Format.NHWC
        self.output_norms = nn.ModuleList(map(nn.LayerNorm, self.channels)) if config.output_norm else None
        if config.stride_in_1x1:
            move_stride_to_first_conv(self.model)
        if config.norm == "frozen":
            self.model = freeze_batch_norm_2d(self.model)
        pad_swin_blocks(self.model)
        slice_for_few_channels(self.model)

    def forward(self, batch: Tensor) -> list[Tensor]:
        """Normalised images (N, 3, H, W), sides multiples of 32 -> maps (N, C, h, w), finest first."""
        outputs = self.model(batch)
        maps = [outputs[index] for index in self.indices]
        if not self.channels_last:
            maps = [level.permute(0, 2, 3, 1) for level in maps]
        if self.output_norms is not None:
            maps = [norm(level) for norm, level in zip(self.output_norms, maps, strict=True)]
        return [level.permute(0, 3, 1, 2) for level in maps]

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        if self.config.norm == "eval":
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self
