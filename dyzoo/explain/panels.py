"""The panels of an explanation: pictures with titles, scales and legends. No global matplotlib state is touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from dyzoo.explain import pictures
from dyzoo.explain.numbers import STRIPS, attribution_shares, channel_order, highest, line_counts
from dyzoo.explain.parts import Explained, Panel
from dyzoo.explain.words import WORDS, stage_title, title

_MAP_PX = 360
_DPI = 100


def draw_panel(explanation: Explained, kind: Panel, block: int, level: int) -> Image.Image:
    """The panel of that kind, RGB; see `Explained.panel`."""
    drawers: dict[Panel, Callable[[Explained, int, int], Figure]] = {
        "maps": _maps,
        "sampling": _sampling,
        "channels": _channels,
        "object": _object,
    }
    figure = drawers[kind](explanation, block, level)
    figure.set_dpi(_DPI)
    figure.set_facecolor("white")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _maps(explanation: Explained, block: int, _: int) -> Figure:
    levels = explanation.blocks[block]
    height, width = explanation.pixels.shape[:2]
    figure = Figure(figsize=(12.5, 0.9 + len(levels) * (2.75 * height / width + 0.15)), layout="constrained")
    figure.suptitle(f"Block {block}: mean over the channels of |activation|, before and after each attention")
    axes = figure.subplots(len(levels), len(explanation.stages), squeeze=False)
    for row, level in enumerate(levels):
        most = highest(level.activations)
        for column, (stage, values) in enumerate(level.activations.items()):
            place = axes[row, column]
            _show(place, pictures.map_picture(explanation, values, level.cell_px, most, _MAP_PX))
            if row == 0:
                place.set_title(stage_title(explanation, stage))
        axes[row, 0].set_ylabel(f"level {row}, stride {level.stride_px}\n{level.size[0]} x {level.size[1]}")
        _bar(figure, list(axes[row]), most)
    return figure


def _sampling(explanation: Explained, block: int, level: int) -> Figure:
    branches, words = explanation.blocks[block][level].branches, WORDS[explanation.form].branches
    figure = Figure(figsize=(11.5, 6), layout="constrained")
    figure.suptitle(title(explanation, block, level))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    _show(left, pictures.sampling_picture(explanation, block, level))
    left.set_title("Sampling points of this block and level for the place (cross)")
    handles = [
        Line2D(
            [], [], marker="o", ls="", ms=9, color=pictures.BRANCH_HEX[name], mec="black",
            label=f"{name}: {words[name]}, {_weights(branch.weights)}",
        )
        for name, branch in branches.items()
    ]  # fmt: skip
    left.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), frameon=False,
        title="area of a dot: its mask; line: its offset from the plain grid",
    )  # fmt: skip
    _show(right, pictures.reach_picture(explanation, block, 480))
    last = len(explanation.blocks) - 1
    way = f"block {block}" if block == last else f"blocks {last} to {block}"
    right.set_title(f"Followed back through {way}, from level {explanation.level}")
    right.set_xlabel("bright: much of what the place gets comes from here (root scale)")
    return figure


def _channels(explanation: Explained, block: int, level: int) -> Figure:
    own = explanation.blocks[block][level]
    order = channel_order(own)
    counts = line_counts(own)
    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    figure.suptitle(
        f"Dynamic ReLU of block {block}, level {level}: {counts['first']} channels take line 1 everywhere, "
        f"{counts['second']} line 2, {counts['both']} switch"
    )
    for axes, strip in zip(figure.subplots(len(STRIPS), 1), STRIPS, strict=True):
        drawn = axes.imshow(
            strip.values(own)[order][None],
            aspect="auto",
            cmap=strip.colors,
            vmin=strip.low,
            vmax=strip.high,
            interpolation="nearest",
        )
        axes.set_yticks([])
        axes.set_ylabel(strip.name.replace(" at ", "\nat "), rotation=0, ha="right", va="center")
        axes.set_xticks([])
        figure.colorbar(drawn, ax=axes, aspect=6, pad=0.01)
    axes.set_xlabel(f"{len(order)} channels, in the order of their share at line 1")
    return figure


def _object(explanation: Explained, block: int, level: int) -> Figure:
    own = explanation.blocks[block][level].attributions
    assert own is not None
    shares = np.array(attribution_shares(explanation))
    figure = Figure(figsize=(12.5, 7.4), layout="constrained")
    figure.suptitle(title(explanation, block, level))
    axes = figure.subplots(2, 2)
    _show(axes[0, 0], pictures.found_picture(explanation, 480))
    axes[0, 0].set_title(f"What was found; explained: number {explanation.detection}")
    _show(axes[0, 1], pictures.saliency_picture(explanation, 480))
    axes[0, 1].set_title("Gradient of its score by the pixels")
    cell_px = explanation.blocks[block][level].cell_px
    _show(axes[1, 0], pictures.map_picture(explanation, own["task"], cell_px, highest(own), 480))
    axes[1, 0].set_title(f"|gradient x activation| after block {block}, level {level}")
    _bar(figure, [axes[1, 0]], highest(own))
    drawn = axes[1, 1].imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes[1, 1].set_title("Share of each level in |gradient x activation|")
    axes[1, 1].set_xticks(range(shares.shape[1]), [f"level {index}" for index in range(shares.shape[1])])
    axes[1, 1].set_yticks(range(len(shares)), [f"after block {index}" for index in range(len(shares))])
    for (row, column), share in np.ndenumerate(shares):
        axes[1, 1].text(
            column, row, f"{share:.0%}", ha="center", va="center", color="white" if share > 0.6 else "black"
        )
    figure.colorbar(drawn, ax=axes[1, 1])
    return figure


def _weights(weights: Mapping[int, float]) -> str:
    numbers = ", ".join(f"{weight:.2f}" for weight in weights.values())
    return f"weight{'s' if len(weights) > 1 else ''} {numbers}"


def _show(axes: Axes, picture: Image.Image) -> None:
    axes.imshow(np.asarray(picture))
    axes.set_xticks([])
    axes.set_yticks([])


def _bar(figure: Figure, axes: list[Axes], most: float) -> None:
    scale = ScalarMappable(Normalize(0, most if most > 0 else 1), pictures.COLORMAP)
    figure.colorbar(scale, ax=axes, aspect=12, pad=0.01)
