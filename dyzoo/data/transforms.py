"""Augmentation for training, and the plain way for evaluation; both on (image, target) pairs of a dataset.

Built from torchvision.transforms.v2. Random numbers come from torch alone, so seeding torch decides them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from dyzoo.config.training import TransformConfig
from dyzoo.model.sizes import resized_size

# At the size the network sees: below it a box is a sliver that a crop has left.
_MIN_SIDE_PX = 1.0
TRIALS = 10  # random places that are tried before the wish for a good one is given up


def train_transform(size_px: tuple[int, int], config: TransformConfig | None = None) -> v2.Transform:
    """Random resize, crop, mirroring, turns and colours, in this order.

    Args:
        size_px: shortest and longest edge, as for evaluation; see `dyzoo.model.preprocess.resized_size`.
        config: strength; None takes the defaults.

    Returns:
        A transform of (image, target) that gives plain tensors: the image (3, H, W) uint8, boxes (M, 4) float32 xyxy.
    """
    config = config or TransformConfig()
    return v2.Compose([*framing(size_px, config), *changes(config)])


def framing(size_px: tuple[int, int], config: TransformConfig) -> list[v2.Transform]:
    """The first steps of `train_transform`: how large, and which part of, a picture is shown."""
    steps: list[v2.Transform] = [Resize(size_px, config.scale_range)]
    if config.crop:
        steps.append(v2.RandomApply([RandomWindow(config.crop_min_side, config.crop_min_visible)], config.crop))
    return steps


def changes(config: TransformConfig) -> list[v2.Transform]:
    """The other steps of `train_transform`: its mirroring, turns and colours, and plain tensors in the end."""
    steps: list[v2.Transform] = []
    if config.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(config.horizontal_flip))
    if config.vertical_flip:
        steps.append(v2.RandomVerticalFlip(config.vertical_flip))
    if config.rotate90:
        steps.append(v2.RandomApply([RandomQuarterTurn()], config.rotate90))
    if config.colour:
        steps.append(RandomColour(config.colour))
    return [*steps, *_finish()]


def eval_transform(size_px: tuple[int, int]) -> v2.Transform:
    """Resize as `Detector.predict` does, nothing random. Arguments and result as for `train_transform`."""
    return v2.Compose([Resize(size_px), *_finish()])


def _finish() -> list[v2.Transform]:
    return [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=_MIN_SIDE_PX), v2.ToPureTensor()]


class Resize(v2.Transform):
    """Shortest edge to `size_px[0]` unless the longest would pass `size_px[1]`, times a random factor."""

    def __init__(self, size_px: tuple[int, int], scale_range: tuple[float, float] = (1.0, 1.0)) -> None:
        super().__init__()
        self.size_px = size_px
        self.scale_range = scale_range

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"size": list(self.draw_size(*_image_size(flat_inputs)))}

    def draw_size(self, height: int, width: int) -> tuple[int, int]:
        """The size that a picture of this one gets."""
        factor = log_uniform(*self.scale_range)
        shortest_px, longest_px = (max(round(edge_px * factor), 1) for edge_px in self.size_px)
        return resized_size(height, width, shortest_px, longest_px)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return TF.resize(inpt, params["size"], antialias=True)


class RandomWindow(v2.Transform):
    """Cut out a window that keeps at least one object if there are any.

    Boxes of which too little is left are marked by an area of zero, for `SanitizeBoundingBoxes` to remove.
    """

    def __init__(self, min_side: float, min_visible: float) -> None:
        super().__init__()
        self.min_side = min_side
        self.min_visible = min_visible

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = _image_size(flat_inputs)
        boxes = next(each for each in flat_inputs if isinstance(each, tv_tensors.BoundingBoxes))
        for _ in range(TRIALS):
            window_h, window_w = (max(round(side * uniform(self.min_side, 1.0)), 1) for side in (height, width))
            top, left = round(uniform(0, height - window_h)), round(uniform(0, width - window_w))
            kept = visible_share(boxes, left, top, left + window_w, top + window_h) >= self.min_visible
            if kept.any() or len(boxes) == 0:
                return {"window": (top, left, window_h, window_w), "kept": kept}
        return {"window": (0, 0, height, width), "kept": torch.ones(len(boxes), dtype=torch.bool)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        output = TF.crop(inpt, *params["window"])
        if isinstance(output, tv_tensors.BoundingBoxes):
            output[~params["kept"]] = 0
        return output


class RandomQuarterTurn(v2.Transform):
    """Turn by 90, 180 or 270 degrees; exact, no pixel is interpolated."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"quarters": int(torch.randint(1, 4, ()))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        for _ in range(params["quarters"]):
            inpt = _quarter_turn(inpt)
        return inpt


