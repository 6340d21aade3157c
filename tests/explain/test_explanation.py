"""`Detector.explain`: its numbers are the network's, and those that can be planted are where they were planted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dyzoo.config import DyHeadConfig, FasterRCNNConfig, FCOSConfig, RetinaNetConfig
from dyzoo.dyhead import DyHead
from dyzoo.errors import DyzooError, ImageError, SettingError
from dyzoo.explain import MOST_PIXELS, Explanation, explain
from dyzoo.explain.numbers import attribution_shares, line_counts
from dyzoo.explain.places import over_picture, sampling_points
from dyzoo.model.detector import Detector
from dyzoo.model.preprocess import batch_images
from tests.explain.conftest import OFFSETS, planted
from tests.kernels.tolerances import assert_near
from tests.model.narrow_detectors import narrow_detector


def network_outputs(model: Detector, picture: Image.Image) -> list[list[torch.Tensor]]:
    """The output of each block on the network's own way."""
    outputs: list[list[torch.Tensor]] = []
    assert isinstance(model.dyhead, DyHead)
    hooks = [block.register_forward_hook(lambda *a: outputs.append(a[-1].levels())) for block in model.dyhead.blocks]
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    with torch.no_grad():
        model([pixels])
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize("mode", ["flat", "crop", "resize"])
def test_every_block_is_explained_as_the_network_computes_it(mode: Any, picture: Image.Image) -> None:
    model = planted(dyhead=DyHeadConfig(channels=32, num_blocks=2, offset_mode=mode))
    explanation = model.explain(picture)
    for levels, outputs in zip(explanation.blocks, network_outputs(model, picture), strict=True):
        for level, output in zip(levels, outputs, strict=True):
            actual = torch.from_numpy(level.activations["task"])
            assert_near(actual, output[0].abs().mean(dim=0), torch.float32, "forward")


def test_a_block_begins_where_the_one_before_ends(explanation: Explanation) -> None:
    first, second = explanation.blocks
    for before, after in zip(first, second, strict=True):
        np.testing.assert_array_equal(before.activations["task"], after.activations["before"])


@pytest.mark.filterwarnings("ignore::dyzoo.model.missed.MissedWarning")
def test_detections_are_those_of_predict(model: Detector, picture: Image.Image, explanation: Explanation) -> None:
    (expected,) = model.predict(picture)
    torch.testing.assert_close(explanation.detections.scores, expected.scores)
    torch.testing.assert_close(explanation.detections.boxes_xyxy, expected.boxes_xyxy, atol=1e-3, rtol=1e-4)
    assert explanation.detections.labels.tolist() == expected.labels.tolist()


def test_classes_choose_what_is_explained(model: Detector, picture: Image.Image) -> None:
    everything = model.explain(picture).detections
    blue = model.explain(picture, classes=["blue"], detection=0)
    assert 0 < len(blue.detections) < len(everything)
    assert set(blue.detections.class_names) == {"blue"}
    # the score that is followed is the chosen one's, though others stand before it
    best = next(index for index, name in enumerate(everything.class_names) if name == "blue")
    again = model.explain(picture, detection=best)
    assert blue.saliency is not None
    np.testing.assert_array_equal(blue.saliency, again.saliency)


def test_sampling_points_are_where_the_offsets_were_planted(explanation: Explanation) -> None:
    """Level 1 of 4 x 6 positions, 16 px each: (40, 24) is the middle of row 1, column 2."""
    points = sampling_points(explanation, block=1, level=1)
    of_branch = {name: [point for point in points if point.branch == name] for name in ("high", "mid", "low")}
    assert [len(each) for each in of_branch.values()] == [9, 9, 9]
    masks = torch.linspace(-4, 4, 9).sigmoid().tolist()
    for tap in range(9):
        ty, tx = tap // 3 - 1, tap % 3 - 1
        dy, dx = OFFSETS[tap].tolist()
        mid, low, high = (of_branch[name][tap] for name in ("mid", "low", "high"))
        assert mid.tap == (ty, tx)
        assert mid.place_px == pytest.approx(((2.5 + tx + dx) * 16, (1.5 + ty + dy) * 16), abs=1e-3)
        # the finer level at every second position: row 2, column 4
        assert low.sources == (0,)
        assert low.place_px == pytest.approx(((4.5 + tx + dx) * 8, (2.5 + ty + dy) * 8), abs=1e-3)
        # the coarser level, 2 x 3: row 0, column 1 are the nearest when corners are aligned; two of our pixels are one
        assert high.sources == (2,)
        assert high.place_px == pytest.approx(((1.5 + tx + dx / 2) * 32, (0.5 + ty + dy / 2) * 32), abs=1e-3)
        for point in (mid, low, high):
            assert point.mask == pytest.approx(masks[tap], abs=1e-5)
            moved_px = dx * (8 if point is low else 16)
            assert point.grid_px[0] == pytest.approx(point.place_px[0] - moved_px, abs=1e-3)


