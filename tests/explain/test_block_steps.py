"""The steps of a block: they are the network's own, and add up to what it gives."""

from __future__ import annotations

import pytest
import torch
from dyhead_kernels import Pyramid
from torch import Tensor

from dyzoo.dyhead import DyHeadBlock
from dyzoo.dyhead.steps import LevelSteps, block_steps, follow_back
from tests.kernels.block_cases import random_parameters
from tests.kernels.tolerances import assert_near

SHAPES = ((13, 10), (7, 5), (4, 3))


def block_of(mode: str, dtype: torch.dtype = torch.float32, bias: bool = True) -> DyHeadBlock:
    """A block whose every part matters: offsets of some pixels, attentions away from their clamps."""
    torch.manual_seed(0)
    block = DyHeadBlock(16, 32, mode, conv_bias=bias)  # type: ignore[arg-type]
    drawn = vars(random_parameters(16, 32, dtype, bias))
    block = block.to(dtype)
    block.load_state_dict({name: value.detach() for name, value in drawn.items() if value is not None})
    return block


def levels_of(dtype: torch.dtype = torch.float32, shapes: tuple[tuple[int, int], ...] = SHAPES) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(1, 16, *shape, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", ["flat", "crop", "resize"])
def test_the_steps_add_up_to_what_the_block_gives(mode: str, bias: bool) -> None:
    block, levels = block_of(mode, bias=bias), levels_of()
    for step, expected in zip(block_steps(block, levels), block(Pyramid.from_levels(levels)).levels(), strict=True):
        assert_near(step.output, expected, torch.float32, "forward")


def test_gradients_through_the_steps_are_those_through_the_block() -> None:
    block, levels = block_of("resize", torch.float64), levels_of(torch.float64)
    torch.manual_seed(2)
    own = [step.output for step in block_steps(block, levels)]
    weights = [torch.randn_like(output) for output in own]
    actual = torch.autograd.grad(own, levels, weights)
    expected = torch.autograd.grad(block(Pyramid.from_levels(levels)).levels(), levels, weights)
    for one, other in zip(actual, expected, strict=True):
        assert_near(one, other, torch.float64, "block gradient")


def test_scale_weights_are_those_of_the_formula() -> None:
    block = block_of("resize")
    weights, bias = block.scale_weight.tolist(), block.scale_bias.item()
    for step in block_steps(block, levels_of()):
        for branch, features in zip(step.branches.values(), step.stages["spatial"], strict=True):
            means = features[0].detach().mean(dim=(1, 2)).tolist()
            logit = sum(mean * weight for mean, weight in zip(means, weights, strict=True)) + bias
            (scale_weight,) = branch.weights.values()
            assert scale_weight.item() == pytest.approx(min(max(max(logit, 0) + 3, 0), 6) / 6, abs=1e-5)


def test_each_stage_is_made_of_the_one_before() -> None:
    for step in block_steps(block_of("crop"), levels_of()):
        weights = [weight for branch in step.branches.values() for weight in branch.weights.values()]
        parts = list(zip(step.stages["spatial"], weights, strict=True))
        torch.testing.assert_close(step.maps["spatial"], sum(features for features, _ in parts) / len(parts))
        scaled = sum(weight * features for features, weight in parts) / len(parts)
        torch.testing.assert_close(step.maps["scale"], scaled)
        line = torch.where(step.takes_first, step.slopes[0] * scaled + step.intercepts[0], step.output)
        torch.testing.assert_close(line, step.output)
        assert 0 < step.takes_first.float().mean() < 1


def test_branches_are_there_where_a_level_has_a_neighbour() -> None:
    steps = block_steps(block_of("resize"), levels_of())
    sources = [{name: list(branch.weights) for name, branch in step.branches.items()} for step in steps]
    assert sources == [{"mid": [0], "high": [1]}, {"mid": [1], "low": [0], "high": [2]}, {"mid": [2], "low": [1]}]


def still_steps(shapes: tuple[tuple[int, int], ...], dy: float = 0.0, dx: float = 0.0) -> list[LevelSteps]:
    """Steps of a block all of whose sampling points are moved by the same offset, masks one half."""
    torch.manual_seed(0)
    block = DyHeadBlock(16, 32)
    block.offset_bias.data[:18] = torch.tensor([dy, dx] * 9)
    return block_steps(block, levels_of(shapes=shapes))


def test_followed_back_a_place_takes_alike_from_the_nine_around_it() -> None:
    shares = [torch.zeros(7, 7)]
    shares[0][3, 2] = 1
    (found,) = follow_back(still_steps(((7, 7),)), shares)
    expected = torch.zeros(7, 7)
    expected[2:5, 1:4] = 1 / 9
    torch.testing.assert_close(found, expected)


def test_followed_back_a_place_takes_from_where_its_offsets_lead() -> None:
    shares = [torch.zeros(7, 7)]
    shares[0][3, 2] = 1
    (found,) = follow_back(still_steps(((7, 7),), dy=-1.0, dx=2.5), shares)
    expected = torch.zeros(7, 7)
    expected[1:4, 3:6] += 1 / 18
    expected[1:4, 4:7] += 1 / 18
    torch.testing.assert_close(found, expected)


def test_followed_back_a_level_takes_from_its_neighbours() -> None:
    shares = [torch.zeros(8, 8), torch.zeros(4, 4), torch.zeros(2, 2)]
    shares[1][1, 1] = 1
    fine, own, coarse = follow_back(still_steps(((8, 8), (4, 4), (2, 2))), shares)
    assert float(fine.sum() + own.sum() + coarse.sum()) == pytest.approx(1)
    assert sorted(map(tuple, fine.nonzero().tolist())) == [(row, column) for row in (1, 2, 3) for column in (1, 2, 3)]
    assert float(coarse.sum()) < float(own.sum())  # five of the nine points are outside of a map of four positions


def test_what_is_lost_outside_is_no_division_by_zero() -> None:
    shares = [torch.zeros(5, 5)]
    shares[0][2, 2] = 1
    (found,) = follow_back(still_steps(((5, 5),), dx=100.0), shares)
    assert not found.any()
