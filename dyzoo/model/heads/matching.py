"""Which anchors learn which object by their overlap, and which of them a loss is taken on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dyzoo.model.boxes import pairwise_iou
from dyzoo.model.heads.losses import BACKGROUND, IGNORED

MAX_PAIRS = 2**20  # IoUs formed at once, 4 MB


@torch.no_grad()
def assign_by_iou(
    boxes_xyxy: Tensor, anchors_xyxy: Tensor, *, foreground_iou: float, background_iou: float, rescue: bool
) -> Tensor:
    """Assign at most one object to every anchor by IoU (Ren et al., *Faster R-CNN*, NeurIPS 2015, section 3.1.2).

    An anchor learns the object that it overlaps most, the first of equal ones, from `foreground_iou` on, and
    background below `background_iou`. As detectron2's and torchvision's `Matcher`, but for objects that overlap no
    anchor at all or have no area: there both would call every anchor without overlap positive; here they match none.

    The (M, S) overlaps are formed in pieces of at most `MAX_PAIRS`: 2,000 objects on 200,000 anchors need no more
    memory than 20 do.

    Args:
        boxes_xyxy: (M, 4) float32 pixels, M may be 0.
        anchors_xyxy: (S, 4) float32 pixels.
        foreground_iou: least IoU of foreground.
        background_iou: IoU below which an anchor is background; between the two it is `IGNORED`.
        rescue: the anchors of an object's highest IoU are foreground however low it is (`allow_low_quality_matches`).
            They still learn the object that *they* overlap most.

    Returns:
        (S,) int64: the index of the object of each anchor, `BACKGROUND` or `IGNORED`.
    """
    if not len(boxes_xyxy) or not len(anchors_xyxy):
        return torch.full((len(anchors_xyxy),), BACKGROUND, dtype=torch.int64, device=anchors_xyxy.device)
    piece_size = max(MAX_PAIRS // len(boxes_xyxy), 1)
    pieces = anchors_xyxy.split(piece_size)
    # small results that are made between large ones would leave holes in the heap: their place is made beforehand
    highest = anchors_xyxy.new_zeros(len(anchors_xyxy))
    objects = torch.zeros(len(anchors_xyxy), dtype=torch.int64, device=anchors_xyxy.device)
    highest_by_object = boxes_xyxy.new_zeros(len(boxes_xyxy))
    for piece, piece_highest, piece_objects in zip(
        pieces, highest.split(piece_size), objects.split(piece_size), strict=True
    ):
        near, iou = _overlaps(boxes_xyxy, piece)
        if len(near):
            torch.max(iou, dim=0, out=(piece_highest, piece_objects))
            piece_objects.copy_(near[piece_objects])
            highest_by_object[near] = torch.maximum(highest_by_object[near], iou.amax(dim=1))

    foreground = highest >= foreground_iou
    if rescue:
        # an object without overlap would be equal to all anchors that have none with it
        wanted = torch.where(highest_by_object > 0, highest_by_object, math.inf)[:, None]
        for piece, piece_foreground in zip(pieces, foreground.split(piece_size), strict=True):
            if len(pieces) > 1:  # else they are at hand
                near, iou = _overlaps(boxes_xyxy, piece)
            piece_foreground |= (iou == wanted[near]).any(dim=0)
    unmatched = torch.where(highest < background_iou, BACKGROUND, IGNORED)
    return torch.where(foreground, objects, unmatched)


def _overlaps(boxes_xyxy: Tensor, piece_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """The objects that reach into the anchors' common bounding box, (m,) indices, and their IoU (m, anchors).

    Anchors come row by row, so a piece is a band of the image that most objects of a crowd lie outside of.
    """
    begins, ends = piece_xyxy[:, :2].amin(dim=0), piece_xyxy[:, 2:].amax(dim=0)
    near = ((boxes_xyxy[:, :2] < ends) & (boxes_xyxy[:, 2:] > begins)).all(dim=1).nonzero()[:, 0]
    return near, pairwise_iou(boxes_xyxy[near], piece_xyxy)


@torch.no_grad()
def sample_balanced(assigned: Tensor, count: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw anchors for a loss at random, as detectron2's `subsample_labels`.

    Args:
        assigned: (S,) int64 from `assign_by_iou`; `IGNORED` ones are never drawn.
        count: number of anchors to draw in all; fewer where there are not enough.
        positive_fraction: at most this share are positive, rounded down; background fills the rest.

    Returns:
        Indices of the positive and of the background ones drawn, int64, by torch's generator of their device.
    """
    positive = (assigned >= 0).nonzero()[:, 0]
    background = (assigned == BACKGROUND).nonzero()[:, 0]
    num_positive = min(len(positive), int(count * positive_fraction))
    num_background = min(len(background), count - num_positive)
    device = assigned.device
    return (
        positive[torch.randperm(len(positive), device=device)[:num_positive]],
        background[torch.randperm(len(background), device=device)[:num_background]],
    )
