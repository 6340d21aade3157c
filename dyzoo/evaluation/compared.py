"""The result of comparing two models, and its ways to a terminal and to JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dyzoo.evaluation.cost import Cost
from dyzoo.evaluation.display import columns, facts_table, number
from dyzoo.files import write_text
from dyzoo.text import signed

_IMAGES_SHOWN = 5


class Difference(NamedTuple):
    """A metric of both models, in 0..1; None where there is nothing to measure on."""

    first: float | None
    second: float | None
    interval: tuple[float, float] | None = None  # 95 % of the bootstrap's differences; None where none were drawn

    @property
    def difference(self) -> float | None:
        """First minus second: above 0 the first is better."""
        return None if self.first is None or self.second is None else self.first - self.second

    def cells(self) -> tuple[str, str, str, str]:
        """First, second, difference and interval for people."""
        interval = "-" if self.interval is None else f"{signed(self.interval[0])} to {signed(self.interval[1])}"
        return number(self.first), number(self.second), signed(self.difference), interval

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        interval = None if self.interval is None else list(self.interval)
        return {"first": self.first, "second": self.second, "difference": self.difference, "interval_95": interval}


class ImageChange(NamedTuple):
    """An image in which the two models found different things."""

    path: Path
    image_id: int
    change: float  # score that appeared, vanished or moved: see `dyzoo.evaluation.changes`
    first_ap: float | None  # AP of this image alone, over the classes it has objects of; None without any
    second_ap: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self._asdict(), "path": str(self.path)}


@dataclass(frozen=True, eq=False)
class Comparison:
    """The first model beside the second, on one dataset.

    Attributes:
        names: names of the two models.
        num_images: images in the dataset.
        metrics: those of `Evaluation.metrics`; AP, AP50 and AP75 have intervals.
        per_class: label -> AP, AP50 and AP75 with intervals.
        shared_labels: the dataset's classes that both models know.
        shared: AP, AP50 and AP75 over those alone; empty where both models know all classes, or none in common.
        costs: time, size and memory in the two evaluations.
        draws, seed: datasets that the bootstrap drew, and its seed; no draws, no intervals.
        num_changed: images in which the detections are not the same, but for rounding.
        changed: those that changed the most, the most first.
        notes: both evaluations' notes, each behind its model's name.
    """

    names: tuple[str, str]
    num_images: int
    metrics: dict[str, Difference]
    per_class: dict[str, dict[str, Difference]]
    shared_labels: tuple[str, ...]
    shared: dict[str, Difference]
    costs: tuple[Cost | None, Cost | None]
    draws: int
    seed: int
    num_changed: int
    changed: list[ImageChange]
    notes: tuple[str, ...] = ()

    def facts(self) -> list[tuple[str, str]]:
        """Label and value for people: what is compared, and the verdict on AP and AP50."""
        rows = [("first", self.names[0]), ("second", self.names[1]), ("images", str(self.num_images))]
        rows += [(name, _verdict(self.metrics[name])) for name in ("AP", "AP50")]
        rows += [(f"{name} of the classes that both know", _verdict(value)) for name, value in self.shared.items()]
        rows.append(("intervals", f"of {self.draws} draws of the images with replacement" if self.draws else "none"))
        rows.append(("images with other detections", f"{self.num_changed} of {self.num_images}"))
        return rows

    def cost_facts(self) -> list[tuple[str, str, str]]:
        """Label and both models' values for people; empty where neither was measured."""
        of_both = [dict(cost.facts()) if cost is not None else {} for cost in self.costs]
        labels = list(dict.fromkeys(label for facts in of_both for label in facts))
        return [(label, *(facts.get(label, "-") for facts in of_both)) for label in labels]  # type: ignore[misc]

    def tables(self) -> list[list[tuple[str, ...]]]:
        """Rows of cells for people, the header first: metrics, AP by class, cost, images that changed the most."""
        header = ("first", "second", "difference", "95 % interval")
        metrics = [(name, *value.cells()) for name, value in self.metrics.items()]
        metrics += [(f"{name}, shared classes", *value.cells()) for name, value in self.shared.items()]
        classes = [(label, *values["AP"].cells()) for label, values in self.per_class.items()]
        found: list[list[tuple[str, ...]]] = [[("metric", *header), *metrics], [("AP by class", *header), *classes]]
        if costs := self.cost_facts():
            found.append([("cost", "first", "second"), *costs])
        if self.changed:
            rows = [
                (change.path.name, f"{change.change:.2f}", number(change.first_ap), number(change.second_ap))
                for change in self.changed[:_IMAGES_SHOWN]
            ]
            found.append([("changed the most", "by score", "AP first", "AP second"), *rows])
        return found

    def table(self) -> str:
        """All of it as plain text for a terminal."""
        parts = [facts_table([*zip(("first", "second"), self.names, strict=True)])]
        parts += [facts_table(rows) if rows[0][0] == "cost" else columns(rows) for rows in self.tables()]
        parts.append(
            f"{self.num_changed} of {self.num_images} images have other detections; a difference above 0 is for the "
            "first model" + (f"; intervals of {self.draws} draws of the images" if self.draws else "")
        )
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        first, second = (None if cost is None else cost.to_dict() for cost in self.costs)
        return {
            "first": self.names[0],
            "second": self.names[1],
            "images": self.num_images,
            "metrics": {name: value.to_dict() for name, value in self.metrics.items()},
            "shared_labels": list(self.shared_labels),
            "shared": {name: value.to_dict() for name, value in self.shared.items()},
            "per_class": {
                label: {name: value.to_dict() for name, value in values.items()}
                for label, values in self.per_class.items()
            },
            "cost": {"first": first, "second": second},
            "bootstrap": {"draws": self.draws, "seed": self.seed},
            "images_changed": self.num_changed,
            "most_changed": [change.to_dict() for change in self.changed],
            "notes": list(self.notes),
        }

    def save(self, path: str | Path) -> None:
        """Write it as JSON, aside and then renamed."""
        write_text(Path(path), json.dumps(self.to_dict(), indent=2) + "\n")


def _verdict(value: Difference) -> str:
    first, second, difference, interval = value.cells()
    likely = "" if value.interval is None else f" (95 % interval {interval})"
    return f"{first} against {second}, {difference}{likely}"
