"""From a detector to a file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2 import functional as TF

from dyzoo.errors import ExportError
from dyzoo.export.calibration import check_calibration
from dyzoo.export.options import SUFFIXES, ExportOptions
from dyzoo.export.report import ExportReport
from dyzoo.images.reading import ImageSource, to_picture
from dyzoo.model.detector import Detector
from dyzoo.model.sizes import padded_size
from dyzoo.runtime.exported_detector import ExportedDetector
from dyzoo.runtime.sessions import TO_EXPORT, check_deform_conv, check_installed
from dyzoo.zoo.catalog import sample_image

MOST_BYTES = 2**31 - 2**24  # of the weights: an ONNX file is one protocol buffer, which ends at 2 GiB


def export_detector(
    model: Detector, path: str | Path, options: ExportOptions | None = None, picture: ImageSource | None = None
) -> ExportReport:
    """Write a detector as a file of another runtime, after it has been compared with the detector.

    Args:
        model: of any mode, dtype and device, which stay; float32 on the CPU is exported.
        path: the file, written aside and renamed; with OpenVINO the .bin file beside it likewise.
        options: the format, what goes in and comes out; None for ONNX from pictures to detections.
        picture: what the comparison is made on, in several sizes; None for the sample image of the package.

    Raises:
        ExportError: what is needed is not installed, the detector cannot be exported, the suffix is another format's,
            or what was exported answers otherwise; no file is left.
        ImageError: the picture cannot be read, or pictures of the size that was asked for are too large.
    """
    options = options or ExportOptions()
    path = Path(path)
    check_before_loading(options, path)
    check_exportable(model)
    check_size(model, options)
    pixels = TF.pil_to_tensor(to_picture(sample_image() if picture is None else picture).image)

    from dyzoo.export.comparison import Comparison
    from dyzoo.export.metadata import metadata

    own = copy.deepcopy(model).to("cpu", torch.float32).eval()
    comparison = Comparison(own, options, pixels)
    told = metadata(model, options)
    if options.to == "onnx":
        from dyzoo.export.onnx_file import write_onnx

        seconds = write_onnx(own, options, told, comparison, path)
    elif options.to == "openvino":
        from dyzoo.export.openvino import write_openvino

        seconds = write_openvino(own, options, told, comparison, path)
    else:
        from dyzoo.export.programs import write_program

        seconds = write_program(own, options, told, comparison, path)
    return ExportReport(
        path,
        seconds,
        tuple((picture.shape[1], picture.shape[2]) for picture in comparison.pictures),
        comparison.map_difference,
        comparison.detections,
        comparison.agreement,
        comparison.box_difference_px,
        comparison.score_difference,
        comparison.runtime,
    )


def check_before_loading(options: ExportOptions, path: Path | None = None) -> None:
    """Raise an `ExportError` where something is not installed or not there that exporting so needs, or the file is to
    be named as one of another format."""
    suffix = SUFFIXES[options.to]
    if path is not None and path.suffix.lower() != suffix:
        raise ExportError(f"{path} does not end in {suffix}, expected so of the format {options.to}")
    if options.to == "aoti":
        from dyzoo.export.packages import check_compiler

        check_compiler()
    if options.to in ("torch-export", "aoti"):
        return
    check_installed(TO_EXPORT, ExportError, "exporting")
    if options.to == "openvino":
        check_installed(("openvino",), ExportError, "exporting to openvino", extra="openvino")
    if options.deform_conv == "node":
        check_deform_conv(ExportError, "or choose the form grid-sample")
    if options.calibration is not None:
        check_calibration(options.calibration)


def check_exportable(model: Any) -> None:
    """Raise an `ExportError` where a detector cannot be exported, before any work is done."""
    if isinstance(model, ExportedDetector):
        raise ExportError(f"{model.name} is exported already: name the detector in PyTorch that it was exported from")
    if not isinstance(model, Detector):
        raise ExportError(f"{type(model).__name__} cannot be exported, expected a Detector")
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size > MOST_BYTES:
        raise ExportError(
            f"the weights take {size / 1e9:.1f} GB in float32, expected at most {MOST_BYTES / 1e9:.1f}: one ONNX file "
            "holds no more"
        )


def check_size(model: Detector, options: ExportOptions) -> None:
    """Raise an `ExportError` or `ImageError` where a detector cannot take batches of the size of the options."""
    if options.size is None:
        return
    divisor = model.config.preprocess.size_divisor
    padded = padded_size([options.size] * 2, divisor)  # the comparison's batches are of up to two
    if not options.preprocess and options.size != padded:
        raise ExportError(
            f"size is {options.size[0]} x {options.size[1]} (H x W), expected multiples of {divisor} as batches are "
            f"padded before they go in: {padded[0]} x {padded[1]} is the next"
        )
