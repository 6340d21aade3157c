"""Augmentation: boxes stay with what they enclose."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from dyzoo.data import TransformConfig, eval_transform, train_transform
from dyzoo.data.transforms import RandomColour

STILL = TransformConfig(horizontal_flip=0, scale_range=(1, 1), crop=0, colour=0)
EVERYTHING = TransformConfig(vertical_flip=0.5, rotate90=0.5, crop=1, scale_range=(0.5, 2), colour=1)
RED, GREEN = 0, 1


def painted(boxes: list[list[int]], height: int = 96, width: int = 128) -> tuple[Tensor, dict]:
    """A black picture with the first box filled with red, the second with green; labels count from 0."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(boxes):
        image[channel, y1:y2, x1:x2] = 255
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    target = {
        "boxes": tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width)),
        "labels": torch.arange(len(boxes)),
        "image_id": 5,
    }
    return tv_tensors.Image(image), target


def extent(channel: Tensor) -> list[int]:
    """The xyxy edges of what is bright."""
    ys, xs = torch.nonzero(channel > 127, as_tuple=True)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


@pytest.mark.parametrize(
    "config",
    [
        STILL,
        replace(STILL, horizontal_flip=1),
        replace(STILL, vertical_flip=1),
        replace(STILL, rotate90=1),
        replace(STILL, crop=1, crop_min_visible=0),
        replace(STILL, scale_range=(0.5, 2)),
        replace(STILL, horizontal_flip=0.5, vertical_flip=0.5, rotate90=0.5, crop=0.5, scale_range=(0.5, 2)),
    ],
    ids=["still", "horizontal", "vertical", "quarter turns", "crop", "scale", "all"],
)
def test_boxes_follow_the_painted_pixels(config: TransformConfig) -> None:
    transform = train_transform((72, 200), config)
    for seed in range(25):
        torch.manual_seed(seed)
        image, target = transform(*painted([[10, 20, 50, 44], [70, 8, 120, 90]]))
        assert image.dtype == torch.uint8
        assert len(target["labels"]) == len(target["boxes"]) > 0
        for label, box in zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True):
            # Half a pixel of rounding at each edge: a resized edge shows where it covers most of a pixel.
            assert extent(image[label]) == pytest.approx(box, abs=0.75)


def test_boxes_stay_inside_and_keep_an_area() -> None:
    transform = train_transform((64, 100), EVERYTHING)
    for seed in range(80):
        torch.manual_seed(seed)
        corners = torch.rand(6, 4)
        left_top = (corners[:, :2] * torch.tensor([120.0, 90.0])).int()
        boxes = torch.cat((left_top, left_top + 1 + (corners[:, 2:] * 6).int()), dim=1)
        image, target = transform(*painted(boxes.tolist()[:2]))
        result, (height, width) = target["boxes"], image.shape[1:]
        assert type(image) is Tensor
        assert type(result) is Tensor
        assert (result >= 0).all()
        assert (result[:, 2:] <= torch.tensor([width, height])).all()
        assert (result[:, 2:] - result[:, :2] >= 1).all()
        assert target["labels"].shape == (len(result),)
        assert target["image_id"] == 5


def test_an_empty_picture_is_a_training_sample() -> None:
    transform = train_transform((64, 100), EVERYTHING)
    for seed in range(20):
        torch.manual_seed(seed)
        image, target = transform(*painted([]))
        assert min(image.shape) > 0
        assert target["boxes"].shape == (0, 4)
        assert target["boxes"].dtype == torch.float32
        assert target["labels"].shape == (0,)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 700), (700, 1)])
def test_pictures_of_one_pixel_and_of_one_line(height: int, width: int) -> None:
    transform = train_transform((64, 100), EVERYTHING)
    for seed in range(10):
        torch.manual_seed(seed)
        image, target = transform(*painted([[0, 0, width, height]], height, width))
        assert min(image.shape) > 0
        assert len(target["boxes"]) == len(target["labels"])


def test_a_box_as_large_as_the_picture_survives_every_rounding() -> None:
    transform = train_transform((64, 1000), replace(STILL, scale_range=(0.3, 3)))
    for seed in range(100):
        torch.manual_seed(seed)
        image, target = transform(*painted([[0, 0, 61, 37]], height=37, width=61))
        assert target["boxes"].flatten().tolist() == pytest.approx([0, 0, image.shape[2], image.shape[1]], abs=1e-3)


