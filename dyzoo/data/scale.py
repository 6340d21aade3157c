"""The scale of pictures and objects that a detector is trained at."""

from __future__ import annotations

import numpy as np

from dyzoo.config import PreprocessConfig, TrainingScale
from dyzoo.data.dataset import DetectionDataset
from dyzoo.data.small import sides_in_training
from dyzoo.model.sizes import zoom


def training_scale(dataset: DetectionDataset, preprocess: PreprocessConfig) -> TrainingScale | None:
    """The median picture and object of a dataset; None where it has no objects.

    Objects are measured as the network sees them, so that pictures of other sizes count at the scale that they are
    resized to. `dyzoo train` writes it into a detector's configuration; crowd regions are left out.
    """
    samples = dataset.samples
    size_px = (preprocess.shortest_edge, preprocess.longest_edge)
    areas = np.concatenate([np.zeros(0), *(sides_in_training(sample, size_px).prod(axis=1) for sample in samples)])
    areas = areas[areas > 0]
    if not len(areas):
        return None
    height, width = (
        max(int(np.median([getattr(sample, side) for sample in samples])), 32) for side in ("height_px", "width_px")
    )
    object_px = float(np.median(np.sqrt(areas))) / zoom(preprocess, (height, width), None)
    return TrainingScale((height, width), round(max(object_px, 1.0), 1))
