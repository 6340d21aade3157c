from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dyzoo.config import ATSSConfig
from dyzoo.errors import CheckpointError, ImageError
from dyzoo.model.detector import Detector
from dyzoo.zoo.names import model_config
from tests.model.narrow_detectors import SAVED_FILES

LABELS = ("cat", "dog", "bird")


def tiny_detector(labels: tuple[str, ...] = LABELS, seed: int = 0, score_threshold: float = 0.0) -> Detector:
    torch.manual_seed(seed)
    config = model_config("dyhead_atss_resnet10t")
    config = replace(
        config,
        labels=labels,
        head=ATSSConfig(score_threshold=score_threshold, max_detections=20),
        preprocess=replace(config.preprocess, shortest_edge=96, longest_edge=160),
    )
    return Detector(config).eval()


@pytest.fixture(scope="module")
def detector() -> Detector:
    return tiny_detector()


def picture(height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_training_mode_gives_losses_whose_gradients_reach_every_parameter() -> None:
    model = tiny_detector().train()
    images = [torch.rand(3, 96, 128), torch.rand(3, 64, 64)]
    targets = [
        {"boxes": torch.tensor([[10.0, 10.0, 60.0, 70.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    losses = model(images, targets)
    assert set(losses) == {"loss_cls", "loss_box", "loss_centerness"}
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


def test_evaluation_mode_gives_boxes_inside_each_image(detector: Detector) -> None:
    images = [torch.rand(3, 96, 128), torch.rand(3, 50, 70)]
    with torch.inference_mode():
        results = detector(images)
    for image, result in zip(images, results, strict=True):
        assert set(result) == {"boxes", "scores", "labels"}
        assert len(result["boxes"]) == 20
        assert result["boxes"].min() >= 0
        assert bool((result["boxes"] <= torch.tensor([image.shape[2], image.shape[1]] * 2)).all())
        assert bool((result["scores"].diff() <= 0).all())
        assert set(result["labels"].tolist()) <= {0, 1, 2}


def test_forward_is_the_composition_of_its_public_parts(detector: Detector) -> None:
    batch = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        features = detector.forward_features(batch)
        raw = detector.forward_head(features)
    assert [tuple(f.shape) for f in features] == [(1, 96, -(-96 // s), -(-128 // s)) for s in (8, 16, 32, 64, 128)]
    assert {name: level[0].shape[1] for name, level in raw.items()} == {"cls": 3, "box": 4, "centerness": 1}


def test_predict_takes_every_kind_of_picture_and_answers_the_same(detector: Detector, tmp_path: Path) -> None:
    array = picture()
    path = tmp_path / "picture.png"
    Image.fromarray(array).save(path)
    sources = [path, str(path), Image.fromarray(array), array, torch.from_numpy(array).permute(2, 0, 1)]
    results = detector.predict(sources, threshold=0.0)
    assert [r.path for r in results] == [path, path, None, None, None]
    for result in results:
        assert result.image_size == (60, 80)
        assert result.names == LABELS
        torch.testing.assert_close(result.boxes_xyxy, results[0].boxes_xyxy)
    assert detector.predict(path, threshold=0.0)[0].scores.equal(results[0].scores)


def test_predict_threshold_and_batching_do_not_change_what_is_found(detector: Detector) -> None:
    same_size = [picture(), picture()[::-1].copy()]
    one_by_one = detector.predict(same_size, threshold=0.0)
    together = detector.predict(same_size, threshold=0.0, batch_size=2)
    for a, b in zip(one_by_one, together, strict=True):
        torch.testing.assert_close(a.scores, b.scores, atol=1e-5, rtol=1e-4)
    cut = float(one_by_one[0].scores[5])
    assert (detector.predict(same_size[0], threshold=cut)[0].scores >= cut).all()
    assert len(detector.predict(same_size[0], threshold=1.0)[0]) == 0


def test_predict_size(detector: Detector) -> None:
    native = detector.predict(picture(96, 128), threshold=0.0, size="native")[0]
    at_96 = detector.predict(picture(96, 128), threshold=0.0, size=96)[0]
    assert native.scores.equal(at_96.scores)
    at_64 = detector.predict(picture(96, 128), threshold=0.0, size=64)[0]
    assert not at_64.scores.equal(at_96.scores)
    with pytest.raises(ValueError, match="size is 0"):
        detector.predict(picture(), size=0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (3000, 2)])
def test_extreme_shapes_are_predicted_on(detector: Detector, shape: tuple[int, int]) -> None:
    result = detector.predict(picture(*shape), threshold=0.0)[0]
    assert bool((result.boxes_xyxy <= torch.tensor([shape[1], shape[0]] * 2)).all())


def test_predict_names_the_image_it_cannot_read_and_keeps_the_mode(detector: Detector, tmp_path: Path) -> None:
    detector.train()
    with pytest.raises(ImageError, match=r"absent\.png"):
        detector.predict(tmp_path / "absent.png")
    assert detector.training
    detector.eval()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (None, "targets is None"),
        ([], "got 0 targets for 1 images"),
        ([{"boxes": torch.zeros(2, 4), "labels": torch.zeros(1, dtype=torch.int64)}], r"expected \(M, 4\) and \(M,\)"),
        ([{"boxes": torch.zeros(1, 4), "labels": torch.tensor([3])}], "expected 0 to 2"),
        ([{"boxes": torch.tensor([[4.0, 4.0, torch.inf, 9.0]]), "labels": torch.tensor([0])}], "target 0 has box 0"),
    ],
)
def test_wrong_targets_are_refused(targets: list[dict[str, torch.Tensor]] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_detector().train()([torch.rand(3, 64, 64)], targets)


def test_losses_in_evaluation_mode_are_refused_with_the_way_out(detector: Detector) -> None:
    """A trainer that keeps the mode a model is made in asks for them so."""
    target = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 50.0]]), "labels": torch.tensor([1])}
    with pytest.raises(ValueError, match=r"evaluation mode.*call train\(\) first") as caught:
        detector([torch.rand(3, 64, 64)], [target])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 0.0), (torch.float16, 5e-3)])
