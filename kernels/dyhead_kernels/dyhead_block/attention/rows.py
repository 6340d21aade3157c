"""Numbers of the rows of C values that `quantities.py` lays out, for kernels."""

from __future__ import annotations

from itertools import accumulate

import triton.language as tl

from .. import layout
from .quantities import COEFFICIENT_ROWS, GRADIENT_ROWS, Moments

HIGH, MID, LOW = tl.constexpr(layout.HIGH), tl.constexpr(layout.MID), tl.constexpr(layout.LOW)
BRANCHES = tl.constexpr(len(layout.BRANCHES))

# Rows of one branch's moments; those of high, mid and low follow each other.
MOMENTS = tl.constexpr(len(Moments._fields))
MEAN = tl.constexpr(Moments._fields.index("mean"))
VARIANCE = tl.constexpr(Moments._fields.index("variance"))
MEAN_CHANGE = tl.constexpr(Moments._fields.index("mean_change"))

COEFFICIENTS = tl.constexpr(len(COEFFICIENT_ROWS))
GAIN = tl.constexpr(COEFFICIENT_ROWS.index("gain_high"))
SHIFT = tl.constexpr(COEFFICIENT_ROWS.index("shift"))
SLOPE1 = tl.constexpr(COEFFICIENT_ROWS.index("slope1"))
SHIFT1 = tl.constexpr(COEFFICIENT_ROWS.index("shift1"))
SLOPE2 = tl.constexpr(COEFFICIENT_ROWS.index("slope2"))
SHIFT2 = tl.constexpr(COEFFICIENT_ROWS.index("shift2"))

_STARTS = dict(zip([*GRADIENT_ROWS, "end"], accumulate(GRADIENT_ROWS.values(), initial=0), strict=True))
GRAD_NORM_WEIGHT = tl.constexpr(_STARTS["norm_weight"])
GRAD_NORM_BIAS = tl.constexpr(_STARTS["norm_bias"])
GRAD_CONV_BIAS = tl.constexpr(_STARTS["conv_bias"])
GRAD_SCALE_WEIGHT = tl.constexpr(_STARTS["scale_weight"])
GRAD_RELU_BIAS2 = tl.constexpr(_STARTS["relu_bias2"])
GRADIENTS = tl.constexpr(_STARTS["end"])
