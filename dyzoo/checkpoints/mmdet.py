"""Checkpoints of mmdetection, versions 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dyzoo.checkpoints.rules import KeyRules, Rule


def unfolded_to_concatenated(values: Tensor) -> Tensor:
    """Reorder the last axis of Swin's patch merging, 4 C inputs, from mmdetection's order to timm's.

    mmdetection gathers the four patches with `nn.Unfold`: channel by channel, each with its patches row by row. timm,
    like microsoft's code, concatenates whole patches, column by column.
    """
    channels = values.shape[-1] // 4
    return values.unflatten(-1, (channels, 2, 2)).movedim((-3, -2, -1), (-1, -2, -3)).flatten(-3)


RESNET = (Rule("backbone.model.**", "backbone.{0}"),)
SWIN = (
    Rule("backbone.model.patch_embed.proj.*", "backbone.patch_embed.projection.{0}"),
    Rule("backbone.model.patch_embed.norm.*", "backbone.patch_embed.norm.{0}"),
    *(
        Rule(f"backbone.model.layers_#.blocks.#.{own}", f"backbone.stages.{{0}}.blocks.{{1}}.{foreign}")
        for own, foreign in [
            ("norm#.*", "norm{2}.{3}"),
            ("attn.**", "attn.w_msa.{2}"),
            ("mlp.fc1.*", "ffn.layers.0.0.{2}"),
            ("mlp.fc2.*", "ffn.layers.1.{2}"),
        ]
    ),
    # patches are merged at the end of a stage there, at the start of the next one in timm
    *(
        Rule(
            f"backbone.model.layers_{stage}.downsample.**",
            f"backbone.stages.{stage - 1}.downsample.{{0}}",
            change=unfolded_to_concatenated,
        )
        for stage in (1, 2, 3)
    ),
    *(Rule(f"backbone.output_norms.{index}.*", f"backbone.norm{index + 1}.{{0}}") for index in range(3)),
)


def pyramid(place: str) -> tuple[Rule, ...]:
    """The FPN, whose keys begin with `place`."""
    return (
        Rule("fpn.lateral_convs.#.*", f"{place}.lateral_convs.{{0}}.conv.{{1}}"),
        Rule("fpn.output_convs.#.*", f"{place}.fpn_convs.{{0}}.conv.{{1}}"),
        Rule("fpn.p6.*", f"{place}.fpn_convs.3.conv.{{0}}"),
        Rule("fpn.p7.*", f"{place}.fpn_convs.4.conv.{{0}}"),
    )


FPN = pyramid("neck.0")
_DYHEAD = "neck.1.dyhead_blocks.{0}"
_BRANCHES = ("high", "mid", "low")  # the order of our stacked parameters
DYHEAD = (
    Rule("dyhead.blocks.#.conv_*", tuple(f"{_DYHEAD}.spatial_conv_{branch}.conv.{{1}}" for branch in _BRANCHES)),
    Rule("dyhead.blocks.#.norm_*", tuple(f"{_DYHEAD}.spatial_conv_{branch}.norm.{{1}}" for branch in _BRANCHES)),
    Rule("dyhead.blocks.#.offset_*", f"{_DYHEAD}.spatial_conv_offset.{{1}}"),
    # 1x1 convolutions
    Rule("dyhead.blocks.#.scale_weight", f"{_DYHEAD}.scale_attn_module.1.weight", leading=1, trailing=2),
    Rule("dyhead.blocks.#.scale_bias", f"{_DYHEAD}.scale_attn_module.1.bias"),
    Rule("dyhead.blocks.#.relu_weight#", f"{_DYHEAD}.task_attn_module.conv{{1}}.conv.weight", trailing=2),
    Rule("dyhead.blocks.#.relu_bias#", f"{_DYHEAD}.task_attn_module.conv{{1}}.conv.bias"),
)
ATSS = (
    Rule("head.cls.*", "bbox_head.atss_cls.{0}"),
    Rule("head.box.*", "bbox_head.atss_reg.{0}"),
    Rule("head.centerness.*", "bbox_head.atss_centerness.{0}"),
    Rule("head.box_scales", tuple(f"bbox_head.scales.{level}.scale" for level in range(5))),
)
CONSTANTS = (
    r"data_preprocessor\.(mean|std)",
    r".+\.relative_position_index",
    r".+\.num_batches_tracked",
)

_RESNET_50 = KeyRules((*RESNET, *FPN, *DYHEAD, *ATSS), CONSTANTS, "bbox_head.atss_cls.bias")
_SWIN_L = KeyRules((*SWIN, *FPN, *DYHEAD, *ATSS), CONSTANTS, "bbox_head.atss_cls.bias")

KEY_RULES = {
    "mmdet_atss_r50": _RESNET_50,
    "mmdet_atss_r50_caffe": _RESNET_50,
    "mmdet_atss_swin_l": _SWIN_L,
}


def class_names(checkpoint: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """The names that a checkpoint gives its classes: `CLASSES` of version 2, `dataset_meta` of version 3."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, Mapping):
        return None
    for place in (meta, meta.get("dataset_meta")):
        for key in ("classes", "CLASSES"):
            names = place.get(key) if isinstance(place, Mapping) else None
            if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return None
