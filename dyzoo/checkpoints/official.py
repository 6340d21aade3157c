"""Checkpoints of microsoft/DynamicHead, which is written over detectron2."""

from __future__ import annotations

from dyzoo.checkpoints.rules import KeyRules, Rule

_FPN = "backbone.backbone."
_BACKBONE = f"{_FPN}bottom_up."
_DYHEAD = "backbone.dyhead_tower.{0}"
_RPN = "proposal_generator.rpn_head."
_ROI = "roi_heads."
_BRANCHES = range(3)  # high, mid, low: the order of DyConv and of our stacked parameters


def _pyramid(finest: int) -> tuple[Rule, ...]:
    """detectron2 numbers the levels by the logarithm of their stride."""
    return (
        *(
            Rule(f"fpn.{part}_convs.{level - finest}.*", f"{_FPN}fpn_{part}{level}.{{0}}")
            for part in ("lateral", "output")
            for level in range(finest, 6)
        ),
        Rule("fpn.p#.*", f"{_FPN}top_block.p{{0}}.{{1}}"),
    )


RESNET = (
    Rule("backbone.model.conv1.weight", f"{_BACKBONE}stem.conv1.weight"),
    Rule("backbone.model.bn1.*", f"{_BACKBONE}stem.conv1.norm.{{0}}"),
    *(
        rule
        for stage in (1, 2, 3, 4)
        for own, foreign in [(f"backbone.model.layer{stage}.#", f"{_BACKBONE}res{stage + 1}.{{0}}")]
        for rule in (
            Rule(f"{own}.conv#.weight", f"{foreign}.conv{{1}}.weight"),
            Rule(f"{own}.bn#.*", f"{foreign}.conv{{1}}.norm.{{2}}"),
            Rule(f"{own}.downsample.0.weight", f"{foreign}.shortcut.weight"),
            Rule(f"{own}.downsample.1.*", f"{foreign}.shortcut.norm.{{1}}"),
        )
    ),
)
SWIN = (
    Rule("backbone.model.patch_embed.**", f"{_BACKBONE}patch_embed.{{0}}"),
    Rule("backbone.model.layers_#.blocks.**", f"{_BACKBONE}layers.{{0}}.blocks.{{1}}"),
    # patches are merged at the end of a stage there, at the start of the next one in timm
    *(
        Rule(f"backbone.model.layers_{stage}.downsample.**", f"{_BACKBONE}layers.{stage - 1}.downsample.{{0}}")
        for stage in (1, 2, 3)
    ),
    *(Rule(f"backbone.output_norms.{index}.*", f"{_BACKBONE}norm{index + 1}.{{0}}") for index in range(3)),
)
DYHEAD = (
    Rule("dyhead.blocks.#.conv_*", tuple(f"{_DYHEAD}.DyConv.{branch}.conv.{{1}}" for branch in _BRANCHES)),
    Rule("dyhead.blocks.#.norm_*", tuple(f"{_DYHEAD}.DyConv.{branch}.bn.{{1}}" for branch in _BRANCHES)),
    Rule("dyhead.blocks.#.offset_*", f"{_DYHEAD}.offset.{{1}}"),
    Rule("dyhead.blocks.#.scale_weight", f"{_DYHEAD}.AttnConv.1.weight", leading=1, trailing=2),  # a 1x1 convolution
    Rule("dyhead.blocks.#.scale_bias", f"{_DYHEAD}.AttnConv.1.bias"),
    Rule("dyhead.blocks.#.relu_*1", f"{_DYHEAD}.relu.fc.0.{{1}}"),
    Rule("dyhead.blocks.#.relu_*2", f"{_DYHEAD}.relu.fc.2.{{1}}"),
)
ATSS = (
    Rule("head.cls.*", "head.cls_logits.{0}"),
    Rule("head.box.*", "head.bbox_pred.{0}"),
    Rule("head.centerness.*", "head.centerness.{0}"),
    Rule("head.box_scales", tuple(f"head.scales.{level}.scale" for level in range(5)), trailing=1),
)
RETINANET = (
    Rule("head.cls_tower.#.*", "head.cls_subnet.{0}.{1}"),
    Rule("head.box_tower.#.*", "head.bbox_subnet.{0}.{1}"),
    Rule("head.cls.*", "head.cls_score.{0}"),
    Rule("head.box.*", "head.bbox_pred.{0}"),
)
FASTER_RCNN = (
    Rule("head.rpn.conv.*", f"{_RPN}conv.{{0}}"),
    Rule("head.rpn.objectness.*", f"{_RPN}objectness_logits.{{0}}"),
    Rule("head.rpn.box.*", f"{_RPN}anchor_deltas.{{0}}"),
    Rule("head.roi.fc#.*", f"{_ROI}box_head.fc{{0}}.{{1}}"),
    Rule("head.roi.cls.*", f"{_ROI}box_predictor.cls_score.{{0}}"),
    Rule("head.roi.box.*", f"{_ROI}box_predictor.bbox_pred.{{0}}"),
)
CONSTANTS = (
    "pixel_mean|pixel_std",
    r"(head\.|proposal_generator\.)?anchor_generator\.cell_anchors\.\d+",
    r".+\.relative_position_index",
    r".+\.num_batches_tracked",
)

KEY_RULES = {
    "official_atss_r50": KeyRules((*RESNET, *_pyramid(3), *DYHEAD, *ATSS), CONSTANTS, "head.cls_logits.bias"),
    "official_atss_swin_t": KeyRules((*SWIN, *_pyramid(3), *DYHEAD, *ATSS), CONSTANTS, "head.cls_logits.bias"),
    "official_retinanet_r50": KeyRules(
        (*RESNET, *_pyramid(3), *DYHEAD, *RETINANET), CONSTANTS, "head.cls_score.bias", outputs_per_class=9
    ),
    "official_faster_rcnn_r50": KeyRules(
        (*RESNET, *_pyramid(2), *DYHEAD, *FASTER_RCNN),
        CONSTANTS,
        f"{_ROI}box_predictor.cls_score.bias",
        background=1,
    ),
}
