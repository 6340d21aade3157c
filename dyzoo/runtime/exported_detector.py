"""A detector whose network is a file that a runtime beside PyTorch runs: everything else is as for one in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from dyzoo.config import DetectorConfig, GroundedATSSConfig
from dyzoo.errors import CheckpointError, SettingError, first_line
from dyzoo.model.heads.base import Detected, Head
from dyzoo.model.pipeline import Pipeline
from dyzoo.model.prediction import PredictingModel
from dyzoo.runtime.files import WAY_OUT
from dyzoo.runtime.runners import Runner

OUTPUTS = ("boxes", "scores", "labels", "counts")


class ExportedDetector(PredictingModel):
    """A detector that is run on the CPU; it predicts and is evaluated, and does not train.

    Args:
        runner: from `images` to `OUTPUTS`.
        config: what the file says of itself.
        input_type: "uint8" or "float32".
        name: of the file, for messages.
        file_bytes: size of its files, the weights among them.

    Raises:
        CheckpointError: the runner takes or gives something else.
    """

    def __init__(self, runner: Runner, config: DetectorConfig, input_type: str, name: str, file_bytes: int) -> None:
        super().__init__(config)
        if list(runner.inputs) != ["images"] or not set(runner.outputs).issuperset(OUTPUTS):
            raise CheckpointError(
                f"{name} takes {', '.join(runner.inputs)[:80]} and gives {', '.join(sorted(runner.outputs))[:80]}, "
                f"expected images and {', '.join(OUTPUTS)}: {WAY_OUT}"
            )
        inclusive = isinstance(config.head, GroundedATSSConfig)
        object.__setattr__(self, "head", cast(Head, SimpleNamespace(inclusive_corners=inclusive)))
        self.runner, self.input_type, self.name, self.file_bytes = runner, input_type, name, file_bytes
        self.eval()

    @property
    def device(self) -> torch.device:
        """The CPU, where it is run."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """float32, which the file's network takes and gives."""
        return torch.float32

    def pipeline(self, threshold: float | Mapping[str, float] = 0.3, *own: Any, **settings: Any) -> Pipeline:
        """As `Detector.pipeline`, but for what is part of the file: NMS, the most detections, and the precision.

        Raises:
            SettingError: `iou`, `max_detections` or `precision` is given, or as there.
        """
        for name in ("iou", "max_detections", "precision"):
            if settings.get(name) is not None:
                raise SettingError(
                    f"{name} is part of {self.name}: leave it out, or predict with the detector in PyTorch"
                )
        return super().pipeline(threshold, *own, **settings)

    def forward(self, images: Sequence[Tensor]) -> list[Detected]:
        """Detections in images (3, H, W) each, RGB, uint8 or floating point in 0..1, best first; they are not resized.

        Raises:
            CheckpointError: the file's graph fails, or gives something else than detections.
        """
        found: dict[int, Detected] = {}
        places: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(images):
            places.setdefault((*image.shape, image.is_floating_point()), []).append(place)
        for same in places.values():  # those of one size go together
            found.update(zip(same, self._run(torch.stack([images[place] for place in same])), strict=True))
        return [found[place] for place in range(len(images))]

    def _run(self, images: Tensor) -> list[Detected]:
        pixels = images.cpu()
        if self.input_type == "uint8" and pixels.is_floating_point():
            pixels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
        elif self.input_type == "float32":
            pixels = pixels.float() if pixels.is_floating_point() else pixels.float() / 255
        try:
            answers = self.runner.run({"images": pixels.numpy()})
        except Exception as error:  # each runtime has classes of its own
            raise CheckpointError(f"{self.name} cannot be run: {first_line(error)}") from None
        boxes, scores, labels, counts = (torch.from_numpy(answers[name]) for name in OUTPUTS)
        number = len(images)
        most = scores.shape[1] if scores.ndim == 2 else 0
        shapes = ((number, most, 4), (number, most), (number, most), (number,))
        given = (boxes, scores, labels, counts)
        fits = all(tuple(each.shape) == shape for each, shape in zip(given, shapes, strict=True))
        taken = torch.arange(most)[None] < counts.view(-1, 1) if fits else torch.zeros(0, dtype=torch.bool)
        if not fits or counts.lt(0).any() or counts.gt(most).any() or not self._are_classes(labels[taken]):
            raise CheckpointError(f"{self.name} gives something else than detections of its classes: {WAY_OUT}")
        return [
            {
                "boxes": boxes[index, :count].float(),
                "scores": scores[index, :count].float(),
                "labels": labels[index, :count].long(),
            }
            for index, count in enumerate(counts.tolist())
        ]

    def _are_classes(self, labels: Tensor) -> bool:
        return bool(((labels >= 0) & (labels < len(self.labels))).all())
