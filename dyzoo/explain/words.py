"""The words that the page and the panels share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dyzoo.explain.parts import Branch, Explained, Form, Stage

_STAGE_TITLES: dict[Stage, str] = {
    "before": "before",
    "spatial": "after spatial-aware",
    "scale": "after scale-aware",
    "task": "after task-aware",
}


class Words(NamedTuple):
    """All that is said of a form of the DyHead alone.

    Attributes:
        stages: what the map of each stage is.
        branches: what each branch does.
        weighed: for each branch whose weight is a column of the table, the column's heading.
        scale: what the weights tell.
        maps, weights, sampling, channels, object: sentences of the page on these.
    """

    stages: Mapping[Stage, str]
    branches: Mapping[Branch, str]
    weighed: Mapping[Branch, str]
    scale: str
    maps: str
    weights: str
    sampling: str
    channels: str
    object: str


WORDS: dict[Form, Words] = {
    "pyramid": Words(
        stages={
            "before": "what comes into the block at this level",
            "spatial": "deformable convolutions of this level and its neighbours, normalised, their plain mean",
            "scale": "the same, each branch times its weight",
            "task": "each channel through its dynamic ReLU: what the block gives on",
        },
        branches={
            "high": "samples the level one coarser",
            "mid": "samples the level itself",
            "low": "samples the level one finer",
        },
        weighed={"high": "high, one level coarser", "mid": "mid, the level itself", "low": "low, one level finer"},
        scale="how much each level listens to its neighbours",
        maps="",
        weights="A level is the mean of its branches, each times one weight between 0 and 1, made of the branch's own "
        "mean. The weight is 0.5 where the branch is not called for: a ReLU before the hard sigmoid lets nothing below "
        "it.",
        sampling="",
        channels="Each channel of a level becomes the larger of two lines, slope times activation plus intercept, made "
        "anew for every picture.",
        object="",
    ),
    "tensor": Words(
        stages={
            "before": "what comes into the block at this level, resized to the median one",
            "scale": "the same times the level's weight",
            "spatial": "one deformable convolution of all levels at shared points, normalised",
            "task": "each channel through its dynamic ReLU: what the block gives on",
        },
        branches={
            "coarser": "samples all coarser levels",
            "same": "samples the level itself",
            "finer": "samples all finer levels",
        },
        weighed={"same": "the level, wherever it is sampled"},
        scale="how much each level counts",
        maps="Inside the blocks all levels have the size of the median one.",
        weights="Before anything is sampled, each level is multiplied by one weight between 0 and 1, made of the "
        "level's own mean; 0.5 stands for a mean that speaks neither for the level nor against it.",
        sampling="One set of points, made of the median level, serves all levels: a dot has a sector for each kernel "
        "that samples there.",
        channels="Each channel becomes the larger of two lines, slope times activation plus intercept, made anew for "
        "every picture; in a block they are the same for all levels.",
        object="After the last block each level is resized to its own size, so that the head takes one of its "
        "positions from several here.",
    ),
}


def stage_title(explanation: Explained, stage: Stage) -> str:
    """The name of a stage, and whether its attention is switched off."""
    return _STAGE_TITLES[stage] + (" (switched off)" if stage in explanation.switched_off else "")


def stage_words(explanation: Explained, stage: Stage) -> str:
    """One line that says how the map of a stage is made."""
    is_off = stage in explanation.switched_off
    return "without the attention, only what else is computed here" if is_off else WORDS[explanation.form].stages[stage]


def title(explanation: Explained, block: int, level: int) -> str:
    """One line that names what is explained. The class is not in it: the fonts of figures lack most letters."""
    own = explanation.blocks[block][level]
    if explanation.detection is None:
        what = "Nothing found"
    else:
        score = explanation.detections[explanation.detection].score
        what = f"Detection {explanation.detection}, score {score:.2f}"
    return f"{what}: block {block}, level {level} (stride {own.stride_px} px)"
