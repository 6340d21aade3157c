"""Adaptive training sample selection: which anchors learn which object."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from dyzoo.boxes import aligned_iou, box_centers, edge_distances
from dyzoo.heads.anchors import AnchorGrid
from dyzoo.losses import BACKGROUND

MIN_EDGE_DISTANCE_PX = 0.01  # a positive anchor's centre lies deeper than this inside its object
ROUNDING = 1e-6  # relative; lets equal IoUs pass the threshold that is their own mean


@torch.no_grad()
def assign_atss(boxes_xyxy: Tensor, grids: Sequence[AnchorGrid], num_candidates: int) -> Tensor:
    """Assign at most one object to every anchor (Zhang et al., *ATSS*, CVPR 2020, algorithm 1).

    The candidates of an object are the `num_candidates` anchors of each level whose centres are nearest to its
    own. Those with an IoU of at least the candidates' mean plus standard deviation (unbiased) and with their centre
    inside the object become positive; an anchor that several objects want goes to the one of the highest IoU.
    No (M, S) matrix is formed, so a crowded image costs little more than another.

    Args:
        boxes_xyxy: (M, 4) float32 pixels, M may be 0.
        grids: the anchors of each level; S is the sum of their positions.
        num_candidates: per level; a level with fewer positions gives all it has.

    Returns:
        (S,) int64: the index of the object of each anchor, or `BACKGROUND`.
    """
    device, num_boxes = boxes_xyxy.device, len(boxes_xyxy)
    *starts, num_anchors = accumulate(map(len, grids), initial=0)
    object_centers = box_centers(boxes_xyxy)
    candidates = torch.cat(
        [
            start + nearest_positions(object_centers, grid, num_candidates)
            for start, grid in zip(starts, grids, strict=True)
        ],
        dim=1,
    )  # (M, T), T candidates from all levels
    anchors = torch.cat([grid.boxes(device) for grid in grids])[candidates]

    iou = aligned_iou(anchors, boxes_xyxy[:, None])  # (M, T)
    mean = iou.mean(dim=1, keepdim=True)
    variance = (iou - mean).square().sum(dim=1, keepdim=True) / max(iou.shape[1] - 1, 1)  # a lone candidate has none
    threshold = (mean + variance.sqrt()) * (1 - ROUNDING)
    inside = edge_distances(box_centers(anchors), boxes_xyxy[:, None]).amin(dim=-1) > MIN_EDGE_DISTANCE_PX
    positive = inside & (iou >= threshold)

    # each anchor's highest IoU, then the first object that has it: no order of writes can change the outcome
    claims = torch.where(positive, iou, -1.0)
    highest = torch.full((num_anchors,), -1.0, device=device)
    highest.scatter_reduce_(0, candidates.flatten(), claims.flatten(), "amax")
    wins = positive & (claims == highest[candidates])
    objects = torch.arange(num_boxes, device=device)[:, None]
    assigned = torch.full((num_anchors,), num_boxes, device=device)
    assigned.scatter_reduce_(0, candidates.flatten(), torch.where(wins, objects, num_boxes).flatten(), "amin")
    return torch.where(assigned < num_boxes, assigned, BACKGROUND)


def nearest_positions(points_xy: Tensor, grid: AnchorGrid, count: int) -> Tensor:
    """The positions of a grid whose centres are nearest to each point, the nearest first.

    The k nearest of a grid lie among its k nearest columns and k nearest rows, so only k * k positions are
    compared. Of equal distances the nearer row comes first, then the lower index: the same on every device.

    Args:
        points_xy: (M, 2) pixels.
        grid: a level with H * W positions.
        count: k.

    Returns:
        (M, min(k, H * W)) int64 row-major positions.
    """
    x, y = grid.axes(points_xy.device)
    x_distances, columns = (points_xy[:, :1] - x).abs().sort(stable=True)
    y_distances, rows = (points_xy[:, 1:] - y).abs().sort(stable=True)
    squared_distances = y_distances[:, :count, None] ** 2 + x_distances[:, None, :count] ** 2
    positions = rows[:, :count, None] * grid.width + columns[:, None, :count]
    order = squared_distances.flatten(1).argsort(stable=True)[:, :count]
    return positions.flatten(1).gather(1, order)
