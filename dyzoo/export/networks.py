"""A detector as modules of tensors that `torch.export` takes as a whole: to raw maps, or to detections."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dyzoo.dyhead.levelwise import LevelwiseDyHead
from dyzoo.errors import ExportError, first_line
from dyzoo.export.regions import pool_regions
from dyzoo.export.windows import has_windows, use_operators
from dyzoo.model.boxes import decode_boxes
from dyzoo.model.detector import Detector
from dyzoo.model.fixed_size import FixedSizeDetector
from dyzoo.model.heads.base import Raw
from dyzoo.model.heads.faster_rcnn import FasterRCNNHead
from dyzoo.model.heads.fixed_size import FixedDetections, suppress_to_fixed_size

MOST_IMAGES, MOST_TILES = 1024, 512  # of a batch; of the divisor, along each side
UNTRACED = "be traced at unknown sizes"


class MapsNetwork(nn.Module):
    """A detector up to its head's predictions: normalised, padded images (N, 3, H, W) -> a tuple of raw maps.

    The maps are `Detector.forward_head`'s, kind by kind and level by level, as `map_names` names them.
    """

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Predict."""
        raw = self.model.forward_head(self.model.forward_features(batch))
        return tuple(level for levels in raw.values() for level in levels)


class TwoStageNetwork(nn.Module):
    """Faster R-CNN with outputs of a fixed size: places of proposals that are not taken hold an empty box."""

    def __init__(self, model: Detector, head: FasterRCNNHead) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, batch: Tensor, image_sizes: Tensor) -> FixedDetections:
        """As `FixedSizeDetector.forward`."""
        return self.decode(self.predict(batch), image_sizes)

    def predict(self, batch: Tensor) -> Raw:
        """As `FixedSizeDetector.predict`."""
        return self.head(self.model.forward_features(batch))

    def decode(self, raw: Raw, image_sizes: Tensor) -> FixedDetections:
        """As `FixedSizeDetector.decode`."""
        config, roi = self.head.config, self.head.roi
        candidates = self.head.rpn.candidates(raw["objectness"], raw["box"], config.rpn_candidates_test)
        boxes, _, levels, _ = suppress_to_fixed_size(
            *candidates,
            image_sizes,
            clip_before_nms=True,
            nms_threshold=config.rpn_nms_threshold,
            max_detections=config.num_proposals,
        )
        features = [level.float() for level in raw["features"][: len(roi.strides_px)]]
        pooled = pool_regions(features, boxes, list(roi.strides_px), config.roi_size)
        logits, deltas = roi.predict(pooled)
        scores = logits.softmax(dim=1)[:, :-1].unflatten(0, (-1, config.num_proposals))  # (N, P, K)
        decoded = decode_boxes(deltas, boxes.flatten(0, 1)[:, None], config.box_code_weights)
        labels = torch.arange(roi.num_classes, device=scores.device).expand_as(scores)
        present = (scores > config.score_threshold) & (levels >= 0)[:, :, None]
        return FixedDetections(
            *suppress_to_fixed_size(
                decoded.flatten(0, 1).unflatten(0, (scores.shape[0], -1)),
                scores.flatten(1),
                labels.flatten(1),
                present.flatten(1),
                image_sizes,
                clip_before_nms=True,
                nms_threshold=config.nms_threshold,
                max_detections=config.max_detections,
            )
        )


def map_names(model: Detector) -> tuple[str, ...]:
    """Names of what `MapsNetwork` gives: "cls_p3" for the class logits of the level of stride 8, and so on."""
    kinds = _KINDS[model.config.head.type]
    levels = [f"p{stride.bit_length() - 1}" for stride in model.config.fpn.strides_px]
    return tuple(f"{kind}_{level}" for kind in kinds for level in levels)


_KINDS = {
    "atss": ("cls", "box", "centerness"),
    "grounded_atss": ("cls", "box", "centerness"),
    "fcos": ("cls", "box", "centerness"),
    "retinanet": ("cls", "box"),
    "faster_rcnn": ("objectness", "box", "features"),
}


def maps_network(model: Detector) -> MapsNetwork:
    """The network that gives raw maps; the detector itself stays as it is."""
    return MapsNetwork(_levelwise(model)).eval()


def detections_network(model: Detector) -> FixedSizeDetector | TwoStageNetwork:
    """The network that gives detections; the detector itself stays as it is."""
    own = _levelwise(model)
    return TwoStageNetwork(own, own.head).eval() if isinstance(own.head, FasterRCNNHead) else FixedSizeDetector(own)


def _levelwise(model: Detector) -> Detector:
    """The detector with blocks that are one operator each, sharing all other parts."""
    own = copy.copy(model)
    own._modules = dict(model._modules)
    if model.config.dyhead.form == "pyramid":
        own.dyhead = LevelwiseDyHead(model.dyhead)  # type: ignore[assignment]
    if has_windows(model.backbone):
        own.backbone = copy.deepcopy(model.backbone)
        use_operators(own.backbone)
    return own


@contextmanager
def one_line(model: Detector, failed: str = UNTRACED) -> Iterator[None]:
    """Say on one line that a detector, mostly for its backbone, cannot be exported."""
    try:
        yield
    except Exception as error:  # each backbone has a way of its own
        raise ExportError(
            f"{model.config.architecture} on {model.config.backbone.name} cannot {failed}: {first_line(error)}"
        ) from error
