"""Dynamic Head (Dai et al., CVPR 2021): the attention blocks between the feature pyramid and the heads."""

from __future__ import annotations

from dyhead_kernels.backends import resolve_backend
from dyhead_kernels.device_cache import held_with_a_graph

from dyzoo.dyhead.block import DyHeadBlock
from dyzoo.dyhead.head import DyHead
from dyzoo.dyhead.median import concat_to_median, split_from_median
from dyzoo.dyhead.tensor_form import (
    ScaleAwareAttention,
    SpatialAwareAttention,
    TaskAwareAttention,
    TensorDyHeadBlock,
)

__all__ = [
    "DyHead",
    "DyHeadBlock",
    "ScaleAwareAttention",
    "SpatialAwareAttention",
    "TaskAwareAttention",
    "TensorDyHeadBlock",
    "concat_to_median",
    "held_with_a_graph",
    "resolve_backend",
    "split_from_median",
]
