"""The registered architectures: one function each, giving the configuration of a detector with COCO's classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from dyzoo.config import (
    ATSSConfig,
    BackboneConfig,
    DetectorConfig,
    DyHeadConfig,
    FasterRCNNConfig,
    FCOSConfig,
    FPNConfig,
    GroundedATSSConfig,
    PreprocessConfig,
    RetinaNetConfig,
    TrainingScale,
)
from dyzoo.config.labels import COCO_LABELS

Factory = Callable[[], DetectorConfig]

_ARCHITECTURES: dict[str, Factory] = {}
ARCHITECTURES = MappingProxyType(_ARCHITECTURES)
"""Name -> function giving the configuration; the first docstring line describes it."""

_PUBLISHED: dict[str, Published] = {}
PUBLISHED = MappingProxyType(_PUBLISHED)
"""Name -> what others have reported of it; absent where nobody has."""


@dataclass(frozen=True)
class Published:
    """A result that others report, not measured here.

    Attributes:
        ap: box AP on COCO in percent.
        where: who says so.
        weights_url: page that offers the weights, for `dyzoo convert`; None where none are offered.
    """

    ap: float
    where: str
    weights_url: str | None = None


def register(factory: Factory) -> Factory:
    """Make an architecture known under the function's name."""
    _ARCHITECTURES[factory.__name__] = factory
    return factory


def published(ap: float, where: str, weights_url: str | None = None) -> Callable[[Factory], Factory]:
    """Put a reported result beside an architecture."""

    def note(factory: Factory) -> Factory:
        _PUBLISHED[factory.__name__] = Published(ap, where, weights_url)
        return factory

    return note


# most pictures are of this size; the median side of an object is 0.106 of the picture's (Singh & Davis, CVPR 2018)
COCO_SCALE = TrainingScale(image_size=(480, 640), object_px=59.0)


def _detector(architecture: str, backbone: str | BackboneConfig, **changes: Any) -> DetectorConfig:
    if isinstance(backbone, str):
        backbone = BackboneConfig(backbone)
    preprocess = replace(changes.pop("preprocess", PreprocessConfig()), training_scale=COCO_SCALE)
    return DetectorConfig(architecture, COCO_LABELS, backbone, preprocess=preprocess, **changes)


PAPER = "Dai et al., CVPR 2021"
OFFICIAL = "microsoft/DynamicHead, COCO val"
OFFICIAL_URL = "https://github.com/microsoft/DynamicHead"
MMDET = "mmdetection, COCO val"
MMDET_URL = "https://github.com/open-mmlab/mmdetection/tree/main/configs/dyhead"

PYRAMID_FROM_P2 = FPNConfig(finest_stride=4, top="pool")
READS_FLAT = DyHeadConfig(offset_mode="flat")
MMDET_DYHEAD = DyHeadConfig(offset_mode="flat", conv_bias=False)
MMDET_FPN = FPNConfig(relu_before_p7=False)
MMDET_HEAD = ATSSConfig(rank_by="class", clip_before_nms=True)
# for networks that began as MSRA's or Caffe's ImageNet weights: BGR, means taken off, not scaled
CAFFE_INPUT = PreprocessConfig(channel_order="BGR", mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0))


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
@published(43.0, PAPER)
def dyhead_atss_resnet50() -> DetectorConfig:
    """DyHead ATSS on ResNet-50, six blocks of 256 channels (Dai et al., CVPR 2021)."""
    return _detector("dyhead_atss_resnet50", "resnet50")


@register
@published(46.5, PAPER)
def dyhead_atss_resnet101() -> DetectorConfig:
    """DyHead ATSS on ResNet-101, six blocks of 256 channels (Dai et al., CVPR 2021)."""
    return _detector("dyhead_atss_resnet101", "resnet101")


@register
@published(47.7, PAPER)
def dyhead_atss_resnext101() -> DetectorConfig:
    """DyHead ATSS on ResNeXt-101 64x4d, six blocks of 256 channels (Dai et al., CVPR 2021)."""
    return _detector("dyhead_atss_resnext101", "resnext101_64x4d")


def _swin(architecture: str, backbone: str, **changes: Any) -> DetectorConfig:
    """Swin as a detection backbone (Liu et al., ICCV 2021): a LayerNorm on each map, stochastic depth of 0.2."""
    return _detector(architecture, BackboneConfig(backbone, output_norm=True, drop_path_rate=0.2), **changes)


@register
def dyhead_atss_swin_tiny() -> DetectorConfig:
    """DyHead ATSS on Swin-T, six blocks of 256 channels."""
    return _swin("dyhead_atss_swin_tiny", "swin_tiny_patch4_window7_224")


@register
def dyhead_atss_swin_small() -> DetectorConfig:
    """DyHead ATSS on Swin-S, six blocks of 256 channels."""
    return _swin("dyhead_atss_swin_small", "swin_small_patch4_window7_224")


@register
def dyhead_atss_swin_base() -> DetectorConfig:
    """DyHead ATSS on Swin-B with windows of 12, six blocks of 256 channels."""
    return _swin("dyhead_atss_swin_base", "swin_base_patch4_window12_384")


@register
def dyhead_atss_swin_large() -> DetectorConfig:
    """DyHead ATSS on Swin-L with windows of 12, six blocks of 256 channels."""
    return _swin("dyhead_atss_swin_large", "swin_large_patch4_window12_384")


