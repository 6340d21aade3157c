"""Pictures of every kind and size: the pipeline finds what `Detector.predict` finds, at the same places."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from dyzoo.errors import ImageError
from dyzoo.images.detections import Detections
from dyzoo.model.detector import Detector
from dyzoo.model.missed import MissedWarning

pytest.importorskip("transformers", reason="transformers is not installed")

import transformers

from dyzoo.hf_transformers import DyzooForObjectDetection, DyzooObjectDetectionPipeline
from tests.hf_transformers.pictures import HEADS, detector_of, noise, processor_of


def save_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(noise(60, 90)).save(path, exif=exif, quality=95)


def save(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(array).save(path)


PICTURES: dict[str, Callable[[Path], None]] = {
    "upright.png": save(noise(70, 90)),
    "turned.jpg": save_turned,
    "grey.png": save(noise(70, 50, 1)),
    "grey of 16 bits.png": save(noise(50, 70, 1).astype(np.uint16) * 257),
    "see-through.png": save(noise(64, 80, 4)),
    "tiny.png": save(noise(3, 5)),
    "one pixel high.png": save(noise(1, 200)),
    "wide.png": save(noise(20, 900)),
    "large.png": save(noise(1500, 1100)),
    "very wide.png": save(noise(37, 7001)),
}


@pytest.fixture
def picture(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    PICTURES[request.param](path)
    return path


@pytest.fixture(scope="module")
def detect(folder: Path) -> Any:
    """A pipeline, which needs the folder's code only until it is made."""
    return transformers.pipeline("object-detection", model=str(folder), trust_remote_code=True)


def assert_alike(found: dict[str, torch.Tensor], expected: Detections) -> None:
    assert len(expected)
    assert found["labels"].tolist() == expected.labels.tolist()
    torch.testing.assert_close(found["scores"], expected.scores, atol=1e-6, rtol=0)
    assert torch.equal(found["boxes"], expected.boxes_xyxy)


@pytest.mark.parametrize("picture", PICTURES, indirect=True)
def test_the_pipeline_finds_what_predict_finds(picture: Path, detect: Any, detector: Detector) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissedWarning)  # there are as many as are kept
        (expected,) = detector.predict(picture, threshold=0.1)
    with Image.open(picture) as opened:
        answers = detect([str(picture), opened], threshold=0.1)
    for found in answers:
        assert [each["label"] for each in found] == [expected.names[label] for label in expected.labels]
        boxes = torch.tensor([[each["box"][edge] for edge in ("xmin", "ymin", "xmax", "ymax")] for each in found])
        scores = torch.tensor([each["score"] for each in found])
        assert_alike({"boxes": boxes, "scores": scores, "labels": expected.labels}, expected)


@pytest.mark.parametrize("head", [*HEADS, "faster_rcnn"])
def test_every_head_gives_its_detections_for_a_batch(head: str) -> None:
    """Pictures are of one size each, as `predict` puts none of different sizes into a batch."""
    detector = detector_of(head)
    model = DyzooForObjectDetection.from_detector(detector)
    pictures = [Image.fromarray(noise(70, 90)), Image.fromarray(noise(70, 90)[::-1])]
    processor = processor_of(detector)
    inputs = processor(pictures)
    with torch.inference_mode():
        outputs = model(**inputs)
    assert outputs.logits.shape == (2, 7, 2)
    assert outputs.pred_boxes.shape == (2, 7, 4)
    assert ((outputs.pred_boxes >= 0) & (outputs.pred_boxes <= 1)).all()
    found = processor.post_process_object_detection(outputs, 0.0, [(70, 90)] * 2)
    for each, expected in zip(found, detector.predict(pictures, threshold=0.0, batch_size=2), strict=True):
        assert_alike(each, expected)
    shares = processor.post_process_object_detection(outputs, 0.0)
    assert all((each["boxes"] <= 1).all() for each in shares)


def test_input_is_that_of_the_detector(detector: Detector) -> None:
    """Pictures in every form are padded to one size and masked."""
    array = noise(70, 90)
    image = Image.fromarray(array)
    other = Image.fromarray(noise(90, 40))
    processor = processor_of(detector)
    inputs = processor([image, other])
    assert inputs["pixel_values"].shape == (2, 3, 128, 96)
    assert inputs["pixel_mask"].sum((1, 2)).tolist() == [64 * 82, 128 * 57]
    masked = inputs["pixel_values"] * (1 - inputs["pixel_mask"][:, None])
    assert not masked.any()
    for form in (array, torch.from_numpy(array).permute(2, 0, 1), [image], array[None]):
        assert torch.equal(processor(form)["pixel_values"][0], processor(image)["pixel_values"][0])
    assert isinstance(processor(image, return_tensors="np")["pixel_values"], np.ndarray)
    with pytest.raises(ValueError, match="images are none"):
        processor([])
    with pytest.raises(ImageError, match="no such file"):
        processor("missing.png")


def test_a_batch_may_have_any_size_and_no_mask(detector: Detector) -> None:
    model = DyzooForObjectDetection.from_detector(detector)
    batch = torch.randn(1, 3, 50, 70)
    with torch.inference_mode():
        whole = model(batch)
        masked = model(batch, torch.ones(1, 50, 70))
        as_tuple = model(batch, return_dict=False)
    assert torch.equal(whole.pred_boxes, masked.pred_boxes)
    assert torch.equal(whole.pred_boxes, as_tuple[-1])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"pixel_values": torch.zeros(3, 64, 64)}, r"pixel_values are \(3, 64, 64\)"),
        ({"pixel_values": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)}, "torch.uint8, expected"),
        ({"pixel_mask": torch.ones(1, 32, 64)}, r"pixel_mask is \(1, 32, 64\), expected \(1, 64, 64\)"),
        ({"pixel_mask": torch.zeros(1, 64, 64)}, "pixel_mask 0 is no picture at the top left"),
        ({"pixel_mask": torch.eye(64)[None]}, "pixel_mask 0 is no picture at the top left"),
        ({"labels": []}, "got labels of 0 pictures for 1"),
        ({"labels": [{"boxes": torch.zeros(1, 4)}]}, "labels of picture 0 have"),
        ({"labels": [{"boxes": torch.zeros(4), "class_labels": torch.zeros(1)}]}, r"boxes \(4,\)"),
    ],
    ids=range(8),
)
def test_what_does_not_fit_is_named(inputs: dict[str, Any], message: str, detector: Detector) -> None:
    model = DyzooForObjectDetection.from_detector(detector)
    with pytest.raises(ValueError, match=message) as caught:
        model(**{"pixel_values": torch.zeros(1, 3, 64, 64), **inputs})
    assert "\n" not in str(caught.value)


def test_a_model_in_memory_has_pipelines_too(detector: Detector) -> None:
    """transformers' own, which cuts boxes down to whole pixels, and ours."""
    model, processor = DyzooForObjectDetection.from_detector(detector), processor_of(detector)
    picture = Image.fromarray(noise(70, 90))
    own = transformers.pipeline("object-detection", model=model, image_processor=processor)(picture, threshold=0.0)
    ours = DyzooObjectDetectionPipeline(model=model, image_processor=processor)(picture, threshold=0.0)
    assert len(own) == len(ours) == 5
    for whole, exact in zip(own, ours, strict=True):
        assert whole["box"] == {edge: int(value) for edge, value in exact["box"].items()}
        assert (whole["label"], whole["score"]) == (exact["label"], exact["score"])