def test_a_crop_drops_what_is_mostly_outside_and_never_everything() -> None:
    transform = train_transform((96, 128), replace(STILL, crop=1, crop_min_side=0.5, crop_min_visible=0.6))
    dropped = 0
    for seed in range(60):
        torch.manual_seed(seed)
        image, target = transform(*painted([[4, 4, 44, 34], [80, 50, 124, 90]]))
        kept = target["labels"].tolist()
        assert kept
        for label, area in ((RED, 40 * 30), (GREEN, 44 * 40)):
            visible = int((image[label] > 0).sum())
            assert (label in kept) == (visible >= 0.6 * area)
            dropped += label not in kept
    assert dropped > 5


def test_scale_range_is_reached_and_not_passed() -> None:
    transform = train_transform((48, 1000), replace(STILL, scale_range=(0.5, 2)))
    torch.manual_seed(0)
    heights = [transform(*painted([]))[0].shape[1] for _ in range(200)]
    assert 24 <= min(heights) < 27
    assert 88 < max(heights) <= 96
    assert sum(height < 48 for height in heights) == pytest.approx(100, abs=25)  # log-uniform: half shrink, half grow


def test_eval_transform_is_the_plain_resize() -> None:
    image, target = eval_transform((48, 60))(*painted([[32, 16, 64, 48]]))
    assert image.shape == (3, 45, 60)
    assert target["boxes"].tolist() == [[15.0, 7.5, 30.0, 22.5]]


def test_torch_seed_decides_everything() -> None:
    transform = train_transform((64, 100), EVERYTHING)
    sample = painted([[10, 20, 50, 44]])

    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return transform(*sample)[0]

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_the_sample_given_is_not_changed() -> None:
    image, target = painted([[10, 20, 50, 44]])
    pixels, boxes = image.clone(), target["boxes"].clone()
    train_transform((96, 128), replace(EVERYTHING, scale_range=(1, 1)))(image, target)
    assert torch.equal(image, pixels)
    assert torch.equal(target["boxes"], boxes)


# --- colour ----------------------------------------------------------------------------------------------------------


def colours() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return tv_tensors.Image(torch.randint(60, 190, (3, 32, 32), generator=generator, dtype=torch.uint8))


def test_colour_of_strength_zero_changes_nothing() -> None:
    assert torch.equal(RandomColour(0.0)(colours()), colours())


def test_colour_stays_near_and_differs_between_draws() -> None:
    torch.manual_seed(0)
    changes = [(RandomColour(0.2)(colours()).float() - colours().float()).abs() for _ in range(10)]
    assert all(0.2 < change.mean() < 40 for change in changes)
    assert len({round(float(change.mean()), 3) for change in changes}) == 10


def test_grey_stays_grey_and_its_order_is_kept() -> None:
    ramp = tv_tensors.Image(torch.arange(256, dtype=torch.uint8).expand(3, 4, 256).contiguous())
    for seed in range(20):
        torch.manual_seed(seed)
        changed = RandomColour(1.0)(ramp).int()
        assert (changed.amax(0) - changed.amin(0)).max() <= 1
        assert (changed[0].diff(dim=1) >= 0).all()


def test_a_flat_grey_picture_has_no_contrast_to_change() -> None:
    flat = tv_tensors.Image(torch.full((3, 4, 4), 100, dtype=torch.uint8))
    torch.manual_seed(0)
    values = [int(RandomColour(1.0)(flat)[0, 0, 0]) for _ in range(200)]
    assert 50 <= min(values) < 60  # brightness alone, by up to half
    assert 140 < max(values) <= 150


def test_colour_leaves_boxes_alone() -> None:
    image, target = painted([[10, 20, 50, 44]])
    assert torch.equal(RandomColour(1.0)(image, target)[1]["boxes"], target["boxes"])


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"horizontal_flip": 1.5}, "horizontal_flip is 1.5"),
        ({"colour": -0.1}, "colour is -0.1"),
        ({"crop_min_side": 0}, "crop_min_side is 0"),
        ({"scale_range": (2, 1)}, "scale_range is"),
        ({"scale_range": (0, 1)}, "scale_range is"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TransformConfig(**setting)
