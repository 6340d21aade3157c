"""The steps of a block of the tensor form: they are the network's own, and add up to what it gives."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from dyzoo.config import DyHeadConfig
from dyzoo.dyhead import DyHead, concat_to_median, split_from_median
from dyzoo.dyhead.steps import LevelSteps, follow_back
from dyzoo.dyhead.tensor_steps import median_maps, tensor_block_steps
from tests.kernels.tolerances import assert_near

IN_CHANNELS, CHANNELS = 16, 32
SIZES = ((13, 10), (7, 5), (4, 3), (2, 2))  # the median is 7 x 5
SWITCHES = [dict(zip(("scale", "spatial", "task"), on, strict=True)) for on in product((True, False), repeat=3)]
every_choice = pytest.mark.parametrize(
    "switches", SWITCHES, ids=lambda switches: "+".join(name for name, is_on in switches.items() if is_on) or "none"
)


def random_head(dtype: torch.dtype = torch.float32, **switches: bool) -> DyHead:
    """Two blocks whose every part matters: offsets of some pixels, attentions off their clamps."""
    torch.manual_seed(0)
    head = DyHead.from_config(DyHeadConfig(channels=CHANNELS, num_blocks=2, form="tensor", **switches), IN_CHANNELS)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2)
    return head.to(dtype)


def random_levels(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, IN_CHANNELS, *size, dtype=dtype).requires_grad_() for size in SIZES]


def steps_of(head: DyHead, levels: list[Tensor]) -> list[list[LevelSteps]]:
    """The steps of each block."""
    maps, steps = median_maps(levels), []
    for block in head.blocks:
        steps.append(tensor_block_steps(block, maps))  # type: ignore[arg-type]
        maps = [step.output for step in steps[-1]]
    return steps


def outputs_of(head: DyHead, levels: list[Tensor]) -> list[Tensor]:
    """The maps that go to the heads after the steps of all blocks."""
    maps = [step.output for step in steps_of(head, levels)[-1]]
    return split_from_median(*concat_to_median(maps), SIZES)


@every_choice
def test_the_steps_add_up_to_what_the_blocks_give(switches: dict[str, bool]) -> None:
    head, levels = random_head(**switches), random_levels()
    for actual, expected in zip(outputs_of(head, levels), head(levels), strict=True):
        assert_near(actual, expected, torch.float32, "forward")


def test_gradients_through_the_steps_are_those_through_the_blocks() -> None:
    head, levels = random_head(torch.float64), random_levels(torch.float64)
    found = []
    for outputs in (outputs_of(head, levels), head(levels)):
        torch.manual_seed(2)
        found.append(torch.autograd.grad(outputs, levels, [torch.randn_like(output) for output in outputs]))
    for actual, expected in zip(*found, strict=True):
        assert_near(actual, expected, torch.float64, "block gradient")


@every_choice
def test_each_stage_is_made_of_the_one_before(switches: dict[str, bool]) -> None:
    for steps in steps_of(random_head(**switches), random_levels()):
        for index, step in enumerate(steps):
            assert list(step.stages) == ["before", "scale", "spatial", "task"]
            kappa = step.branches["same"].weights[index]
            assert 0 < kappa.min() <= kappa.max() <= 1
            assert bool((kappa == 1).all()) != switches["scale"]
            torch.testing.assert_close(step.maps["scale"], kappa * step.maps["before"])
            first, second = step.slopes * step.maps["spatial"] + step.intercepts
            torch.testing.assert_close(torch.where(step.takes_first, first, second), step.output)
            assert 0 < step.takes_first.float().mean() < 1
            if not switches["task"]:
                torch.testing.assert_close(step.output, step.maps["spatial"].relu())


def test_every_level_has_its_weight_wherever_it_is_sampled() -> None:
    _, steps = steps_of(random_head(), random_levels())
    weights = [step.branches["same"].weights[index] for index, step in enumerate(steps)]
    assert len({float(weight[0].detach()) for weight in weights}) == len(SIZES)
    for index, step in enumerate(steps):
        sources = {name: list(branch.weights) for name, branch in step.branches.items()}
        wanted = {"same": [index], "finer": [*range(index)], "coarser": [*range(index + 1, len(SIZES))]}
        assert sources == {name: levels for name, levels in wanted.items() if levels}
        for branch in step.branches.values():
            assert all(torch.equal(weight, weights[source]) for source, weight in branch.weights.items())
            assert torch.equal(branch.offset, steps[0].branches["same"].offset)


def test_points_are_those_of_the_median_level() -> None:
    """A change of the median level moves them, and one of another level does not."""
    head, levels = random_head(scale=False), random_levels()

    def offset(changed: int) -> Tensor:
        moved = [level + (index == changed) for index, level in enumerate(levels)]
        return steps_of(head, moved)[0][0].branches["same"].offset

    before = offset(-1)
    assert [torch.equal(offset(changed), before) for changed in range(4)] == [True, False, True, True]


def plain_steps(**switches: bool) -> list[LevelSteps]:
    """Steps of one block, of one image, on the plain grid, with weights of .6 for level 0, .3 for 1 and .1 for 2."""
    torch.manual_seed(0)
    head = DyHead.from_config(DyHeadConfig(channels=CHANNELS, num_blocks=1, form="tensor", **switches), CHANNELS)
    (block,) = head.blocks
    block.scale.weight.data.fill_(1 / CHANNELS)
    values = (0.2, -0.4, -0.8)  # means of the levels, whose weights are (1 + mean) / 2
    return tensor_block_steps(block, [torch.full((1, CHANNELS, 7, 7), value) for value in values])  # type: ignore[arg-type]


def shares_of_one_place() -> list[Tensor]:
    shares = [torch.zeros(7, 7) for _ in range(3)]
    shares[1][3, 2] = 1
    return shares


def test_followed_back_a_place_takes_from_every_level_by_its_weight() -> None:
    for weight, found in zip((0.6, 0.3, 0.1), follow_back(plain_steps(), shares_of_one_place()), strict=True):
        expected = torch.zeros(7, 7)
        expected[2:5, 1:4] = weight / 9
        torch.testing.assert_close(found, expected)


def test_followed_back_without_spatial_aware_attention_a_place_takes_from_itself() -> None:
    wanted = shares_of_one_place()
    for found, expected in zip(follow_back(plain_steps(spatial=False), wanted), wanted, strict=True):
        torch.testing.assert_close(found, expected)
