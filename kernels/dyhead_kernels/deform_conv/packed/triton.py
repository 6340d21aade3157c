"""Launches of the deformable convolution of one or many maps, forward and backward."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...launch.launching import block_size, dot_precision, launch, parameters, parts_table
from ...launch.tables import STATISTICS, Maps, Strips, Tables
from . import kernels, kernels_backward, kernels_window
from .arguments import NO_WINDOWS, Constants, Gradients, Sampling
from .windows import windows_by_stride

PAIR_BYTES = 4
"""The kernel reads values of 16 bits in pairs, which have to lie at their size."""


@dataclass(frozen=True)
class Convolution:
    """Description of a convolution, whatever the tensors. Kernel, padding and dilation are (y, x)."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (3, 3)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    offset_groups: int = 1
    has_mask: bool = True

    @property
    def taps(self) -> int:
        """Number of taps of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def run(self) -> int:
        """Channels that share a weight group and an offset group."""
        return math.gcd(self.in_channels // self.groups, self.in_channels // self.offset_groups)

    @property
    def constants(self) -> Constants:
        """The constants of the kernels."""
        return Constants(
            self.in_channels,
            self.out_channels,
            self.groups,
            self.in_channels // self.groups,
            self.out_channels // self.groups,
            self.offset_groups,
            self.run,
            self.taps,
            self.kernel[1],
            *self.padding,
            *self.dilation,
            self.has_mask,
        )


@dataclass(frozen=True, eq=False)
class Operands:
    """Inputs of a convolution, all contiguous.

    Attributes:
        values: (N, S, C_in), packed maps.
        offset, mask: (N, ...), of any floating dtype; segments say where in an image each value lies.
        weight: (weights, C_out, K, C_in / groups) in the dtype of `values`.
        segments: the output maps, `Segment`s, those of one weight one after the other.
    """

    values: Tensor
    offset: Tensor
    mask: Tensor
    weight: Tensor
    segments: Maps

    def sampling(self, tables: Tables | Strips) -> Sampling:
        """The argument of a kernel whose programs take the tiles of `tables`."""
        return Sampling(
            values_ptr=self.values,
            offset_ptr=self.offset,
            mask_ptr=self.mask,
            tiles_ptr=tables.tiles,
            segments_ptr=tables.maps,
            values_image=_image_step(self.values),
            offset_image=_image_step(self.offset),
            mask_image=_image_step(self.mask),
        )


def forward(
    conv: Convolution, operands: Operands, bias: Tensor | None, output: Tensor, mean_weights: Tensor | None
) -> Tensor:
    """Write `output`, rows of C_out channels in the dtype of `values`.

    With `mean_weights`, of lines and columns in the weighted means, also give the `STATISTICS` of each piece of
    `forward_strips`, (N, pieces, 3, C_out) float32. Else an empty tensor.
    """
    if operands.values.data_ptr() % PAIR_BYTES:
        operands = replace(operands, values=operands.values.clone())
    values = operands.values
    options = _options("deform_conv_forward", conv, operands)
    table = operands.segments.strips(*_tile(options))
    del options["TILE_W"]  # the table says it
    pieces = 0 if mean_weights is None else table.piece_count
    statistics = values.new_empty(len(values), pieces, len(STATISTICS), conv.out_channels, dtype=torch.float32)
    blocks = -(-conv.out_channels // conv.groups // options["BLOCK_O"])
    launch(
        kernels._deform_conv_forward_kernel,
        (table.tile_count, conv.groups * blocks, len(values)),
        output,
        statistics,
        operands.weight,
        output if bias is None else bias,
        table.maps if mean_weights is None else mean_weights,
        table.places,
        pieces,
        operands.sampling(table),
        CONV=conv.constants,
        HAS_BIAS=bias is not None,
        HAS_STATISTICS=mean_weights is not None,
        PRECISION=dot_precision(),
        **options,
    )
    return statistics


def forward_strips(conv: Convolution, operands: Operands) -> Strips:
    """The tiles of `forward`."""
    return operands.segments.strips(*_tile(_options("deform_conv_forward", conv, operands)))


@dataclass(frozen=True, eq=False)
class ValuesGradient:
    """A buffer to add up gradients of values: floats in any order, or a count that comes out the same every time.

    Attributes:
        buffer: (N, S, C_in), zero at first: float32, or int64 counting multiples of 1 / scale.
        scale: a power of two, a float32 scalar; None for a float buffer.
    """

    buffer: Tensor
    scale: Tensor | None

    @classmethod
    def like(cls, conv: Convolution, operands: Operands, grad_output: Tensor, masks_below_one: bool) -> ValuesGradient:
        """A count if PyTorch's deterministic algorithms are on."""
        values = operands.values
        if not torch.are_deterministic_algorithms_enabled() or grad_output.numel() == 0:
            return cls(torch.zeros_like(values, dtype=torch.float32), None)
        # The gradient of a column is at most max |dY| times the largest sum of weights that one of its channels meets,
        # and a pixel gets no more than one part of each position and tap, of each branch.
        largest = operands.weight.float().abs().sum(dim=1).amax() * _largest(grad_output)
        if conv.has_mask and not masks_below_one:
            largest *= _largest(operands.mask)
        positions = sum(segment.height * segment.width for segment in operands.segments.maps)
        most = largest.clamp(min=torch.finfo(torch.float32).tiny) * (4 * conv.taps * positions)
        scale = torch.exp2(torch.floor(61 - torch.log2(most)).clamp(max=126))
        return cls(torch.zeros_like(values, dtype=torch.int64), scale)

    def total(self) -> Tensor:
        """(N, S, C_in) float32; NaN where a factor was not finite."""
        return self.buffer if self.scale is None else self.buffer * (1 / self.scale)


