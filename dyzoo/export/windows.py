"""Swin's attention in windows as one operator, in PyTorch and in ONNX.

Traced step by step at any height and width, its padding makes terms that take longer to compare than all the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn

from dyzoo.export.nodes import INT64, Value, op, scalar, scalar_like, vector

APART = -100.0  # added to the logits of positions that the shift has brought together, as timm does


def attend_in_windows(
    x: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    position_bias: Tensor,
    window: list[int],
    shift: list[int],
) -> Tensor:
    """Attention within (shifted) windows of a map (N, H, W, C), padded with zeros to whole windows.

    Args:
        qkv_weight, qkv_bias, proj_weight, proj_bias: of the two linear layers, (3C, C), (3C,), (C, C) and (C,).
        position_bias: (1, heads, T, T), T positions of a window.
        window: height and width.
        shift: how far windows are moved down and to the right; 0 and 0 for not at all.
    """
    _, height, width, _ = x.shape
    padded = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    rows, columns = padded.shape[1] // window[0], padded.shape[2] // window[1]

    def windows_of(maps: Tensor) -> Tensor:
        parts = maps.unflatten(2, (columns, window[1])).unflatten(1, (rows, window[0]))
        return parts.transpose(2, 3).flatten(3, 4)  # (N, rows, columns, T, C)

    shifted = padded.roll((-shift[0], -shift[1]), dims=(1, 2))
    parts = windows_of(shifted)
    heads = position_bias.shape[1]
    qkv = F.linear(parts, qkv_weight, qkv_bias).unflatten(4, (3, heads, -1))
    query, key, value = qkv.movedim(4, 0).transpose(4, 5)
    mask = position_bias[0]
    if any(shift):
        # not `bucketize`, whose bounds would be a tensor made in the graph, which programs of PyTorch refuse
        regions = [
            (places >= length - size).long() + (places >= length - step).long()
            for length, size, step in zip(padded.shape[1:3], window, shift, strict=True)
            for places in (torch.arange(length, device=x.device),)
        ]
        region = windows_of((3 * regions[0][:, None] + regions[1])[None, :, :, None])[0, ..., 0]
        mask = mask + APART * (region[..., None] != region[..., None, :])[:, :, None].to(x.dtype)
    mask = mask.expand(len(x), rows, columns, *mask.shape[-3:])
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    output = F.linear(attended.transpose(3, 4).flatten(4), proj_weight, proj_bias)
    merged = output.unflatten(3, tuple(window)).transpose(2, 3).reshape(padded.shape)
    return merged.roll(tuple(shift), dims=(1, 2))[:, :height, :width].contiguous()


window_attention = torch.library.custom_op("dyzoo::window_attention", attend_in_windows, mutates_args=())


@window_attention.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x)


class _OperatorBlock(SwinTransformerBlock):
    """A Swin block whose attention is one operator."""

    def _attn(self, x: Tensor) -> Tensor:
        attention = self.attn
        return window_attention(  # type: ignore[no-any-return]
            x,
            attention.qkv.weight,
            attention.qkv.bias,
            attention.proj.weight,
            attention.proj.bias,
            self.position_bias,
            list(self.window_size),
            list(self.shift_size),
        )


def has_windows(model: nn.Module) -> bool:
    """Whether there are Swin blocks in it."""
    return any(isinstance(block, SwinTransformerBlock) for block in model.modules())


def use_operators(model: nn.Module) -> None:
    """Put `_OperatorBlock` in the place of Swin's blocks, which have to be the caller's own."""
    for block in model.modules():
        if isinstance(block, SwinTransformerBlock):
            block.register_buffer("position_bias", block.attn._get_rel_pos_bias().detach())
            block.__class__ = _OperatorBlock


def window_attention_translation(  # type: ignore[no-untyped-def] # annotations would be read
    x, qkv_weight, qkv_bias, proj_weight, proj_bias, position_bias, window, shift
):
    """`window_attention`, node by node."""
    heads = int(position_bias.shape[1])
    channels = int(x.shape[3])
    size = op.Shape(x, start=1, end=3)
    missing = op.Mod(op.Neg(size), vector(*window))
    padded = op.Pad(x, op.Concat(vector(0, 0, 0, 0, 0), missing, vector(0), axis=0))
    counts = op.Div(op.Add(size, missing), vector(*window))
    shifted = _roll(padded, shift)
    tokens = _windows(shifted, counts, window, channels)  # (N * rows * columns, T, C)
    qkv = op.Add(op.MatMul(tokens, op.Transpose(qkv_weight, perm=[1, 0])), qkv_bias)
    area = window[0] * window[1]
    parts = op.Transpose(op.Reshape(qkv, vector(-1, area, 3, heads, channels // heads)), perm=[2, 0, 3, 1, 4])
    query, key, value = (op.Gather(parts, scalar(index), axis=0) for index in range(3))
    scale = scalar_like((channels // heads) ** -0.5, query)
    logits = op.MatMul(op.Mul(query, scale), op.Transpose(key, perm=[0, 1, 3, 2]))
    logits = op.Add(logits, position_bias)
    if any(shift):
        lengths = op.Add(size, missing)
        row, column = (_regions(op.Gather(lengths, scalar(axis), axis=0), window[axis], shift[axis]) for axis in (0, 1))
        region = op.Add(op.Unsqueeze(op.Mul(row, scalar(3)), vector(1)), op.Unsqueeze(column, vector(0)))
        region = op.Reshape(_windows(op.Unsqueeze(region, vector(0, 3)), counts, window, 1), vector(-1, area))
        same = op.Equal(op.Unsqueeze(region, vector(1)), op.Unsqueeze(region, vector(2)))  # (windows, T, T)
        apart, none = (scalar_like(v, logits) for v in (APART, 0.0))
        mask = op.Unsqueeze(op.Where(same, none, apart), vector(1))
        number = op.Shape(mask, start=0, end=1)
        of_windows = op.Reshape(logits, op.Concat(vector(-1), number, vector(heads, area, area), axis=0))
        logits = op.Reshape(op.Add(of_windows, mask), vector(-1, heads, area, area))
    attended = op.Transpose(op.MatMul(op.Softmax(logits, axis=-1), value), perm=[0, 2, 1, 3])
    attended = op.Reshape(attended, vector(-1, area, channels))
    output = op.Add(op.MatMul(attended, op.Transpose(proj_weight, perm=[1, 0])), proj_bias)
    grid = op.Concat(vector(-1), counts, vector(*window, channels), axis=0)
    merged = op.Transpose(op.Reshape(output, grid), perm=[0, 1, 3, 2, 4, 5])
    merged = _roll(op.Reshape(merged, op.Shape(padded)), [-step for step in shift])
    return op.Slice(merged, vector(0, 0), size, vector(1, 2))


def _windows(maps: Value, counts: Value, window: Sequence[int], channels: int) -> Value:
    rows, columns = (op.Gather(counts, vector(axis), axis=0) for axis in (0, 1))
    split = op.Concat(vector(-1), rows, vector(window[0]), columns, vector(window[1], channels), axis=0)
    parts = op.Transpose(op.Reshape(maps, split), perm=[0, 1, 3, 2, 4, 5])
    return op.Reshape(parts, vector(-1, window[0] * window[1], channels))


def _roll(maps: Value, shift: Sequence[int]) -> Value:
    """Up and to the left by so many pixels; negative ones the other way."""
    for axis, step in zip((1, 2), shift, strict=True):
        if step:
            end = vector(2**62)
            rest, first = (
                op.Slice(maps, vector(step), end, vector(axis)),
                op.Slice(maps, vector(0), vector(step), vector(axis)),
            )
            maps = op.Concat(rest, first, axis=axis)
    return maps


def _regions(length: Value, window: int, step: int) -> Value:
    """For each position along an axis 0, and from the last window on 1, and from its shifted part on 2."""
    places = op.Range(scalar(0), length, scalar(1))
    bounds = (op.Sub(length, scalar(back)) for back in (window, step))
    first, second = (op.Cast(op.GreaterOrEqual(places, bound), to=INT64) for bound in bounds)
    return op.Add(first, second)
