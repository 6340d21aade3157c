"""Losses of the model of transformers: those of dyzoo's own training, on the same pictures and objects."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from dyzoo.data.transforms import eval_transform
from dyzoo.model.detector import Detector

pytest.importorskip("transformers", reason="transformers is not installed")

from dyzoo.hf_transformers import DyzooForObjectDetection, DyzooImageProcessor
from tests.hf_transformers.pictures import HEADS, detector_of, noise, processor_of

BOXES = [[[7.25, 9.0, 41.75, 52.5], [50.25, 13.5, 83.0, 33.75]], [[5.5, 8.25, 31.25, 77.75]]]
LABELS = [[0, 1], [1]]


def annotations() -> list[dict[str, Any]]:
    """The objects in COCO's form, and a crowd region, which is not learnt."""
    return [
        {
            "image_id": number,
            "annotations": [
                *(
                    {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": label}
                    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True)
                ),
                {"bbox": [1, 1, 30, 30], "category_id": 0, "iscrowd": 1},
            ],
        }
        for number, (boxes, labels) in enumerate(zip(BOXES, LABELS, strict=True))
    ]


AS_THE_NETWORK_SEES_THEM = [(64, 128), (128, 64)]
"""Sizes that nothing is resized at, and of which a share is no rounded number: ties between anchors stay ties."""


@pytest.mark.parametrize(
    ("head", "sizes", "apart"),
    [
        *((head, AS_THE_NETWORK_SEES_THEM, 0.0) for head in (*HEADS, "faster_rcnn")),
        ("atss", [(70, 90), (90, 40)], 1e-4),
    ],
)
def test_losses_and_gradients_are_those_of_dyzoos_own_step(
    head: str, sizes: list[tuple[int, int]], apart: float
) -> None:
    detector = detector_of(head).train()
    model = DyzooForObjectDetection.from_detector(deepcopy(detector))  # whose losses have a memory of their own
    pictures = [Image.fromarray(noise(*size)) for size in sizes]
    settings = detector.config.preprocess
    transform = eval_transform((settings.shortest_edge, settings.longest_edge))
    images, targets = [], []
    for picture, size, boxes, labels in zip(pictures, sizes, BOXES, LABELS, strict=True):
        given = tv_tensors.BoundingBoxes(torch.tensor(boxes), format="XYXY", canvas_size=size)  # type: ignore[call-overload]
        image, target = transform(
            tv_tensors.Image(TF.pil_to_tensor(picture)), {"boxes": given, "labels": torch.tensor(labels)}
        )
        images.append(image)
        targets.append(target)
    torch.manual_seed(0)
    expected = detector(images, targets)
    torch.stack(list(expected.values())).sum().backward()

    inputs = processor_of(detector)(pictures, annotations=annotations())
    torch.manual_seed(0)
    outputs = model(**inputs)
    assert outputs.loss_dict.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(outputs.loss_dict[name], value, atol=0, rtol=apart)
    torch.testing.assert_close(outputs.loss, torch.stack(list(outputs.loss_dict.values())).sum(), atol=0, rtol=0)
    assert outputs.logits is None
    outputs.loss.backward()
    own = dict(model.named_parameters())
    for name, parameter in detector.named_parameters():
        if parameter.grad is None:
            assert own[name].grad is None
        else:
            scale = float(parameter.grad.abs().max())
            torch.testing.assert_close(own[name].grad, parameter.grad, atol=10 * apart * scale, rtol=0)


def test_evaluation_has_losses_and_detections(detector: Detector) -> None:
    model = DyzooForObjectDetection.from_detector(detector)
    processor = processor_of(detector)
    picture = Image.fromarray(noise(70, 90))
    inputs = processor(picture, annotations=annotations()[0])
    with torch.no_grad():
        outputs = model(**inputs)
    assert outputs.loss.isfinite()
    assert outputs.logits is not None
    assert list(outputs) == ["loss", "loss_dict", "logits", "pred_boxes"]
    model.train()
    assert model(inputs["pixel_values"]).logits is not None


def test_labels_are_those_of_other_detectors_of_transformers() -> None:
    processor = DyzooImageProcessor(shortest_edge=64, longest_edge=128)
    (labels,) = processor(noise(70, 90), annotations=[annotations()[0]])["labels"]
    assert labels["orig_size"].tolist() == [70, 90]
    assert labels["size"].tolist() == [64, 82]
    assert labels["class_labels"].tolist() == [0, 1, 0]
    assert labels["iscrowd"].tolist() == [0, 0, 1]
    x1, y1, x2, y2 = BOXES[0][0]
    expected = [(x1 + x2) / 180, (y1 + y2) / 140, (x2 - x1) / 90, (y2 - y1) / 70]
    np.testing.assert_allclose(labels["boxes"][0], expected, rtol=1e-6)
    np.testing.assert_allclose(labels["area"][0], (x2 - x1) * (y2 - y1), rtol=1e-6)


def test_boxes_are_cut_off_at_the_picture_and_left_out_beyond() -> None:
    processor = DyzooImageProcessor(shortest_edge=64, longest_edge=128)
    objects = [{"bbox": box, "category_id": 0} for box in ([-10, -10, 20, 20], [95, 5, 9, 9], [5, 5, 0, 9])]
    (labels,) = processor(noise(70, 90), annotations={"image_id": 1, "annotations": objects})["labels"]
    np.testing.assert_allclose(labels["boxes"], [[5 / 90, 5 / 70, 10 / 90, 10 / 70]], rtol=1e-6)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (3, "annotations of a picture are 3"),
        ({"image_id": 1}, "expected image_id and annotations"),
        ({"annotations": [7]}, "is 7, expected an object"),
        ({"annotations": [{"bbox": [1, 2, 3], "category_id": 0}]}, r"bbox is \[1, 2, 3\]"),
        ({"annotations": [{"bbox": "abcd", "category_id": 0}]}, "expected a number of pixels"),
        ({"annotations": [{"bbox": [0, 0, float("nan"), 4], "category_id": 0}]}, "bbox has nan"),
        ({"annotations": [{"bbox": [0, 0, 1e300, 4], "category_id": 0}]}, r"bbox has 1e\+300"),
        ({"annotations": [{"bbox": [0, 0, 4, 4]}]}, "category_id is None"),
        ({"annotations": [{"bbox": [0, 0, 4, 4], "category_id": 1.5}]}, "category_id is 1.5"),
        ({"image_id": "x.jpg", "annotations": []}, "image_id is 'x.jpg', expected a whole number"),
        ([{"annotations": []}] * 2, "got annotations of 2 pictures for 1"),
    ],
    ids=range(11),
)
def test_annotations_that_cannot_be_learnt_are_named(annotation: Any, message: str) -> None:
    processor = DyzooImageProcessor(shortest_edge=64, longest_edge=128)
    with pytest.raises(ValueError, match=message) as caught:
        processor(noise(7, 9), annotations=annotation if isinstance(annotation, list) else [annotation])
    assert "\n" not in str(caught.value)


def test_a_class_that_the_model_does_not_have_is_named(detector: Detector) -> None:
    model = DyzooForObjectDetection.from_detector(detector)
    processor = processor_of(detector)
    objects = [{"bbox": [1, 1, 30, 30], "category_id": 2}]
    inputs = processor(noise(70, 90), annotations={"image_id": 1, "annotations": objects})
    with pytest.raises(ValueError, match="target 0 has the label 2, expected 0 to 1"):
        model(**inputs)