class RandomColour(v2.Transform):
    """Change brightness, contrast, saturation and hue, all in one affine map of RGB.

    Hue is turned in the IQ plane of NTSC's YIQ, which keeps the luma. One product of matrices instead of four
    passes over the picture: 1 ms where `v2.ColorJitter`, whose hue goes through HSV, takes 14 ms (320x427 pixels).

    Args:
        strength: at 1, brightness, contrast and saturation change by up to half, and hue by up to 18 degrees.
    """

    _RGB_TO_YIQ = torch.tensor(
        [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=torch.float64
    )
    _YIQ_TO_RGB = torch.linalg.inv(_RGB_TO_YIQ)
    _MOST_CHANGE = 0.5
    _MOST_HUE_DEGREES = 18.0

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        most = self._MOST_CHANGE * self.strength
        brightness, contrast, saturation = (uniform(1 - most, 1 + most) for _ in range(3))
        hue = math.radians(self._MOST_HUE_DEGREES * self.strength * uniform(-1, 1))
        turn = torch.eye(3, dtype=torch.float64)
        turn[1:, 1:] = saturation * torch.tensor([[math.cos(hue), -math.sin(hue)], [math.sin(hue), math.cos(hue)]])
        chroma = self._YIQ_TO_RGB @ turn @ self._RGB_TO_YIQ
        return {
            "matrix": (brightness * contrast * chroma).float(),
            "mean_luma_weight": brightness * (1 - contrast),  # contrast spreads the values around the mean luma
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        pixels = inpt.as_subclass(torch.Tensor).flatten(1).float()
        mean_luma = self._RGB_TO_YIQ[0].float() @ pixels.mean(1)
        offset = (params["mean_luma_weight"] * mean_luma).expand(3, 1)
        changed = torch.addmm(offset, params["matrix"], pixels).round_().clamp_(0, 255)
        return tv_tensors.wrap(changed.to(torch.uint8).view(inpt.shape), like=inpt)


def _quarter_turn(inpt: Any) -> Any:
    """Counter-clockwise, of an image or of xyxy boxes."""
    if not isinstance(inpt, tv_tensors.BoundingBoxes):
        return tv_tensors.wrap(inpt.rot90(1, (-2, -1)), like=inpt)
    height, width = inpt.canvas_size
    x1, y1, x2, y2 = inpt.as_subclass(torch.Tensor).unbind(-1)
    turned = torch.stack((y1, width - x2, y2, width - x1), dim=-1)
    return tv_tensors.wrap(turned, like=inpt, canvas_size=(width, height))


def visible_share(boxes_xyxy: torch.Tensor, x1: int, y1: int, x2: int, y2: int) -> torch.Tensor:
    """Share (M,) of each box's area that lies inside the window."""
    boxes_xyxy = boxes_xyxy.as_subclass(torch.Tensor)
    corners = torch.tensor([x1, y1, x2, y2], dtype=boxes_xyxy.dtype)
    inside = (boxes_xyxy[:, 2:].minimum(corners[2:]) - boxes_xyxy[:, :2].maximum(corners[:2])).clamp(min=0).prod(1)
    return inside / (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1)


def _image_size(flat_inputs: list[Any]) -> tuple[int, int]:
    image = next(each for each in flat_inputs if isinstance(each, tv_tensors.Image))
    return image.shape[-2], image.shape[-1]


def uniform(least: float, greatest: float) -> float:
    """A number drawn from torch's generator."""
    return least + (greatest - least) * float(torch.rand(()))


def log_uniform(least: float, greatest: float) -> float:
    """A factor, as likely to be above the geometric mean of the two as below."""
    return math.exp(uniform(math.log(least), math.log(greatest)))
