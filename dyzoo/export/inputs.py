"""Pictures as an exported graph takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dyzoo.config import PreprocessConfig
from dyzoo.export.options import ExportOptions
from dyzoo.model.preprocess import batch_images


def graph_inputs(images: Sequence[Tensor], config: PreprocessConfig, options: ExportOptions) -> dict[str, np.ndarray]:
    """The inputs of a graph by name.

    Args:
        images: (3, H, W) uint8 RGB each, all of one size.
        config: how the detector takes pictures.
        options: how it was exported.
    """
    if options.preprocess:
        pixels: np.ndarray = torch.stack(list(images)).numpy()
        return {"images": pixels if options.input_type == "uint8" else pixels.astype(np.float32) / 255}
    batch, sizes = batch_images(images, config, torch.device("cpu"))
    inputs = {"batch": batch.contiguous().numpy()}
    return {**inputs, "image_sizes": np.array(sizes, np.int64)} if options.decode else inputs
