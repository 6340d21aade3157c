"""The heavy step of the CPU path: blend corner rows into columns, multiply by a matrix; chunk by chunk.

A column buffer is K times its map, and whole it costs more in page faults and cache misses than the blending
itself. So a chunk of columns lives just long enough to be multiplied, and the backward pass makes it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dyhead_kernels.sampling import SamplingGrid, sampling_corners

# Columns of a chunk, in bytes: inside the outer cache, and long enough for the matrix product to be efficient.
CHUNK_BYTES = 12 * 2**20
# Rows from which oneDNN's 1x1 convolution is faster than the BLAS library (up to 1.4x), repacking its weights included.
MIN_CONV_ROWS = 512


def sampled_conv(
    values: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    matrix: Tensor,
    grid: SamplingGrid,
    dtype: torch.dtype,
) -> Tensor:
    """y(n, p) = sum over taps k: W_k (mask(n, p, k) * values blended at grid(p, k) + offset(n, p, k)).

    Args:
        values: (N, S, C) packed maps.
        offset: (N, P, K, 2), (dy, dx) in pixels of the source map, float32 or float64.
        mask: (N, P, K) in the dtype of `offset`, or None.
        matrix: (C_out, K * C), taps outermost.
        grid: P positions of K taps over the S rows of an image.
        dtype: of the matrix product and of the result; blending is done in the dtype of `offset`.

    Returns:
        (N, P, C_out).
    """
    result: Tensor = _SampledConv.apply(values, offset, mask, matrix, grid, dtype)
    return result


class _SampledConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        offset: Tensor,
        mask: Tensor | None,
        matrix: Tensor,
        grid: SamplingGrid,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(values, offset, mask, matrix)
        ctx.grid, ctx.dtype = grid, dtype
        matrix = matrix.to(dtype)
        rows = _rows(values, offset.dtype)
        output = values.new_empty(*offset.shape[:2], matrix.shape[0], dtype=dtype)
        for chunk in _chunks(offset, matrix.shape[1]):
            index, weight = chunk.corners(grid, offset, mask, values.shape[1])
            columns = _blend(rows, index, weight).view(-1, matrix.shape[1])
            chunk.of(output).copy_(multiply(columns.to(dtype), matrix).view_as(chunk.of(output)))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        values, offset, mask, matrix = ctx.saved_tensors
        dtype: torch.dtype = ctx.dtype
        needs_values, needs_offset, needs_mask, needs_matrix, *_ = ctx.needs_input_grad
        rows = _rows(values, offset.dtype)
        transposed = matrix.to(dtype).t().contiguous()
        grad_rows = torch.zeros_like(rows) if needs_values else None
        grad_offset = torch.empty_like(offset) if needs_offset else None
        grad_mask = torch.empty_like(mask) if needs_mask else None
        grad_transposed = torch.zeros_like(transposed, dtype=offset.dtype) if needs_matrix else None

        for chunk in _chunks(offset, len(transposed)):
            grad_chunk = chunk.of(grad_output).flatten(0, 1).contiguous()
            with torch.enable_grad():
                leaf_offset = chunk.of(offset).detach().requires_grad_(needs_offset)
                leaf_mask = None if mask is None else chunk.of(mask).detach().requires_grad_(needs_mask)
                index, weight = sampling_corners(ctx.grid[chunk.positions], leaf_offset, leaf_mask, values.shape[1])
                index = index + chunk.images.start * values.shape[1]
                first, last = (int(bound) for bound in index.aminmax())
                touched = slice(first, last + 1)
                leaf_rows = rows[touched].detach().requires_grad_(needs_values)
                columns = _blend(leaf_rows, index - first, weight)
            if grad_transposed is not None:
                _add_product(grad_transposed, columns.detach().view(-1, len(transposed)).to(dtype).t(), grad_chunk)
            wanted = [leaf for leaf in (leaf_rows, leaf_offset, leaf_mask) if leaf is not None and leaf.requires_grad]
            if not wanted:
                continue
            grad_columns = multiply(grad_chunk, transposed).view_as(columns).to(columns.dtype)
            gradients = dict(zip(map(id, wanted), torch.autograd.grad(columns, wanted, grad_columns), strict=True))
            if grad_rows is not None:
                grad_rows[touched] += gradients[id(leaf_rows)]
            if grad_offset is not None:
                chunk.of(grad_offset).copy_(gradients[id(leaf_offset)])
            if grad_mask is not None:
                chunk.of(grad_mask).copy_(gradients[id(leaf_mask)])

        grad_values = None if grad_rows is None else grad_rows.view_as(values).to(values.dtype)
        grad_matrix = None if grad_transposed is None else grad_transposed.t().to(matrix.dtype)
        return grad_values, grad_offset, grad_mask, grad_matrix, None, None


class _Chunk(NamedTuple):
    """Whole images, or a part of one image's positions."""

    images: slice
    positions: slice

    def of(self, tensor: Tensor) -> Tensor:
        """This chunk's part of an (N, P, ...) tensor."""
        return tensor[self.images, self.positions]

    def corners(self, grid, offset, mask, image_rows):
        index, weight = sampling_corners(
            grid[self.positions], self.of(offset), None if mask is None else self.of(mask), image_rows
        )
        return index + self.images.start * image_rows, weight


def _chunks(offset: Tensor, column_length: int) -> Iterator[_Chunk]:
    batch, positions = offset.shape[:2]
    if positions == 0:
        return
    longest = max(1, CHUNK_BYTES // (column_length * offset.element_size()))
    count = -(-positions // longest)
    if count == 1:
        images = max(1, longest // positions)
        for first in range(0, batch, images):
            yield _Chunk(slice(first, min(first + images, batch)), slice(0, positions))
        return
    even = -(-positions // count)
    for image in range(batch):
        for first in range(0, positions, even):
            yield _Chunk(slice(image, image + 1), slice(first, min(first + even, positions)))


def _rows(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.flatten(0, 1).to(dtype).contiguous()


def _blend(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """(R, C) rows, (..., 4) corners -> (bags, C)."""
    return F.embedding_bag(index.view(-1, 4), rows, mode="sum", per_sample_weights=weight.view(-1, 4))


def multiply(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows (P, A) times the transpose of `matrix` (B, A), in the dtype and on the device of both."""
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and len(rows) >= MIN_CONV_ROWS and torch.get_num_threads() > 1:
        image = rows.t()[None, :, None]  # (1, A, 1, P), channels last in memory
        return F.conv2d(image, matrix[:, :, None, None])[0, :, 0].t().contiguous()
    return F.linear(rows, matrix)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, kept in the dtype of `total` between calls."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
