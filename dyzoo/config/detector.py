"""Frozen dataclasses that describe a detector, and their way to and from `config.json`.

A variant is made with `dataclasses.replace`; nothing here holds state. Defaults are those of the official
DyHead ATSS release (microsoft/DynamicHead) unless a field says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from dyzoo.config.preprocess import PreprocessConfig, Scale
from dyzoo.config.values import Range, build, shown
from dyzoo.errors import CheckpointError

CONFIG_VERSION = 2
MAX_LABELS = 30_000
MAX_LABEL_LENGTH = 200  # characters
MOST_BLOCKS = 64

Text = Annotated[str, Range(0, MAX_LABEL_LENGTH)]
Channels = Annotated[int, Range(1, 4096)]
Blocks = Annotated[int, Range(0, MOST_BLOCKS)]
Count = Annotated[int, Range(1, 10_000)]  # candidates and detections: NMS compares each with each
Fraction = Annotated[float, Range(0, 1)]
Probability = Annotated[float, Range(1e-9, 1 - 1e-9)]  # its logit is taken
Weight = Annotated[float, Range(0, 1e4)]
Offset = Annotated[float, Range(-100, 100)]
AspectRatios = Annotated[tuple[Annotated[float, Range(0.01, 100)], ...], Range(1, 16)]
BoxCodeWeights = tuple[Scale, Scale, Scale, Scale]


@dataclass(frozen=True)
class BackboneConfig:
    """A timm backbone and where it departs from timm's own layout.

    Attributes:
        name: timm's name, with or without a tag.
        stride_in_1x1: a bottleneck strides in its first convolution (MSRA and caffe ResNets).
        norm: behaviour of batch norms in training. "batch" normalises by the batch and learns; "eval" keeps the running
            statistics and learns scale and shift (mmdetection's `norm_eval`); "frozen" learns nothing: all four are
            buffers (detectron2's `FrozenBatchNorm2d`).
        output_norm: a LayerNorm of its own on each map given to the pyramid (Swin as a detection backbone).
        drop_path_rate: stochastic depth in training, where timm's model has it.
    """

    name: Text = "resnet50"
    stride_in_1x1: bool = False
    norm: Literal["batch", "eval", "frozen"] = "batch"
    output_norm: bool = False
    drop_path_rate: Annotated[float, Range(0, 0.99)] = 0.0


@dataclass(frozen=True)
class FPNConfig:
    """Feature pyramid of Lin et al. (CVPR 2017).

    Attributes:
        channels: width of every level.
        finest_stride: 8 for P3 as the first level (dense heads), 4 for P2 (Faster R-CNN).
        top: levels above P5, made from P5's output. "convs": P6 and P7 by 3x3 convolutions of stride 2 (RetinaNet);
            "pool": P6 alone, every second position of P5 (Faster R-CNN).
        relu_before_p7: for "convs"; detectron2 yes, mmdetection's `on_output` no.
    """

    channels: Channels = 256
    finest_stride: Literal[4, 8] = 8
    top: Literal["convs", "pool"] = "convs"
    relu_before_p7: bool = True

    @property
    def backbone_strides_px(self) -> tuple[int, ...]:
        """Strides of the backbone's maps that the pyramid is built on, finest first."""
        return tuple(stride for stride in (4, 8, 16, 32) if stride >= self.finest_stride)

    @property
    def strides_px(self) -> tuple[int, ...]:
        """Strides of the pyramid's levels, finest first."""
        return (*self.backbone_strides_px, 64, 128) if self.top == "convs" else (*self.backbone_strides_px, 64)


@dataclass(frozen=True)
class DyHeadConfig:
    """Stack of DyHead blocks.

    Each attention can be switched off, for ablations; no time or memory is saved by it. In the pyramid form the
    switches mean what those of the published code's continuation in GLIP mean (Li et al., CVPR 2022: USE_DYFUSE,
    USE_DFCONV, USE_DYRELU), and the convolutions and norms of a block stay; in the tensor form the attention is the
    identity in eq. 2, but for the task-aware one, see `TensorDyHeadBlock`.

    Attributes:
        channels: width of every block's output.
        num_blocks: 0 leaves the blocks out.
        form: "pyramid" works on every level at its own size, as the published code and weights do; "tensor" on all
            levels resized to the median one, as the paper writes it (section 3). The last two fields are the pyramid's.
        scale: scale-aware attention; without it a level is the plain mean of its branches.
        spatial: spatial-aware attention; without it the branches are plain 3x3 convolutions.
        task: task-aware attention; without it the activation is a ReLU.
        offset_mode: how the `high` branch reads its oversize offset map. Weights trained with microsoft/DynamicHead
            and with mmdetection both need "flat": either operator indexes the raw offset buffer by the size of its
            output.
        conv_bias: deformable convolutions with a bias (official) or without (mmdetection).
    """

    channels: Channels = 256
    num_blocks: Blocks = 6
    form: Literal["pyramid", "tensor"] = "pyramid"
    scale: bool = True
    spatial: bool = True
    task: bool = True
    offset_mode: Literal["flat", "crop", "resize"] = "resize"
    conv_bias: bool = True


@dataclass(frozen=True)
class ATSSConfig:
    """ATSS head (Zhang et al., CVPR 2020): prediction layers, assignment, losses and decoding.

    mmdetection's ATSS DyHead differs in `rank_by="class"` and `clip_before_nms=True`, and its `r50_fpn` also in
    `kernel_size=3` and `anchor_center_offset=0`; assignment and losses are the same.
    """

    type: Literal["atss"] = "atss"
    kernel_size: Literal[1, 3, 5, 7] = 1
    anchor_scale: Scale = 8.0  # anchor side in units of the level's stride
    anchor_center_offset: Offset = 0.5  # place of the first anchor's centre, in units of the stride
    num_candidates: Count = 9  # nearest anchors per level considered for each ground-truth box
    box_code_weights: BoxCodeWeights = (10.0, 10.0, 5.0, 5.0)
    prior_probability: Probability = 0.01
    focal_alpha: Fraction = 0.25
    focal_gamma: Annotated[float, Range(0, 100)] = 2.0
    box_loss_weight: Weight = 2.0
    score_threshold: Fraction = 0.05  # on the class score, before centerness is multiplied in
    rank_by: Literal["product", "class"] = "product"  # what the candidates of a level are ranked by
    candidates_per_level: Count = 1000
    clip_before_nms: bool = False  # overlaps inside the image instead of between the full boxes
    nms_threshold: Fraction = 0.6
    max_detections: Count = 100


@dataclass(frozen=True)
class GroundedATSSConfig(ATSSConfig):
    """ATSS head whose class layer has outputs for the tokens of class names (GLIP: Li et al., CVPR 2022).

    Attributes:
        tokens_per_class: outputs of each class, those of a class next to each other; empty: one of each.
    """

    type: Literal["grounded_atss"] = "grounded_atss"  # type: ignore[assignment]
    rank_by: Literal["product", "class"] = "class"
    clip_before_nms: bool = True
    tokens_per_class: Annotated[tuple[Annotated[int, Range(1, 254)], ...], Range(0, MAX_LABELS)] = ()


@dataclass(frozen=True)
class RetinaNetConfig:
    """RetinaNet head (Lin et al., ICCV 2017) with detectron2's conventions and DynamicHead's settings."""

    type: Literal["retinanet"] = "retinanet"
    num_convs: Blocks = 4  # 3x3 convolutions before the prediction layers, each tower its own
    anchor_scale: Scale = 4.0  # side of the smallest anchor in units of the level's stride
    octave_scales: Annotated[int, Range(1, 16)] = 3  # sides per octave: 2 ** (i / octave_scales)
    aspect_ratios: AspectRatios = (0.5, 1.0, 2.0)  # height over width
    anchor_center_offset: Offset = 0.0
    foreground_iou: Fraction = 0.5  # anchors of at least this IoU learn the object
    background_iou: Fraction = 0.4  # those of less learn background, those between learn nothing
    box_code_weights: BoxCodeWeights = (1.0, 1.0, 1.0, 1.0)
    smooth_l1_beta: Weight = 0.0  # 0 is L1, which microsoft/DynamicHead trains with; detectron2's own default is 0.1
    prior_probability: Probability = 0.01
    focal_alpha: Fraction = 0.25
    focal_gamma: Annotated[float, Range(0, 100)] = 2.0
    score_threshold: Fraction = 0.05
    candidates_per_level: Count = 1000
    nms_threshold: Fraction = 0.5
    max_detections: Count = 100


@dataclass(frozen=True)
class FCOSConfig:
    """FCOS head (Tian et al., ICCV 2019) with centre sampling, GIoU and torchvision's conventions."""

    type: Literal["fcos"] = "fcos"
    num_convs: Blocks = 0  # DyHead's blocks stand in for the towers; torchvision has 4
    center_sampling_radius: Scale = 1.5  # in units of the level's stride
    prior_probability: Probability = 0.01
    focal_alpha: Fraction = 0.25
    focal_gamma: Annotated[float, Range(0, 100)] = 2.0
    score_threshold: Fraction = 0.05  # on the square root of class probability times centerness
    candidates_per_level: Count = 1000
    nms_threshold: Fraction = 0.6
    max_detections: Count = 100


@dataclass(frozen=True)
class FasterRCNNConfig:
    """Faster R-CNN (Ren et al., NeurIPS 2015) on a pyramid, with detectron2's conventions."""

    type: Literal["faster_rcnn"] = "faster_rcnn"
    anchor_scale: Scale = 8.0  # side of the anchors in units of the level's stride
    aspect_ratios: AspectRatios = (0.5, 1.0, 2.0)  # height over width
    anchor_center_offset: Offset = 0.0
    rpn_foreground_iou: Fraction = 0.7
    rpn_background_iou: Fraction = 0.3
    rpn_batch_size: Count = 256  # anchors per image that the proposal losses are taken on
    rpn_positive_fraction: Fraction = 0.5
    rpn_candidates_train: Count = 2000  # per level, before NMS
    rpn_candidates_test: Count = 1000
    rpn_nms_threshold: Fraction = 0.7
    num_proposals: Count = 1000  # per image, after NMS
    roi_batch_size: Count = 512  # proposals per image that the box losses are taken on
    roi_positive_fraction: Fraction = 0.25
    roi_foreground_iou: Fraction = 0.5
    roi_size: Annotated[int, Range(1, 14)] = 7
    hidden_features: Annotated[int, Range(1, 16_384)] = 1024  # width of the two fully connected layers
    box_code_weights: BoxCodeWeights = (10.0, 10.0, 5.0, 5.0)
    score_threshold: Fraction = 0.05
    nms_threshold: Fraction = 0.5
    max_detections: Count = 100


HeadConfig = ATSSConfig | RetinaNetConfig | FCOSConfig | FasterRCNNConfig | GroundedATSSConfig


@dataclass(frozen=True)
class DetectorConfig:
    """Everything needed to build a detector without its weights."""

    architecture: Text = "dyhead_atss_resnet50"
    labels: Annotated[tuple[Text, ...], Range(0, MAX_LABELS)] = ()
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    fpn: FPNConfig = field(default_factory=FPNConfig)
    dyhead: DyHeadConfig = field(default_factory=DyHeadConfig)
    head: HeadConfig = field(default_factory=ATSSConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)

    def with_labels(self, labels: Sequence[str]) -> DetectorConfig:
        """The same for other classes: one of the same name keeps its tokens, a new one has one token."""
        head = self.head
        if isinstance(head, GroundedATSSConfig) and head.tokens_per_class:
            known = dict(zip(self.labels, head.tokens_per_class, strict=True))
            head = replace(head, tokens_per_class=tuple(known.get(label, 1) for label in labels))
        return replace(self, labels=tuple(labels), head=head)

    def to_json(self) -> str:
        """The text of `config.json`."""
        return json.dumps({"version": CONFIG_VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str | Path = "config.json") -> DetectorConfig:
        """Read `config.json`.

        Raises:
            CheckpointError: it is no JSON, or a field is unknown, of a wrong type or out of its range; `source` leads
                the message.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{source} is not JSON: {error}") from None
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists of thousands of levels
            raise CheckpointError(f"{source} cannot be read: {error}") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{source} holds {type(values).__name__}, expected an object of settings")
        version = values.pop("version", CONFIG_VERSION)
        if version == 1:
            values = _from_version_1(values)
        elif version != CONFIG_VERSION:
            raise CheckpointError(
                f"{source} has version {shown(version)}, this dyzoo reads up to version {CONFIG_VERSION}: update dyzoo"
            )
        return build(cls, values, f"{source}: ")

    def check(self) -> None:
        """Refuse what `from_json` would refuse.

        Raises:
            CheckpointError: a field is of a wrong type or out of its range.
        """
        build(DetectorConfig, asdict(self), "the configuration: ")


def _from_version_1(values: dict[str, Any]) -> dict[str, Any]:
    """Version 2 put `backbone.norm` in the place of `backbone.frozen_norm`."""
    backbone = values.get("backbone")
    if not isinstance(backbone, dict) or "frozen_norm" not in backbone:
        return values
    others = {name: value for name, value in backbone.items() if name != "frozen_norm"}
    return {**values, "backbone": {**others, "norm": "frozen" if backbone["frozen_norm"] is True else "batch"}}
