"""A graph of 8-bit integers: convolutions and linear layers quantised with the ranges that pictures give."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor

from dyzoo.config import PreprocessConfig
from dyzoo.errors import ExportError, first_line
from dyzoo.export.fusing import (
    fuse,
    has_weights,
    leads_to_product,
    network_nodes,
    output_nodes,
    products_before,
    reading_nodes,
)
from dyzoo.export.half import LEAST_STORED, store_half
from dyzoo.export.inputs import graph_inputs
from dyzoo.export.options import ExportOptions

QUANTISED = ("Conv", "Gemm", "MatMul")


def to_int8(
    model: ir.Model,
    maps: Sequence[str],
    pictures: Iterable[Tensor],
    config: PreprocessConfig,
    options: ExportOptions,
) -> ir.Model:
    """The graph with its convolutions and linear layers in 8 bits, as pairs of QuantizeLinear and DequantizeLinear.

    Activations are unsigned with one range for each, weights signed with a range for each channel, of 7 bits: sums of
    two products then fit the 16 bits in which CPUs without VNNI add them. Deformable convolutions, offsets and the
    last layer of each branch stay in float32, with large weights kept in float16.

    Args:
        model: of float32, which is changed.
        maps: names of the raw maps, which are outputs.
        pictures: (3, H, W) uint8 RGB each, in the size that the detector sees.
        config: how the detector takes pictures.
        options: how it is exported.

    Raises:
        ExportError: a node cannot be quantised, or the pictures fail.
    """
    fuse(model)
    nodes = quantised_nodes(model.graph, maps)
    if not nodes:
        raise ExportError("there is no convolution or linear layer to quantise: export it in fp16")
    names = [node.name for node in nodes]
    with tempfile.TemporaryDirectory(prefix="dyzoo_") as folder, _unheard():
        path = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                ir.to_proto(model),
                path,
                _Reader(pictures, config, options),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                nodes_to_quantize=names,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except ExportError:
            raise
        except Exception as error:  # onnxruntime has a class of its own for each reason
            raise ExportError(f"the graph cannot be quantised: {first_line(error)}") from error
        quantised = ir.from_proto(onnx.load(path))  # read as a whole, the folder goes
    store_half(quantised.graph, network_nodes(quantised.graph, maps))
    ir.passes.common.RemoveUnusedNodesPass()(quantised)
    ir.passes.common.RemoveUnusedOpsetsPass()(quantised)
    return quantised


def quantised_nodes(graph: ir.Graph, maps: Sequence[str]) -> list[ir.Node]:
    """Products with large weights, but for those that give positions, maps, or what is decoded."""
    kept = products_before(output_nodes(graph, maps)) | {node for node in graph if _gives(node, maps)}
    kept |= products_before(reading_nodes(graph))
    further = leads_to_product(graph)
    return [
        node
        for node in graph
        if node.op_type in QUANTISED and has_weights(node, LEAST_STORED) and node not in kept and node in further
    ]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, pictures: Iterable[Tensor], config: PreprocessConfig, options: ExportOptions) -> None:
        self.pictures: Iterator[Tensor] = iter(pictures)
        self.config, self.options = config, options

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Inputs of the next picture, None after the last."""
        picture = next(self.pictures, None)
        return None if picture is None else graph_inputs([picture], self.config, self.options)


def _gives(node: ir.Node, maps: Sequence[str]) -> bool:
    return any(value.name in maps for value in node.outputs)


@contextmanager
def _unheard() -> Iterator[None]:
    """Without advice that the quantiser logs at the root, where it would set up logging for the whole process."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
