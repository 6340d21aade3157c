"""timm backbones as feature extractors."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch.nn.functional as F
from timm.layers import Format
from timm.models import is_model_in_modules
from timm.models.swin_transformer import SwinTransformerBlock
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn

from dyzoo import hub
from dyzoo.config import BackboneConfig
from dyzoo.errors import DyzooError, UnknownModelError, first_line

TIMM_WEIGHTS_NAME = "model.safetensors"
WITHOUT_WEIGHTS = "or start without them (--no-pretrained-backbone, pretrained_backbone=False)"


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
        self.model = _create_timm_model(config, pretrained)
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
            _move_stride_to_first_conv(self.model)
        if config.norm == "frozen":
            self.model = freeze_batch_norm_2d(self.model)
        for block in self.model.modules():
            if type(block) is SwinTransformerBlock:
                block.__class__ = _PaddedSwinBlock

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


class _PaddedSwinBlock(SwinTransformerBlock):
    """A Swin block that pads to whole windows before it shifts them, as microsoft's detection code and mmdetection do.

    timm shifts first. The two agree where the map is a multiple of the window, so timm's weights mean the same.
    """

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window_height, window_width = self.window_size
        padded = F.pad(x, (0, 0, 0, -width % window_width, 0, -height % window_height))
        return super()._attn(padded)[:, :height, :width].contiguous()


def _create_timm_model(config: BackboneConfig, pretrained: bool | Path) -> Any:
    name = config.name
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() names those there are"
        raise UnknownModelError(f"timm has no backbone {name!r}: {hint}")
    options: dict[str, Any] = {}
    if is_model_in_modules(architecture, ["swin_transformer", "swin_transformer_v2"]):
        # without always_partition a stage smaller than the window at 224 px silently loses its shift at larger sizes
        options = {"strict_img_size": False, "always_partition": True}
    if config.drop_path_rate:
        options["drop_path_rate"] = config.drop_path_rate
    file = _published_weights(name) if pretrained is True else pretrained
    if file:
        if not file.is_file():
            raise UnknownModelError(f"backbone weights {file} are no file: name a .safetensors or .pth of {name}")
        options["pretrained_cfg_overlay"] = {"file": str(file)}
        if pretrained is True:  # what it publishes as safetensors is no archive of the first authors'
            options["pretrained_cfg_overlay"]["custom_load"] = False
    try:
        return timm.create_model(name, features_only=True, pretrained=bool(pretrained), **options)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise UnknownModelError(f"backbone {name!r} gives no feature maps: {first_line(error)}") from error
        raise UnknownModelError(
            f"timm's weights for {name!r} cannot be loaded ({first_line(error)}): {WITHOUT_WEIGHTS}"
        ) from error


def _published_weights(name: str) -> Path | Literal[False]:
    """The file that timm publishes on the Hub; False where it publishes another way, which is then left to timm.

    Fetched here and not by timm, which asks for half a minute and more where there is no network, and which would also
    take a pickled file.
    """
    try:
        published = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UnknownModelError(f"timm has no weights {name!r}: {first_line(error)}") from error
    if published is None or not published.hf_hub_id or published.hf_hub_filename:
        return False
    try:
        return hub.download(published.hf_hub_id, (TIMM_WEIGHTS_NAME,))[0]
    except DyzooError as error:
        raise UnknownModelError(f"timm's weights for {name!r}: {error}; {WITHOUT_WEIGHTS}") from error


def _move_stride_to_first_conv(model: nn.Module) -> None:
    """MSRA ResNets (detectron2's R-50, mmdetection's `caffe` style) stride in a bottleneck's 1x1 convolution."""
    for block in model.modules():
        if isinstance(block, timm.models.resnet.Bottleneck) and block.conv2.stride != (1, 1):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
