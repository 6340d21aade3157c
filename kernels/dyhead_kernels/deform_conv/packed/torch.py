"""Deformable convolution of packed maps in plain PyTorch: blend corner rows into columns, multiply by a matrix.

A column buffer is K times its map, and whole it costs more in page faults and cache misses than the blending
itself. So a chunk of columns lives just long enough to be multiplied, and the backward pass makes it again.
Plain functions without a graph: operators call them, where autograd does not see them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import native
from .sampling import Corners, SamplingGrid

# Columns of a chunk, in bytes: small enough for the outer cache, large enough for an efficient matrix product.
CHUNK_BYTES = 8 * 2**20
# Rows from which oneDNN's 1x1 convolution beats the BLAS library (up to 1.4x) although it repacks the matrix.
MIN_CONV_ROWS = 512


class Samples(NamedTuple):
    """Rows that a deformable convolution reads, and where.

    Attributes:
        rows: (N * S, C) packed maps of N images, contiguous; blended in the dtype of `offset` whatever theirs is.
        offset: (N, P, K, 2), (dy, dx) in pixels of the source map, float32 or float64.
        mask: (N, P, K) in the dtype of `offset`, or None.
        grid: P positions of K taps over the S rows of an image.
    """

    rows: Tensor
    offset: Tensor
    mask: Tensor | None
    grid: SamplingGrid

    def corners(self) -> Corners:
        """The rows that each tap blends."""
        images = len(self.offset)
        return Corners(self.grid, self.offset, self.mask, len(self.rows) // images if images else 0)


def forward(samples: Samples, matrix: Tensor, output: Tensor) -> None:
    """y(n, p) = sum over taps k: W_k (mask(n, p, k) * values blended at grid(p, k) + offset(n, p, k)).

    Args:
        matrix: (C_out, K * C), taps outermost, in the dtype of the matrix product.
        output: (N, P, C_out), contiguous, in the dtype of `matrix`; written.
    """
    if native.serves(samples, matrix):
        native.forward(samples, matrix, output)
        return
    rows, corners = samples.rows.to(samples.offset.dtype), samples.corners()
    index, weight = corners.index.flatten(0, 1), corners.weight.flatten(0, 1)
    output_rows = output.view(-1, len(matrix))
    for chunk in _chunks(len(index), matrix.shape[1] * rows.element_size()):
        columns = _blend(rows, index[chunk], weight[chunk])
        output_rows[chunk] = _multiply(columns.to(matrix.dtype), matrix)


def backward(
    grad_output: Tensor,
    samples: Samples,
    matrix: Tensor,
    grad_rows: Tensor | None,
    offset_needed: bool,
    matrix_needed: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of `forward`.

    Args:
        grad_output: (N, P, C_out) in the dtype of `matrix`.
        grad_rows: (N * S, C) in the dtype of `offset`; the rows' gradient is added to it. None where it is not wanted.
        offset_needed: whether the gradients of offset and mask are wanted.
        matrix_needed: whether the gradient of the matrix is.

    Returns:
        Gradients of offset and mask, in their shapes, and of matrix, (C_out, K * C) in the dtype of `offset`; None
        for what is not wanted.
    """
    if native.serves(samples, matrix) and grad_output.dtype == matrix.dtype:
        return native.backward(grad_output, samples, matrix, grad_rows, offset_needed, matrix_needed)
    rows, matrix_t = samples.rows.to(samples.offset.dtype), matrix.t().contiguous()
    corners = samples.corners()
    index, weight = corners.index.flatten(0, 1), corners.weight.flatten(0, 1)
    grad_output = grad_output.flatten(0, 1)
    grad_weight = torch.empty_like(weight) if offset_needed else None
    grad_matrix_t = torch.zeros_like(matrix_t, dtype=rows.dtype) if matrix_needed else None
    for chunk in _chunks(len(index), len(matrix_t) * rows.element_size()):
        grad_chunk = grad_output[chunk].contiguous()
        if grad_matrix_t is not None:
            columns = _blend(rows, index[chunk], weight[chunk])
            _add_product(grad_matrix_t, columns.to(matrix.dtype).t(), grad_chunk)
        if grad_rows is None and grad_weight is None:
            continue
        grad_bags = _multiply(grad_chunk, matrix_t).to(rows.dtype).view(-1, rows.shape[1])
        if grad_weight is not None:
            grad_weight[chunk] = _unblended_weight(grad_bags, rows, index[chunk])
        if grad_rows is not None:
            _add_unblended(grad_rows, grad_bags, index[chunk], weight[chunk])

    grad_offset, grad_mask = (
        (None, None) if grad_weight is None else corners.gradients(grad_weight.view_as(corners.weight))
    )
    return grad_offset, grad_mask, None if grad_matrix_t is None else grad_matrix_t.t()


def _chunks(count: int, bytes_each: int) -> Iterator[slice]:
    """Even parts of `count` positions whose columns take `bytes_each` bytes."""
    parts = -(-count * bytes_each // CHUNK_BYTES)
    length = max(1, -(-count // max(1, parts)))
    return (slice(start, start + length) for start in range(0, count, length))


def _blend(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """rows (R, C), corners (P, K, 4) -> columns (P, K * C)."""
    bags = F.embedding_bag(index.flatten(0, 1), rows, mode="sum", per_sample_weights=weight.flatten(0, 1))
    return bags.view(len(index), -1)


def _unblended_weight(grad_bags: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """The gradient of the bags (P * K, C) -> that of each corner's weight (P, K, 4): its product with the row there."""
    bag = torch.arange(len(grad_bags), dtype=index.dtype, device=index.device)
    bag_of_corner, start = bag[:, None].expand(-1, 4).flatten(), bag * 4
    grad: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad_bags, rows, index.flatten(), start, bag_of_corner, mode=0
    )
    return grad.view(index.shape)


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
