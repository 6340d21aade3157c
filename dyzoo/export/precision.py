"""A graph of float32 in the precision that was asked for, and how close to the detector it then has to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dyzoo.config import PreprocessConfig
from dyzoo.export.options import ExportOptions, Precision

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Bounds:
    """How far an exported graph may be from its detector.

    Attributes:
        map_difference: largest difference of a raw map, relative to the level's largest value.
        agreement: least share of the detections that both have.
        iou, score_difference: what makes two detections the same: at least this IoU, scores within that.
    """

    map_difference: float
    agreement: float
    iou: float
    score_difference: float


BOUNDS: dict[Precision, Bounds] = {
    # A pair of boxes at the very edge of the NMS threshold may fall either way.
    "fp32": Bounds(1e-4, 0.98, 0.95, 2e-3),
    # Half precision rounds by up to 2^-11, 5e-4, at each of some 60 layers: 4e-3 as they add up at random.
    "fp16": Bounds(1e-2, 0.95, 0.9, 1e-2),
    # An activation has 256 steps over its whole range, a weight 128.
    "int8": Bounds(0.5, 0.7, 0.75, 0.1),
}


def in_precision(
    model: ir.Model, maps: Sequence[str], config: PreprocessConfig, options: ExportOptions, calibration: Sequence[Path]
) -> tuple[ir.Model, dict[str, str]]:
    """The graph in the precision of the options, and what is to be said of it in its metadata.

    Args:
        model: of float32, which is changed.
        maps: names of the raw maps among its outputs.
        config: how the detector takes pictures.
        options: how it is exported.
        calibration: with "int8", files of the pictures that ranges are measured on.

    Raises:
        ExportError: there is no picture to measure ranges on, or the graph cannot be had in that precision.
    """
    if options.precision == "fp16":
        from dyzoo.export.half import to_half

        to_half(model, maps)
    elif options.precision == "int8":
        from dyzoo.export.calibration import CalibrationPictures
        from dyzoo.export.quantization import to_int8

        pictures = CalibrationPictures(calibration, config)
        quantised = to_int8(model, maps, pictures, config, options)
        return quantised, {"calibration_pictures": str(pictures.count)}
    return model, {}
