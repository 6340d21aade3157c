"""The ONNX graph of a detector: traced as few operators, translated, prepared for pictures."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.optimizer import fold_constants
from torch import Tensor, nn
from torch.export import Dim

from dyzoo.dyhead.levelwise import DEFORM_CONV, levelwise_block
from dyzoo.export.networks import MOST_IMAGES, MOST_TILES, detections_network, map_names, maps_network, one_line
from dyzoo.export.options import DeformConv, ExportOptions
from dyzoo.export.preparation import prepend_preparation
from dyzoo.export.regions import pool_regions, pool_regions_translation
from dyzoo.export.suppression import suppress
from dyzoo.export.translation import block_translation, deform_conv_translation
from dyzoo.export.windows import window_attention, window_attention_translation
from dyzoo.model.detector import Detector
from dyzoo.model.heads.fixed_size import suppress_to_fixed_size
from dyzoo.runtime.exported_detector import OUTPUTS

OPSET = 20  # the first in which GridSample is what it is now, and DeformConv is there
EXAMPLE_TILES = (2, 3)  # height and width of the traced example in units of the divisor, at least 256 px


def detections_and_maps(model: Detector, options: ExportOptions) -> ir.Model:
    """The graph with all its outputs: detections where they are asked for, and the raw maps.

    Args:
        model: in evaluation mode, float32, on the CPU.
    """
    network = _AllOutputs(model) if options.decode else maps_network(model)
    names = [*(OUTPUTS if options.decode else ()), *map_names(model)]
    divisor = model.config.preprocess.size_divisor
    tiles = [-(-128 // divisor) * count for count in EXAMPLE_TILES]
    number, height, width = Dim("batch", max=MOST_IMAGES), Dim("rows", max=MOST_TILES), Dim("columns", max=MOST_TILES)
    inputs = [torch.zeros(2, 3, tiles[0] * divisor, tiles[1] * divisor)]
    shapes: dict[str, Any] = {"batch": {0: number, 2: divisor * height, 3: divisor * width}}
    if options.decode:
        inputs.append(torch.tensor([[tiles[0] * divisor, tiles[1] * divisor]] * 2))
        shapes["image_sizes"] = {0: number}
    with one_line(model):
        graph = translate(network, dict(zip(shapes, inputs, strict=True)), shapes, names, options.deform_conv)
    if options.preprocess:
        prepend_preparation(graph, model.config.preprocess, options.input_type)
    return graph


def translate(
    network: nn.Module, inputs: Mapping[str, Tensor], shapes: Any, names: Sequence[str], form: DeformConv
) -> ir.Model:
    """The graph of a network whose DyHead is a `LevelwiseDyHead`.

    Args:
        network: float32, on the CPU; called with the inputs by name, gives a tuple.
        inputs: examples, by the names that they have in the graph.
        shapes: the dimensions that may vary, as `torch.export.export` takes them; None for none.
        names: of the outputs.
    """
    with _quiet(), torch.no_grad():
        # not strict: the graph is made by running the model, whose Python needs no interpreter of its own
        program = torch.export.export(network, (), dict(inputs), dynamic_shapes=shapes, strict=False)
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            optimize=False,
            input_names=list(inputs),
            output_names=names,
            custom_translation_table={
                levelwise_block._opoverload: block_translation(form),
                DEFORM_CONV: deform_conv_translation(form),
                suppress_to_fixed_size._opoverload: suppress,
                pool_regions._opoverload: pool_regions_translation,
                window_attention._opoverload: window_attention_translation,
            },
        )
        assert onnx_program is not None
        graph: ir.Model = onnx_program.model
        _tidy(graph)
    return graph


def without_maps(model: ir.Model) -> None:
    """Take the raw maps away from the outputs of a graph that gives detections, in place."""
    model.graph.outputs[:] = [value for value in model.graph.outputs if value.name in OUTPUTS]
    ir.passes.common.RemoveUnusedNodesPass()(model)


def _tidy(model: ir.Model) -> None:
    """Fold what is constant and take away what is there twice or for nothing, in place.

    The exporter's own way looks for dozens of patterns at every node besides, which took nine tenths of its minute and
    changed nothing that a runtime does not change itself.
    """
    fold_constants(model)
    for tidying in (
        ir.passes.common.CommonSubexpressionEliminationPass(),
        ir.passes.common.RemoveUnusedNodesPass(),
        ir.passes.common.RemoveUnusedFunctionsPass(),
        ir.passes.common.RemoveUnusedOpsetsPass(),
        ir.passes.common.ClearMetadataAndDocStringPass(),  # where each node was in Python: megabytes of them
    ):
        tidying(model)


class _AllOutputs(nn.Module):
    """Detections, then raw maps, of one pass through the detector."""

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.detections = detections_network(model)

    def forward(self, batch: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        raw = self.detections.predict(batch)
        maps = (level for levels in raw.values() for level in levels)
        return (*self.detections.decode(raw, image_sizes), *maps)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter warns of and logs, which nobody here can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
