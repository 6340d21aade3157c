"""Suppression in ONNX: the translation of `dyzoo::suppress`, which is NMS with outputs of a fixed size."""

from __future__ import annotations

from dyzoo.export.nodes import FLOAT, INT64, Value, op, scalar, vector
from dyzoo.model.heads.fixed_size import NO_LABEL

ABSENT, LEAST = -3.4e38, -3.3e38  # score of what is no candidate, and what every candidate's is above


def suppress(  # type: ignore[no-untyped-def] # annotations would be read
    boxes,
    scores,
    labels,
    present,
    image_sizes,
    clip_before_nms,
    nms_threshold,
    max_detections,
    inclusive_corners=False,
):
    """`dyzoo.model.heads.fixed_size.suppress_to_fixed_size`, node by node.

    Every class is suppressed by itself, exactly: no box is moved by its label, which would round it.
    """
    last = vector(0.0, 0.0, 1.0, 1.0)
    limits = _limits(image_sizes, inclusive_corners)
    if inclusive_corners:
        boxes = op.Sub(boxes, last)
    if clip_before_nms:
        boxes = _clip(boxes, limits)
        present = op.And(present, _has_area(boxes))
    scores = op.Where(present, scores, scalar(ABSENT))
    kept = _kept(boxes, scores, labels, nms_threshold, max_detections)
    best, place = _best(op.Where(kept, scores, scalar(ABSENT)), max_detections)
    boxes, labels = _clip(_take(boxes, place, 4), limits), op.GatherElements(labels, place, axis=1)
    if not clip_before_nms:  # what lies in the padding makes room
        best, place = _best(op.Where(_has_area(boxes), best, scalar(ABSENT)), max_detections)
        boxes, labels = _take(boxes, place, 4), op.GatherElements(labels, place, axis=1)
    if inclusive_corners:
        boxes = op.Add(boxes, last)
    found = op.Greater(best, scalar(LEAST))
    missing = op.Sub(vector(max_detections), op.Shape(best, start=1))
    return (
        _fill(op.Where(_columns(found), boxes, scalar(0.0)), missing, scalar(0.0), columns=True),
        _fill(op.Where(found, best, scalar(0.0)), missing, scalar(0.0)),
        _fill(op.Where(found, labels, scalar(NO_LABEL)), missing, scalar(NO_LABEL)),
        op.ReduceSum(op.Cast(found, to=INT64), vector(1), keepdims=0),
    )


def _kept(boxes: Value, scores: Value, labels: Value, threshold: float, most: int) -> Value:
    """Which of (N, T) candidates are left, bool."""
    classes = op.Range(scalar(0), op.Add(op.ReduceMax(labels, keepdims=0), scalar(1)), scalar(1))
    own = op.Equal(op.Unsqueeze(labels, vector(1)), op.Unsqueeze(classes, vector(1)))  # (N, K, T)
    of_classes = op.Where(own, op.Unsqueeze(scores, vector(1)), scalar(ABSENT))
    selected = op.NonMaxSuppression(boxes, of_classes, vector(most), vector(threshold), vector(LEAST))
    places = op.Gather(selected, vector(0, 2), axis=1)  # image and candidate
    ones = op.Expand(vector(1.0), op.Shape(places, end=1))
    zeros = op.Expand(scalar(0.0), op.Shape(scores))
    return op.Greater(op.ScatterND(zeros, places, ones), scalar(0.5))


def _best(scores: Value, most: int) -> tuple[Value, Value]:
    """The highest scores (N, k) and their places, of two alike the first first."""
    count = op.Min(vector(most), op.Shape(scores, start=1))
    values, places = op.TopK(scores, count, axis=1)
    return values, places


def _take(boxes: Value, places: Value, columns: int) -> Value:
    repeated = op.Expand(op.Unsqueeze(places, vector(2)), vector(1, 1, columns))
    return op.GatherElements(boxes, repeated, axis=1)


def _limits(image_sizes: Value, inclusive_corners: bool) -> Value:
    """(N, 1, 4): the largest x, y, x, y."""
    limits = op.Unsqueeze(op.Cast(op.Gather(image_sizes, vector(1, 0, 1, 0), axis=1), to=FLOAT), vector(1))
    return op.Sub(limits, scalar(1.0)) if inclusive_corners else limits


def _clip(boxes: Value, limits: Value) -> Value:
    return op.Min(op.Max(boxes, scalar(0.0)), limits)


def _has_area(boxes: Value) -> Value:
    starts, ends = (op.Slice(boxes, vector(first), vector(first + 2), vector(2)) for first in (0, 2))
    sides = op.Cast(op.Greater(ends, starts), to=INT64)
    return op.Equal(op.ReduceSum(sides, vector(2), keepdims=0), scalar(2))


def _columns(found: Value) -> Value:
    return op.Unsqueeze(found, vector(2))


def _fill(values: Value, missing: Value, value: Value, columns: bool = False) -> Value:
    """More places at the end, up to the fixed number."""
    pads = [vector(0, 0, 0, 0), missing, vector(0)] if columns else [vector(0, 0, 0), missing]
    return op.Pad(values, op.Concat(*pads, axis=0), value)
