"""The operators of the attention in ONNX, each step by the name that it has in `dyhead_kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dyzoo.dyhead.block import NORM_GROUPS
from dyzoo.dyhead.levelwise import Branch, LevelwiseParameters
from dyzoo.export.nodes import FLOAT, Value, op, scalar, scalar_like, vector
from dyzoo.export.options import DeformConv

TAPS, KERNEL = 9, 3
OFFSETS = 2 * TAPS
GROUP_NORM_EPS = 1e-5


class _Convolve(Protocol):
    def __call__(self, input: Value, offset: Value, mask: Value, weight: Value, bias: Value, stride: int) -> Value: ...


def convolution(form: DeformConv) -> _Convolve:
    """The 3x3 deformable convolution with a padding of one, in that form."""
    return _deform_conv_node if form == "node" else _deform_conv_of_samples


def block_translation(form: DeformConv) -> Any:
    """Translation of `dyzoo::dyhead_block`: the chain of `dyhead_kernels.dyhead_block.reference`, node by node."""
    convolve = convolution(form)

    def dyhead_block(levels, parameters, offset_mode):  # type: ignore[no-untyped-def] # annotations would be read
        own = LevelwiseParameters.from_list(parameters)
        scale_weight = op.Reshape(own.scale_weight, vector(1, -1, 1, 1))
        outputs = []
        for index, level in enumerate(levels):
            offset, mask = _offsets(level, own)
            maps = [_branch(convolve, level, offset, mask, own.mid, 1)]
            if index > 0:
                maps.append(_branch(convolve, levels[index - 1], offset, mask, own.low, 2))
            if index < len(levels) - 1:
                high_offset, high_mask = _high_branch_offsets(offset, mask, levels[index + 1], offset_mode)
                high = _branch(convolve, levels[index + 1], high_offset, high_mask, own.high, 1)
                maps.append(_resize(high, level))
            mixed = op.Mul(maps[0], _scale_attention(maps[0], scale_weight, own.scale_bias))
            for each in maps[1:]:
                mixed = op.Add(mixed, op.Mul(each, _scale_attention(each, scale_weight, own.scale_bias)))
            if len(maps) > 1:
                mixed = op.Mul(mixed, scalar_like(1 / len(maps), mixed))
            outputs.append(_dynamic_relu(mixed, own))
        return outputs

    return dyhead_block


def deform_conv_translation(form: DeformConv) -> Any:
    """Translation of `dyhead_kernels::deform_conv` as the tensor form calls it: 3x3, a padding of one, no stride."""
    convolve = convolution(form)

    def deform_conv(input, offset, weight, bias, mask, stride, padding, dilation, backend):  # type: ignore[no-untyped-def]
        return convolve(input, offset, mask, weight, bias, stride[0])

    return deform_conv


def _offsets(level: Value, own: LevelwiseParameters) -> tuple[Value, Value]:
    both = op.Conv(level, own.offset_weight, own.offset_bias, pads=[1, 1, 1, 1])
    return _channels(both, 0, OFFSETS), op.Sigmoid(_channels(both, OFFSETS, OFFSETS + TAPS))


def _channels(maps: Value, first: int, end: int) -> Value:
    bounds = (vector(value) for value in (first, end, 1))
    return op.Slice(maps, *bounds)


def _high_branch_offsets(offset: Value, mask: Value, coarser: Value, mode: str) -> tuple[Value, Value]:
    size = op.Shape(coarser, start=2)  # (h, w)
    if mode == "flat":
        return _read_flat(offset, size, OFFSETS), _read_flat(mask, size, TAPS)
    if mode == "crop":
        return _crop(offset, size), _crop(mask, size)
    large, small = op.Shape(offset, start=2), size
    scale = op.Div(op.Cast(small, to=FLOAT), op.Cast(large, to=FLOAT))  # (h/H, w/W)
    scale = op.Reshape(op.Tile(scale, vector(TAPS)), vector(1, OFFSETS, 1, 1))
    return op.Mul(_resize(offset, coarser), op.CastLike(scale, offset)), _resize(mask, coarser)


def _read_flat(maps: Value, size: Value, channels: int) -> Value:
    rows = op.Flatten(maps, axis=1)
    count = op.Mul(op.ReduceProd(size, keepdims=1), vector(channels))
    rows = op.Slice(rows, vector(0), count, vector(1))
    return op.Reshape(rows, op.Concat(vector(-1, channels), size, axis=0))


def _crop(maps: Value, size: Value) -> Value:
    # no Slice: OpenVINO 2026.4 would take the whole map's shape for the one of the part
    for axis in (2, 3):
        length = op.Gather(size, scalar(axis - 2), axis=0)
        maps = op.Gather(maps, op.Range(scalar(0), length, scalar(1)), axis=axis)
    return maps


def _branch(convolve: _Convolve, input: Value, offset: Value, mask: Value, branch: Branch, stride: int) -> Value:
    convolved = convolve(input, offset, mask, branch.weight, branch.bias, stride)
    groups = op.Reshape(convolved, vector(0, NORM_GROUPS, -1))
    ones, zeros = ([value] * NORM_GROUPS for value in (1.0, 0.0))
    scale, shift = (op.CastLike(vector(*values), convolved) for values in (ones, zeros))
    normed = op.InstanceNormalization(groups, scale, shift, epsilon=GROUP_NORM_EPS)
    normed = op.Reshape(normed, op.Shape(convolved))
    return op.Add(op.Mul(normed, _of_channels(branch.norm_weight)), _of_channels(branch.norm_bias))


def _of_channels(values: Value) -> Value:
    return op.Reshape(values, vector(1, -1, 1, 1))


def _resize(maps: Value, like: Value) -> Value:
    """Bilinear with aligned corners, to the height and width of another map."""
    sizes = op.Concat(op.Shape(maps, end=2), op.Shape(like, start=2), axis=0)
    return op.Resize(maps, None, None, sizes, mode="linear", coordinate_transformation_mode="align_corners")


def _scale_attention(maps: Value, weight: Value, bias: Value) -> Value:
    return op.HardSigmoid(op.Relu(op.Conv(op.GlobalAveragePool(maps), weight, bias)), alpha=1 / 6, beta=0.5)


def _dynamic_relu(features: Value, own: LevelwiseParameters) -> Value:
    pooled = op.Flatten(op.GlobalAveragePool(features), axis=1)
    hidden = op.Relu(op.Gemm(pooled, own.relu_weight1, own.relu_bias1, transB=1))
    theta = op.HardSigmoid(op.Gemm(hidden, own.relu_weight2, own.relu_bias2, transB=1), alpha=1 / 6, beta=0.5)
    theta = op.Unsqueeze(theta, vector(2, 3))
    a1, b1, a2, b2 = op.Split(theta, axis=1, num_outputs=4)
    two, half, one = (scalar_like(value, features) for value in (2.0, 0.5, 1.0))
    first = op.Add(op.Mul(op.Mul(a1, two), features), op.Sub(b1, half))
    second = op.Add(op.Mul(op.Sub(op.Mul(a2, two), one), features), op.Sub(b2, half))
    return op.Max(first, second)


def _deform_conv_node(input: Value, offset: Value, mask: Value, weight: Value, bias: Value, stride: int) -> Value:
    return op.DeformConv(
        input, weight, offset, bias, mask, kernel_shape=[KERNEL] * 2, pads=[1] * 4, strides=[stride] * 2
    )


def _deform_conv_of_samples(input: Value, offset: Value, mask: Value, weight: Value, bias: Value, stride: int) -> Value:
    """Nine samples for each output, one below the other in an image of nine times the height, then a 1x1 convolution.

    Positions are those of pixels' edges (corners not aligned), so that a map of one pixel is no division by zero.
    """
    size = op.Shape(offset, start=2)
    height, width = op.Split(size, axis=0, num_outputs=2)
    in_height, in_width = op.Split(op.Shape(input, start=2), axis=0, num_outputs=2)
    pairs = op.Reshape(offset, op.Concat(vector(0, TAPS, 2), size, axis=0))
    down, right = op.Split(pairs, axis=2, num_outputs=2)  # (N, 9, 1, H, W)
    of_rows, of_columns = [-1.0] * 3 + [0.0] * 3 + [1.0] * 3, [-1.0, 0.0, 1.0] * 3
    y = _positions(height, of_rows, [1, -1, 1], stride, down)
    x = _positions(width, of_columns, [1, 1, -1], stride, right)
    grid = op.Concat(_between(x, in_width), _between(y, in_height), axis=4)  # (N, 9, H, W, 2)
    tall = op.Concat(vector(0, -1), width, vector(2), axis=0)
    samples = op.GridSample(input, op.Reshape(grid, tall), mode="linear", padding_mode="zeros", align_corners=0)
    taps = op.Concat(vector(0, 0, TAPS), size, axis=0)
    weighted = op.Mul(op.Reshape(samples, taps), op.Unsqueeze(mask, vector(1)))
    flat = op.Concat(op.Shape(offset, end=1), vector(-1), size, axis=0)
    channels = op.Reshape(weighted, flat)
    kernel = op.Reshape(weight, vector(0, -1, 1, 1))
    return op.Conv(channels, kernel, bias)


def _positions(length: Value, taps: Sequence[float], shape: Sequence[int], stride: int, moved: Value) -> Value:
    """Pixel coordinates of the taps along one axis, (N, 9, H, W, 1)."""
    steps = op.Range(scalar(0), op.Squeeze(length), scalar(1))
    steps = op.Mul(op.CastLike(steps, moved), scalar_like(float(stride), moved))
    steps = op.Reshape(steps, vector(*shape))
    tap = op.Reshape(op.CastLike(vector(*taps), moved), vector(TAPS, 1, 1))
    moved = op.Squeeze(moved, vector(2))
    return op.Unsqueeze(op.Add(moved, op.Add(steps, tap)), vector(4))


def _between(position: Value, length: Value) -> Value:
    """Pixels -> -1 at the first pixel's outer edge to 1 at the last one's."""
    doubled = op.Add(op.Mul(position, scalar_like(2.0, position)), scalar_like(1.0, position))
    return op.Sub(op.Div(doubled, op.CastLike(length, position)), scalar_like(1.0, position))
