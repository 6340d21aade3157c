"""Which positions learn which object: ATSS's adaptive samples and FCOS's centre samples.

Both look at a few candidates of every object. No (M, S) matrix is formed, so a crowded image costs little more than
another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from dyzoo.model.boxes import aligned_iou, box_areas, box_centers, edge_distances
from dyzoo.model.heads.anchors import AnchorGrid, all_boxes, nearest, nearest_positions
from dyzoo.model.heads.losses import BACKGROUND

MIN_EDGE_DISTANCE_PX = 0.01  # a positive anchor's centre lies deeper than this inside its object
ROUNDING = 1e-6  # relative; lets equal IoUs pass the threshold that is their own mean

# FCOS: a level's objects reach from 4 to 8 strides beyond the position, 64 to 128 px at stride 16
NEAREST_REACH, FARTHEST_REACH = 4, 8
AREA_BOUND_PX2 = 1e8  # torchvision ranks objects by this minus their area, in float32


@torch.no_grad()
def assign_atss(boxes_xyxy: Tensor, grids: Sequence[AnchorGrid], num_candidates: int) -> Tensor:
    """Assign at most one object to every anchor (Zhang et al., *ATSS*, CVPR 2020, algorithm 1).

    The candidates of an object are the `num_candidates` anchors of each level whose centres are nearest to its
    own. Those with an IoU of at least the candidates' mean plus standard deviation (unbiased) and with their centre
    inside the object become positive; an anchor that several objects want goes to the one of the highest IoU.

    Args:
        boxes_xyxy: (M, 4) float32 pixels, M may be 0.
        grids: the anchors of each level, one at a position; S is the sum of their positions.
        num_candidates: per level; a level with fewer positions gives all it has.

    Returns:
        (S,) int64: the index of the object of each anchor, or `BACKGROUND`.
    """
    *starts, num_anchors = accumulate(map(len, grids), initial=0)
    object_centers = box_centers(boxes_xyxy)
    candidates = torch.cat(
        [
            start + nearest_positions(object_centers, grid, num_candidates)
            for start, grid in zip(starts, grids, strict=True)
        ],
        dim=1,
    )  # (M, T), T candidates from all levels
    anchors = all_boxes(grids, boxes_xyxy.device)[candidates]

    iou = aligned_iou(anchors, boxes_xyxy[:, None])  # (M, T)
    mean = iou.mean(dim=1, keepdim=True)
    variance = (iou - mean).square().sum(dim=1, keepdim=True) / max(iou.shape[1] - 1, 1)  # a lone candidate has none
    threshold = (mean + variance.sqrt()) * (1 - ROUNDING)
    inside = edge_distances(box_centers(anchors), boxes_xyxy[:, None]).amin(dim=-1) > MIN_EDGE_DISTANCE_PX
    return _award(num_anchors, candidates, iou, inside & (iou >= threshold))


@torch.no_grad()
def assign_fcos(boxes_xyxy: Tensor, grids: Sequence[AnchorGrid], radius: float) -> Tensor:
    """Assign at most one object to every position (Tian et al., *FCOS*, ICCV 2019, with centre sampling).

    A position learns an object that it lies inside of, if it is less than `radius` strides from the object's centre
    in x and in y and if the farthest edge is within the reach of its level. Of several objects it learns the
    smallest. As `torchvision.models.detection.fcos`, to its arithmetic: areas that float32 cannot tell apart once
    they are taken from `AREA_BOUND_PX2` (a difference of less than 8 px^2) are the same, and the first object wins.

    Args:
        boxes_xyxy: (M, 4) float32 pixels, M may be 0.
        grids: the positions of each level, finest first; S is their sum.
        radius: distance from the centre in units of the level's stride.

    Returns:
        (S,) int64: the index of the object of each position, or `BACKGROUND`.
    """
    *starts, num_positions = accumulate(map(len, grids), initial=0)
    centers = box_centers(boxes_xyxy)
    count = math.ceil(2 * radius)  # no more columns, or rows, are nearer than the radius
    candidates, positive = [], []
    for level, (start, grid) in enumerate(zip(starts, grids, strict=True)):
        x, y = grid.axes(boxes_xyxy.device)
        x_distances, columns = nearest(centers[:, 0], x, count)
        y_distances, rows = nearest(centers[:, 1], y, count)
        points = torch.stack(torch.broadcast_tensors(x[columns][:, None], y[rows][:, :, None]), dim=-1).flatten(1, 2)
        from_center = torch.maximum(x_distances[:, None], y_distances[:, :, None]).flatten(1)
        edges = edge_distances(points, boxes_xyxy[:, None])  # (M, k * k, 4)
        reach = edges.amax(dim=-1)
        lower = NEAREST_REACH * grid.stride_px if level > 0 else 0
        upper = FARTHEST_REACH * grid.stride_px if level < len(grids) - 1 else math.inf
        inside = edges.amin(dim=-1) > 0
        positive.append(inside & (from_center < radius * grid.stride_px) & (reach > lower) & (reach < upper))
        candidates.append(start + (rows[:, :, None] * grid.width + columns[:, None]).flatten(1))
    claims = (AREA_BOUND_PX2 - box_areas(boxes_xyxy))[:, None]
    chosen = torch.cat(candidates, dim=1)
    return _award(num_positions, chosen, claims.expand(-1, chosen.shape[1]), torch.cat(positive, dim=1))


def _award(num_anchors: int, candidates: Tensor, claims: Tensor, positive: Tensor) -> Tensor:
    """Give each anchor to the object with the highest claim on it, to the first of equal ones.

    Args:
        num_anchors: S.
        candidates: (M, T) int64, anchors that each of M objects looks at.
        claims: (M, T) float32.
        positive: (M, T) bool, where an object wants the anchor.

    Returns:
        (S,) int64: the index of the object of each anchor, or `BACKGROUND`.
    """
    device, num_objects = claims.device, len(claims)
    # each anchor's highest claim, then the first object that has it: no order of writes can change the outcome
    wanted = torch.where(positive, claims, -math.inf)
    highest = torch.full((num_anchors,), -math.inf, device=device)
    highest.scatter_reduce_(0, candidates.flatten(), wanted.flatten(), "amax")
    wins = positive & (wanted == highest[candidates])
    objects = torch.arange(num_objects, device=device)[:, None]
    assigned = torch.full((num_anchors,), num_objects, device=device)
    assigned.scatter_reduce_(0, candidates.flatten(), torch.where(wins, objects, num_objects).flatten(), "amin")
    return torch.where(assigned < num_objects, assigned, BACKGROUND)