def test_scale_weights_are_those_that_were_planted(picture: Image.Image) -> None:
    """Without weights the bias alone counts: (relu(.6) + 3) / 6, and 1/2 where the ReLU cuts it off."""
    model = planted()
    for block, bias in zip(model.dyhead.blocks, (-2.0, 0.6), strict=True):
        block.scale_weight.data.zero_()
        block.scale_bias.data.fill_(bias)
    explanation = model.explain(picture)
    for levels, expected in zip(explanation.blocks, (0.5, 0.6), strict=True):
        names = [list(level.branches) for level in levels]
        assert names == [["high", "mid"], *[["high", "mid", "low"]] * 3, ["mid", "low"]]
        for index, level in enumerate(levels):
            for name, branch in level.branches.items():
                assert branch.weights == {index + {"high": 1, "mid": 0, "low": -1}[name]: pytest.approx(expected)}


def test_channels_take_the_lines_that_were_planted(picture: Image.Image) -> None:
    """Line 1 is 0 * x + .5 everywhere, line 2 is x - .5 for one half of the channels and 0 * x - .5 for the other."""
    model = planted()
    block = model.dyhead.blocks[-1]
    block.relu_weight2.data.zero_()
    high, low, middle = 9.0, -9.0, 0.0  # hard sigmoid: 1, 0 and 1/2
    halves = torch.cat([torch.full((16,), high), torch.full((16,), middle)])
    block.relu_bias2.data = torch.cat([torch.full((32,), low), torch.full((32,), high), halves, torch.full((32,), low)])
    for level in model.explain(picture).blocks[-1]:
        np.testing.assert_allclose(level.slopes, [[0] * 32, [1] * 16 + [0] * 16], atol=1e-6)
        np.testing.assert_allclose(level.intercepts, [[0.5] * 32, [-0.5] * 32], atol=1e-6)
        assert (level.first_share[16:] == 1).all()
        counts = line_counts(level)
        assert sum(counts.values()) == 32
        assert counts["first"] >= 16
        assert (level.activations["task"] >= 0.5 - 1e-6).all()


def test_the_last_attribution_is_the_score_by_hand(model: Detector, picture: Image.Image) -> None:
    """The class and centerness layers are 1x1: a score hangs on one position, and its gradient there is a product."""
    explanation = model.explain(picture, detection=2)
    found = explanation.detections[2]
    maps = [level.attributions["task"] for level in explanation.blocks[-1]]  # type: ignore[index]
    assert sum(int((each > 0).sum()) for each in maps) == 1
    level = next(index for index, each in enumerate(maps) if each.any())
    row, column = (int(index[0]) for index in maps[level].nonzero())
    features = network_outputs(model, picture)[-1][level][0, :, row, column]
    cls, centerness = model.head.cls, model.head.centerness
    weight, center = cls.weight[found.label, :, 0, 0], centerness.weight[0, :, 0, 0]
    p = (weight @ features + cls.bias[found.label]).sigmoid().detach()
    c = (center @ features + centerness.bias[0]).sigmoid().detach()
    assert float(p * c) == pytest.approx(found.score, rel=1e-4)
    gradient = p * c * ((1 - p) * weight + (1 - c) * center)
    assert float(maps[level].max()) == pytest.approx(float((gradient * features).norm().detach()), rel=1e-3)
    assert attribution_shares(explanation)[-1][level] == 1
    assert explanation.level == level
    stride = explanation.blocks[0][level].stride_px
    assert explanation.place == ((column + 0.5) * stride, (row + 0.5) * stride)


def test_the_gradient_by_the_pixels_is_what_a_small_change_does(picture: Image.Image) -> None:
    model = planted().double()
    explanation = model.explain(picture)
    assert explanation.saliency is not None
    row, column = np.unravel_index(explanation.saliency.argmax(), explanation.saliency.shape)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).double() / 255
    std = torch.tensor(model.config.preprocess.std).double() / 255
    slopes, small = [], 0.02  # of the normalised pixel; the head computes in float32, which sees nothing smaller
    for color in range(3):
        scores = []
        for step in (-small, small):
            moved = pixels.clone()
            moved[color, row, column] += step * std[color]
            with torch.no_grad():
                scores.append(model([moved])[0]["scores"][0].item())
        slopes.append((scores[1] - scores[0]) / (2 * small))
    assert float(np.linalg.norm(slopes)) == pytest.approx(float(explanation.saliency.max()), rel=0.05)


