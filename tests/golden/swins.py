"""The Swins of microsoft's detection code and of mmdetection, written out plainly on their own state dicts.

One image at a time, one window after the other, nothing shared with the code that is tested. What they have in common:
a map is padded to whole windows behind norm1, and rolled after that; a window's tokens attend to those of their own
region only (a bias of -100 for the others); each map that is given out passes a LayerNorm of its own. They differ in
their keys and in the order in which four patches are merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Keys:
    """Where a code base keeps the parts of its Swin."""

    patches: str
    patches_norm: str
    block: str  # of stage {0}, block {1}
    attention: str
    hidden: str
    output: str
    merging: str  # behind stage {0}
    map_norm: str  # of stage {0}
    merge: Callable[[Tensor], Tensor]  # (H, W, C) -> (H / 2, W / 2, 4 C)


def concatenated(values: Tensor) -> Tensor:
    """microsoft: the patches at (0, 0), (1, 0), (0, 1), (1, 1), each with all its channels."""
    return torch.cat([values[0::2, 0::2], values[1::2, 0::2], values[0::2, 1::2], values[1::2, 1::2]], dim=-1)


def unfolded(values: Tensor) -> Tensor:
    """mmdetection: `nn.Unfold` of the map."""
    height, width, _ = values.shape
    columns = torch.nn.Unfold(kernel_size=2, stride=2)(values.permute(2, 0, 1)[None])  # (1, 4 C, H W / 4)
    return columns[0].T.unflatten(0, (height // 2, width // 2))


OFFICIAL = Keys(
    patches="backbone.backbone.bottom_up.patch_embed.proj",
    patches_norm="backbone.backbone.bottom_up.patch_embed.norm",
    block="backbone.backbone.bottom_up.layers.{0}.blocks.{1}",
    attention="attn",
    hidden="mlp.fc1",
    output="mlp.fc2",
    merging="backbone.backbone.bottom_up.layers.{0}.downsample",
    map_norm="backbone.backbone.bottom_up.norm{0}",
    merge=concatenated,
)
MMDET = Keys(
    patches="backbone.patch_embed.projection",
    patches_norm="backbone.patch_embed.norm",
    block="backbone.stages.{0}.blocks.{1}",
    attention="attn.w_msa",
    hidden="ffn.layers.0.0",
    output="ffn.layers.1",
    merging="backbone.stages.{0}.downsample",
    map_norm="backbone.norm{0}",
    merge=unfolded,
)


def swin_maps(
    image: Tensor, weights: Weights, keys: Keys, depths: tuple[int, ...], heads: tuple[int, ...], window: int
) -> list[Tensor]:
    """A normalised image (3, H, W) -> the maps (C, h, w) of strides 8, 16 and 32."""
    values = F.conv2d(image[None], weights[f"{keys.patches}.weight"], weights[f"{keys.patches}.bias"], stride=4)[0]
    values = norm(values.permute(1, 2, 0), weights, keys.patches_norm)
    maps = []
    for stage, (depth, num_heads) in enumerate(zip(depths, heads, strict=True)):
        for index in range(depth):
            block = keys.block.format(stage, index)
            shift = window // 2 if index % 2 else 0
            attended = norm(values, weights, f"{block}.norm1")
            values = values + attention(attended, weights, f"{block}.{keys.attention}", num_heads, window, shift)
            hidden = linear(norm(values, weights, f"{block}.norm2"), weights, f"{block}.{keys.hidden}")
            values = values + linear(F.gelu(hidden), weights, f"{block}.{keys.output}")
        if stage:
            maps.append(norm(values, weights, keys.map_norm.format(stage)).permute(2, 0, 1))
        if stage < len(depths) - 1:
            merging = keys.merging.format(stage)
            merged = norm(keys.merge(values), weights, f"{merging}.norm")
            values = merged @ weights[f"{merging}.reduction.weight"].T
    return maps


def attention(values: Tensor, weights: Weights, name: str, heads: int, window: int, shift: int) -> Tensor:
    """Attention inside of windows: (H, W, C) -> (H, W, C)."""
    height, width, channels = values.shape
    values = F.pad(values, (0, 0, 0, -width % window, 0, -height % window))
    values = values.roll((-shift, -shift), dims=(0, 1))
    rows, columns = (regions(size, window, shift) for size in values.shape[:2])
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    steps = places[:, None] - places[None] + window - 1
    bias = weights[f"{name}.relative_position_bias_table"][steps[..., 0] * (2 * window - 1) + steps[..., 1]]
    result = torch.empty_like(values)
    for top in range(0, values.shape[0], window):
        for left in range(0, values.shape[1], window):
            inside = slice(top, top + window), slice(left, left + window)
            tokens = linear(values[inside].flatten(0, 1), weights, f"{name}.qkv")
            query, key, value = tokens.unflatten(1, (3, heads, channels // heads)).permute(1, 2, 0, 3)
            region = (3 * rows[inside[0], None] + columns[inside[1]]).flatten()
            logits = query @ key.mT / (channels // heads) ** 0.5 + bias.permute(2, 0, 1)
            logits = logits - 100.0 * (region[:, None] != region)
            mixed = (logits.softmax(dim=-1) @ value).transpose(0, 1).flatten(1)
            result[inside] = linear(mixed, weights, f"{name}.proj").view(window, window, channels)
    return result.roll((shift, shift), dims=(0, 1))[:height, :width]


def regions(size: int, window: int, shift: int) -> Tensor:
    """Index of the piece that each row (or column) comes from, of the up to three that a roll brings together."""
    places = torch.arange(size)
    return (places >= size - window).int() + (places >= size - shift).int() if shift else torch.zeros(size).int()


def norm(values: Tensor, weights: Weights, name: str) -> Tensor:
    return F.layer_norm(values, values.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-5)


def linear(values: Tensor, weights: Weights, name: str) -> Tensor:
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
