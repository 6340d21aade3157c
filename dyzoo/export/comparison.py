"""An exported graph compared with its detector, on real pictures of several sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from dyzoo.errors import ExportError, first_line
from dyzoo.export.inputs import graph_inputs
from dyzoo.export.options import ExportOptions
from dyzoo.export.precision import BOUNDS
from dyzoo.model.detector import Detector
from dyzoo.model.heads.base import Detected
from dyzoo.model.preprocess import batch_images, resize_image
from dyzoo.runtime.exported_detector import OUTPUTS
from dyzoo.runtime.runners import Runner

PICTURE_SIZES = ((160, 224), (300, 200), (97, 331))
"""(H, W) of the pictures that are compared: lying, standing and long, none a multiple of a divisor."""


class Comparison:
    """The largest differences found so far.

    Args:
        model: the detector, in evaluation mode.
        options: how it was exported.
        picture: (3, H, W) uint8 RGB, which is resized to `PICTURE_SIZES`, or mirrored where there is one size alone.
    """

    def __init__(self, model: Detector, options: ExportOptions, picture: Tensor) -> None:
        self.model, self.options = model, options
        self.bounds = BOUNDS[options.precision]
        if options.size is None:
            self.pictures = [resize_image(picture, size) for size in PICTURE_SIZES]
        else:
            turned = (picture, picture.flip(2), picture.flip(1))
            self.pictures = [resize_image(each, options.size) for each in turned]
        self.map_difference: float | None = None  # where no maps were compared
        self.box_difference_px = self.score_difference = 0.0
        self.runtime = ""
        self.detections = self.same = 0

    @property
    def agreement(self) -> float:
        """Share of the detections that both have."""
        return self.same / self.detections if self.detections else 1.0

    @torch.inference_mode()
    def run(self, runner: Runner) -> None:
        """Compare all that a runtime gives: raw maps by their names, detections or both.

        Raises:
            ExportError: a difference is larger than it may be.
        """
        self.detections, self.same, self.runtime = 0, 0, runner.runtime
        names = runner.outputs
        for number, picture in enumerate(self.pictures, start=1):
            images = [picture] * (1 + number % 2)  # one picture, and two at once
            batch, sizes = batch_images(images, self.model.config.preprocess, self.model.device)
            try:
                answers = runner.run(graph_inputs(images, self.model.config.preprocess, self.options))
            except Exception as error:  # each runtime has classes of its own
                raise ExportError(f"{runner.runtime} cannot run what was exported: {first_line(error)}") from error
            raw = self.model.forward_head(self.model.forward_features(batch))
            if set(names) - set(OUTPUTS):
                self._compare_maps(raw, [answers[name] for name in names if name not in OUTPUTS])
            if "boxes" in answers:
                self._compare_detections(self.model.head.decode(raw, sizes), answers)
        self._judge()

    def _compare_maps(self, raw: dict[str, list[Tensor]], maps: Sequence[np.ndarray]) -> None:
        wanted = [level for levels in raw.values() for level in levels]
        for want, got in zip(wanted, maps, strict=True):
            if tuple(want.shape) != got.shape:
                raise ExportError(f"an exported map is {got.shape}, expected {tuple(want.shape)} as of the detector")
            difference = (want - torch.from_numpy(got)).abs().max() / want.abs().max().clamp(min=1e-12)
            self.map_difference = max(self.map_difference or 0.0, difference.nan_to_num(float("inf")).item())

    def _compare_detections(self, wanted: Sequence[Detected], answers: dict[str, np.ndarray]) -> None:
        for index, want in enumerate(wanted):
            count = int(answers["counts"][index])
            got = {name: torch.from_numpy(answers[name][index, :count]) for name in ("boxes", "scores", "labels")}
            self.detections += max(len(want["scores"]), count)
            if not count or not len(want["scores"]):
                continue
            iou = box_iou(want["boxes"], got["boxes"])
            alike = (iou > self.bounds.iou) & (want["labels"][:, None] == got["labels"])
            scores = (want["scores"][:, None] - got["scores"]).abs()
            alike &= scores < self.bounds.score_difference
            best, partner = torch.where(alike, iou, -1.0).max(dim=1)
            found = best >= 0
            self.same += int(found.sum())
            boxes = (want["boxes"] - got["boxes"][partner]).abs()[found]
            self.box_difference_px = max(self.box_difference_px, *boxes.flatten().tolist(), 0.0)
            own = scores.gather(1, partner[:, None])[found]
            self.score_difference = max(self.score_difference, *own.flatten().tolist(), 0.0)

    def _judge(self) -> None:
        if self.map_difference is not None and not self.map_difference <= self.bounds.map_difference:
            raise ExportError(
                f"the exported maps differ by {self.map_difference:.1e} of a level's largest value, expected at most "
                f"{self.bounds.map_difference:.0e}: nothing is written"
            )
        if self.agreement < self.bounds.agreement:
            raise ExportError(
                f"{self.agreement:.1%} of {self.detections} detections are the same as the detector's, expected at "
                f"least {self.bounds.agreement:.0%}: nothing is written"
            )
