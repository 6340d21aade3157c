"""The pseudo-random weights of the golden cases: made again from a checkpoint's keys and shapes, never stored.

Every tensor comes from a generator seeded with the CRC-32 of its key, so its value does not depend on the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

# gains on top of N(0, 1) / sqrt(fan_in), first match wins: they keep activations near 1, sampling offsets near
# +-1.5 pixels and class scores spread out
GAINS = (
    ("stem.conv1.weight", 0.02),
    ("backbone.conv1.weight", 0.5),
    ("offset.weight", 4.0),
    ("conv_offset.weight", 4.0),
    ("cls_logits.weight", 6.0),
    ("head.cls_score.weight", 6.0),
    ("atss_cls.weight", 6.0),
    ("box_predictor.cls_score.weight", 30.0),
    ("objectness_logits.weight", 4.0),
    ("centerness.weight", 4.0),
    # without these BERT's tokens collapse into one vector and all class scores are equal
    ("word_embeddings.weight", 3.0),
    ("self.query.weight", 2.0),
    ("self.key.weight", 2.0),
    ("attention.output.dense.weight", 0.5),
    ("dot_product_projection_text.weight", 48.0),
    ("bbox_head.head.bbox_pred.weight", 4.0),
)


def tensor(key: str, shape: Sequence[int]) -> np.ndarray:
    """The value of `key` in every golden checkpoint: float32, int64 for batch counters."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        return rng.uniform(0.8, 1.2, shape).astype(np.float32)
    if key.endswith("running_mean"):
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)
    if key.endswith(".scale"):
        return np.asarray(1 + 0.1 * rng.standard_normal(shape), np.float32)
    if len(shape) >= 2:
        gain = next((gain for suffix, gain in GAINS if key.endswith(suffix)), 1.0)
        fan_in = int(np.prod(shape[1:]))
        return (gain * rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
    if key.endswith("weight"):
        return rng.uniform(0.5, 1.0, shape).astype(np.float32)
    shift = -2.0 if key.endswith(("cls_logits.bias", "head.cls_score.bias", "atss_cls.bias")) else 0.0
    shift = -4.6 if key.endswith("head.bias0") else shift
    return (shift + 0.05 * rng.standard_normal(shape)).astype(np.float32)