def backward(
    conv: Convolution,
    operands: Operands,
    grad_output: Tensor,
    total: ValuesGradient | None,
    grad_offset: Tensor | None,
    grad_mask: Tensor | None,
) -> None:
    """Add the gradient of the values to `total`; write `grad_offset` and `grad_mask` (N, ...), float32.

    `grad_output` has rows of C_out channels.
    """
    fixed_point = total is not None and total.scale is not None
    gradients = Gradients(
        values_ptr=operands.values if total is None else total.buffer,
        offset_ptr=operands.values if grad_offset is None else grad_offset,
        mask_ptr=operands.values if grad_mask is None else grad_mask,
        scale_ptr=operands.values if total is None or total.scale is None else total.scale,
        offset_image=0 if grad_offset is None else _image_step(grad_offset),
        mask_image=0 if grad_mask is None else _image_step(grad_mask),
    )
    suffix = "_fixed_point" if fixed_point else ""
    window_options = _options(f"deform_conv_window_backward{suffix}", conv, operands)
    is_windowed = window_options.pop("WINDOWED") and total is not None
    size = window_options.pop("WINDOW_H"), window_options.pop("WINDOW_W")
    groups = () if not is_windowed else windows_by_stride(conv, operands.segments, _tile(window_options), size)
    for segments, windows in groups or ((operands.segments, NO_WINDOWS),):
        own = replace(operands, segments=segments)
        options = _options(f"deform_conv_backward{suffix}", conv, own)
        table = _tables(own, options)
        launch(
            kernels_backward._deform_conv_backward_kernel,
            (table.tile_count * conv.offset_groups * conv.taps, 1, len(own.values)),
            grad_output,
            own.weight,
            own.sampling(table),
            gradients,
            CONV=conv.constants,
            WINDOWS=windows,
            NEEDS_VALUES=total is not None,
            NEEDS_OFFSET=grad_offset is not None,
            FIXED_POINT=fixed_point,
            PRECISION=dot_precision(),
            **options,
        )
        if windows == NO_WINDOWS:
            continue
        options = {**window_options, "BLOCK_P": windows.tile_height * windows.tile_width, "TILE_W": windows.tile_width}
        table = _tables(own, options)
        blocks = conv.in_channels // conv.run * -(-conv.run // options["BLOCK_C"])
        launch(
            kernels_window._deform_conv_window_backward_kernel,
            (table.tile_count * blocks, 1, len(own.values)),
            grad_output,
            own.weight,
            own.sampling(table),
            gradients,
            CONV=conv.constants,
            WINDOWS=windows,
            FIXED_POINT=fixed_point,
            PRECISION=dot_precision(),
            **options,
        )


def weight_backward(conv: Convolution, operands: Operands, grad_output: Tensor) -> Tensor:
    """The gradient of `weight`, float32."""
    values = operands.values
    options = _options("deform_conv_weight_backward", conv, operands)
    table = _tables(operands, options)
    segments = operands.segments
    parts = parts_table(segments.cache, _tiles_by_weight(segments, table, len(operands.weight)), len(values))
    shape = (conv.out_channels, conv.taps, conv.in_channels // conv.groups)
    sums = values.new_empty(len(parts.table), *shape, dtype=torch.float32)
    blocks = conv.in_channels // conv.run * -(-conv.run // options["BLOCK_C"])
    launch(
        kernels_backward._deform_conv_weight_backward_kernel,
        (len(sums), conv.taps * blocks, -(-conv.out_channels // conv.groups // options["BLOCK_O"])),
        sums,
        grad_output,
        parts.table,
        operands.sampling(table),
        len(values),
        CONV=conv.constants,
        PRECISION=dot_precision(),
        **options,
    )
    return torch.stack([sums[part].sum(dim=0) for part in parts.of_group])


def _image_step(tensor: Tensor) -> int:
    """Elements from one image of a contiguous tensor to the next."""
    return math.prod(tensor.shape[1:])


def _largest(tensor: Tensor) -> Tensor:
    """The largest magnitude, float32."""
    return torch.linalg.vector_norm(tensor, torch.inf, dtype=torch.promote_types(tensor.dtype, torch.float32)).float()


def _options(kernel: str, conv: Convolution, operands: Operands) -> dict[str, int]:
    """Launch parameters, the blocks no larger than needed."""
    options = parameters(kernel, operands.values)
    options["BLOCK_C"] = block_size(options["BLOCK_C"], conv.run)
    options["BLOCK_O"] = block_size(options["BLOCK_O"], conv.out_channels // conv.groups)
    return options


def _tables(operands: Operands, options: dict[str, int]) -> Tables:
    return operands.segments.tables(*_tile(options))


def _tile(options: dict[str, int]) -> tuple[int, int]:
    """Lines and columns of a tile."""
    return options["BLOCK_P"] // options["TILE_W"], options["TILE_W"]


def _tiles_by_weight(segments: Maps, table: Tables, weights: int) -> tuple[tuple[int, int], ...]:
    """(first tile, end) of each weight."""
    spans = []
    for weight in range(weights):
        own = [index for index, segment in enumerate(segments.maps) if getattr(segment, "weight", None) == weight]
        spans.append((table.first_tile[own[0]], table.first_tile[own[-1] + 1]) if own else (0, 0))
    return tuple(spans)
