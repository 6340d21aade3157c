"""PNG figures of training and evaluation; no global matplotlib state is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dyzoo.files import replacing

_LEGEND_LIMIT = 10  # more names than colours in matplotlib's cycle cannot be told apart


def save_training_curves(rows: Sequence[Mapping[str, float | None]], path: Path) -> None:
    """Losses, validation AP and learning rate over the epochs.

    Args:
        rows: one per epoch with "epoch" and any of "loss", "loss_*", "AP*", "lr"; missing and None values leave gaps.
        path: PNG file, written aside and renamed.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 3)
    names = list(dict.fromkeys(name for row in rows for name in row))
    groups = {
        "loss": [name for name in names if name.startswith("loss")],
        "validation AP": [name for name in names if name.startswith("AP")],
        "learning rate": [name for name in names if name == "lr"],
    }
    for axes, (title, columns) in zip(panels, groups.items(), strict=True):
        for name in columns:
            points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 40 else None)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if len(columns) > 1:
            axes.legend()
    panels[0].set_ylim(bottom=0)
    _save(figure, path)


def save_precision_recall(
    recall: np.ndarray, precision: np.ndarray, ious: Sequence[float], labels: Sequence[str], path: Path
) -> None:
    """Precision over recall, a panel for each IoU threshold and a line for each class, with the mean of all.

    Args:
        recall: (R,).
        precision: (T, R, K), NaN where a class has no ground truth.
        ious: T thresholds.
        labels: K names.
        path: PNG file, written aside and renamed.
    """
    figure = Figure(figsize=(6.8 * len(ious), 4.6), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, len(ious), squeeze=False)[0]
    for axes, iou, curves in zip(panels, ious, precision, strict=True):
        known = ~np.isnan(curves).any(axis=0)
        few = known.sum() <= _LEGEND_LIMIT
        for curve, label in zip(curves.T[known], np.asarray(labels, dtype=object)[known], strict=True):
            style = {"label": f"{label}  {curve.mean():.3f}"} if few else {"color": "0.75", "linewidth": 0.8}
            axes.plot(recall, curve, **style)
        if known.any():
            mean = curves[:, known].mean(axis=1)
            axes.plot(recall, mean, color="black", linewidth=2, label=f"all  {mean.mean():.3f}")
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), title="class, AP")  # beside the curves, not over them
        axes.set(title=f"IoU {iou:g}", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
