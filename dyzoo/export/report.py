"""The largest differences between a detector and what was exported of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExportReport:
    """File that an export has made, and how it was found to agree.

    Attributes:
        path: the file.
        seconds: how long it took, the comparison not counted.
        picture_sizes: (H, W) of the pictures that were compared.
        map_difference: largest difference of a raw map, relative to the level's largest value; None where detections
            alone were compared.
        detections: number of detections that were compared; 0 where raw maps come out.
        agreement: share of them that both have, 1.0 without any.
        box_difference_px, score_difference: largest difference of a detection that both have.
        runtime: what ran the file.
    """

    path: Path
    seconds: float
    picture_sizes: tuple[tuple[int, int], ...]
    map_difference: float | None
    detections: int = 0
    agreement: float = 1.0
    box_difference_px: float = 0.0
    score_difference: float = 0.0
    runtime: str = "onnxruntime"

    def lines(self) -> list[str]:
        """The report as lines of text."""
        sizes = ", ".join(f"{height} x {width}" for height, width in dict.fromkeys(self.picture_sizes))
        lines = [
            f"compared with the detector through {self.runtime} on pictures of {sizes} (H x W):",
        ]
        if self.map_difference is not None:
            lines.append(f"  raw maps: within {self.map_difference:.1e} of a level's largest value")
        if self.detections:
            lines.append(
                f"  {self.detections} detections: {self.agreement:.1%} the same, boxes within "
                f"{self.box_difference_px:.1e} px, scores within {self.score_difference:.1e}"
            )
        return lines
