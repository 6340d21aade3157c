"""How a detector is exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dyzoo.errors import ExportError

DeformConv = Literal["node", "grid-sample"]
InputType = Literal["uint8", "float32"]


@dataclass(frozen=True)
class ExportOptions:
    """Settings of an export.

    Attributes:
        decode: boxes, scores and labels come out, suppressed; else the raw maps of `Detector.forward_head`.
        preprocess: pictures go in, RGB (N, 3, H, W) of any height and width; else normalised, padded batches.
        input_type: with `preprocess`: "uint8" for pixels 0..255, "float32" for 0..1.
        deform_conv: "node" for ONNX's `DeformConv`, which onnxruntime has from 1.25.1 on; "grid-sample" for samples
            taken by `GridSample`, slower, for runtimes without it (OpenVINO, older onnxruntime).

    Raises:
        ExportError: there is no such form or type.
    """

    decode: bool = True
    preprocess: bool = True
    input_type: InputType = "uint8"
    deform_conv: DeformConv = "node"

    def __post_init__(self) -> None:
        for name, kinds in (("input_type", InputType), ("deform_conv", DeformConv)):
            value = getattr(self, name)
            if value not in get_args(kinds):
                raise ExportError(f"{name} is {value!r}, expected {' or '.join(map(repr, get_args(kinds)))}")