def test_saved_and_loaded_answers_the_same(
    detector: Detector, tmp_path: Path, dtype: torch.dtype | None, tolerance: float
) -> None:
    detector.save_pretrained(tmp_path / "model", dtype)
    loaded = Detector.from_pretrained(tmp_path / "model")
    assert loaded.config == detector.config
    assert not loaded.training
    batch = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        expected, found = (m.forward_head(m.forward_features(batch))["cls"] for m in (detector, loaded))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, atol=tolerance * float(a.abs().max()), rtol=0)
    assert {path.name for path in (tmp_path / "model").iterdir()} == SAVED_FILES


def test_a_state_dict_is_saved_and_loaded_by_safetensors(detector: Detector, tmp_path: Path) -> None:
    """Other libraries' trainers save a model so, and refuse tensors of another memory layout."""
    path = tmp_path / "weights.safetensors"
    save_file(detector.state_dict(), path)
    other = tiny_detector(seed=1)
    other.load_state_dict(load_file(path), strict=True)
    image = torch.rand(3, 96, 128)
    with torch.inference_mode():
        expected, found = (model([image])[0] for model in (detector, other))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_writing_to_a_state_dict_changes_the_model() -> None:
    """Moving averages of weights write so."""
    model = tiny_detector()
    for value in model.state_dict().values():
        value.zero_()
    assert not any(bool(parameter.any()) for parameter in model.parameters())


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def pickle_in_disguise(folder: Path) -> None:
    torch.save({"a": 1}, folder / "model.safetensors")


def binary_config(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")


def weights_of_other_classes(folder: Path) -> None:
    other = tiny_detector(labels=("one",))
    other.save_pretrained(folder / "other")
    (folder / "other" / "model.safetensors").replace(folder / "model.safetensors")


def config_of_other_architecture(folder: Path) -> None:
    (folder / "config.json").write_text(replace(model_config("dyhead_atss_resnet18"), labels=LABELS).to_json())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_weights, r"has no model\.safetensors"),
        (truncate, "damaged or no safetensors file"),
        (pickle_in_disguise, "damaged or no safetensors file"),
        (binary_config, "is not a text file"),
        (weights_of_other_classes, "these weights are not of dyhead_atss_resnet10t with 3 classes"),
        (config_of_other_architecture, "these weights are not of dyhead_atss_resnet18 with 3 classes"),
    ],
)
def test_a_broken_checkpoint_is_refused_in_one_line(detector: Detector, tmp_path: Path, damage, message: str) -> None:
    detector.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        Detector.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_refused_weights_change_nothing() -> None:
    model = tiny_detector()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: value + 1 for name, value in before.items()}
    weights[next(iter(weights))] = torch.zeros(7)
    with pytest.raises(CheckpointError):
        model.load_weights(weights, "weights")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_detector_needs_labels() -> None:
    with pytest.raises(ValueError, match="names no labels"):
        Detector(replace(model_config("dyhead_atss_resnet10t"), labels=()))


def test_the_tensor_form_takes_the_pyramid_forms_place() -> None:
    torch.manual_seed(0)
    config = tiny_detector().config
    model = Detector(replace(config, dyhead=replace(config.dyhead, form="tensor")))
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([0])}
    losses = model.train()([image], [target])
    sum(losses.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.dyhead.parameters())
    assert len(model.eval().predict(image, size="native")) == 1
