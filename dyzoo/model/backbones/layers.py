"""Layers of timm models that are changed in place, for detection or for the computer's sake."""

from __future__ import annotations

import timm
import torch.nn.functional as F
from timm.models.mobilevit import MobileVitV2Block
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

WIDEST_VECTOR = 16  # floats in a register of a CPU


class _SlicedConv2d(nn.Conv2d):
    """A 1x1 convolution that takes the pixels its stride asks for before it convolves, and so skips none itself.

    Where fewer channels come in than a vector register holds (8 floats with AVX2, 16 with AVX-512), the backward pass
    of oneDNN's strided form writes past its memory and ends the process (seen with torch 2.14 on a CPU).
    """

    def forward(self, input: Tensor) -> Tensor:
        stride_y, stride_x = self.stride
        return F.conv2d(input[:, :, ::stride_y, ::stride_x], self.weight, self.bias, groups=self.groups)


def slice_for_few_channels(model: nn.Module) -> None:
    """Put `_SlicedConv2d` in the place of every convolution that would end the process; parameters keep their names."""
    for conv in model.modules():
        if (
            type(conv) is nn.Conv2d
            and conv.kernel_size == (1, 1)
            and conv.stride != (1, 1)
            and conv.padding in ((0, 0), "valid")
            and conv.in_channels < WIDEST_VECTOR
        ):
            conv.__class__ = _SlicedConv2d


class _PaddedSwinBlock(SwinTransformerBlock):
    """A Swin block that pads to whole windows before it shifts them, as microsoft's detection code and mmdetection do.

    timm shifts first. The two agree where the map is a multiple of the window, so timm's weights mean the same.
    """

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window_height, window_width = self.window_size
        padded = F.pad(x, (0, 0, 0, -width % window_width, 0, -height % window_height))
        return super()._attn(padded)[:, :height, :width].contiguous()


def pad_swin_blocks(model: nn.Module) -> None:
    """Put `_PaddedSwinBlock` in the place of timm's Swin blocks; parameters keep their names."""
    for block in model.modules():
        if type(block) is SwinTransformerBlock:
            block.__class__ = _PaddedSwinBlock


class _SizeKeepingMobileViTBlock(MobileVitV2Block):
    """A MobileViT v2 block whose map is as large as an input that is no multiple of a patch, as in version 1."""

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        if output.shape[-2:] == x.shape[-2:]:
            return output
        return F.interpolate(output, size=x.shape[-2:], mode="bilinear", align_corners=True)  # as on the way in


def keep_mobilevit_sizes(model: nn.Module) -> None:
    """Put `_SizeKeepingMobileViTBlock` in the place of MobileViT v2's blocks; parameters keep their names."""
    for block in model.modules():
        if type(block) is MobileVitV2Block:
            block.__class__ = _SizeKeepingMobileViTBlock


def move_stride_to_first_conv(model: nn.Module) -> None:
    """MSRA ResNets (detectron2's R-50, mmdetection's `caffe` style) stride in a bottleneck's 1x1 convolution."""
    for block in model.modules():
        if isinstance(block, timm.models.resnet.Bottleneck) and block.conv2.stride != (1, 1):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
