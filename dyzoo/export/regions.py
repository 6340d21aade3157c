"""Pooling of regions as one operator, in PyTorch and in ONNX."""

from __future__ import annotations

import torch
from torch import Tensor

from dyzoo.export.nodes import INT64, Value, op, scalar, vector
from dyzoo.model.heads.roi import CANONICAL_LEVEL, CANONICAL_SIDE_PX, pool_levels


@torch.library.custom_op("dyzoo::pool_regions", mutates_args=())
def pool_regions(features: list[Tensor], boxes_xyxy: Tensor, strides_px: list[int], roi_size: int) -> Tensor:
    """Features inside the boxes, (N * P, C, roi_size, roi_size), each from the level of its size.

    Args:
        features: maps (N, C, H, W) of the levels, finest first.
        boxes_xyxy: (N, P, 4) float32 pixels.
        strides_px: stride of each level.
        roi_size: positions of a region along each axis.
    """
    return pool_levels(features, list(boxes_xyxy), strides_px, roi_size)


@pool_regions.register_fake
def _(features: list[Tensor], boxes_xyxy: Tensor, strides_px: list[int], roi_size: int) -> Tensor:
    regions = boxes_xyxy.shape[0] * boxes_xyxy.shape[1]
    return features[0].new_empty(regions, features[0].shape[1], roi_size, roi_size)


def pool_regions_translation(features, boxes, strides_px, roi_size):  # type: ignore[no-untyped-def]
    """`dyzoo.model.heads.roi.pool_levels`, node by node; annotations would be read, and are left out."""
    count = op.Shape(boxes, start=1, end=2)
    flat = op.Reshape(boxes, vector(-1, 4))
    number = op.Shape(flat, end=1)
    image = op.Div(op.Range(scalar(0), op.Squeeze(number), scalar(1)), count)
    sides = op.Sub(_slice(flat, 2, 4), _slice(flat, 0, 2))
    area = op.ReduceProd(sides, vector(1), keepdims=0)
    side = op.Sqrt(op.Max(area, scalar(0.0)))
    scale = op.Add(op.Div(side, scalar(float(CANONICAL_SIDE_PX))), scalar(1e-8))
    octave = op.Div(op.Log(scale), op.Log(scalar(2.0)))
    level = op.Floor(op.Add(octave, scalar(float(CANONICAL_LEVEL))))
    finest = strides_px[0].bit_length() - 1
    bounds = (scalar(float(stride.bit_length() - 1)) for stride in (strides_px[0], strides_px[-1]))
    level = op.Sub(op.Cast(op.Clip(level, *bounds), to=INT64), scalar(finest))
    order, pooled = [], []
    for index, (maps, stride) in enumerate(zip(features, strides_px, strict=True)):
        own = op.Reshape(op.NonZero(op.Equal(level, scalar(index))), vector(-1))
        order.append(own)
        regions, images = op.Gather(flat, own, axis=0), op.Gather(image, own, axis=0)
        pooled.append(
            op.RoiAlign(
                maps,
                regions,
                images,
                output_height=roi_size,
                output_width=roi_size,
                sampling_ratio=0,
                spatial_scale=1 / stride,
                coordinate_transformation_mode="half_pixel",
            )
        )
    places = op.Concat(*order, axis=0)
    back = op.ScatterElements(places, places, op.Range(scalar(0), op.Squeeze(number), scalar(1)), axis=0)
    return op.Gather(op.Concat(*pooled, axis=0), back, axis=0)


def _slice(boxes: Value, first: int, end: int) -> Value:
    return op.Slice(boxes, vector(first), vector(end), vector(1))
