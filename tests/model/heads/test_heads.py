"""Promises of every head, whatever its kind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dyzoo.model.heads import ATSSHead, FasterRCNNHead, FCOSHead, GroundedATSSHead, RetinaNetHead, build_head
from dyzoo.model.heads.base import Head
from dyzoo.model.heads.matching import MAX_PAIRS
from tests.model.heads.head_cases import (
    CHANNELS,
    CLASSES,
    CONFIGS,
    IMAGE_SIZE,
    LOSSES,
    NOTHING,
    OBJECTS,
    STRIDES_PX,
    assert_gradients,
    assert_sound,
    make_features,
    make_head,
    random_objects,
    spread_out,
    tensor_sizes,
)

every_head = pytest.mark.parametrize("kind", CONFIGS)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def losses_of(head: Head, features: list[Tensor], targets: list[dict[str, Tensor]], seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return head.losses(head(features), targets, [IMAGE_SIZE] * len(targets))


def test_build_head_makes_what_the_config_describes() -> None:
    kinds = {
        "atss": ATSSHead,
        "grounded_atss": GroundedATSSHead,
        "retinanet": RetinaNetHead,
        "fcos": FCOSHead,
        "faster_rcnn": FasterRCNNHead,
    }
    for kind, config in CONFIGS.items():
        assert type(build_head(config, CHANNELS, CLASSES, STRIDES_PX)) is kinds[kind]
    with pytest.raises(ValueError, match="expected one of the configurations"):
        build_head("atss", CHANNELS, CLASSES, STRIDES_PX)


@pytest.mark.parametrize("kind", ["atss", "retinanet"])
def test_a_new_head_gives_every_class_the_prior_probability(kind: str) -> None:
    raw = make_head(kind, prior_probability=0.02)([torch.zeros_like(level) for level in make_features()])
    for level in raw["cls"]:
        torch.testing.assert_close(level.sigmoid(), torch.full_like(level, 0.02))


@every_head
def test_another_number_of_levels_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="got 2 feature maps, expected 3"):
        make_head(kind)(make_features()[:2])


@every_head
@pytest.mark.parametrize("num_classes", [1, CLASSES])
def test_losses_are_finite_positive_scalars_and_reach_everything(kind: str, num_classes: int) -> None:
    head = make_head(kind, num_classes)
    features = [level.requires_grad_() for level in make_features(batch=2)]
    target = {"boxes": OBJECTS["boxes"], "labels": OBJECTS["labels"].clamp(max=num_classes - 1)}
    losses = losses_of(head, features, [target, NOTHING])
    assert set(losses) == LOSSES[kind]
    for name, value in losses.items():
        assert value.shape == (), name
        assert 0 < value < 100, name
    total(losses).backward()
    for name, parameter in [*head.named_parameters(), *((f"features {i}", f) for i, f in enumerate(features))]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().amax() > 0, name


@every_head
@pytest.mark.parametrize("targets", [[NOTHING], [NOTHING, NOTHING]])
def test_without_objects_losses_are_finite_and_reach_every_parameter(
    kind: str, targets: list[dict[str, Tensor]]
) -> None:
    head = make_head(kind)
    losses = losses_of(head, make_features(batch=len(targets)), targets)
    assert losses["loss_cls"] > 0
    assert losses["loss_box"] == 0
    total(losses).backward()
    assert_gradients(head)


@every_head
def test_targets_may_be_of_other_number_types(kind: str) -> None:
    head, features = make_head(kind).eval(), make_features()
    expected = losses_of(head, features, [OBJECTS])
    converted = {"boxes": OBJECTS["boxes"].double(), "labels": OBJECTS["labels"].int()}
    for name, value in losses_of(head, features, [converted]).items():
        torch.testing.assert_close(value, expected[name])


@every_head
def test_an_image_has_the_same_share_of_the_losses_in_any_place_of_the_batch(kind: str) -> None:
    # every anchor and every proposal takes part, so that nothing is left to chance
    everything = {"rpn_batch_size": 10**6, "roi_batch_size": 10**6, "roi_positive_fraction": 1.0}
    head = make_head(kind, **(everything if kind == "faster_rcnn" else {})).eval()
    first, second, other = make_features(seed=1), make_features(seed=2), random_objects(4, seed=3)
    both = [torch.cat(pair) for pair in zip(first, second, strict=True)]
    straight = losses_of(head, both, [OBJECTS, other])
    swapped = losses_of(head, [level.flip(0) for level in both], [other, OBJECTS])
    mismatched = losses_of(head, both, [other, OBJECTS])
    for name, value in straight.items():
        torch.testing.assert_close(swapped[name], value, rtol=1e-4, atol=0)
    assert any(not torch.isclose(mismatched[name], value, rtol=1e-3) for name, value in straight.items())


@every_head
def test_a_seed_decides_losses_gradients_and_detections(kind: str) -> None:
    features, target = make_features(), random_objects(40)
    results = []
    for seed in (7, 7, 8):
        head = spread_out(make_head(kind, **({"rpn_batch_size": 8} if kind == "faster_rcnn" else {})))
        losses = losses_of(head, features, [target], seed)
        total(losses).backward()
        gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
        results.append({**losses, **gradients, **head.eval().decode(head(features), [IMAGE_SIZE])[0]})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=0, atol=0)
    if kind == "faster_rcnn":
        assert results[2]["loss_objectness"] != results[0]["loss_objectness"]


@every_head
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_losses_are_float32_and_near_those_without(kind: str, dtype: torch.dtype) -> None:
    head, features = make_head(kind).eval(), make_features()
    expected = losses_of(head, features, [OBJECTS])
    with torch.autocast("cpu", dtype=dtype):
        raw = head([level.to(dtype) for level in features])
        torch.manual_seed(0)
        losses = head.losses(raw, [OBJECTS], [IMAGE_SIZE])
        found = head.decode(raw, [IMAGE_SIZE])[0]
    assert raw["box"][0].dtype == dtype
    for name, value in losses.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, expected[name], rtol=0.03, atol=0)
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    total(losses).backward()
    assert_gradients(head)


@every_head
def test_a_head_in_half_precision_has_float32_losses_and_detections(kind: str) -> None:
    expected = losses_of(make_head(kind), make_features(), [OBJECTS])
    head = make_head(kind).to(torch.bfloat16)
    raw = head([level.to(torch.bfloat16) for level in make_features()])
    torch.manual_seed(0)
    for name, value in head.losses(raw, [OBJECTS], [IMAGE_SIZE]).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=0.03, atol=0)
    head = spread_out(head)
    found = head.decode(head([level.to(torch.bfloat16) for level in make_features()]), [IMAGE_SIZE])[0]
    assert len(found["boxes"]) > 0
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32


@every_head
def test_large_half_precision_predictions_stay_finite(kind: str) -> None:
    head = make_head(kind)
    raw = {
        name: [(level.detach() * 3000).to(torch.float16) if name != "features" else level for level in levels]
        for name, levels in head(make_features()).items()
    }
    assert all(value.isfinite() for value in head.losses(raw, [OBJECTS], [IMAGE_SIZE]).values())
    found = head.decode(raw, [IMAGE_SIZE])[0]
    assert all(value.isfinite().all() for value in found.values())


@every_head
@pytest.mark.parametrize("num_classes", [1, CLASSES])
def test_detections_keep_their_promises(kind: str, num_classes: int) -> None:
    head = spread_out(make_head(kind, num_classes, score_threshold=0.0, max_detections=20))
    sizes = [IMAGE_SIZE, (64, 100), (10, 11)]
    results = head.decode(head(make_features(batch=3)), sizes)
    assert len(results[0]["boxes"]) >= 15  # what is empty once clipped is dropped, last of all where detectron2 does
    for found, size in zip(results, sizes, strict=True):
        assert_sound(found, size, num_classes, most=20)


@every_head
def test_an_image_has_the_same_detections_alone_and_in_a_batch(kind: str) -> None:
    head = spread_out(make_head(kind, score_threshold=0.0))
    features = make_features(batch=2)
    together = head.decode(head(features), [IMAGE_SIZE, (50, 60)])
    for image, size in enumerate([IMAGE_SIZE, (50, 60)]):
        alone = head.decode(head([level[image : image + 1] for level in features]), [size])[0]
        for name, value in alone.items():
            torch.testing.assert_close(together[image][name], value, rtol=1e-4, atol=1e-3)


@every_head
def test_nothing_found_is_empty_tensors_of_the_usual_kinds(kind: str) -> None:
    head = make_head(kind, score_threshold=0.999)
    found = head.decode(head(make_features()), [IMAGE_SIZE])[0]
    assert found["boxes"].shape == (0, 4)
    assert found["scores"].shape == found["labels"].shape == (0,)
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    assert found["labels"].dtype == torch.int64


@every_head
def test_predictions_that_are_not_numbers_give_no_detections(kind: str) -> None:
    head = make_head(kind, score_threshold=0.0)
    raw = head(make_features())
    broken = {name: [torch.full_like(level, torch.nan) for level in levels] for name, levels in raw.items()}
    assert len(head.decode(broken, [IMAGE_SIZE])[0]["boxes"]) == 0


@every_head
def test_an_empty_batch_has_no_detections(kind: str) -> None:
    head = make_head(kind)
    assert head.decode(head(make_features(batch=0)), []) == []


@every_head
def test_levels_of_one_position(kind: str) -> None:
    head = spread_out(make_head(kind, strides_px=(8, 16, 32, 64), score_threshold=0.0))
    features = make_features(shapes=((1, 1), (1, 1), (1, 1), (1, 1)))
    target = {"boxes": torch.tensor([[0.0, 0.0, 7.0, 6.0]]), "labels": torch.tensor([1])}
    losses = head.losses(head(features), [target], [(7, 8)])
    assert all(value.isfinite() for value in losses.values())
    found = head.decode(head(features), [(7, 8)])[0]
    assert (found["boxes"] <= torch.tensor([8.0, 7.0, 8.0, 7.0])).all()


@every_head
def test_objects_without_area_are_background(kind: str) -> None:
    head = make_head(kind).eval()
    flat = {"boxes": torch.tensor([[10.0, 10.0, 10.0, 40.0], [30.0, 30.0, 30.0, 30.0]]), "labels": torch.tensor([0, 1])}
    losses = losses_of(head, make_features(), [flat])
    assert losses["loss_box"] == 0
    assert all(value.isfinite() for value in losses.values())


@every_head
def test_a_crowd_needs_no_matrix_of_all_pairs(kind: str) -> None:
    shapes, image_size = ((44, 56), (22, 28), (11, 14)), (352, 448)
    crowd = random_objects(2000, image_size=image_size)
    head = make_head(kind, **({"anchor_scale": 2.0} if kind == "atss" else {}))
    raw = head(make_features(shapes=shapes))
    positions = sum(height * width for height, width in shapes)
    with tensor_sizes() as sizes:
        losses = head.losses(raw, [crowd], [image_size])
    assert all(value.isfinite() and value > 0 for value in losses.values())
    piece_bytes = 4 * MAX_PAIRS
    assert sizes.largest <= piece_bytes
    assert positions * 2000 * 4 > 6 * piece_bytes  # the whole matrix, were there but one anchor at a position
