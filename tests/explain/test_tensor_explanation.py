"""Explanations of detectors of the tensor form: places, weights, lines and gradients on the one grid of its levels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dyzoo.config import ATSSConfig, DyHeadConfig
from dyzoo.dyhead import split_from_median
from dyzoo.explain import PANELS, Explanation
from dyzoo.explain.numbers import attribution_shares
from dyzoo.explain.page import page
from dyzoo.explain.pictures import BRANCH_COLORS
from dyzoo.explain.places import sampling_points
from dyzoo.model.detector import Detector
from tests.explain.conftest import OFFSETS
from tests.kernels.tolerances import assert_near
from tests.model.narrow_detectors import narrow_config, narrow_detector

HEAD = ATSSConfig(prior_probability=0.9, max_detections=5, anchor_center_offset=0.0)


def planted_tensor(switches: dict[str, bool] | None = None, **changes: Any) -> Detector:
    """Two blocks; where the last has attentions, its offsets are `OFFSETS` and its scale weights .6."""
    dyhead = DyHeadConfig(channels=32, num_blocks=2, form="tensor", **(switches or {}))
    model = narrow_detector((64, 128), **{"labels": ("red", "blue"), "head": HEAD, "dyhead": dyhead, **changes})
    last = model.dyhead.blocks[-1]
    if last.spatial is not None:
        last.spatial.offset_bias.data[:18] = OFFSETS.flatten()
        last.spatial.offset_bias.data[18:] = torch.linspace(-4, 4, 9)
    if last.scale is not None:
        last.scale.weight.data.zero_()
        last.scale.bias.data.fill_(0.2)
    return model


@pytest.fixture(scope="module")
def tensor_model() -> Detector:
    return planted_tensor()


@pytest.fixture(scope="module")
def tensor_explanation(tensor_model: Detector, picture: Image.Image) -> Explanation:
    return tensor_model.explain(picture, place=(40, 24), level=1)


def network_outputs(model: Detector, picture: Image.Image) -> list[Tensor]:
    """The output (N, L, S, C) of each block on the network's own way."""
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *a: outputs.append(a[-1])) for block in model.dyhead.blocks]
    with torch.no_grad():
        model([torch.from_numpy(np.array(picture)).permute(2, 0, 1)])
    for hook in hooks:
        hook.remove()
    return outputs


def test_every_block_is_explained_as_the_network_computes_it(
    tensor_model: Detector, tensor_explanation: Explanation, picture: Image.Image
) -> None:
    for levels, output in zip(tensor_explanation.blocks, network_outputs(tensor_model, picture), strict=True):
        for index, level in enumerate(levels):
            assert list(level.activations) == ["before", "scale", "spatial", "task"]
            actual = torch.from_numpy(level.activations["task"]).flatten()
            assert_near(actual, output[0, index].abs().mean(dim=1), torch.float32, "forward")
    first, second = tensor_explanation.blocks
    for before, after in zip(first, second, strict=True):
        np.testing.assert_array_equal(before.activations["task"], after.activations["before"])


@pytest.mark.filterwarnings("ignore::dyzoo.model.missed.MissedWarning")
def test_detections_are_those_of_predict(
    tensor_model: Detector, tensor_explanation: Explanation, picture: Image.Image
) -> None:
    (expected,) = tensor_model.predict(picture)
    assert len(expected) == 5
    torch.testing.assert_close(tensor_explanation.detections.scores, expected.scores)
    torch.testing.assert_close(tensor_explanation.detections.boxes_xyxy, expected.boxes_xyxy, atol=1e-3, rtol=1e-4)


def test_all_levels_lie_on_the_grid_of_the_median_one(tensor_explanation: Explanation) -> None:
    """64 x 96 pixels are 2 x 3 positions of 32 pixels, whatever the place of the head's anchors."""
    for levels in tensor_explanation.blocks:
        assert [level.stride_px for level in levels] == [8, 16, 32, 64, 128]
        assert {level.size for level in levels} == {(2, 3)}
        assert {level.cell_px for level in levels} == {(32, 32)}
    assert tensor_explanation.center_offset == 0.5


def test_a_grid_that_does_not_fit_is_stretched_over_the_input() -> None:
    preprocess = replace(narrow_config((64, 128)).preprocess, size_divisor=1)
    noise = np.random.default_rng(0).integers(0, 255, (64, 100, 3), dtype=np.uint8)
    explanation = planted_tensor(preprocess=preprocess).explain(noise, place=(99, 1))
    assert explanation.blocks[0][0].size == (2, 4)
    assert explanation.blocks[0][0].cell_px == (32, 25)
    middle = sampling_points(explanation, block=0, level=0)[4]
    assert middle.grid_px == (3.5 * 25, 16)


def test_branches_have_their_points_in_common(tensor_explanation: Explanation) -> None:
    """Row 0 and column 1, whose middle is at (48, 16), are the nearest to (40, 24)."""
    points = sampling_points(tensor_explanation, block=1, level=1)
    masks = torch.linspace(-4, 4, 9).sigmoid().tolist()
    sources = {"coarser": (2, 3, 4), "same": (1,), "finer": (0,)}
    assert [point.branch for point in points] == [name for name in sources for _ in range(9)]
    for index, point in enumerate(points):
        ty, tx = point.tap
        dy, dx = OFFSETS[index % 9].tolist()
        assert (3 * (ty + 1) + tx + 1, point.sources) == (index % 9, sources[point.branch])
        assert point.grid_px == ((1.5 + tx) * 32, (0.5 + ty) * 32)
        assert point.place_px == pytest.approx(((1.5 + tx + dx) * 32, (0.5 + ty + dy) * 32), abs=1e-3)
        assert point.mask == pytest.approx(masks[index % 9], abs=1e-5)


