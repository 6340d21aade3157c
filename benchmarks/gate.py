"""No provider is timed before its outputs and gradients agree with a computation in float64, or float32 where large."""

from __future__ import annotations

import torch

from .cases import Case
from .precision import tf32
from .providers import Provider, exact_way
from .providers.prepare import Results, eager

# The largest difference allowed, |found - truth| / |truth| in the Euclidean norm of a whole tensor. A wrong formula
# shows at about one.
TOLERANCES = {
    # Sums of up to 9 * C products, each rounded at 6e-8, through six blocks: 2e-6 was measured.
    ("float32", "output"): 1e-4,
    # A sample that rounding moves across the border of a pixel changes its offset's gradient by the whole size. One is
    # enough for 4e-2 in a gradient that nearly cancels (a head, 64x96 px).
    ("float32", "gradient"): 1e-1,
    # Products are rounded at 5e-4, those that make the offsets too.
    ("tf32", "output"): 3e-2,
    ("tf32", "gradient"): 3e-1,
    # Rounded at 5e-4 and 4e-3, but the largest error is that of positions: an operator in float16 places its samples
    # in float16, an eighth of a pixel apart at the right edge of a map 168 wide. 5e-2 was measured for a head's
    # outputs, 0.3 for gradients of offsets. Finer errors are found in float32.
    ("float16", "output"): 1e-1,
    ("float16", "gradient"): 5e-1,
    ("bfloat16", "output"): 1e-1,
    ("bfloat16", "gradient"): 5e-1,
}
VANISHING = 1e-6
"""A gradient whose norm is below this share of the largest one's is compared on that scale: it is zero but for
rounding, as that of a bias that a normalisation takes away."""

CHEAP_FLOP = {"cpu": 3e10, "cuda": 2e12}
"""A truth in float64 up to so many operations (a second or so), in float32 above."""

_TRUTH = Provider("truth", "truth", exact_way)


class WrongResult(Exception):
    """A provider computes something else than the others; the message says what and by how much."""


def truth(case: Case, pass_: str) -> Results:
    """The result that every exact provider has to compute: torchvision's operator, step by step, without TF32."""
    cheap = case.work.of(pass_).flop <= CHEAP_FLOP[case.setup.device.type]
    with tf32(matmul=False, cudnn=False):
        if cheap:
            try:
                return eager(case, _TRUTH, pass_, torch.float64)()
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        return eager(case, _TRUTH, pass_, torch.float32)()


def check(found: Results, expected: Results, dtype: str) -> None:
    """Compare every output and gradient with the truth, `dtype` being that of the case.

    Raises:
        WrongResult: one is not finite, or its error is above the tolerance.
    """
    if found.keys() != expected.keys():
        raise WrongResult(f"gives {', '.join(found)}, expected {', '.join(expected)}")
    largest = max(
        (float(torch.linalg.vector_norm(t.double())) for n, t in expected.items() if _is_gradient(n)), default=0
    )
    for name, wanted in expected.items():
        if _is_gradient(name) and wanted.numel() == 1:
            continue  # a sum over all positions that nearly cancels: in half precision rounding decides even its sign
        least = VANISHING * largest if _is_gradient(name) else 0.0
        error = relative_error(found[name], wanted, least)
        tolerance = TOLERANCES[dtype, "gradient" if _is_gradient(name) else "output"]
        if not error <= tolerance:
            raise WrongResult(f"{name} is off by {error:.1e} of its norm, tolerance {tolerance:.0e}")


def relative_error(found: torch.Tensor, wanted: torch.Tensor, least: float = 0.0) -> float:
    """|found - wanted| / max(|wanted|, least), nan where `found` is not finite or of another shape."""
    if found.shape != wanted.shape:
        return float("nan")
    wanted = wanted.double()
    difference = torch.linalg.vector_norm(found.double() - wanted)
    norm = torch.linalg.vector_norm(wanted).clamp(min=max(least, torch.finfo(torch.float64).tiny))
    return float(difference / norm)


def _is_gradient(name: str) -> bool:
    return name.startswith("gradient of ")
