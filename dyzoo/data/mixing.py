"""Augmentation that takes several pictures: mosaic, and copy-paste of objects by their boxes.

Random numbers come from torch alone, as in `dyzoo.data.transforms`.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from dyzoo.config.training import TransformConfig
from dyzoo.data.dataset import DetectionDataset
from dyzoo.data.transforms import TRIALS, Resize, changes, framing, log_uniform, uniform, visible_share
from dyzoo.model.boxes import box_areas
from dyzoo.model.targets import Target

Loaded = tuple[Tensor, Target]

_CENTER_RANGE = (0.25, 0.75)  # where a mosaic's four parts meet, as a share of each side
_LEAST_SHARE = 0.5  # a mosaic shows no picture at less than this share of the size it has alone
_FILL = 114  # grey, about the mean of ImageNet's pictures, which padding is too once it is normalised
_MOST_PASTED = 10  # cut-outs in one picture
_MOST_HIDDEN = 0.2  # share of an object's box that cut-outs may come to lie on, all together
_MARGIN = 1 / 8  # width of the frame in which a cut-out fades out, as a share of the object's side


class Mixing:
    """The steps of `train_transform`, for pictures that may be mixed with others.

    A mosaic takes the place of resizing and cropping, so that a picture is never larger than it would be alone; objects
    are pasted after that, at the size they are seen at; mirroring, turns and colours follow for the whole.

    Args:
        size_px: shortest and longest edge, as for `train_transform`.
        config: probabilities and strength.
    """

    def __init__(self, size_px: tuple[int, int], config: TransformConfig) -> None:
        self.config = config
        self.resize = Resize(size_px, config.scale_range)
        self.framing = v2.Compose(framing(size_px, config))
        self.changes = v2.Compose(changes(config))

    def __call__(self, dataset: DetectionDataset, index: int) -> Loaded:
        """A training sample from `dataset[index]` and random others, as `train_transform` gives it."""
        sample = dataset.load(index)
        if _happens(self.config.mosaic):
            image, target = self.mosaic([sample, *(_draw(dataset) for _ in range(3))])
        else:
            image, target = self.framing(*sample)
        if _happens(self.config.copy_paste):
            image, target = self.paste(image, target, _draw(dataset))
        return self.changes(image, target)

    def mosaic(self, samples: list[Loaded]) -> Loaded:
        """Parts of four pictures around a random centre, on a canvas of the size the first would have alone.

        Each is shown at half to all of the size it would have alone, and as large as its quarter of the canvas where
        that allows; what stays free is grey. As with crops, objects of which less than `crop_min_visible` is seen are
        dropped.
        """
        height, width = self.resize.draw_size(*samples[0][0].shape[-2:])
        canvas = torch.full((3, height, width), _FILL, dtype=torch.uint8)
        center_y, center_x = round(height * uniform(*_CENTER_RANGE)), round(width * uniform(*_CENTER_RANGE))
        boxes, labels = [], []
        for (image, target), (below, right) in zip(samples, product((False, True), repeat=2), strict=True):
            room_h, room_w = height - center_y if below else center_y, width - center_x if right else center_x
            if not (room_h and room_w):  # a picture of one line
                continue
            part, part_boxes, kept = self._part(image, target, room_h, room_w)
            part_h, part_w = part.shape[-2:]
            top, left = center_y if below else center_y - part_h, center_x if right else center_x - part_w
            canvas[:, top : top + part_h, left : left + part_w] = part
            boxes.append(part_boxes + torch.tensor([left, top, left, top]))
            labels.append(target["labels"][kept])
        return _sample(canvas, torch.cat(boxes), torch.cat(labels), samples[0][1])

    def _part(self, image: Tensor, target: Target, room_h: int, room_w: int) -> tuple[Tensor, Tensor, Tensor]:
        """A random window of a picture, resized to fit: its pixels, the boxes seen (M', 4) and which they are (M,)."""
        height, width = image.shape[-2:]
        alone_h, alone_w = self.resize.draw_size(height, width)
        least = min(max(room_h / alone_h, room_w / alone_w, _LEAST_SHARE), 1.0)
        boxes = target["boxes"].as_subclass(Tensor)
        for _ in range(TRIALS):
            share = log_uniform(least, 1.0)
            full_h, full_w = max(round(share * alone_h), 1), max(round(share * alone_w), 1)
            window_h = min(max(round(height * room_h / full_h), 1), height)
            window_w = min(max(round(width * room_w / full_w), 1), width)
            top, left = round(uniform(0, height - window_h)), round(uniform(0, width - window_w))
            kept = visible_share(boxes, left, top, left + window_w, top + window_h) >= self.config.crop_min_visible
            if kept.any() or not len(boxes):
                break
        window, part_h, part_w = (left, top, window_w, window_h), min(full_h, room_h), min(full_w, room_w)
        return _resized(image, window, part_h, part_w), _seen(boxes[kept], window, (part_w, part_h)), kept

    def paste(self, image: Tensor, target: Target, source: Loaded) -> Loaded:
        """Some objects of the source, each at a size it might have there and at a random place.

        A cut-out is the object's box with all that is in it: other objects that are seen in it well enough
        (`crop_min_visible`) bring their labels along. Around the box it fades out into the picture. With a hard edge
        the edge would be where the box is, and easier to learn than the object (Dwibedi et al., *Cut, Paste and
        Learn*, ICCV 2017, section 5); fading inside the box would take the corners off objects that fill it.

        An object for which no place is found that leaves the others visible is not pasted.
        """
        source_image, source_target = source
        source_boxes = source_target["boxes"].as_subclass(Tensor)
        canvas = image.as_subclass(Tensor).clone()
        boxes, labels = target["boxes"].as_subclass(Tensor), target["labels"]
        hidden = torch.zeros(len(boxes))  # share of each, at most: what lies on it twice counts twice
        count = int(torch.randint(1, _MOST_PASTED + 1, ()))
        for number in torch.randperm(len(source_boxes))[:count].tolist():
            box = source_boxes[number]
            window = _window(box, *source_image.shape[-2:])
            height, width = self._cutout_size(source_image, window)
            place = _free_place(canvas, height, width, boxes, hidden)
            if place is None:
                continue
            left, top, hidden = place
            under = canvas[:, top : top + height, left : left + width]
            cutout = _resized(source_image, window, height, width)
            under.copy_(_faded(cutout, under, _seen(box, window, (width, height))))
            inside = visible_share(source_boxes, *box.tolist()) >= self.config.crop_min_visible
            pasted = _seen(_clipped(source_boxes[inside], box), window, (width, height))
            boxes = torch.cat([boxes, pasted + torch.tensor([left, top, left, top])])
            labels = torch.cat([labels, source_target["labels"][inside]])
            hidden = torch.cat([hidden, torch.zeros(len(pasted))])
        return _sample(canvas, boxes, labels, target)

    def _cutout_size(self, image: Tensor, window: tuple[int, int, int, int]) -> tuple[int, int]:
        """A size (H, W) that a window (left, top, width, height) of the picture might be shown at."""
        height, width = image.shape[-2:]
        full_h, full_w = self.resize.draw_size(height, width)
        return max(round(window[3] * full_h / height), 1), max(round(window[2] * full_w / width), 1)


def _happens(probability: float) -> bool:
    return float(torch.rand(())) < probability


def _draw(dataset: DetectionDataset) -> Loaded:
    return dataset.load(int(torch.randint(len(dataset), ())))


def _sample(image: Tensor, boxes_xyxy: Tensor, labels: Tensor, target: Target) -> Loaded:
    boxes = tv_tensors.BoundingBoxes(boxes_xyxy, format="XYXY", canvas_size=tuple(image.shape[-2:]))  # type: ignore[call-overload]
    return tv_tensors.Image(image), {**target, "boxes": boxes, "labels": labels}


def _resized(image: Tensor, window: tuple[int, int, int, int], height: int, width: int) -> Tensor:
    """A window (left, top, width, height) of a picture at the size given, (3, H, W) uint8."""
    left, top, window_w, window_h = window
    part = TF.crop(image, top, left, window_h, window_w)
    return TF.resize(part, [height, width], antialias=True).as_subclass(Tensor)


def _seen(boxes_xyxy: Tensor, window: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) in a window (left, top, width, height), clipped to it, once it is resized to (width, height)."""
    left, top, width, height = window
    corners = _clipped(boxes_xyxy, torch.tensor([left, top, left + width, top + height]))
    return (corners - torch.tensor([left, top] * 2)) * torch.tensor([size[0] / width, size[1] / height] * 2)


def _clipped(boxes_xyxy: Tensor, limit_xyxy: Tensor) -> Tensor:
    """The parts of boxes (..., 4) within another box (4,) that they all reach into."""
    left_top, right_bottom = limit_xyxy.split(2)
    return torch.cat([boxes_xyxy[..., :2].maximum(left_top), boxes_xyxy[..., 2:].minimum(right_bottom)], dim=-1)


def _window(box_xyxy: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """A box and the margin around it, as far as the picture goes: left, top, width, height in whole pixels."""
    x1, y1, x2, y2 = box_xyxy.tolist()
    margin_x, margin_y = max(_MARGIN * (x2 - x1), 1), max(_MARGIN * (y2 - y1), 1)
    left, top = max(math.floor(x1 - margin_x), 0), max(math.floor(y1 - margin_y), 0)
    return left, top, min(math.ceil(x2 + margin_x), width) - left, min(math.ceil(y2 + margin_y), height) - top


def _free_place(
    canvas: Tensor, height: int, width: int, boxes_xyxy: Tensor, hidden: Tensor
) -> tuple[int, int, Tensor] | None:
    """Left and top of a random place where something of that size hides no box too much; None if none is found.

    Also the share (M,) of each box that is hidden then. Boxes without area, which a crop has left, do not count.
    """
    free_h, free_w = canvas.shape[-2] - height, canvas.shape[-1] - width
    if min(free_h, free_w) < 0:
        return None
    tops, lefts = torch.randint(free_h + 1, (TRIALS,)), torch.randint(free_w + 1, (TRIALS,))
    places = torch.stack([lefts, tops, lefts + width, tops + height], dim=1)[:, None]  # (T, 1, 4)
    sides = boxes_xyxy[:, 2:].minimum(places[..., 2:]) - boxes_xyxy[:, :2].maximum(places[..., :2])  # (T, M, 2)
    covered = hidden + (sides.clamp(min=0).prod(-1) / box_areas(boxes_xyxy)).nan_to_num()  # (T, M)
    free = (covered <= _MOST_HIDDEN).all(1).nonzero()
    if not len(free):
        return None
    first = int(free[0])
    return int(lefts[first]), int(tops[first]), covered[first]


def _faded(cutout: Tensor, under: Tensor, box_xyxy: Tensor) -> Tensor:
    """A cut-out (3, H, W) over what lies under it: opaque inside its box (4,), fading out towards its edges."""
    height, width = cutout.shape[-2:]
    x1, y1, x2, y2 = box_xyxy.tolist()
    opacity = _ramp(height, y1, y2)[:, None] * _ramp(width, x1, x2)
    return torch.lerp(under.float(), cutout.float(), opacity).round_()


def _ramp(length: int, begin: float, end: float) -> Tensor:
    """(length,): 1 between `begin` and `end`, falling to 0 at both ends."""
    centers = torch.arange(length) + 0.5
    least = 1e-3  # no margin, no ramp
    return torch.minimum(centers / max(begin, least), (length - centers) / max(length - end, least)).clamp(max=1)
