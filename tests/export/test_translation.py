"""Our operators in ONNX, each beside its form in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.export import Dim

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime", minversion="1.25.1")

from dyzoo.dyhead import DyHead
from dyzoo.dyhead.levelwise import LevelwiseDyHead, levelwise_block
from dyzoo.export.regions import pool_regions, pool_regions_translation
from dyzoo.export.suppression import suppress
from dyzoo.export.translation import block_translation
from dyzoo.export.windows import use_operators, window_attention, window_attention_translation
from dyzoo.model.backbones.layers import pad_swin_blocks
from dyzoo.model.heads.fixed_size import suppress_to_fixed_size
from tests.export.graphs import onnx_answers

TOLERANCE = 2e-5


def rough_dyhead(offset_mode: Any, conv_bias: bool = True) -> DyHead:
    torch.manual_seed(0)
    dyhead = DyHead(16, blocks=1, offset_mode=offset_mode, conv_bias=conv_bias).eval()
    with torch.no_grad():
        for parameter in dyhead.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return dyhead


class OfLevels(nn.Module):
    def __init__(self, dyhead: DyHead) -> None:
        super().__init__()
        self.dyhead = LevelwiseDyHead(dyhead)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> list[Tensor]:
        return self.dyhead([fine, middle, coarse])


def levels(number: int, height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(height)
    return [torch.randn(number, 16, height * 2**n, width * 2**n, generator=generator) for n in (2, 1, 0)]


@pytest.mark.parametrize("form", ["node", "grid-sample"])
@pytest.mark.parametrize("offset_mode", ["flat", "crop", "resize"])
def test_a_block_computes_the_same_at_every_size(offset_mode: str, form: Any, tmp_path: Path) -> None:
    dyhead = rough_dyhead(offset_mode, conv_bias=offset_mode != "crop")
    number, height, width = Dim("n"), Dim("h", max=64), Dim("w", max=64)
    shapes = tuple({0: number, 2: 2**n * height, 3: 2**n * width} for n in (2, 1, 0))
    given = levels(1, 1, 3)  # a coarsest level of one row
    answers = onnx_answers(
        OfLevels(dyhead),
        tuple(levels(2, 3, 4)),
        shapes,
        {levelwise_block._opoverload: block_translation(form)},
        tmp_path / "block.onnx",
        given,
    )
    with torch.no_grad():
        for want, got in zip(dyhead(given), answers, strict=True):
            assert want.shape == got.shape
            assert (want - torch.from_numpy(got)).abs().max() < TOLERANCE * want.abs().max()


@pytest.mark.parametrize("offset_mode", ["flat", "crop", "resize"])
def test_blocks_over_levels_are_blocks_over_a_pyramid(offset_mode: str) -> None:
    dyhead = rough_dyhead(offset_mode)
    with torch.no_grad():
        for want, got in zip(dyhead(levels(2, 2, 3)), LevelwiseDyHead(dyhead)(levels(2, 2, 3)), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


class Suppressing(nn.Module):
    def __init__(self, clip_before_nms: bool, most: int, inclusive_corners: bool) -> None:
        super().__init__()
        self.settings = (clip_before_nms, 0.5, most, inclusive_corners)

    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor, present: Tensor, sizes: Tensor) -> Any:
        return suppress_to_fixed_size(boxes, scores, labels, present, sizes, *self.settings)


def candidates(count: int) -> list[Tensor]:
    """Clusters of boxes in three classes, some of them outside of the picture, negative scores, and absent ones.

    None begins left of the picture or above: torchvision keeps classes apart by moving their boxes to the right, and
    suppresses such a box by another class's.
    """
    generator = torch.Generator().manual_seed(count)
    starts = torch.randint(0, 6, (2, count, 2), generator=generator) * 10
    starts = starts + torch.rand(2, count, 2, generator=generator) * 3
    boxes = torch.cat([starts, starts + 12 + 6 * torch.rand(2, count, 2, generator=generator)], dim=2)
    scores = torch.randn(2, count, generator=generator)
    labels = torch.randint(0, 3, (2, count), generator=generator)
    present = torch.rand(2, count, generator=generator) < 0.9
    present[1] &= count != 7  # nothing in the second picture
    return [boxes, scores, labels, present, torch.tensor([[40, 50], [55, 38]])]


@pytest.mark.parametrize("inclusive_corners", [False, True], ids=["plain", "inclusive"])
@pytest.mark.parametrize("clip_before_nms", [False, True], ids=["clip_after", "clip_before"])
@pytest.mark.parametrize("count", [90, 7], ids=["many", "few"])
def test_suppression_keeps_the_same_boxes(
    count: int, clip_before_nms: bool, inclusive_corners: bool, tmp_path: Path
) -> None:
    module = Suppressing(clip_before_nms, 30, inclusive_corners)
    number, total = Dim("n"), Dim("t")
    shapes = (*({0: number, 1: total} for _ in range(4)), {0: number})
    given = candidates(count)
    answers = onnx_answers(
        module,
        tuple(candidates(50)),
        shapes,
        {suppress_to_fixed_size._opoverload: suppress},
        tmp_path / "suppress.onnx",
        given,
    )
    for want, got in zip(cast("list[Tensor]", module(*given)), answers, strict=True):
        torch.testing.assert_close(torch.from_numpy(got), want, rtol=0, atol=1e-5)
    assert answers[3].max() > 1


class Pooling(nn.Module):
    def forward(self, fine: Tensor, coarse: Tensor, boxes: Tensor) -> Tensor:
        return cast(Tensor, pool_regions([fine, coarse], boxes, [16, 32], 3))


def test_regions_are_pooled_from_the_level_of_their_size(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def maps(height: int) -> tuple[Tensor, Tensor]:
        return (
            torch.randn(2, 4, 2 * height, 24, generator=generator),
            torch.randn(2, 4, height, 12, generator=generator),
        )

    starts = torch.rand(2, 9, 2, generator=generator) * 100
    sides = torch.tensor([0.0, 5, 30, 90, 150, 223, 230, 260, 300])[:, None]
    boxes = torch.cat([starts, starts + sides], dim=2)
    height = Dim("h")
    shapes = ({2: 2 * height}, {2: height}, {1: Dim("p")})
    given = [*maps(9), boxes]
    (got,) = onnx_answers(
        Pooling(),
        (*maps(7), boxes[:, :5].contiguous()),
        shapes,
        {pool_regions._opoverload: pool_regions_translation},
        tmp_path / "pool.onnx",
        given,
    )
    torch.testing.assert_close(torch.from_numpy(got), Pooling()(*given), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shift", [0, 2], ids=["plain", "shifted"])
def test_attention_in_windows_is_timms_at_every_size(shift: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    block = SwinTransformerBlock(
        8, (28, 28), num_heads=2, window_size=4, shift_size=shift, dynamic_mask=True, always_partition=True
    ).eval()
    with torch.no_grad():
        for parameter in block.attn.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    pad_swin_blocks(parent := nn.ModuleList([block]))
    given = torch.randn(2, 9, 6, 8)
    with torch.no_grad():
        want = block(given)
    use_operators(parent)
    with torch.no_grad():
        torch.testing.assert_close(block(given), want, rtol=0, atol=TOLERANCE)
    (got,) = onnx_answers(
        block,
        (torch.randn(3, 8, 12, 8),),
        ({0: Dim("n"), 1: Dim("h"), 2: Dim("w")},),
        {window_attention._opoverload: window_attention_translation},
        tmp_path / "windows.onnx",
        [given],
    )
    torch.testing.assert_close(torch.from_numpy(got), want, rtol=0, atol=TOLERANCE)
