"""From images to network input, and back to image pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from dyzoo.config import PreprocessConfig
from dyzoo.model.boxes import add_to_ends
from dyzoo.model.sizes import padded_size

_WAY_OUT = "model.predict(...) takes paths, arrays and pictures of every kind"


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize one (3, H, W) image to (H', W') = `size`: bilinear with antialiasing, the training transforms' way."""
    if tuple(image.shape[-2:]) == size:
        return image
    return TF.resize(image, list(size), antialias=True)


def batch_images(
    images: Sequence[Tensor],
    config: PreprocessConfig,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Normalise and pad images into one batch.

    Args:
        images: (3, H, W) each, RGB, uint8 in 0..255 or floating point in 0..1; sizes may differ.
        config: mean, std, channel order and the divisor of the padded size.
        device: device of the batch.
        dtype: type of the batch; pixels are normalised in float32 whatever it is.

    Returns:
        batch: (N, 3, H, W) in channels-last memory, padded at the right and the bottom with zeros, which is
            the mean colour (detectron2's `ImageList.from_tensors` after normalisation).
        image_sizes: (H, W) of every image before padding.

    Raises:
        ValueError: anything but tensors, an empty list, or an image of another shape or type.
        ImageError: a batch of more than `MAX_BATCH_PIXELS`.
    """
    _check_images(images)
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    height, width = padded_size(sizes, config.size_divisor)
    mean = torch.tensor(config.mean, device=device).view(3, 1, 1)
    std = torch.tensor(config.std, device=device).view(3, 1, 1)
    padded = []
    for image in images:
        pixels = image.to(device)
        pixels = pixels * 255.0 if pixels.is_floating_point() else pixels.float()
        if config.channel_order == "BGR":
            pixels = pixels.flip(0)
        normalised = ((pixels - mean) / std).to(dtype)
        padded.append(F.pad(normalised, (0, width - image.shape[2], 0, height - image.shape[1])))
    return torch.stack(padded).contiguous(memory_format=torch.channels_last), sizes


def _check_images(images: Any) -> None:
    """Refuse what `predict` would take: the network itself takes tensors, resized by whoever made them."""
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise ValueError(f"images is a tensor {tuple(images.shape)}, expected (N, 3, H, W) or a list of (3, H, W)")
    elif not isinstance(images, list | tuple):
        raise ValueError(f"images is {_kind(images)}, expected a list of tensors (3, H, W): {_WAY_OUT}")
    if not len(images):
        raise ValueError("images is empty, expected at least one (3, H, W) tensor")
    for index, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise ValueError(f"image {index} is {_kind(image)}, expected a tensor (3, H, W): {_WAY_OUT}")
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            hint = f": {_WAY_OUT}" if image.ndim == 3 and image.shape[0] in (1, 4) else ""
            raise ValueError(f"image {index} is {tuple(image.shape)}, expected (3, H, W){hint}")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ValueError(f"image {index} is {image.dtype}, expected uint8 in 0..255 or floating point in 0..1")


def _kind(given: Any) -> str:
    name = type(given).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def map_to_image(
    boxes_xyxy: Tensor,
    network_size: tuple[int, int],
    image_size: tuple[float, float],
    inclusive_corners: bool = False,
) -> Tensor:
    """Boxes (M, 4) in pixels of the resized image -> pixels of the original, both sizes (H, W).

    With `inclusive_corners` the last pixel inside is what is brought to the other size.
    """
    scale_y, scale_x = image_size[0] / network_size[0], image_size[1] / network_size[1]
    last_px = 1.0 if inclusive_corners else 0.0
    boxes = add_to_ends(boxes_xyxy, -last_px) * boxes_xyxy.new_tensor([scale_x, scale_y, scale_x, scale_y])
    boxes = add_to_ends(boxes, last_px)
    limit = boxes.new_tensor([image_size[1], image_size[0]] * 2)
    return boxes.clamp(min=0).minimum(limit)
