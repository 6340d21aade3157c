"""The words that the page and the panels share."""

from __future__ import annotations

from dyzoo.explain.parts import Branch, Explained, Stage

STAGE_TITLES: dict[Stage, str] = {
    "before": "before",
    "spatial": "after spatial-aware",
    "scale": "after scale-aware",
    "task": "after task-aware",
}
STAGE_WORDS: dict[Stage, str] = {
    "before": "what comes into the block at this level",
    "spatial": "deformable convolutions of this level and its neighbours, normalised, their plain mean",
    "scale": "the same, each branch times its weight",
    "task": "each channel through its dynamic ReLU: what the block gives on",
}
BRANCH_WORDS: dict[Branch, str] = {
    "high": "samples the level one coarser",
    "mid": "samples the level itself",
    "low": "samples the level one finer",
}


def title(explanation: Explained, block: int, level: int) -> str:
    """One line that names what is explained. The class is not in it: the fonts of figures lack most letters."""
    own = explanation.blocks[block][level]
    if explanation.detection is None:
        what = "Nothing found"
    else:
        score = explanation.detections[explanation.detection].score
        what = f"Detection {explanation.detection}, score {score:.2f}"
    return f"{what}: block {block}, level {level} (stride {own.stride_px} px)"
