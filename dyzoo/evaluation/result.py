"""The result of an evaluation: metrics, curves, detections and cost."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dyzoo.evaluation.cost import Cost
from dyzoo.evaluation.display import columns, number
from dyzoo.evaluation.plots import save_precision_recall
from dyzoo.files import replacing, write_text
from dyzoo.hub.measurements import DIFFERS_WITH_THE_IMAGES, differences
from dyzoo.text import signed

PR_IOUS = (0.5, 0.75)
"""IoU thresholds of the precision-recall curves."""

RECALLS = np.linspace(0, 1, 101)
"""The recalls that COCO samples precision at."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """COCO metrics in 0..1; None where there is no ground truth to measure on.

    Attributes:
        metrics: AP (mean over IoU .5 to .95), AP50, AP75, APs, APm, APl (objects of an area under 32^2 px, under
            96^2 px, and above, by `Sample.areas_px2`), AR1, AR10, AR100 (recall with so many detections per image).
        per_class: label -> AP, AP50, AP75 and the number of ground-truth boxes.
        precision: (2, 101, K) at the IoUs of `PR_IOUS` and recalls of `RECALLS`; NaN for a class without ground truth.
        detections: all that was found, as entries of a COCO results file.
        num_images: images in the dataset.
        notes: one line for each image that could not be read, for labels that do not match, and for images seen so
            small that objects may be missed.
        cost: time, size and memory; under `evaluate_together` those of the main process.
        unknown: classes of the dataset that the model does not know, whose objects all count as not found.
        settings: settings of the measurement: "scorer", "batch_size", "size", "flips" and "precision".
        reported: what others report of the same weights, as `metrics`; on the images that `reported_by` names.
        reported_by: who does.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    precision: np.ndarray
    detections: list[dict[str, Any]]
    num_images: int
    notes: tuple[str, ...] = ()
    cost: Cost | None = None
    unknown: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    reported: dict[str, float] = field(default_factory=dict)
    reported_by: str = ""

    def table(self) -> str:
        """The metrics as plain text for a terminal."""
        names = ("boxes", "AP", "AP50", "AP75")
        totals = {**self.metrics, "boxes": sum(values["boxes"] or 0 for values in self.per_class.values())}
        lines: list[tuple[str, ...]] = [("class", *names)]
        for label, values in [*self.per_class.items(), ("all", totals)]:
            lines.append((label, f"{values['boxes']:g}", *(number(values[name]) for name in names[1:])))
        others = (f"{name} {number(value)}" for name, value in self.metrics.items() if name not in names)
        return "\n".join([columns(lines), "", "  ".join(others)])

    def reported_table(self) -> str:
        """Measured metrics beside the reported ones as plain text for a terminal."""
        rows: list[tuple[str, ...]] = [("", "measured", "reported", "difference")]
        for name, apart in differences(self.metrics, self.reported).items():
            rows.append((name, number(self.metrics.get(name)), number(self.reported[name]), signed(apart)))
        return f"{columns(rows)}\nreported by {self.reported_by}; {DIFFERS_WITH_THE_IMAGES}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without curves and detections."""
        reported = None
        if self.reported:
            apart = differences(self.metrics, self.reported)
            reported = {"by": self.reported_by, "metrics": self.reported, "differences": apart}
        return {
            "images": self.num_images,
            "metrics": self.metrics,
            "per_class": self.per_class,
            "cost": None if self.cost is None else self.cost.to_dict(),
            "settings": self.settings,
            "reported": reported,
            "notes": list(self.notes),
        }

    def save(self, folder: str | Path) -> None:
        """Write metrics.json, pr_curve.png and detections.json (COCO results), each aside and then renamed."""
        folder = Path(folder)
        write_text(folder / "metrics.json", json.dumps(self.to_dict(), indent=2) + "\n")
        with replacing(folder / "detections.json") as aside:
            aside.write_text(json.dumps(self.detections), encoding="utf-8")
        save_precision_recall(RECALLS, self.precision, PR_IOUS, list(self.per_class), folder / "pr_curve.png")
