"""Detections of overlapping tiles as those of one picture: each object once, and none of it cut by a seam.

Slicers of other packages merge boxes by overlap alone: an object and its half, or two cells that touch, are then told
apart by one threshold. Here it counts who saw more. A box that ends at an inner edge of its tile may be a part of an
object: it goes, whatever its score and class, where another tile has the place in full view. What is too large for
that is put together of its parts, or seen in the whole picture. Two tiles have found the same object if their boxes
agree in the area that both see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from dyzoo.model.boxes import box_areas, pairwise_iou
from dyzoo.model.heads.base import Detected
from dyzoo.model.tiles import Grid

MOST_OVERLAP = 0.5
"""IoU, in the area that two tiles see, above which boxes of a class are one object; less where the head has less."""

_INSIDE = 0.8  # share of a box that lies in another which is around it


class _Found(NamedTuple):
    """Boxes of all looks at a picture, in pixels of the picture."""

    boxes: Tensor  # (M, 4)
    scores: Tensor  # (M,)
    labels: Tensor  # (M,)
    look: Tensor  # (M,) index of the look; that at the whole picture comes last
    cut: Tensor  # (M,) bool: may be a part of an object

    def at(self, index: Tensor) -> _Found:
        return _Found(*(values[index] for values in self))


def merge_tiles(found: Sequence[Detected], grid: Grid, nms_threshold: float) -> Detected:
    """The detections of every tile, and of the whole picture after them, as one.

    Args:
        found: for each tile in the order of `Grid.areas`, and then for the picture as a whole, what was found there, in
            pixels of the picture.
        grid: the tiles.
        nms_threshold: that within a tile.
    """
    areas = torch.tensor(grid.areas(), dtype=torch.float32)
    boxes, scores, labels = (torch.cat([f[kind].cpu() for f in found]) for kind in ("boxes", "scores", "labels"))
    look = torch.arange(len(found)).repeat_interleave(torch.tensor([len(f["scores"]) for f in found]))
    cut = _is_cut(boxes, areas, look, grid)
    of_whole = look == len(areas)
    better_seen = (cut | of_whole) & _is_entire_somewhere(boxes, grid)
    all_found = _Found(boxes, scores, labels, look, cut).at(~better_seen)
    all_found = all_found.at(~_is_crowd(all_found, len(areas)))
    pairs = list(_same_object(all_found, areas, min(nms_threshold, MOST_OVERLAP)))
    return _choose(all_found, torch.cat(pairs) if pairs else torch.zeros(0, 2, dtype=torch.int64))


def _is_cut(boxes: Tensor, areas: Tensor, look: Tensor, grid: Grid) -> Tensor:
    """(M,) whether a box ends within the margin of an edge of its tile that is no edge of the picture."""
    x, y = grid.margins
    margin = torch.tensor([x, y])
    end = torch.tensor([grid.columns[-1][1], grid.rows[-1][1]])
    whole = torch.tensor([[0.0, 0.0, *end.tolist()]])
    own = torch.cat([areas, whole])[look]
    start = (own[:, :2] > 0) & (boxes[:, :2] < own[:, :2] + margin)
    stop = (own[:, 2:] < end) & (boxes[:, 2:] > own[:, 2:] - margin)
    return (start | stop).any(dim=1)


def _is_entire_somewhere(boxes: Tensor, grid: Grid) -> Tensor:
    """(M,) whether some tile sees a box without cutting it."""
    entire = torch.ones(len(boxes), dtype=torch.bool)
    for axis, (spans, margin) in enumerate(zip((grid.columns, grid.rows), grid.margins, strict=True)):
        last = spans[-1][1]
        low = torch.tensor([start + margin if start else -torch.inf for start, _ in spans])
        high = torch.tensor([stop - margin if stop < last else torch.inf for _, stop in spans])
        inside = (boxes[:, axis, None] >= low) & (boxes[:, axis + 2, None] <= high)
        entire &= inside.any(dim=1)
    return entire


def _is_crowd(found: _Found, whole: int) -> Tensor:
    """(M,) whether a box, seen in the whole picture, is around several objects of its class that tiles tell apart."""
    crowd = torch.zeros(len(found.look), dtype=torch.bool)
    in_tile = found.at((found.look != whole) & ~found.cut)
    for index in (found.look == whole).nonzero()[:, 0].tolist():
        box, score = found.boxes[index], found.scores[index]
        overlap = (torch.minimum(in_tile.boxes[:, 2:], box[2:]) - torch.maximum(in_tile.boxes[:, :2], box[:2])).clamp(0)
        inside = overlap.prod(dim=1) > _INSIDE * box_areas(in_tile.boxes)
        alike = (in_tile.labels == found.labels[index]) & (in_tile.scores >= score / 2)
        smaller = box_areas(in_tile.boxes) < box_areas(box) / 2
        crowd[index] = (inside & alike & smaller).sum() > 1
    return crowd


def _same_object(found: _Found, areas: Tensor, threshold: float) -> Iterator[Tensor]:
    """(P, 2) pairs of boxes of two looks that are one object, for every two looks that see a common area."""
    order = torch.argsort(found.look, stable=True)
    counts = torch.bincount(found.look, minlength=len(areas) + 1).tolist()
    members = order.split(counts)
    for first, area in enumerate(areas):
        if not counts[first]:
            continue
        others = areas[first + 1 :]
        meet = (torch.maximum(others[:, :2], area[:2]) < torch.minimum(others[:, 2:], area[2:])).all(dim=1)
        for second in (meet.nonzero()[:, 0] + first + 1).tolist():
            yield _agreeing(found, members[first], members[second], area, areas[second], threshold)
        yield _agreeing(found, members[first], members[-1], area, area, threshold)


def _agreeing(found: _Found, first: Tensor, second: Tensor, area: Tensor, other: Tensor, threshold: float) -> Tensor:
    left_top, right_bottom = torch.maximum(area[:2], other[:2]), torch.minimum(area[2:], other[2:])
    width, height = (right_bottom - left_top).tolist()
    ones, others = (
        clip_boxes_to_image(found.boxes[index] - left_top.repeat(2), (height, width)) for index in (first, second)
    )
    same = (pairwise_iou(ones, others) > threshold) & (found.labels[first, None] == found.labels[second])
    one, another = same.nonzero(as_tuple=True)
    return torch.stack([first[one], second[another]], dim=1)


def _choose(found: _Found, pairs: Tensor) -> Detected:
    """The best box of each object that is not cut; where all are, the box around them, with the best one's score."""
    same: dict[int, list[int]] = {}
    for one, other in pairs.tolist():
        same.setdefault(one, []).append(other)
        same.setdefault(other, []).append(one)
    cut, boxes = found.cut.tolist(), found.boxes.clone()
    ranks = list(zip(cut, (-found.scores).tolist(), strict=True))
    gone: set[int] = set()
    kept = []
    for index in sorted(range(len(ranks)), key=ranks.__getitem__):
        if index in gone:
            continue
        kept.append(index)
        group = _parts(index, same, gone) if cut[index] else same.get(index, [])
        gone.update(group)
        if cut[index]:
            around = found.boxes[[index, *group]]
            boxes[index] = torch.cat([around[:, :2].amin(dim=0), around[:, 2:].amax(dim=0)])
    chosen = torch.tensor(kept, dtype=torch.int64)
    chosen = chosen[found.scores[chosen].argsort(descending=True, stable=True)]
    return {"boxes": boxes[chosen], "scores": found.scores[chosen], "labels": found.labels[chosen]}


def _parts(index: int, same: dict[int, list[int]], gone: set[int]) -> list[int]:
    """All other parts of the object that a cut box is of; those that belong to a whole one are gone already."""
    parts, open_ends = [], [index]
    seen = {index}
    while open_ends:
        for other in same.get(open_ends.pop(), ()):
            if other not in seen and other not in gone:
                seen.add(other)
                parts.append(other)
                open_ends.append(other)
    return parts
