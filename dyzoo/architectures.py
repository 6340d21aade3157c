"""The registered architectures: one function each, giving the configuration of a detector with COCO's classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from dyzoo.config import ATSSConfig, BackboneConfig, DetectorConfig, DyHeadConfig, FPNConfig, PreprocessConfig
from dyzoo.labels import COCO_LABELS

_ARCHITECTURES: dict[str, Callable[[], DetectorConfig]] = {}
ARCHITECTURES = MappingProxyType(_ARCHITECTURES)
"""Name -> function giving the configuration; the first docstring line describes it."""


def register(function: Callable[[], DetectorConfig]) -> Callable[[], DetectorConfig]:
    """Make an architecture known under the function's name."""
    _ARCHITECTURES[function.__name__] = function
    return function


def _detector(architecture: str, backbone: str, **changes: Any) -> DetectorConfig:
    return replace(
        DetectorConfig(architecture=architecture, labels=COCO_LABELS, backbone=BackboneConfig(name=backbone)), **changes
    )


@register
def dyhead_atss_resnet10t() -> DetectorConfig:
    """Small detector for CPUs and small data sets: 96 channels, two blocks, 320 px, anchors from 32 px up."""
    return _detector(
        "dyhead_atss_resnet10t",
        "resnet10t",
        fpn=FPNConfig(channels=96),
        dyhead=DyHeadConfig(channels=96, num_blocks=2),
        head=ATSSConfig(anchor_scale=4.0),
        preprocess=PreprocessConfig(shortest_edge=320, longest_edge=512, size_divisor=32),
    )


@register
def dyhead_atss_resnet18() -> DetectorConfig:
    """DyHead ATSS on ResNet-18, six blocks of 256 channels."""
    return _detector("dyhead_atss_resnet18", "resnet18")


@register
def dyhead_atss_resnet34() -> DetectorConfig:
    """DyHead ATSS on ResNet-34, six blocks of 256 channels."""
    return _detector("dyhead_atss_resnet34", "resnet34")


@register
def dyhead_atss_resnet50() -> DetectorConfig:
    """DyHead ATSS on ResNet-50 (Dai et al., CVPR 2021, table 6), six blocks of 256 channels."""
    return _detector("dyhead_atss_resnet50", "resnet50")


@register
def dyhead_atss_resnet101() -> DetectorConfig:
    """DyHead ATSS on ResNet-101 (Dai et al., CVPR 2021, table 6), six blocks of 256 channels."""
    return _detector("dyhead_atss_resnet101", "resnet101")


@register
def dyhead_atss_swin_tiny() -> DetectorConfig:
    """DyHead ATSS on Swin-T (microsoft/DynamicHead `dyhead_swint_atss_fpn_2x_ms`)."""
    return _detector("dyhead_atss_swin_tiny", "swin_tiny_patch4_window7_224")


@register
def dyhead_atss_swin_small() -> DetectorConfig:
    """DyHead ATSS on Swin-S, six blocks of 256 channels."""
    return _detector("dyhead_atss_swin_small", "swin_small_patch4_window7_224")


@register
def dyhead_atss_swin_base() -> DetectorConfig:
    """DyHead ATSS on Swin-B with windows of 12, six blocks of 256 channels."""
    return _detector("dyhead_atss_swin_base", "swin_base_patch4_window12_384")


@register
def dyhead_atss_swin_large() -> DetectorConfig:
    """DyHead ATSS on Swin-L with windows of 12 (mmdetection `atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco`)."""
    return _detector("dyhead_atss_swin_large", "swin_large_patch4_window12_384")
