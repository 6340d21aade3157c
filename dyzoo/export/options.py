"""How a detector is exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from dyzoo.errors import ExportError

DeformConv = Literal["node", "grid-sample"]
InputType = Literal["uint8", "float32"]
Precision = Literal["fp32", "fp16", "int8"]
Format = Literal["onnx", "openvino", "torch-export", "aoti"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2", "aoti": ".pt2"}
MOST_SIDE_PX = 16384


@dataclass(frozen=True)
class ExportOptions:
    """Settings of an export.

    Attributes:
        decode: boxes, scores and labels come out, suppressed; else the raw maps of `Detector.forward_head`.
        preprocess: pictures go in, RGB (N, 3, H, W) of any height and width; else normalised, padded batches.
        input_type: with `preprocess`: "uint8" for pixels 0..255, "float32" for 0..1.
        deform_conv: "node" for ONNX's `DeformConv`, which onnxruntime has from 1.25.1 on, and in PyTorch's programs
            torchvision's; "grid-sample" for samples taken by `GridSample`, slower in onnxruntime, for runtimes without
            it (OpenVINO, older onnxruntime). None for "node" where the format has it.
        to: "onnx"; "openvino" for the intermediate representation of OpenVINO; "torch-export" for a program of
            `torch.export`; "aoti" for a package of machine code that AOTInductor makes of such a program.
        precision: "fp32"; "fp16" for a file of half the size; "int8" for convolutions of 8 bits, whose ranges are
            measured on pictures. What goes in and comes out is of the same type with each.
        calibration: with "int8": a folder of these pictures, a glob, or a dataset, whose split "train" is taken.
        size: with "aoti", which needs it: (H, W) in pixels of what goes in, of any number; the other formats take
            every size.

    Raises:
        ExportError: there is no such form, type, precision or format, the format has no such form or precision, or
            pictures or a size are missing or there for nothing.
    """

    decode: bool = True
    preprocess: bool = True
    input_type: InputType = "uint8"
    deform_conv: DeformConv = None  # type: ignore[assignment] # which `__post_init__` makes one
    precision: Precision = "fp32"
    calibration: str | Path | None = None
    to: Format = "onnx"
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.deform_conv is None:
            object.__setattr__(self, "deform_conv", "grid-sample" if self.to == "openvino" else "node")
        kinds = {"input_type": InputType, "deform_conv": DeformConv, "precision": Precision, "to": Format}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ExportError(f"{name} is {value!r}, expected {' or '.join(map(repr, get_args(kind)))}")
        if not self.preprocess and self.input_type != "uint8":
            raise ExportError("input_type is for pictures, and batches are float32 already: leave it out")
        if self.to == "openvino" and self.deform_conv == "node":
            raise ExportError("OpenVINO reads no DeformConv: leave the form out, or choose grid-sample")
        if self.to != "onnx" and self.precision != "fp32":
            raise ExportError(f"{self.precision} is for onnx, {self.to} is written in fp32: leave the precision out")
        if self.precision == "int8" and self.calibration is None:
            raise ExportError(
                "int8 needs pictures to measure ranges on, expected calibration (--calibration DIR): a folder of some "
                "dozens like those that the detector is for, and not those that it is measured on"
            )
        if self.precision != "int8" and self.calibration is not None:
            raise ExportError(f"calibration is for int8 and does nothing for {self.precision}: leave it out")
        self._check_size()

    def _check_size(self) -> None:
        if self.to != "aoti":
            if self.size is not None:
                raise ExportError(f"size is for aoti, and {self.to} takes pictures of every size: leave it out")
            return
        if self.size is None:
            raise ExportError(
                "aoti compiles for one size, expected the height and width of the pictures as they will go in: "
                "size=(H, W), --size HxW"
            )
        sides = tuple(self.size) if isinstance(self.size, list | tuple) else (self.size,)
        whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
        if len(sides) != 2 or not whole or not all(1 <= side <= MOST_SIDE_PX for side in sides):
            raise ExportError(f"size is {self.size!r}, expected (H, W), each from 1 to {MOST_SIDE_PX} pixels")
        object.__setattr__(self, "size", sides)
