"""A graph in half precision: the network in float16, and float32 where rounding would move a box.

`onnxruntime.transformers.float16` does most of it, but casts what goes from one node that is left in float32 to the
next to float16 and back, which rounds the pixels of boxes to halves and wholes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common

from dyzoo.export.fusing import fuse, has_weights, network_nodes, output_nodes, reading_nodes

EXACT = frozenset(
    {
        "DeformConv", "GridSample", "RoiAlign",  # onnxruntime's CPU has them in float32 alone, and so most runtimes
        "InstanceNormalization", "GroupNormalization", "BatchNormalization", "GlobalAveragePool",  # sums over a map
        "ReduceMean", "ReduceSum", "ReduceL2", "CumSum", "Pow", "LayerNormalization", "Softmax",  # as autocast has them
        "Cast", "Constant", "ConstantOfShape", "Range",  # no input says their type
    }
)  # fmt: skip
LEAST_STORED = 1024  # values of a weight that is kept in float16 and used in float32


def to_half(model: ir.Model, maps: Sequence[str]) -> None:
    """Compute what leads to the raw maps, and all products with weights, in float16; what goes in and out stays.

    Positions, box arithmetic, scores, sums over a map and deformable convolutions are computed in float32; the weights
    of these convolutions are kept in float16 as well.

    Args:
        model: of float32, changed in place.
        maps: names of the raw maps, which are outputs.
    """
    fuse(model)
    graph = model.graph
    network = network_nodes(graph, maps)
    exact = output_nodes(graph, maps) | reading_nodes(graph)
    rounded = {
        node
        for node in graph
        if node.op_type not in EXACT and node not in exact and (node in network or has_weights(node))
    }
    _Rounding(model, rounded).run()
    store_half(graph, network - rounded)
    ir.passes.common.RemoveUnusedNodesPass()(model)


def store_half(graph: ir.Graph, nodes: Iterable[ir.Node]) -> None:
    """Keep large float32 weights of these nodes in float16, in place; a runtime casts them back once, as it starts."""
    stored: dict[ir.Value, ir.Value] = {}
    for node in sorted(nodes, key=lambda node: node.name or ""):
        for index, value in enumerate(node.inputs):
            if value is None or value.const_value is None or not value.is_initializer() or not _is_float(value):
                continue
            if value.const_value.size >= LEAST_STORED:
                if value not in stored:
                    cast = _cast(_rounded_weight(graph, value), ir.DataType.FLOAT)
                    graph.insert_before(graph[0], cast)
                    stored[value] = cast.outputs[0]
                node.replace_input_with(index, stored[value])


class _Rounding:
    """Nodes that come to compute in float16, and casts between them and the others."""

    def __init__(self, model: ir.Model, nodes: set[ir.Node]) -> None:
        self.graph, self.nodes, self.opset = model.graph, nodes, model.opset_imports[""]
        self.rounded: dict[ir.Value, ir.Value] = {}  # float32 -> float16
        self.exact: dict[ir.Value, ir.Value] = {}  # float16 -> float32

    def run(self) -> None:
        for node in list(self.graph):
            types = self._types(node) if node in self.nodes else None
            if types is None:
                for index, value in enumerate(node.inputs):
                    if value is not None and value.dtype == ir.DataType.FLOAT16:
                        node.replace_input_with(index, self._exact(value, node))
                continue
            for index, value in enumerate(node.inputs):
                if index in types and value is not None:
                    node.replace_input_with(index, self._rounded(value, node))
            for value in filter(_is_float, node.outputs):
                value.type = ir.TensorType(ir.DataType.FLOAT16)
        for index, value in enumerate(list(self.graph.outputs)):
            if value.dtype == ir.DataType.FLOAT16:
                name = value.name
                outside = self._exact(value, None)
                value.name, outside.name = f"{name}_rounded", name
                self.graph.outputs[index] = outside

    def _types(self, node: ir.Node) -> list[int] | None:
        """Which inputs become float16, or None where an output would stay as it is."""
        schema = onnx.defs.get_schema(node.op_type, self.opset, "")
        halves = {
            each.type_param_str for each in schema.type_constraints if "tensor(float16)" in each.allowed_type_strs
        }
        inputs = [schema.inputs[min(index, len(schema.inputs) - 1)].type_str for index in range(len(node.inputs))]
        changed = [
            index
            for index, value in enumerate(node.inputs)
            if value is not None and value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16) and inputs[index] in halves
        ]
        followed = {inputs[index] for index in changed}
        outputs = [schema.outputs[min(index, len(schema.outputs) - 1)].type_str for index in range(len(node.outputs))]
        follow = all(kind in followed for value, kind in zip(node.outputs, outputs, strict=True) if value.name)
        return changed if follow and changed else None

    def _rounded(self, value: ir.Value, before: ir.Node) -> ir.Value:
        if value.dtype == ir.DataType.FLOAT16:
            return value
        if value not in self.rounded:
            if value.is_initializer() and value.const_value is not None:
                self.rounded[value] = _rounded_weight(self.graph, value)
            else:
                cast = _cast(value, ir.DataType.FLOAT16)
                self.graph.insert_before(before, cast)
                self.rounded[value] = cast.outputs[0]
        return self.rounded[value]

    def _exact(self, value: ir.Value, before: ir.Node | None) -> ir.Value:
        if value not in self.exact:
            cast = _cast(value, ir.DataType.FLOAT)
            if before is None:
                self.graph.append(cast)
            else:
                self.graph.insert_before(before, cast)
            self.exact[value] = cast.outputs[0]
        return self.exact[value]


def _is_float(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT


def _rounded_weight(graph: ir.Graph, value: ir.Value) -> ir.Value:
    name = f"{value.name}_half"
    if name in graph.initializers:  # float32 for one node, float16 for another
        return graph.initializers[name]
    assert value.const_value is not None
    with np.errstate(over="ignore"):  # an infinity is found by the comparison
        tensor = ir.tensor(value.const_value.numpy().astype(np.float16))
    half = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT16), shape=value.shape, const_value=tensor)
    graph.register_initializer(half)
    return half


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype.value}, name=f"cast_{value.name}")
    cast = node.outputs[0]
    cast.name, cast.type, cast.shape = f"{value.name}_{dtype.name.lower()}", ir.TensorType(dtype), value.shape
    return node
