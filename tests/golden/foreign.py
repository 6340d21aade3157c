"""Detectors that hold the weights of a golden case, foreign keys renamed to those of `Detector`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import recipe
import torch
from safetensors.torch import load_file
from torch import Tensor

from dyzoo.config import ATSSConfig, BackboneConfig, DetectorConfig, DyHeadConfig, FPNConfig, PreprocessConfig
from dyzoo.detector import Detector

FOLDER = Path(__file__).parent

Renames = tuple[tuple[str, str], ...]  # literal parts of a key, replaced one after the other
KINDS = ("weight", "bias")

# "name@2" is slice 2 of the stacked parameter "name"
OFFICIAL_RENAMES: Renames = (
    ("backbone.backbone.bottom_up.", "backbone.model."),
    ("stem.", ""),
    *((f"res{stage + 1}.", f"layer{stage}.") for stage in (1, 2, 3, 4)),
    ("shortcut.norm.", "downsample.1."),
    ("shortcut.", "downsample.0."),
    *((f"conv{index}.norm.", f"bn{index}.") for index in (1, 2, 3)),
    *(
        (f"backbone.backbone.fpn_{part}{level + 3}.", f"fpn.{part}_convs.{level}.")
        for part in ("lateral", "output")
        for level in (0, 1, 2)
    ),
    ("backbone.backbone.top_block.", "fpn."),
    ("backbone.dyhead_tower.", "dyhead.blocks."),
    *((f"DyConv.{branch}.conv.{kind}", f"conv_{kind}@{branch}") for branch in (0, 1, 2) for kind in KINDS),
    *((f"DyConv.{branch}.bn.{kind}", f"norm_{kind}@{branch}") for branch in (0, 1, 2) for kind in KINDS),
    ("AttnConv.1.", "scale_"),
    *((f"relu.fc.{layer}.{kind}", f"relu_{kind}{number}") for number, layer in ((1, 0), (2, 2)) for kind in KINDS),
    ("offset.", "offset_"),
    ("head.cls_logits.", "head.cls."),
    ("head.bbox_pred.", "head.box."),
    *((f"head.scales.{level}.scale", f"head.box_scales@{level}") for level in range(5)),
)
MMDET_RENAMES: Renames = (
    ("bbox_head.atss_cls.", "head.cls."),
    ("bbox_head.atss_reg.", "head.box."),
    ("bbox_head.atss_centerness.", "head.centerness."),
    *((f"bbox_head.scales.{level}.scale", f"head.box_scales@{level}") for level in range(5)),
    ("backbone.", "backbone.model."),
    *((f"neck.0.lateral_convs.{level}.conv.", f"fpn.lateral_convs.{level}.") for level in (0, 1, 2)),
    *((f"neck.0.fpn_convs.{level}.conv.", f"fpn.output_convs.{level}.") for level in (0, 1, 2)),
    ("neck.0.fpn_convs.3.conv.", "fpn.p6."),
    ("neck.0.fpn_convs.4.conv.", "fpn.p7."),
    ("neck.1.dyhead_blocks.", "dyhead.blocks."),
    *(
        (f"spatial_conv_{name}.{part}.{kind}", f"{part}_{kind}@{branch}")
        for branch, name in enumerate(("high", "mid", "low"))
        for part in ("conv", "norm")
        for kind in KINDS
    ),
    ("spatial_conv_offset.", "offset_"),
    ("scale_attn_module.1.", "scale_"),
    *((f"task_attn_module.conv{number}.conv.{kind}", f"relu_{kind}{number}") for number in (1, 2) for kind in KINDS),
)
RENAMES = {"official_atss_r50": OFFICIAL_RENAMES, "mmdet_atss_r50": MMDET_RENAMES}

LABELS = tuple(f"class {index}" for index in range(80))
CONFIGS = {
    "official_atss_r50": DetectorConfig(
        labels=LABELS,
        backbone=BackboneConfig("resnet50", stride_in_1x1=True, norm="frozen"),
        fpn=FPNConfig(relu_before_p7=True),
        dyhead=DyHeadConfig(offset_mode="flat", conv_bias=True),
        head=ATSSConfig(),
        preprocess=PreprocessConfig(
            channel_order="BGR", mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), size_divisor=128
        ),
    ),
    "mmdet_atss_r50": DetectorConfig(
        labels=LABELS,
        backbone=BackboneConfig("resnet50", norm="eval"),
        fpn=FPNConfig(relu_before_p7=False),
        dyhead=DyHeadConfig(offset_mode="flat", conv_bias=False),
        head=ATSSConfig(kernel_size=3, anchor_center_offset=0.0, rank_by="class", clip_before_nms=True),
        preprocess=PreprocessConfig(size_divisor=32),
    ),
}


def golden_outputs(case: str) -> dict[str, Tensor]:
    """Input, target and answers of the foreign implementation."""
    return load_file(FOLDER / f"{case}.safetensors")


def foreign_shapes(case: str) -> dict[str, list[int]]:
    """Every key of the foreign checkpoint and the shape of its tensor."""
    manifest = json.loads((FOLDER / f"{case}.json").read_text())["checkpoint"]
    return {key: shape for key, (shape, _) in manifest.items()}


def golden_detector(case: str) -> Detector:
    """A `Detector` with the weights of the case, in evaluation mode; a key without a place raises."""
    foreign = {key: torch.from_numpy(recipe.tensor(key, shape)) for key, shape in foreign_shapes(case).items()}
    detector = Detector(CONFIGS[case])
    detector.load_weights(rename(foreign, RENAMES[case], detector.state_dict()), case)
    return detector.eval()


def rename(foreign: Mapping[str, Tensor], renames: Renames, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and stack; 1x1 convolutions take the shapes that `own` has for them, batch counters may be absent."""
    weights = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    slices: dict[str, dict[int, Tensor]] = {}
    for name, value in foreign.items():
        for old, new in renames:
            name = name.replace(old, new)
        if "@" in name:
            stack, index = name.split("@")
            slices.setdefault(stack, {})[int(index)] = value
        else:
            weights[name] = value
    weights |= {name: torch.stack([parts[i] for i in range(len(parts))]) for name, parts in slices.items()}
    return {name: value.reshape(own[name].shape) if name in own else value for name, value in weights.items()}
