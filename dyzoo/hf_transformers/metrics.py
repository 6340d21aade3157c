"""COCO's metrics of what transformers' `Trainer` has predicted, as `dyzoo evaluate` computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyzoo.data import DetectionDataset, Sample
from dyzoo.evaluation.metrics import measure
from dyzoo.evaluation.scorers import ScorerName, load_scorer
from dyzoo.hf_transformers.boxes import from_shares
from dyzoo.hf_transformers.processing import DyzooImageProcessor
from dyzoo.images.detections import Detections

_HOW = "set eval_do_concat_batches=False in the TrainingArguments"


class DetectionMetrics:
    """For `Trainer(compute_metrics=DetectionMetrics(processor, labels))`, with `eval_do_concat_batches=False`.

    Args:
        processor: the model's.
        labels: the model's classes, in their order.
        scorer: as for `dyzoo.evaluate`.

    Raises:
        DyzooError: the scorer is not installed.
    """

    def __init__(
        self, processor: DyzooImageProcessor, labels: Sequence[str], scorer: ScorerName = "pycocotools"
    ) -> None:
        self.processor = processor
        self.labels = tuple(labels)
        self._score = load_scorer(scorer)

    def __call__(self, evaluated: Any) -> dict[str, float]:
        """The metrics of `dyzoo.evaluation.Evaluation` that there is ground truth for, in 0..1.

        Args:
            evaluated: transformers' `EvalPrediction`: "predictions", the outputs of each batch, and "label_ids", its
                labels, as `DyzooImageProcessor.preprocess` makes them.

        Raises:
            ValueError: batches were put together, or labels lack something.
        """
        predictions, label_ids = evaluated.predictions, evaluated.label_ids
        if not isinstance(predictions, list) or not isinstance(label_ids, list):
            raise ValueError(f"predictions are a {type(predictions).__name__}, expected a list of batches: {_HOW}")
        samples: list[Sample] = []
        found: list[dict[str, Any]] = []
        for outputs, labels in zip(predictions, label_ids, strict=True):
            logits, boxes = (torch.as_tensor(values) for values in outputs[-2:])
            sizes = [tuple(int(side) for side in label["orig_size"]) for label in labels]
            answers = self.processor.post_process_object_detection(
                {"logits": logits, "pred_boxes": boxes},
                0.0,
                sizes,  # type: ignore[arg-type]
            )
            for answer, label, size in zip(answers, labels, sizes, strict=True):
                number = len(samples)
                samples.append(_sample(label, size, number))  # type: ignore[arg-type]
                detections = Detections(answer["boxes"], answer["scores"], answer["labels"], self.labels, size)  # type: ignore[arg-type]
                found += detections.to_coco(number)
        dataset = DetectionDataset(samples, self.labels)
        metrics = measure(dataset, found, self._score).metrics
        return {name: value for name, value in metrics.items() if value is not None}


def _sample(label: Mapping[str, np.ndarray], size: tuple[int, int], number: int) -> Sample:
    """The ground truth of a picture; a data set's own number of it may be there twice."""
    corners = from_shares(torch.as_tensor(label["boxes"]), torch.tensor(size))
    classes = np.asarray(label["class_labels"])
    return Sample(
        image_path=Path(),
        width_px=size[1],
        height_px=size[0],
        boxes_xyxy=corners.float().numpy(),
        labels=classes,
        crowd=np.asarray(label["iscrowd"], dtype=bool) if "iscrowd" in label else np.zeros(len(classes), bool),
        image_id=number,
        areas_px2=np.asarray(label["area"], dtype=np.float64) if "area" in label else None,  # type: ignore[arg-type]
    )
