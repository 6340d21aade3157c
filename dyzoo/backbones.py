"""timm backbones as feature extractors of strides 8, 16 and 32."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from timm.layers import Format
from timm.models import is_model_in_modules
from torch import Tensor, nn

from dyzoo.config import BackboneConfig
from dyzoo.errors import UnknownModelError, first_line

STRIDES_PX = (8, 16, 32)


class Backbone(nn.Module):
    """Any timm model that supports `features_only` and has maps of strides 8, 16 and 32.

    Args:
        config: the timm model and the deviations from timm's own layout.
        pretrained: load timm's published weights (needs the network or a filled cache).

    Attributes:
        channels: of the three maps, finest first.

    Raises:
        UnknownModelError: timm has no such model, its maps have other strides, or its weights cannot be loaded.
    """

    def __init__(self, config: BackboneConfig, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        self.model = _create_timm_model(config.name, pretrained)
        strides = self.model.feature_info.reduction()
        if not set(STRIDES_PX) <= set(strides):
            raise UnknownModelError(
                f"backbone {config.name!r} has maps of strides {strides}, expected 8, 16 and 32 among them: "
                "choose a hierarchical backbone such as resnet50, swin_tiny_patch4_window7_224 or convnext_tiny"
            )
        # the last map of a stride is the deepest one
        self.indices = [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES_PX]
        self.channels = [self.model.feature_info.channels()[index] for index in self.indices]
        self.channels_last = getattr(self.model, "output_fmt", Format.NCHW) == Format.NHWC
        if config.stride_in_1x1:
            _move_stride_to_first_conv(self.model)
        if config.frozen_norm:
            for norm in self._batch_norms():
                norm.requires_grad_(False)

    def forward(self, batch: Tensor) -> list[Tensor]:
        """Normalised images (N, 3, H, W), sides multiples of 32 -> three maps (N, C, h, w), finest first."""
        outputs = self.model(batch)
        maps = [outputs[index] for index in self.indices]
        return [level.permute(0, 3, 1, 2) for level in maps] if self.channels_last else maps

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        if self.config.frozen_norm:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def _batch_norms(self) -> list[nn.Module]:
        return [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _create_timm_model(name: str, pretrained: bool) -> Any:
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() names those there are"
        raise UnknownModelError(f"timm has no backbone {name!r}: {hint}")
    options: dict[str, Any] = {}
    if is_model_in_modules(architecture, ["swin_transformer", "swin_transformer_v2"]):
        # without always_partition a stage smaller than the window at 224 px silently loses its shift at larger sizes
        options = {"strict_img_size": False, "always_partition": True}
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained, **options)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise UnknownModelError(f"backbone {name!r} gives no feature maps: {first_line(error)}") from error
        raise UnknownModelError(
            f"timm's weights for {name!r} cannot be loaded ({first_line(error)}): check the network, "
            "or start without them (--no-pretrained-backbone, pretrained_backbone=False)"
        ) from error


def _move_stride_to_first_conv(model: nn.Module) -> None:
    """MSRA ResNets (detectron2's R-50, mmdetection's `caffe` style) stride in a bottleneck's 1x1 convolution."""
    for block in model.modules():
        if isinstance(block, timm.models.resnet.Bottleneck) and block.conv2.stride != (1, 1):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
