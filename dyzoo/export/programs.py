"""From a detector to a program of `torch.export`, and on to a package that AOTInductor compiles of it.

A program holds operators of PyTorch and torchvision alone, so that whoever loads it needs no dyzoo.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dyzoo.export.comparison import Comparison
from dyzoo.export.networks import (
    MOST_IMAGES,
    MOST_TILES,
    UNTRACED,
    detections_network,
    map_names,
    maps_network,
    one_line,
)
from dyzoo.export.options import ExportOptions
from dyzoo.export.packages import compile_package, open_package
from dyzoo.export.plain import decompositions
from dyzoo.files import replacing
from dyzoo.model.detector import Detector
from dyzoo.model.sizes import padded_size
from dyzoo.runtime.exported_detector import OUTPUTS

METADATA_NAME = "dyzoo.json"  # among the extra files of a program


class WholeNetwork(nn.Module):
    """A detector as one module: from pictures or normalised batches to a dict of detections or maps.

    Where pictures are of any size, the padded size is made of numbers that are known only when a picture is there, not
    of formulas over the picture's height and width: at every step of a trace, formulas would be compared with each
    other and with 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Detector, options: ExportOptions) -> None:
        super().__init__()
        self.options, self.config = options, model.config.preprocess
        self.network: nn.Module = detections_network(model) if options.decode else maps_network(model)
        self.names = OUTPUTS if options.decode else map_names(model)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(self.config, name)).view(3, 1, 1))

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Detect, or predict: `images` (N, 3, H, W) as the options say."""
        height, width = images.shape[2:]
        size = torch.stack([torch.scalar_tensor(side, dtype=torch.int64) for side in (height, width)])
        if self.options.preprocess:
            pixels = images.float() if self.options.input_type == "uint8" else images * 255.0
            if self.config.channel_order == "BGR":
                pixels = pixels.flip(1)
            images = (pixels - self.mean) / self.std
            image_sizes = size.to(images.device).expand(images.shape[0], 2)
        padded = self._padded_size(size)
        images = torch.constant_pad_nd(images, [0, padded[1] - width, 0, padded[0] - height])
        batch = images[:, :, : padded[0], : padded[1]].reshape(images.shape[0], 3, *padded)
        answers = self.network(batch, image_sizes) if self.options.decode else self.network(batch)
        return dict(zip(self.names, answers, strict=True))

    def _padded_size(self, size: Tensor) -> tuple[Any, Any]:
        divisor = self.config.size_divisor
        if self.options.size is not None:
            return padded_size([self.options.size], divisor)
        rows, columns = (-(-size // divisor)).tolist()
        for count in (rows, columns):
            torch._check(count >= 1)
            torch._check(count <= MOST_TILES)
        return rows * divisor, columns * divisor


class ProgramRunner:
    """A program that PyTorch runs on the CPU.

    Args:
        runtime: what runs it, for people.
        module: from the inputs to a dict of tensors.
        inputs, outputs: names.
    """

    def __init__(
        self, runtime: str, module: Callable[..., dict[str, Tensor]], inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        self.runtime, self._module, self.inputs, self.outputs = runtime, module, inputs, outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `dyzoo.runtime.runners.Runner`."""
        tensors = [torch.from_numpy(np.array(inputs[name])) for name in self.inputs]
        with torch.inference_mode():
            return {name: value.numpy() for name, value in self._module(*tensors).items()}


def write_program(
    model: Detector, options: ExportOptions, told: Mapping[str, str], comparison: Comparison, path: Path
) -> float:
    """Write a .pt2 file that has been compared, and give the seconds without the comparison.

    Args:
        model: in evaluation mode, float32, on the CPU.
        options: a program, or a package for pictures of one size.
        told: metadata, which become the extra file `METADATA_NAME` of a program, and a package's own metadata.

    Raises:
        ExportError: the network cannot be traced or compiled, or answers otherwise.
    """
    started = time.perf_counter()
    network = WholeNetwork(model, options)
    with (
        replacing(path) as aside,  # before the work, so that a place that cannot be written costs none
        tempfile.TemporaryDirectory(prefix="dyzoo_") as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # what nobody here can act on
        file = Path(folder) / "detector.pt2"  # torch wants the suffix
        failed = f"be compiled for {' x '.join(map(str, options.size))} pixels" if options.size else UNTRACED
        with one_line(model, failed), torch.no_grad():
            program = _program(network, options)
            if options.to == "aoti":
                compile_package(program, told, file)
            else:
                torch.export.save(program, file, extra_files={METADATA_NAME: json.dumps(dict(told))})
        seconds = time.perf_counter() - started
        if options.to == "aoti":
            runtime, module = "AOTInductor", open_package(file)
        else:
            runtime, module = "torch.export", torch.export.load(file).module()
        comparison.run(ProgramRunner(runtime, module, _inputs(options), network.names))
        shutil.copyfile(file, aside)
    return seconds


def _inputs(options: ExportOptions) -> tuple[str, ...]:
    """Names of the inputs, as `Comparison` gives them."""
    if options.preprocess:
        return ("images",)
    return ("batch", "image_sizes") if options.decode else ("batch",)


def _program(network: WholeNetwork, options: ExportOptions) -> ExportedProgram:
    number = Dim("batch", max=MOST_IMAGES)
    most = MOST_TILES * network.config.size_divisor
    dtype = torch.uint8 if options.preprocess and options.input_type == "uint8" else torch.float32
    size = options.size or (250, 370)
    inputs = [torch.zeros(2, 3, *size, dtype=dtype)]
    shapes: dict[str, Any] = {"images": {0: number}}
    if options.size is None:
        shapes["images"] |= {2: Dim("height", max=most), 3: Dim("width", max=most)}
    if not options.preprocess and options.decode:
        inputs.append(torch.tensor([size] * 2))
        shapes["image_sizes"] = {0: number}
    with torch.no_grad():
        # not strict: the graph is made by running the model, whose Python needs no interpreter of its own
        program = torch.export.export(network, tuple(inputs), dynamic_shapes=shapes, strict=False)
        return program.run_decompositions(decompositions(options.deform_conv))
