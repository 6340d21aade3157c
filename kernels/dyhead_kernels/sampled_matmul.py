"""The one heavy step of the CPU path: blend rows, then multiply. An implicit im2col times a matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sampled_matmul(rows: Tensor, index: Tensor, blend: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """y(p) = sum over bags b: W_b sum_j blend(p, b, j) * rows[index(p, b, j)].

    Args:
        rows: (R, C) map rows.
        index: (P, B, 4) int32 rows to blend; B bags per position.
        blend: (P, B, 4) weights.
        weight: (B * C, C_out).
        dtype: of the matrix product.

    Returns:
        (P, C_out) in `dtype`.
    """
    if index.numel() == 0:
        return rows.new_zeros(index.shape[0], weight.shape[1], dtype=dtype)
    columns = F.embedding_bag(
        index.flatten(0, 1), rows.to(blend.dtype), mode="sum", per_sample_weights=blend.flatten(0, 1)
    )
    return columns.view(index.shape[0], weight.shape[0]).to(dtype) @ weight.to(dtype)
