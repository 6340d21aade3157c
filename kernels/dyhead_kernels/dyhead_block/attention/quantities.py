"""Quantities that pass between the convolutions, the attention and the mix: moments, coefficients, and their layout.

With s, z the slope of a branch's GroupNorm and its value at the mean M of the raw convolution Y, kappa the branch's
scale attention, k the number of branches of the level and U the upsampling of the high branch, a block's output is

    m = sum_i A_i (U(Y_i) - M_i) + D,   A_i = kappa_i s_i / k,   D = sum_i kappa_i z_i / k
    out = max(slope1 m + shift1, slope2 m + shift2)

for each image, level and channel. All of it follows from the means of Y and U(Y) and the variance of Y: U is linear and
its rows sum to one. A convolution's bias only moves means, so it enters here and is never added to a map.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Moments(NamedTuple):
    """Statistics of the raw convolutions, for each image, level, channel and branch; zero where a branch is absent.

    Attributes:
        mean: M, over the map's pixels.
        variance: the mean of (Y - M)^2, centred as written: a map far from zero loses no digits.
        mean_change: the mean of U(Y) - M: by how much upsampling changes the mean; zero for mid and low.
    """

    mean: Tensor
    variance: Tensor
    mean_change: Tensor


class Coefficients(NamedTuple):
    """A (of each branch) and D, then the two lines of the dynamic ReLU, as in the formula above."""

    gain: Tensor
    shift: Tensor
    slope1: Tensor
    shift1: Tensor
    slope2: Tensor
    shift2: Tensor


COEFFICIENT_ROWS = ("gain_high", "gain_mid", "gain_low", *Coefficients._fields[1:])
"""Rows of C coefficients of one image and level, as the Triton kernels keep them."""

GRADIENT_ROWS = {"norm_weight": 3, "norm_bias": 3, "conv_bias": 3, "scale_weight": 1, "relu_bias2": 4}
"""Rows of C gradients that one image and level give to each parameter. The gradient of `relu_bias1`, as many values as
there are hidden units, and that of `scale_bias` follow them."""
