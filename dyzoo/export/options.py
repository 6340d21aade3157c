"""How a detector is exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dyzoo.errors import ExportError

DeformConv = Literal["node", "grid-sample"]
InputType = Literal["uint8", "float32"]
Format = Literal["onnx", "openvino", "torch-export"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}


@dataclass(frozen=True)
class ExportOptions:
    """Settings of an export.

    Attributes:
        decode: boxes, scores and labels come out, suppressed; else the raw maps of `Detector.forward_head`.
        preprocess: pictures go in, RGB (N, 3, H, W) of any height and width; else normalised, padded batches.
        input_type: with `preprocess`: "uint8" for pixels 0..255, "float32" for 0..1.
        deform_conv: "node" for ONNX's `DeformConv`, which onnxruntime has from 1.25.1 on, and in PyTorch's programs
            torchvision's; "grid-sample" for samples taken by `GridSample`, slower in onnxruntime, for runtimes without
            it (OpenVINO, browsers, older onnxruntime). None for "node" where the format has it.
        to: "onnx"; "openvino" for the intermediate representation of OpenVINO; "torch-export" for a program of
            `torch.export`.

    Raises:
        ExportError: there is no such form, type or format, or the format has no such form.
    """

    decode: bool = True
    preprocess: bool = True
    input_type: InputType = "uint8"
    deform_conv: DeformConv = None  # type: ignore[assignment] # which `__post_init__` makes one
    to: Format = "onnx"

    def __post_init__(self) -> None:
        if self.deform_conv is None:
            object.__setattr__(self, "deform_conv", "grid-sample" if self.to == "openvino" else "node")
        for name, kinds in (("input_type", InputType), ("deform_conv", DeformConv), ("to", Format)):
            value = getattr(self, name)
            if value not in get_args(kinds):
                raise ExportError(f"{name} is {value!r}, expected {' or '.join(map(repr, get_args(kinds)))}")
        if self.to == "openvino" and self.deform_conv == "node":
            raise ExportError("OpenVINO reads no DeformConv: leave the form out, or choose grid-sample")
