"""Our operators in steps of PyTorch's and torchvision's, each beside the operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dyzoo.config import DyHeadConfig
from dyzoo.dyhead import DyHead
from dyzoo.dyhead.levelwise import LevelwiseDyHead, levelwise_block
from dyzoo.export.plain import decompositions, pool_levels_of_batch, suppress
from dyzoo.export.regions import pool_regions
from dyzoo.export.windows import window_attention
from dyzoo.model.heads.fixed_size import suppress_to_fixed_size


def random_levels(generator: torch.Generator) -> list[Tensor]:
    """Levels down to one of a single row."""
    return [torch.randn(2, 16, -(-9 // 2**k), -(-30 // 2**k), generator=generator) for k in range(5)]


@pytest.mark.parametrize("form", ["node", "grid-sample"])
@pytest.mark.parametrize("offset_mode", ["flat", "crop", "resize"])
def test_a_block_is_the_operator(offset_mode: Any, form: Any) -> None:
    assert_block_is_the_operator(form, DyHeadConfig(channels=16, num_blocks=1, offset_mode=offset_mode))


@pytest.mark.parametrize("off", ["scale", "spatial", "task"])
def test_a_block_without_an_attention_is_the_operator(off: str) -> None:
    config = DyHeadConfig(channels=16, num_blocks=1, **{off: False})  # type: ignore[arg-type]
    assert_block_is_the_operator("node", config)


def assert_block_is_the_operator(form: Any, config: DyHeadConfig) -> None:
    torch.manual_seed(0)
    dyhead, offset_mode = DyHead.from_config(config, 16).eval(), config.offset_mode
    with torch.no_grad():
        for parameter in dyhead.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    block = LevelwiseDyHead(dyhead).blocks[0]
    levels = random_levels(torch.Generator().manual_seed(1))
    steps = decompositions(form)[levelwise_block._opoverload]
    for want, got in zip(
        levelwise_block(levels, list(block), offset_mode), steps(levels, list(block), offset_mode), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5 * float(want.abs().max()))


@pytest.mark.parametrize("inclusive_corners", [False, True], ids=["plain", "inclusive"])
@pytest.mark.parametrize("clip_before_nms", [False, True], ids=["clip_after", "clip_before"])
@pytest.mark.parametrize("count", [90, 7], ids=["many", "few"])
def test_suppression_keeps_the_same_boxes(count: int, clip_before_nms: bool, inclusive_corners: bool) -> None:
    generator = torch.Generator().manual_seed(count)
    starts = torch.randint(0, 6, (2, count, 2), generator=generator) * 10.0
    starts += torch.rand(2, count, 2, generator=generator) * 3
    boxes = torch.cat([starts, starts + 12 + 6 * torch.rand(2, count, 2, generator=generator)], dim=2)
    labels = torch.randint(0, 3, (2, count), generator=generator)
    present = torch.rand(2, count, generator=generator) < 0.9
    present[1] &= count != 7  # nothing in the second picture
    scores = torch.randn(2, count, generator=generator)
    given = (boxes, scores, labels, present, torch.tensor([[40, 50], [55, 38]]))
    settings = (clip_before_nms, 0.5, 30, inclusive_corners)
    for want, got in zip(suppress_to_fixed_size(*given, *settings), suppress(*given, *settings), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_regions_are_pooled_as_by_the_operator() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 4, side, 3 * side, generator=generator) for side in (16, 8)]
    starts = torch.rand(2, 9, 2, generator=generator) * 100
    sides = torch.tensor([0.0, 5, 30, 90, 150, 223, 230, 260, 300])[:, None]
    boxes = torch.cat([starts, starts + sides], dim=2)
    want, got = (pool(maps, boxes, [16, 32], 3) for pool in (pool_regions, pool_levels_of_batch))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


class ShiftedWindows(torch.nn.Module):
    """Attention in windows of 3 x 3 that are shifted, of 4 channels and 2 heads."""

    def __init__(self) -> None:
        super().__init__()
        shapes = ((12, 4), (12,), (4, 4), (4,), (1, 2, 9, 9))
        self.weights = torch.nn.ParameterList(torch.nn.Parameter(torch.randn(shape)) for shape in shapes)

    def forward(self, maps: Tensor) -> Tensor:
        return window_attention(maps, *self.weights, [3, 3], [1, 1])


def test_shifted_windows_become_steps_of_a_program() -> None:
    torch.manual_seed(0)
    network, maps = ShiftedWindows(), torch.randn(2, 7, 8, 4)
    with torch.no_grad():
        program = torch.export.export(network, (maps,), strict=False).run_decompositions(decompositions("node"))
        assert not [node for node in program.graph.nodes if "dyzoo" in str(node.target)]
        torch.testing.assert_close(program.module()(maps), network(maps), rtol=0, atol=1e-6)
