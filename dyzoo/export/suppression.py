"""Suppression in ONNX: the translation of `dyzoo::suppress`, which is NMS with outputs of a fixed size."""

from __future__ import annotations

from typing import Any

from onnxscript import opset20 as op

from dyzoo.model.heads.fixed_size import NO_LABEL

ABSENT, LEAST = -3.4e38, -3.3e38  # score of what is no candidate, and what every candidate's is above

Value = Any  # a value of the graph that is being built


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
    last = op.Constant(value_floats=[0.0, 0.0, 1.0, 1.0])
    limits = _limits(image_sizes, inclusive_corners)
    if inclusive_corners:
        boxes = op.Sub(boxes, last)
    if clip_before_nms:
        boxes = _clip(boxes, limits)
        present = op.And(present, _has_area(boxes))
    scores = op.Where(present, scores, _float(ABSENT))
    kept = _kept(boxes, scores, labels, nms_threshold, max_detections)
    best, place = _best(op.Where(kept, scores, _float(ABSENT)), max_detections)
    boxes, labels = _clip(_take(boxes, place, 4), limits), op.GatherElements(labels, place, axis=1)
    if not clip_before_nms:  # what lies in the padding makes room
        best, place = _best(op.Where(_has_area(boxes), best, _float(ABSENT)), max_detections)
        boxes, labels = _take(boxes, place, 4), op.GatherElements(labels, place, axis=1)
    if inclusive_corners:
        boxes = op.Add(boxes, last)
    found = op.Greater(best, _float(LEAST))
    missing = op.Sub(_ints(max_detections), op.Shape(best, start=1))
    return (
        _fill(op.Where(_columns(found), boxes, _float(0.0)), missing, _float(0.0), columns=True),
        _fill(op.Where(found, best, _float(0.0)), missing, _float(0.0)),
        _fill(op.Where(found, labels, _int(NO_LABEL)), missing, _int(NO_LABEL)),
        op.ReduceSum(op.Cast(found, to=7), _ints(1), keepdims=0),
    )


def _kept(boxes: Value, scores: Value, labels: Value, threshold: float, most: int) -> Value:
    """Which of (N, T) candidates are left, bool."""
    classes = op.Range(_int(0), op.Add(op.ReduceMax(labels, keepdims=0), _int(1)), _int(1))
    own = op.Equal(op.Unsqueeze(labels, _ints(1)), op.Unsqueeze(classes, _ints(1)))  # (N, K, T)
    of_classes = op.Where(own, op.Unsqueeze(scores, _ints(1)), _float(ABSENT))
    selected = op.NonMaxSuppression(boxes, of_classes, _ints(most), _floats(threshold), _floats(LEAST))
    places = op.Gather(selected, _ints(0, 2), axis=1)  # image and candidate
    ones = op.Expand(_floats(1.0), op.Shape(places, end=1))
    zeros = op.Expand(_float(0.0), op.Shape(scores))
    return op.Greater(op.ScatterND(zeros, places, ones), _float(0.5))


def _best(scores: Value, most: int) -> tuple[Value, Value]:
    """The highest scores (N, k) and their places, of two alike the first first."""
    count = op.Min(_ints(most), op.Shape(scores, start=1))
    values, places = op.TopK(scores, count, axis=1)
    return values, places


def _take(boxes: Value, places: Value, columns: int) -> Value:
    repeated = op.Expand(op.Unsqueeze(places, _ints(2)), _ints(1, 1, columns))
    return op.GatherElements(boxes, repeated, axis=1)


def _limits(image_sizes: Value, inclusive_corners: bool) -> Value:
    """(N, 1, 4): the largest x, y, x, y."""
    limits = op.Unsqueeze(op.Cast(op.Gather(image_sizes, _ints(1, 0, 1, 0), axis=1), to=1), _ints(1))
    return op.Sub(limits, _float(1.0)) if inclusive_corners else limits


def _clip(boxes: Value, limits: Value) -> Value:
    return op.Min(op.Max(boxes, _float(0.0)), limits)


def _has_area(boxes: Value) -> Value:
    starts, ends = (op.Slice(boxes, _ints(first), _ints(first + 2), _ints(2)) for first in (0, 2))
    sides = op.Cast(op.Greater(ends, starts), to=7)
    return op.Equal(op.ReduceSum(sides, _ints(2), keepdims=0), _int(2))


def _columns(found: Value) -> Value:
    return op.Unsqueeze(found, _ints(2))


def _fill(values: Value, missing: Value, value: Value, columns: bool = False) -> Value:
    """More places at the end, up to the fixed number."""
    pads = [_ints(0, 0, 0, 0), missing, _ints(0)] if columns else [_ints(0, 0, 0), missing]
    return op.Pad(values, op.Concat(*pads, axis=0), value)


def _int(value: int) -> Value:
    return op.Constant(value_int=value)


def _ints(*values: int) -> Value:
    return op.Constant(value_ints=list(values))


def _float(value: float) -> Value:
    return op.Constant(value_float=value)


def _floats(*values: float) -> Value:
    return op.Constant(value_floats=list(values))
