"""The heavy step of the CPU path: blend corner rows into columns, multiply by a matrix; chunk by chunk.

A column buffer is K times its map, and whole it costs more in page faults and cache misses than the blending
itself. So a chunk of columns lives just long enough to be multiplied, and the backward pass makes it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from dyhead_kernels.sampling import Corners, SamplingGrid

# Columns of a chunk, in bytes: small enough for the outer cache, large enough for an efficient matrix product.
CHUNK_BYTES = 8 * 2**20
# Rows from which oneDNN's 1x1 convolution beats the BLAS library (up to 1.4x) although it repacks the matrix.
MIN_CONV_ROWS = 512


def sampled_conv(
    values: Tensor, offset: Tensor, mask: Tensor | None, matrix: Tensor, grid: SamplingGrid, dtype: torch.dtype
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
    output: Tensor = _SampledConv.apply(values, offset, mask, matrix, grid, dtype)
    return output


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
        rows, matrix = _rows(values, offset.dtype), matrix.to(dtype)
        corners = Corners(grid, offset, mask, values.shape[1])
        index, weight = corners.index.flatten(0, 1), corners.weight.flatten(0, 1)
        output = values.new_empty(*offset.shape[:2], len(matrix), dtype=dtype)
        output_rows = output.flatten(0, 1)
        for chunk in _chunks(len(index), matrix.shape[1] * rows.element_size()):
            columns = _blend(rows, index[chunk], weight[chunk])
            output_rows[chunk] = _multiply(columns.to(dtype), matrix)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        values, offset, mask, matrix = ctx.saved_tensors
        needs_values, needs_offset, needs_mask, needs_matrix, *_ = ctx.needs_input_grad
        dtype: torch.dtype = ctx.dtype
        rows, matrix_t = _rows(values, offset.dtype), matrix.to(dtype).t().contiguous()
        corners = Corners(ctx.grid, offset, mask, values.shape[1])
        index, weight = corners.index.flatten(0, 1), corners.weight.flatten(0, 1)

        grad_output = grad_output.flatten(0, 1)
        grad_rows = torch.zeros_like(rows) if needs_values else None
        grad_weight = torch.empty_like(weight) if needs_offset or needs_mask else None
        grad_matrix_t = torch.zeros_like(matrix_t, dtype=offset.dtype) if needs_matrix else None
        for chunk in _chunks(len(index), len(matrix_t) * rows.element_size()):
            grad_chunk = grad_output[chunk].contiguous()
            with torch.enable_grad():
                chunk_weight = weight[chunk].detach().requires_grad_(grad_weight is not None)
                columns = _blend(rows, index[chunk], chunk_weight)
            if grad_matrix_t is not None:
                _add_product(grad_matrix_t, columns.detach().to(dtype).t(), grad_chunk)
            if grad_rows is None and grad_weight is None:
                continue
            grad_columns = _multiply(grad_chunk, matrix_t).to(columns.dtype)
            if grad_weight is not None:
                (grad_weight[chunk],) = torch.autograd.grad(columns, chunk_weight, grad_columns)
            if grad_rows is not None:
                _add_unblended(grad_rows, grad_columns.view(-1, rows.shape[1]), index[chunk], weight[chunk])

        grad_offset, grad_mask = (
            (None, None) if grad_weight is None else corners.gradients(grad_weight.view_as(corners.weight))
        )
        return (
            None if grad_rows is None else grad_rows.view_as(values).to(values.dtype),
            grad_offset,
            grad_mask,
            None if grad_matrix_t is None else grad_matrix_t.t().to(matrix.dtype),
            None,
            None,
        )


def _chunks(count: int, bytes_each: int) -> Iterator[slice]:
    """Even parts of `count` positions whose columns take `bytes_each` bytes."""
    parts = -(-count * bytes_each // CHUNK_BYTES)
    length = max(1, -(-count // max(1, parts)))
    return (slice(start, start + length) for start in range(0, count, length))


def _rows(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.flatten(0, 1).to(dtype).contiguous()


def _blend(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """rows (R, C), corners (P, K, 4) -> columns (P, K * C)."""
    bags = F.embedding_bag(index.flatten(0, 1), rows, mode="sum", per_sample_weights=weight.flatten(0, 1))
    return bags.view(len(index), -1)


def _add_unblended(total: Tensor, grad_bags: Tensor, index: Tensor, weight: Tensor) -> None:
    """Add to each row of `total` (R, C) the bags (P * K, C) it went into, times its weight there.

    The transpose of blending is blending too, once the corners are sorted by row.
    """
    sorted_rows, corner = index.flatten().sort()
    first, last = int(sorted_rows[0]), int(sorted_rows[-1])
    starts = torch.searchsorted(sorted_rows, torch.arange(first, last + 1, dtype=torch.int32, device=index.device))
    total[first : last + 1] += F.embedding_bag(
        corner // 4, grad_bags, starts, mode="sum", per_sample_weights=weight.flatten()[corner]
    )


def _multiply(rows: Tensor, matrix: Tensor) -> Tensor:
    """Contiguous rows (P, A) times the transpose of `matrix` (B, A)."""
    if (
        rows.device.type == "cpu"
        and rows.dtype == torch.float32
        and len(rows) >= MIN_CONV_ROWS
        and torch.get_num_threads() > 1  # with one thread PyTorch takes another, slow, convolution
    ):
        # (1, A, P, 1), channels last in memory; PyTorch would not see that in (1, A, 1, P) and would transpose it.
        image = rows.view(1, len(rows), 1, -1).permute(0, 3, 1, 2)
        return F.conv2d(image, matrix[:, :, None, None]).permute(0, 2, 3, 1).reshape(len(rows), -1)
    return F.linear(rows, matrix)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, in the dtype of `total` from one call to the next."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