def test_scale_weights_are_those_that_were_planted(tensor_explanation: Explanation) -> None:
    for level in tensor_explanation.blocks[1]:
        weights = {source: weight for branch in level.branches.values() for source, weight in branch.weights.items()}
        assert weights == {source: pytest.approx(0.6) for source in range(5)}
        ratio = level.activations["scale"] / level.activations["before"]
        np.testing.assert_allclose(ratio, np.full((2, 3), 0.6), rtol=1e-5)


def test_all_levels_have_the_same_lines(tensor_explanation: Explanation) -> None:
    for first, *others in tensor_explanation.blocks:
        assert np.ptp(first.slopes) > 0
        for level in others:
            np.testing.assert_array_equal(level.slopes, first.slopes)
            np.testing.assert_array_equal(level.intercepts, first.intercepts)
        assert len({level.first_share.tobytes() for level in (first, *others)}) > 1


def test_the_last_attribution_is_the_score_by_hand(tensor_model: Detector, picture: Image.Image) -> None:
    """The class and centerness layers are 1x1, but their position is resized from several of the blocks' grid."""
    explanation = tensor_model.explain(picture, detection=2)
    found = explanation.detections[2]
    level = explanation.level
    assert attribution_shares(explanation)[-1][level] == 1
    tensor = network_outputs(tensor_model, picture)[-1].requires_grad_()
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    features = split_from_median(tensor, (2, 3), sizes)[level][0]
    cls, centerness = tensor_model.head.cls, tensor_model.head.centerness
    scores = cls(features[None])[0, found.label].sigmoid() * centerness(features[None])[0, 0].sigmoid()
    row, column = divmod(int((scores - found.score).abs().argmin()), sizes[level][1])
    assert float(scores[row, column].detach()) == pytest.approx(found.score, rel=1e-4)
    (gradient,) = torch.autograd.grad(scores[row, column], tensor)
    expected = (gradient * tensor)[0, level].norm(dim=1).detach().unflatten(0, (2, 3)).numpy()
    maps = explanation.blocks[-1][level].attributions
    assert maps is not None
    np.testing.assert_allclose(maps["task"], expected, rtol=1e-3, atol=1e-6 * expected.max())
    row, column = np.unravel_index(expected.argmax(), expected.shape)
    assert explanation.place == ((column + 0.5) * 32, (row + 0.5) * 32)


def test_the_gradient_reaches_the_pixels_and_every_stage(tensor_explanation: Explanation) -> None:
    assert tensor_explanation.saliency is not None
    assert tensor_explanation.saliency.max() > 0
    for levels in tensor_explanation.blocks:
        for stage in tensor_explanation.stages:
            assert max(float(level.attributions[stage].max()) for level in levels) > 0  # type: ignore[index]
    for levels in tensor_explanation.reach:
        assert sum(float(level.sum()) for level in levels) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("off", ["scale", "spatial", "task"])
def test_an_attention_that_is_switched_off_is_seen_to_do_nothing(off: str, picture: Image.Image) -> None:
    explanation = planted_tensor({off: False}).explain(picture)
    level = explanation.blocks[1][2]
    points = sampling_points(explanation, 1, 2)
    found = {
        "scale": all(branch.weights == dict.fromkeys(branch.weights, 1.0) for branch in level.branches.values()),
        "spatial": [(point.tap, point.place_px == point.grid_px) for point in points if point.mask] == [((0, 0), True)],
        "task": (level.slopes == [[1.0], [0.0]]).all() and not level.intercepts.any(),
    }
    assert [name for name, is_neutral in found.items() if is_neutral] == [off]
    assert explanation.switched_off == (off,)
    assert f"after {off}-aware (switched off)" in page(explanation)
    assert list(level.branches) == (["same"] if off == "spatial" else ["coarser", "same", "finer"])
    assert explanation.saliency is not None
    assert explanation.saliency.max() > 0
    for kind in PANELS:
        assert explanation.panel(kind).mode == "RGB"


def test_numbers_and_page_are_of_the_form(tensor_explanation: Explanation, tmp_path: Path) -> None:
    tensor_explanation.save(tmp_path)
    numbers = json.loads((tmp_path / "explain.json").read_text(encoding="utf-8"))
    assert (numbers["form"], numbers["stages"]) == ("tensor", ["before", "scale", "spatial", "task"])
    level = numbers["blocks"][1]["levels"][1]
    assert (level["stride_px"], level["cell_height_px"], level["cell_width_px"]) == (16, 32, 32)
    assert level["scale_weights"] == {
        "coarser": {name: pytest.approx(0.6) for name in "234"},
        "same": {"1": pytest.approx(0.6)},
        "finer": {"0": pytest.approx(0.6)},
    }
    assert [point["sampled_levels"] for point in level["sampling"]["points"][::9]] == [[2, 3, 4], [1], [0]]
    text = page(tensor_explanation)
    titles = [text.index(f"<figcaption>after {name}-aware") for name in ("scale", "spatial", "task")]
    assert titles == sorted(titles)
    assert "samples all finer levels" in text
    assert "high, one level coarser" not in text


def test_a_shared_point_shows_the_colour_of_each_branch(tensor_explanation: Explanation) -> None:
    for level, names in ((0, ("coarser", "same")), (1, ("coarser", "same", "finer"))):
        pixels = np.asarray(tensor_explanation.panel("sampling", 1, level)).reshape(-1, 3)
        legend_px = 200  # a legend's dot is smaller than the sectors of nine points
        for name in names:
            assert (pixels == BRANCH_COLORS[name]).all(axis=1).sum() > legend_px