HEADS = [RetinaNetConfig(prior_probability=0.9), FCOSConfig(prior_probability=0.9), FasterRCNNConfig()]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.type)
def test_detections_of_every_head_are_explained(head: Any, picture: Image.Image) -> None:
    explanation = planted(head=replace(head, max_detections=5)).explain(picture, threshold=0.0)
    assert explanation.detection == 0
    assert explanation.saliency is not None
    assert explanation.saliency.max() > 0
    assert sum(attribution_shares(explanation)[0]) == pytest.approx(1)


def test_what_lies_outside_of_the_chosen_numbers_is_refused(model: Detector, picture: Image.Image) -> None:
    for arguments, words in [
        ({"block": 2}, "block is 2, expected 0 to 1"),
        ({"block": True}, "block is True, expected 0 to 1"),
        ({"level": -1}, "level is -1, expected 0 to 4"),
        ({"detection": 5}, "detection is 5, expected 0 to 4"),
        ({"detection": 0, "threshold": 1.0}, "nothing was found: lower the threshold"),
        ({"place": (97, 0)}, r"place is \(97, 0\), expected a place in the picture of 96 x 64 pixels"),
        ({"place": (float("nan"), 0)}, "expected a place in the picture"),
        ({"place": "left"}, r"expected \(x, y\)"),
        ({"threshold": 2.0}, "threshold is 2.0"),
    ]:
        with pytest.raises(SettingError, match=words):
            model.explain(picture, **arguments)


def test_a_picture_too_large_for_the_memory_is_refused_before_it_is_made(model: Detector, picture: Image.Image) -> None:
    with pytest.raises(ImageError, match=r"2\.1 million for an explanation: choose a smaller size") as caught:
        model.explain(picture, size=int(MOST_PIXELS**0.5) * 2)
    assert "\n" not in str(caught.value)


def test_detectors_that_cannot_be_explained_are_refused_on_one_line(picture: Image.Image) -> None:
    for model, words in [
        (narrow_detector(dyhead=DyHeadConfig(channels=32, num_blocks=0)), "no DyHead blocks"),
        (narrow_detector(dyhead=DyHeadConfig(channels=32, num_blocks=0, form="tensor")), "no DyHead blocks"),
        (planted().half(), r"call model\.float\(\) first"),
    ]:
        with pytest.raises(SettingError, match=words) as caught:
            model.explain(picture)
        assert "\n" not in str(caught.value)
    with pytest.raises(SettingError, match="cannot be explained"):
        explain(object(), picture)


def test_broken_weights_are_named(picture: Image.Image) -> None:
    model = planted()
    model.dyhead.blocks[0].conv_weight.data[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(DyzooError, match="block 0 gives numbers that are not finite"):
        model.explain(picture)


def test_nothing_found_is_explained_as_far_as_it_goes(model: Detector, picture: Image.Image) -> None:
    explanation = model.explain(picture, threshold=1.0)
    assert explanation.detection is None
    assert explanation.saliency is None
    assert explanation.place == (48, 32)
    assert all(level.attributions is None for levels in explanation.blocks for level in levels)
    with pytest.raises(SettingError, match="nothing was found"):
        explanation.panel("object")


def test_the_model_is_left_as_it_was(picture: Image.Image) -> None:
    """No gradient stays at the weights, its mode is what it was, and the caller's own may be anything."""
    model = planted().train()
    with torch.inference_mode():
        inside = model.explain(picture)
    assert inside.saliency is not None
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_places_of_a_smaller_picture_are_brought_to_the_network(model: Detector, picture: Image.Image) -> None:
    half = picture.resize((48, 32))
    assert model.explain(half, place=(20, 12)).place == (40, 24)


def test_a_map_lies_over_the_picture_where_its_positions_are() -> None:
    values = np.zeros((2, 3), np.float32)
    values[1, 2] = 1
    placed = over_picture(values, (8, 8), 0.5, (16, 24), (16, 24))
    assert placed[12, 20] == pytest.approx(1, abs=0.1)  # the middle of row 1, column 2
    assert placed[15, 23] == 1  # goes on beyond
    assert placed[7:9, 20].mean() == pytest.approx(0.5, abs=0.1)
    assert placed[:4].max() == 0


def test_reach_shares_sum_to_one(explanation: Explanation) -> None:
    for levels in explanation.reach:
        assert sum(float(level.sum()) for level in levels) == pytest.approx(1, abs=1e-4)


def test_stages_have_one_size(explanation: Explanation, model: Detector, picture: Image.Image) -> None:
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    batch, _ = batch_images([pixels], model.config.preprocess, model.device)
    for level in explanation.blocks[0]:
        assert level.size == tuple(-(-edge // level.stride_px) for edge in batch.shape[2:])
        assert level.cell_px == (level.stride_px, level.stride_px)
        assert list(level.activations) == ["before", "spatial", "scale", "task"]
        assert all(values.shape == level.size for values in level.activations.values())
