"""A stack of DyHead blocks over a pyramid."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from dyhead_kernels import BlockParameters, Pyramid, dyhead_block
from torch import Tensor
from torchvision.ops import deform_conv2d

from benchmarks.cases.case import Case, Provider

BLOCKS, C, GROUPS = 6, 256, 16
IMAGE_PX = 640
SHAPES = tuple((IMAGE_PX // stride, IMAGE_PX // stride) for stride in (8, 16, 32, 64, 128))
HIGH, MID, LOW = range(3)

Convolution = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]


def head(device: torch.device) -> Case:
    """Six blocks of 256 channels over P3..P7 of a 640x640 image, offsets resized for the high branch."""
    generator = torch.Generator().manual_seed(0)
    tensors = {"values": torch.randn(1, sum(h * w for h, w in SHAPES), C, generator=generator)}
    for block in range(BLOCKS):
        for name, value in _parameters(generator).items():
            tensors[f"{name}_{block}"] = value
    tensors = {name: value.to(device).requires_grad_() for name, value in tensors.items()}
    providers = {
        "dyhead_kernels": Provider(partial(_stack, partial(dyhead_block, offset_mode="resize", backend="torch"))),
        "torchvision, step by step": Provider(partial(_stack, partial(_step_by_step, _deformable))),
        "dense convolutions (floor)": Provider(partial(_stack, partial(_step_by_step, _dense)), exact=False),
    }
    shape = f"{BLOCKS}x{C}ch-{IMAGE_PX}x{IMAGE_PX}px"
    return Case("dyhead", shape, tensors, providers, baseline="torchvision, step by step")


def _parameters(generator: torch.Generator) -> dict[str, Tensor]:
    def normal(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    hidden = C // 4
    return {
        "offset_weight": normal(27, C, 3, 3, scale=1 / math.sqrt(9 * C)),
        "offset_bias": torch.zeros(27),
        "conv_weight": normal(3, C, C, 3, 3, scale=1 / math.sqrt(9 * C)),
        "conv_bias": normal(3, C, scale=0.1),
        "norm_weight": torch.ones(3, C),
        "norm_bias": torch.zeros(3, C),
        "scale_weight": normal(C, scale=0.01),
        "scale_bias": torch.zeros(1),
        "relu_weight1": normal(hidden, C, scale=1 / math.sqrt(C)),
        "relu_bias1": torch.zeros(hidden),
        "relu_weight2": normal(4 * C, hidden, scale=1 / math.sqrt(hidden)),
        "relu_bias2": torch.zeros(4 * C),
    }


def _stack(block: Callable[[Pyramid, BlockParameters], Pyramid], values: Tensor, **parameters: Tensor) -> Tensor:
    pyramid = Pyramid(values, SHAPES)
    for index in range(BLOCKS):
        own = {name.removesuffix(f"_{index}"): p for name, p in parameters.items() if name.endswith(f"_{index}")}
        pyramid = block(pyramid, BlockParameters(**own))
    return pyramid.values


def _step_by_step(convolution: Convolution, pyramid: Pyramid, parameters: BlockParameters) -> Pyramid:
    """A block as microsoft/DynamicHead's `DyConv.forward` goes about it: every step its own operator."""
    levels = [level.contiguous() for level in pyramid.levels()]
    outputs = []
    for index, level in enumerate(levels):
        steering = F.conv2d(level, parameters.offset_weight, parameters.offset_bias, padding=1)
        offset, mask = steering[:, :18], steering[:, 18:].sigmoid()

        def branch(which: int, source: Tensor, offset: Tensor, mask: Tensor, stride: int = 1) -> Tensor:
            assert parameters.conv_bias is not None
            weight, bias = parameters.conv_weight[which], parameters.conv_bias[which]
            convolved = convolution(source, offset, mask, weight, bias, stride)
            return F.group_norm(convolved, GROUPS, parameters.norm_weight[which], parameters.norm_bias[which])

        maps = [branch(MID, level, offset, mask)]
        if index > 0:
            maps.append(branch(LOW, levels[index - 1], offset, mask, stride=2))
        if index < len(levels) - 1:
            size = levels[index + 1].shape[2:]
            smaller = [F.interpolate(m, size, mode="bilinear", align_corners=True) for m in (offset, mask)]
            scale = offset.new_tensor([offset.shape[2] / size[0], offset.shape[3] / size[1]]).repeat(9).view(-1, 1, 1)
            high = branch(HIGH, levels[index + 1], smaller[0] / scale, smaller[1])
            maps.append(F.interpolate(high, level.shape[2:], mode="bilinear", align_corners=True))

        attended = []
        for features in maps:
            weight = F.conv2d(
                F.adaptive_avg_pool2d(features, 1), parameters.scale_weight.view(1, -1, 1, 1), parameters.scale_bias
            )
            attended.append(features * (F.relu6(weight.relu() + 3) / 6))
        outputs.append(_dynamic_relu(torch.stack(attended).mean(dim=0), parameters))
    return Pyramid.from_levels(outputs)


def _dynamic_relu(features: Tensor, parameters: BlockParameters) -> Tensor:
    pooled = F.adaptive_avg_pool2d(features, 1).flatten(1)
    hidden = F.linear(pooled, parameters.relu_weight1, parameters.relu_bias1).relu()
    theta = F.relu6(F.linear(hidden, parameters.relu_weight2, parameters.relu_bias2) + 3) / 6
    a1, b1, a2, b2 = theta[:, :, None, None].chunk(4, dim=1)
    return torch.maximum(features * (2 * a1) + (b1 - 0.5), features * (2 * a2 - 1) + (b2 - 0.5))


def _deformable(source: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return deform_conv2d(source, offset, weight, bias, stride=stride, padding=1, mask=mask)


def _dense(source: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return F.conv2d(source, weight, bias, stride=stride, padding=1)
