"""The findings of a check, as text, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyzoo.data.records import Note
from dyzoo.data.tools.contact_sheet import draw_sheet
from dyzoo.data.tools.folder import DatasetFolder
from dyzoo.data.tools.statistics import SIZE_LIMITS_PX, SplitStatistics
from dyzoo.files import replacing, write_text

JSON_NAME, SHEET_NAME = "check.json", "contact_sheet.png"
_SIZES_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One kind of suspicious thing: in `split`, or in the folder as a whole.

    Attributes:
        examples: the first few, in words.
        images: all images it was found in, as far as they are known.
    """

    split: str | None
    kind: str
    count: int
    examples: tuple[str, ...]
    images: tuple[Path, ...] = ()

    def __str__(self) -> str:
        """One line."""
        note = Note(self.kind, self.count, self.examples)
        return f"{self.split}: {note}" if self.split else str(note)


@dataclass(frozen=True)
class DatasetReport:
    """The findings of `check_dataset`.

    Attributes:
        source: the folder as it was read.
        statistics: numbers of each split.
        findings: all that is suspicious, the worst first.
    """

    source: DatasetFolder
    statistics: tuple[SplitStatistics, ...]
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """Whether there is an object to train on."""
        return any(each.num_boxes for each in self.statistics)

    def text(self) -> str:
        """The report to read: classes, sizes, findings."""
        source = self.source
        splits = ", ".join(f"{each.name} ({each.num_images} images)" for each in self.statistics)
        parts = [f"{source.path}: {source.format_name}, {splits}", self._class_table()]
        parts += [_sizes(each) for each in self.statistics if each.num_images]
        findings = [f"  {finding}" for finding in self.findings]
        parts.append("\n".join([f"suspicious: {len(findings)}", *findings]) if findings else "nothing suspicious")
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it: counts are numbers, paths are relative to the folder."""
        return {
            "folder": str(self.source.path),
            "format": self.source.format_name,
            "usable": self.usable,
            "labels": list(self.source.labels),
            "splits": {each.name: self._split_dict(each) for each in self.statistics},
            "left_out": list(self.source.left_out),
            "findings": [
                {
                    "split": finding.split,
                    "kind": finding.kind,
                    "count": finding.count,
                    "examples": list(finding.examples),
                    "images": [self.source.relative(path) for path in finding.images],
                }
                for finding in self.findings
            ],
        }

    def save(self, folder: str | Path, seed: int = 0) -> None:
        """Write check.json and contact_sheet.png: images with their boxes, suspicious ones first, others by `seed`."""
        folder = Path(folder)
        write_text(folder / JSON_NAME, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")
        with replacing(folder / SHEET_NAME) as aside:
            draw_sheet(self.source, self._reasons(), seed).save(aside, format="PNG")

    def _reasons(self) -> dict[Path, list[str]]:
        """Image -> what is suspicious about it: the first images of every kind, then the second, and so on."""
        reasons: dict[Path, list[str]] = {}
        for finding in self.findings:
            for path in finding.images:
                reasons.setdefault(path, []).append(finding.kind)
        longest = max((len(finding.images) for finding in self.findings), default=0)
        turns = (f.images[turn] for turn in range(longest) for f in self.findings if turn < len(f.images))
        return {path: reasons[path] for path in dict.fromkeys(turns)}

    def _split_dict(self, each: SplitStatistics) -> dict[str, Any]:
        classes = zip(self.source.labels, each.boxes_of_class, each.images_of_class, strict=True)
        return {
            "images": each.num_images,
            "boxes": each.num_boxes,
            "crowd_regions": each.num_crowd,
            "images_without_objects": each.num_empty,
            "classes": {name: {"boxes": boxes, "images": images} for name, boxes, images in classes},
            "image_sizes": [{"width_px": w, "height_px": h, "images": n} for (w, h), n in each.image_sizes.items()],
            "box_sizes": each.box_sizes,
            "side_quantiles_px": {f"{quantile:g}": side for quantile, side in each.side_quantiles_px.items()},
        }

    def _class_table(self) -> str:
        rows = [
            ["class", *(f"{each.name} {what}" for each in self.statistics for what in ("boxes", "images"))],
            *(
                [
                    name if name.isprintable() else ascii(name),
                    *(str(n) for each in self.statistics for n in (each.boxes_of_class[k], each.images_of_class[k])),
                ]
                for k, name in enumerate(self.source.labels)
            ),
            ["all", *(str(n) for each in self.statistics for n in (each.num_boxes, each.num_images))],
        ]
        return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        numbers = (text.rjust(width) for text, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *numbers]))
    return "\n".join(lines)


def _sizes(each: SplitStatistics) -> str:
    sizes = [f"{number} of {w}x{h}" for (w, h), number in list(each.image_sizes.items())[:_SIZES_SHOWN]]
    if len(each.image_sizes) > _SIZES_SHOWN:
        widths, heights = zip(*each.image_sizes, strict=True)
        sizes.append(
            f"{len(each.image_sizes)} sizes in all, {min(widths)} to {max(widths)} wide and {min(heights)} to "
            f"{max(heights)} high"
        )
    lines = [f"{each.name}: images in px: {', '.join(sizes)}"]
    indent = " " * (len(each.name) + 2)
    if each.num_boxes:
        limits = {**{name: f"under {limit}²" for name, limit in SIZE_LIMITS_PX.items()}, "large": "above"}
        shares = (f"{name} ({limits[name]}) {n} = {n / each.num_boxes:.1%}" for name, n in each.box_sizes.items())
        lines.append(f"{indent}boxes: {', '.join(shares)}")
        quantiles = (f"{side:g} ({quantile:.0%})" for quantile, side in each.side_quantiles_px.items())
        lines.append(f"{indent}their sides, roots of the area, in px: {', '.join(quantiles)}")
    if each.num_crowd:
        lines.append(f"{indent}crowd regions or difficult objects, left out of training: {each.num_crowd}")
    return "\n".join(lines)
