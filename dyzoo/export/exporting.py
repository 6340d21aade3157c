"""From a detector to a file."""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torchvision.transforms.v2 import functional as TF

from dyzoo.errors import ExportError
from dyzoo.export.calibration import calibration_files, check_calibration
from dyzoo.export.options import ExportOptions
from dyzoo.export.report import ExportReport
from dyzoo.files import replacing
from dyzoo.images.reading import ImageSource, to_picture
from dyzoo.model.detector import Detector
from dyzoo.runtime.sessions import TO_EXPORT, check_deform_conv, check_installed
from dyzoo.zoo.catalog import sample_image

if TYPE_CHECKING:
    import onnx_ir as ir

MOST_BYTES = 2**31 - 2**24  # of the weights: an ONNX file is one protocol buffer, which ends at 2 GiB


def export_onnx(
    model: Detector, path: str | Path, options: ExportOptions | None = None, picture: ImageSource | None = None
) -> ExportReport:
    """Write a detector as an ONNX file, after it has been compared with the detector.

    Args:
        model: of any mode, dtype and device, which stay; float32 on the CPU is exported.
        path: the file, written aside and renamed.
        options: what goes in and comes out; None for pictures and detections.
        picture: what the comparison is made on, in several sizes; None for the sample image of the package.

    Raises:
        ExportError: what is needed is not installed, the detector cannot be exported, or the exported graph answers
            otherwise; no file is left.
        ImageError: the picture cannot be read.
    """
    options = options or ExportOptions()
    path = Path(path)
    check_before_loading(options)
    check_exportable(model)
    calibration = () if options.calibration is None else calibration_files(options.calibration)
    pixels = TF.pil_to_tensor(to_picture(sample_image() if picture is None else picture).image)

    from dyzoo.export.comparison import Comparison
    from dyzoo.export.graph import detections_and_maps, without_maps
    from dyzoo.export.metadata import metadata
    from dyzoo.export.networks import map_names
    from dyzoo.export.precision import in_precision

    own = copy.deepcopy(model).to("cpu", torch.float32).eval()
    started = time.perf_counter()
    graph = detections_and_maps(own, options)
    graph, facts = in_precision(graph, map_names(own), own.config.preprocess, options, calibration)
    graph.metadata_props.update({**metadata(model, options), **facts})
    seconds = time.perf_counter() - started
    comparison = Comparison(own, options, pixels)
    with replacing(path) as aside:
        if options.decode:
            with tempfile.TemporaryDirectory(prefix="dyzoo_") as folder:
                everything = Path(folder) / "everything.onnx"
                _save(graph, everything)
                comparison.run(everything)
            without_maps(graph)
        _save(graph, aside)
        comparison.run(aside)
    return ExportReport(
        path,
        seconds,
        tuple((picture.shape[1], picture.shape[2]) for picture in comparison.pictures),
        comparison.map_difference,
        comparison.detections,
        comparison.agreement,
        comparison.box_difference_px,
        comparison.score_difference,
    )


def check_before_loading(options: ExportOptions) -> None:
    """Raise an `ExportError` where something is not installed or not there that exporting so needs."""
    check_installed(TO_EXPORT, ExportError, "exporting")
    if options.deform_conv == "node":
        check_deform_conv(ExportError, "or choose the form grid-sample")
    if options.calibration is not None:
        check_calibration(options.calibration)


def check_exportable(model: Any) -> None:
    """Raise an `ExportError` where a detector cannot be exported, before any work is done."""
    if not isinstance(model, Detector):
        raise ExportError(f"{type(model).__name__} cannot be exported, expected a Detector")
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size > MOST_BYTES:
        raise ExportError(
            f"the weights take {size / 1e9:.1f} GB in float32, expected at most {MOST_BYTES / 1e9:.1f}: one ONNX file "
            "holds no more"
        )


def _save(model: ir.Model, path: Path) -> None:
    import onnx_ir

    onnx_ir.save(model, path)
