"""The numbers of an explanation, as they are written, and those that its pictures are drawn to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dyzoo.explain.parts import Explained, LevelExplained, Stage
from dyzoo.explain.places import position_at, sampling_points


class Strip(NamedTuple):
    """A number that every channel of a dynamic ReLU has, and the colours that show it."""

    name: str
    values: Callable[[LevelExplained], np.ndarray]  # (C,)
    colors: str  # of matplotlib
    low: float
    high: float


STRIPS = (
    Strip("share of positions at line 1", lambda level: level.first_share, "viridis", 0.0, 1.0),
    Strip("slope of line 1", lambda level: level.slopes[0], "RdBu_r", -2.0, 2.0),
    Strip("slope of line 2", lambda level: level.slopes[1], "RdBu_r", -2.0, 2.0),
    Strip("intercept of line 1", lambda level: level.intercepts[0], "PuOr_r", -0.5, 0.5),
    Strip("intercept of line 2", lambda level: level.intercepts[1], "PuOr_r", -0.5, 0.5),
)


def channel_order(level: LevelExplained) -> np.ndarray:
    """(C,) int64, the channels that take the first line most often first."""
    return np.argsort(-level.first_share, kind="stable")


def highest(maps: Mapping[Stage, np.ndarray]) -> float:
    """The number that the brightest colour stands for in maps that share a scale."""
    return max(float(values.max()) for values in maps.values())


def attribution_shares(explanation: Explained, stage: Stage = "task") -> list[list[float]]:
    """For each block the share that each level has in the attribution after a stage; zeros where there is none."""
    shares = []
    for levels in explanation.blocks:
        sums = [0.0 if level.attributions is None else float(level.attributions[stage].sum()) for level in levels]
        total = sum(sums)
        shares.append([each / total if total > 0 else 0.0 for each in sums])
    return shares


def line_counts(level: LevelExplained) -> dict[str, int]:
    """How many channels take the first line everywhere, the second everywhere, and now one, now the other."""
    first, second = int((level.first_share == 1).sum()), int((level.first_share == 0).sum())
    return {"first": first, "second": second, "both": len(level.first_share) - first - second}


def to_dict(explanation: Explained) -> dict[str, Any]:
    """All numbers but those of the maps, of types that JSON has.

    Places are in pixels of the network's input, whose size is there; detections in those of the picture as given.
    """
    height, width = explanation.pixels.shape[:2]
    return {
        "picture": explanation.detections.to_dict(),
        "network_height_px": height,
        "network_width_px": width,
        "detection": explanation.detection,
        "block": explanation.block,
        "level": explanation.level,
        "place_px": list(explanation.place),
        "form": explanation.form,
        "switched_off": list(explanation.switched_off),
        "stages": list(explanation.stages),
        "blocks": [_block(explanation, block) for block in range(len(explanation.blocks))],
    }


def _block(explanation: Explained, block: int) -> dict[str, Any]:
    levels = explanation.blocks[block]
    return {
        "block": block,
        "levels": [
            {
                "level": index,
                "stride_px": level.stride_px,
                "height": level.size[0],
                "width": level.size[1],
                "cell_height_px": level.cell_px[0],
                "cell_width_px": level.cell_px[1],
                "scale_weights": {
                    name: {str(source): weight for source, weight in branch.weights.items()}
                    for name, branch in level.branches.items()
                },
                "activation_mean": {stage: float(values.mean()) for stage, values in level.activations.items()},
                "activation_max": {stage: float(values.max()) for stage, values in level.activations.items()},
                "attribution_sum": None
                if level.attributions is None
                else {stage: float(values.sum()) for stage, values in level.attributions.items()},
                "reach_share": float(explanation.reach[block][index].sum()),
                "relu": {
                    "slopes": level.slopes.tolist(),
                    "intercepts": level.intercepts.tolist(),
                    "first_line_share": level.first_share.tolist(),
                    "channels": line_counts(level),
                },
                "sampling": _sampling(explanation, block, index),
            }
            for index, level in enumerate(levels)
        ],
    }


def _sampling(explanation: Explained, block: int, level: int) -> dict[str, Any]:
    own = explanation.blocks[block][level]
    position = position_at(explanation.place, own.cell_px, explanation.center_offset, own.size)
    return {
        "row": position[0],
        "column": position[1],
        "points": [
            {
                "branch": point.branch,
                "tap": list(point.tap),
                "sampled_levels": list(point.sources),
                "grid_px": list(point.grid_px),
                "place_px": list(point.place_px),
                "mask": point.mask,
            }
            for point in sampling_points(explanation, block, level)
        ],
    }
