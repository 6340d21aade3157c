"""Detections in the form in which transformers' models for object detection give them, and labels in dyzoo's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from dyzoo.config.values import shown
from dyzoo.hf_transformers.boxes import from_shares, to_shares
from dyzoo.model.heads.base import Detected, ImageSizes
from dyzoo.model.targets import Target

NO_SCORE = -1e4
"""The logit of a class that a detection is not of: its sigmoid is 0, and no type of numbers makes infinity of it."""


@dataclass
class DyzooObjectDetectionOutput(ModelOutput):
    """Losses and detections of N pictures.

    A dense detector's tens of thousands of candidates have been suppressed already: the Q places of a picture hold its
    detections, best first, and are empty behind them (every logit is `NO_SCORE`, the box is all zeros). In training
    mode with labels there are losses alone.

    Attributes:
        loss: the sum of `loss_dict`, where labels were given.
        loss_dict: each loss by name, weighted and normalised.
        logits: (N, Q, K) float32; the sigmoid of the highest of a place is its score, and where that is, its class.
        pred_boxes: (N, Q, 4) float64, centre and size in shares of the picture without its padding.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None


def to_outputs(
    detected: Sequence[Detected], image_sizes: ImageSizes, places: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """`logits` and `pred_boxes` of detections in pictures of these sizes."""
    device = detected[0]["scores"].device
    logits = torch.full((len(detected), places, num_classes), NO_SCORE, device=device)
    boxes = torch.zeros(len(detected), places, 4, device=device)
    boxes = to_shares(boxes, torch.ones(2))
    for number, (found, size) in enumerate(zip(detected, image_sizes, strict=True)):
        place = torch.arange(len(found["scores"]), device=device)
        logits[number, place, found["labels"]] = found["scores"].float().logit().clamp(min=NO_SCORE, max=-NO_SCORE)
        boxes[number, place] = to_shares(found["boxes"], torch.tensor(size))
    return logits, boxes


def to_targets(labels: Sequence[Mapping[str, Tensor]], image_sizes: ImageSizes, device: torch.device) -> list[Target]:
    """The targets that a detector learns from, of labels as `to_labels` makes them; crowd regions are left out.

    Raises:
        ValueError: labels are not one for each picture, or lack something.
    """
    if len(labels) != len(image_sizes):
        raise ValueError(f"got labels of {len(labels)} pictures for {len(image_sizes)}, expected one each")
    targets: list[Target] = []
    for number, (label, size) in enumerate(zip(labels, image_sizes, strict=True)):
        if missing := [name for name in ("boxes", "class_labels") if name not in label]:
            raise ValueError(f"labels of picture {number} have {shown(sorted(label))}, expected {missing[0]}, too")
        boxes, classes = (torch.as_tensor(label[name]).to(device) for name in ("boxes", "class_labels"))
        if boxes.ndim != 2 or boxes.shape[1] != 4 or classes.shape != boxes.shape[:1]:
            raise ValueError(
                f"labels of picture {number} have boxes {tuple(boxes.shape)} and class_labels {tuple(classes.shape)}, "
                "expected (M, 4) and (M,)"
            )
        if "iscrowd" in label:
            learnt = torch.as_tensor(label["iscrowd"]).to(device) == 0
            boxes, classes = boxes[learnt], classes[learnt]
        corners = from_shares(boxes, torch.tensor(size)).float()
        targets.append({"boxes": corners, "labels": classes})
    return targets