@register
def dyhead_retinanet_resnet50() -> DetectorConfig:
    """DyHead RetinaNet on ResNet-50, six blocks of 256 channels before the two towers."""
    return _detector("dyhead_retinanet_resnet50", "resnet50", head=RetinaNetConfig())


@register
def dyhead_fcos_resnet50() -> DetectorConfig:
    """DyHead FCOS on ResNet-50, anchor-free, six blocks of 256 channels in the towers' place."""
    return _detector("dyhead_fcos_resnet50", "resnet50", head=FCOSConfig())


@register
def dyhead_faster_rcnn_resnet50() -> DetectorConfig:
    """DyHead Faster R-CNN on ResNet-50, two-stage, six blocks of 256 channels over P2 to P6."""
    return _detector(
        "dyhead_faster_rcnn_resnet50",
        "resnet50",
        fpn=PYRAMID_FROM_P2,
        head=FasterRCNNConfig(),
        preprocess=PreprocessConfig(size_divisor=64),
    )


def _official(architecture: str, **changes: Any) -> DetectorConfig:
    """A configuration of microsoft/DynamicHead on ResNet-50, with the settings that they share."""
    backbone = BackboneConfig("resnet50", stride_in_1x1=True, norm="frozen")
    return _detector(architecture, backbone, **{"dyhead": READS_FLAT, "preprocess": CAFFE_INPUT, **changes})


@register
@published(42.4, OFFICIAL, OFFICIAL_URL)
def official_atss_r50() -> DetectorConfig:
    """The official DyHead ATSS on ResNet-50 (microsoft/DynamicHead `dyhead_r50_atss_fpn_1x`)."""
    return _official("official_atss_r50")


@register
@published(39.9, OFFICIAL, OFFICIAL_URL)
def official_retinanet_r50() -> DetectorConfig:
    """The official DyHead RetinaNet on ResNet-50 (microsoft/DynamicHead `dyhead_r50_retina_fpn_1x`)."""
    return _official("official_retinanet_r50", head=RetinaNetConfig())


@register
@published(40.3, OFFICIAL, OFFICIAL_URL)
def official_faster_rcnn_r50() -> DetectorConfig:
    """The official DyHead Faster R-CNN on ResNet-50 (microsoft/DynamicHead `dyhead_r50_rcnn_fpn_1x`)."""
    return _official(
        "official_faster_rcnn_r50",
        fpn=PYRAMID_FROM_P2,
        head=FasterRCNNConfig(),
        preprocess=replace(CAFFE_INPUT, size_divisor=64),
    )


@register
@published(49.8, OFFICIAL, OFFICIAL_URL)
def official_atss_swin_t() -> DetectorConfig:
    """The official DyHead ATSS on Swin-T (microsoft/DynamicHead `dyhead_swint_atss_fpn_2x_ms`)."""
    return _swin("official_atss_swin_t", "swin_tiny_patch4_window7_224", dyhead=READS_FLAT)


@register
@published(43.3, MMDET, MMDET_URL)
def mmdet_atss_r50() -> DetectorConfig:
    """mmdetection's DyHead ATSS on ResNet-50 (`atss_r50_fpn_dyhead_1x_coco`)."""
    return _detector(
        "mmdet_atss_r50",
        BackboneConfig("resnet50", norm="eval"),
        fpn=MMDET_FPN,
        dyhead=MMDET_DYHEAD,
        head=replace(MMDET_HEAD, kernel_size=3, anchor_center_offset=0.0),
        preprocess=PreprocessConfig(size_divisor=32),
    )


@register
@published(42.5, MMDET, MMDET_URL)
def mmdet_atss_r50_caffe() -> DetectorConfig:
    """mmdetection's reproduction of the official DyHead ATSS on ResNet-50 (`atss_r50-caffe_fpn_dyhead_1x_coco`).

    mmdetection keeps scale and shift of the batch norms fixed too while training; here they learn.
    """
    return _detector(
        "mmdet_atss_r50_caffe",
        BackboneConfig("resnet50", stride_in_1x1=True, norm="eval"),
        fpn=MMDET_FPN,
        dyhead=MMDET_DYHEAD,
        head=MMDET_HEAD,
        preprocess=CAFFE_INPUT,
    )


@register
@published(56.2, MMDET, MMDET_URL)
def mmdet_atss_swin_l() -> DetectorConfig:
    """mmdetection's DyHead ATSS on Swin-L (`atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco`), images of 1200 px."""
    return _swin(
        "mmdet_atss_swin_l",
        "swin_large_patch4_window12_384",
        fpn=MMDET_FPN,
        dyhead=MMDET_DYHEAD,
        head=MMDET_HEAD,
        preprocess=PreprocessConfig(shortest_edge=1200, longest_edge=2000, size_divisor=128),
    )


@register
@published(43.0, f"{MMDET}, zero-shot", "https://github.com/open-mmlab/mmdetection/tree/main/configs/glip")
def mmdet_glip_t_a() -> DetectorConfig:
    """mmdetection's GLIP-T (A): classes are text (`glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365`).

    Here with one output for each class; a converted checkpoint has one for each token of its class names.
    """
    return _swin(
        "mmdet_glip_t_a",
        "swin_tiny_patch4_window7_224",
        dyhead=READS_FLAT,
        head=GroundedATSSConfig(),
        preprocess=replace(CAFFE_INPUT, std=(57.375, 57.12, 58.395), size_divisor=32),
    )
