"""The images of a step that went wrong, kept to be looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dyzoo.data.loader import Batch
from dyzoo.files import replacing, write_text
from dyzoo.images.colors import class_color
from dyzoo.images.drawing import draw_boxes
from dyzoo.model.targets import Target

NOT_FINITE_NAME = "not_finite"
_MOST_IMAGES = 64


def keep_batches(
    folder: Path,
    batches: Sequence[Batch],
    paths: Mapping[int, Path],
    labels: Sequence[str],
    reason: str,
    step: int,
    process: int = 0,
) -> Path | None:
    """Write the images of a step as the network saw them, with and without their boxes, and `batch.json` beside them.

    Args:
        folder: receives a folder `step_<step>_process_<process>`.
        batches: those of one process.
        paths: image id -> file.
        labels: class names.
        reason: the error, in a line.

    Returns:
        The folder that was written, or None where it cannot be: the reason itself matters more.
    """
    place = folder / f"step_{step:08d}_process_{process}"
    pairs = [pair for images, targets in batches for pair in zip(images, targets, strict=True)]
    try:
        entries = [_keep(place, number, *pair, paths, labels) for number, pair in enumerate(pairs[:_MOST_IMAGES])]
        record = {
            "reason": reason,
            "step": step,
            "images_in_step": len(pairs),
            "labels": list(labels),
            "images": entries,
        }
        write_text(place / "batch.json", json.dumps(record, indent=2) + "\n")
    except OSError:
        return None
    return place


def _keep(
    place: Path, number: int, image: Tensor, target: Target, paths: Mapping[int, Path], labels: Sequence[str]
) -> dict[str, Any]:
    """Write one image; its entry in the record."""
    pixels = image if image.dtype == torch.uint8 else (image.clamp(0, 1) * 255).to(torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).cpu().contiguous().numpy())
    boxes, indices = target["boxes"].tolist(), target["labels"].tolist()
    names = [labels[index] for index in indices]
    drawn = draw_boxes(picture, boxes, names, [class_color(index) for index in indices])
    for name, each in ((f"{number:02d}.png", picture), (f"{number:02d}_boxes.png", drawn)):
        with replacing(place / name) as aside:
            each.save(aside, format="PNG")
    image_id = target.get("image_id")
    path = paths.get(image_id) if isinstance(image_id, int) else None
    return {
        "file": f"{number:02d}.png",
        "image": None if path is None else path.name,
        "image_id": image_id,
        "boxes_xyxy": boxes,
        "labels": names,
    }
