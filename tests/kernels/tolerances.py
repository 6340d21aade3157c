"""How far a form of an operator may be from the float64 reference: the one table, with its reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

# The largest difference allowed, |actual - expected| / |expected| in the Euclidean norm of the whole tensor.
TOLERANCES = {
    # Two orders of summation in float64; a block's GroupNorms and rsqrt multiply it by some hundreds.
    (torch.float64, "forward"): 1e-12,
    (torch.float64, "gradient"): 1e-11,
    # Sums of up to 9 * C products, each rounded at 6e-8; positions lose digits with the size of the map.
    (torch.float32, "forward"): 1e-5,
    (torch.float32, "gradient"): 5e-5,
    # Factors and stored maps are rounded at 4e-3; sums, positions and statistics are in float32.
    (torch.bfloat16, "forward"): 1e-2,
    (torch.bfloat16, "gradient"): 1e-2,
    # A block stays below 1e-2 too, except where the two lines of the dynamic ReLU nearly meet: there rounding may pick
    # the other one, and with it another gradient.
    (torch.float64, "block gradient"): 1e-11,
    (torch.float32, "block gradient"): 5e-5,
    (torch.bfloat16, "block gradient"): 1e-1,
}

# Triton kernels are held to the step-by-step reference in their own dtype: at most twice its distance from float64,
# plus what chance decides. On maps of a few pixels a sum has so few terms that the reference can be right to the last
# digit; what remains then is one rounding of the result, or for float32 some roundings of the terms.
FEW = 64
CHANCE = {torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """|actual - expected| / |expected| in the Euclidean norm of the whole tensor."""
    difference = torch.linalg.vector_norm(actual.double().cpu() - expected.double().cpu())
    size = torch.linalg.vector_norm(expected.double().cpu())
    return float(difference / size.clamp(min=1e-30)) if size or difference else 0.0


def assert_as_good(
    actual: Mapping[str, Tensor], stepwise: Mapping[str, Tensor], exact: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """`actual` is no further from `exact`, a float64 result, than twice what `stepwise` in `dtype` is, and chance.

    Tensors of a few numbers are judged together, by the root mean square of their relative errors: of sums that nearly
    cancel, either side may be lucky with one.
    """
    errors: dict[str, list[tuple[float, float]]] = {}
    for name, expected in exact.items():
        assert actual[name].shape == expected.shape, name
        assert actual[name].dtype == stepwise[name].dtype, name
        assert torch.isfinite(actual[name]).all(), f"{name}: not finite"
        pair = relative_error(actual[name], expected), relative_error(stepwise[name], expected)
        errors.setdefault(name if expected.numel() >= FEW or name == "output" else "small tensors", []).append(pair)
    for name, pairs in errors.items():
        error, reference = (math.sqrt(sum(one**2 for one in side) / len(pairs)) for side in zip(*pairs, strict=True))
        allowed = 2 * reference + CHANCE[dtype]
        assert error <= allowed, f"{name}: off by {error:.1e}, allowed {allowed:.1e}"


def assert_near(actual: Tensor, expected: Tensor, dtype: torch.dtype, kind: str, what: str = "values") -> None:
    """Compare with the tolerance of `dtype` and `kind`: "forward", "gradient" or "block gradient"."""
    assert actual.shape == expected.shape, what
    assert torch.isfinite(actual).all(), f"{what}: not finite"
    difference = torch.linalg.vector_norm(actual.double() - expected.double())
    size = torch.linalg.vector_norm(expected.double())
    tolerance = TOLERANCES[dtype, kind]
    assert difference <= tolerance * size + 1e-15, f"{what}: off by {difference / size:.1e}, tolerance {tolerance:.0e}"
