"""PNG figures of training and evaluation; no global matplotlib state is touched."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dyzoo.files import replacing

Rows = Sequence[Mapping[str, float | None]]

LEGEND_LIMIT = 10
"""More names than colours in matplotlib's cycle cannot be told apart."""

_PANELS = {  # title -> beginning of the columns' names
    "loss": "loss",
    "validation AP": "AP",
    "learning rate": "lr",
    "images per second": "images_per_s",
    "share of time waiting for data": "data_wait",
}
_ALWAYS = 3  # panels of `save_training_curves` that are there before their first number
_FROM_ZERO = ("loss", "images per second", "share of time waiting for data")
_PANEL_COLUMNS = 3
_PANEL_INCHES = (5.0, 3.4)


def line_color(index: int) -> str:
    """The colour "#rrggbb" of the line of that number, of `LEGEND_LIMIT` different ones."""
    return to_hex(f"C{index % LEGEND_LIMIT}")


def save_training_curves(rows: Rows, path: Path) -> None:
    """Losses, validation AP, learning rate and speed over the epochs.

    Args:
        rows: one per epoch with "epoch" and any of "loss", "loss_*", "AP*", "lr", "images_per_s", "data_wait"; missing
            and None values leave gaps.
        path: PNG file, written aside and renamed.
    """
    panels = [(title, names) for title, names in _columns(rows).items() if names or title in list(_PANELS)[:_ALWAYS]]
    height = math.ceil(len(panels) / _PANEL_COLUMNS)
    figure = Figure(figsize=(12, 3.6 * height), layout="constrained")
    places: Sequence[Axes] = figure.subplots(height, _PANEL_COLUMNS, squeeze=False).ravel().tolist()
    for axes, (title, names) in zip(places, panels, strict=False):
        _draw_training(axes, rows, names, from_zero=title in _FROM_ZERO)
        axes.set_title(title)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    _save(figure, path)


def training_panels(rows: Rows, ink: str, best_epoch: float | None = None) -> list[tuple[str, bytes]]:
    """The panels of `save_training_curves` one by one, those that have numbers: (title, PNG without a background).

    Args:
        rows: rows of the training, see there.
        ink: matplotlib's name of the colour of axes and letters.
        best_epoch: marked with a line where AP is shown.
    """
    panels = []
    for title, names in _columns(rows).items():
        if any(row.get(name) is not None for row in rows for name in names):
            figure, axes = _panel()
            _draw_training(axes, rows, names, from_zero=title in _FROM_ZERO)
            if title == "validation AP" and best_epoch is not None:
                axes.axvline(best_epoch, color=ink, linewidth=1, linestyle=":")
            panels.append((title, _png(figure, axes, ink)))
    return panels


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
        known = np.flatnonzero(~np.isnan(curves).any(axis=0)).tolist()
        named = known if len(known) <= LEGEND_LIMIT else []
        _draw_precision_recall(axes, recall, curves, named, "black")
        names = [f"{labels[label]}  {curves[:, label].mean():.3f}" for label in named]
        if known:
            names.append(f"all  {curves[:, known].mean():.3f}")
            # Beside the curves, not over them.
            legend = axes.legend(
                axes.lines[-len(names) :], names, loc="upper left", bbox_to_anchor=(1, 1), title="class, AP"
            )
            for text in legend.get_texts():
                text.set_parse_math(False)  # a name may hold dollar signs
        axes.set_title(f"IoU {iou:g}")
    _save(figure, path)


def precision_recall_panels(recall: np.ndarray, precision: np.ndarray, named: Sequence[int], ink: str) -> list[bytes]:
    """The panels of `save_precision_recall` one by one and without legends, as PNG without a background.

    Args:
        recall, precision: points of the curves, see there.
        named: the classes drawn in a colour of their own, the first in that of `line_color(0)`; the others are grey.
        ink: matplotlib's name of the colour of axes, letters and of the mean of all classes.
    """
    panels = []
    for curves in precision:
        figure, axes = _panel()
        _draw_precision_recall(axes, recall, curves, named, ink)
        panels.append(_png(figure, axes, ink))
    return panels


def _columns(rows: Rows) -> dict[str, list[str]]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {title: [name for name in names if name.startswith(start)] for title, start in _PANELS.items()}


def _draw_training(axes: Axes, rows: Rows, names: Sequence[str], from_zero: bool) -> None:
    for name in names:
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 40 else None)
    if from_zero:
        axes.update_datalim([(0, 0)], updatex=False)  # or the margin above belongs to the range of the numbers alone
        axes.autoscale_view()
        axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if len(names) > 1:
        axes.legend()


def _draw_precision_recall(axes: Axes, recall: np.ndarray, curves: np.ndarray, named: Sequence[int], ink: str) -> None:
    """Grey lines, above them the named ones, above these the mean of all; in this order in `axes.lines`."""
    known = np.flatnonzero(~np.isnan(curves).any(axis=0)).tolist()
    for label in known:
        if label not in named:
            axes.plot(recall, curves[:, label], color="0.6", linewidth=0.8, alpha=0.6)
    for number, label in enumerate(named):
        axes.plot(recall, curves[:, label], color=line_color(number))
    if known:
        axes.plot(recall, curves[:, known].mean(axis=1), color=ink, linewidth=2)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def _panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_PANEL_INCHES, layout="constrained")
    return figure, figure.subplots()


def _png(figure: Figure, axes: Axes, ink: str) -> bytes:
    axes.set_facecolor("none")
    axes.tick_params(colors=ink)
    axes.xaxis.label.set_color(ink)
    axes.yaxis.label.set_color(ink)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(ink)
    if legend := axes.get_legend():
        legend.get_frame().set_visible(False)
        for text in legend.get_texts():
            text.set_color(ink)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=150, transparent=True)
    return written.getvalue()


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
