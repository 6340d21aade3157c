"""Matrix products with float32 sums."""

from __future__ import annotations

import triton
import triton.language as tl

# The interpreter multiplies the bits of a bfloat16 as if they were an integer.
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def add_product(total, left, right, PRECISION: tl.constexpr):
    """total + left right, for factors of one dtype; PRECISION is for float32 ones, see `launching.dot_precision`."""
    if _INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)
