"""A graph made ready for other precisions: fewer nodes, every value's type known, and which nodes are the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir
import onnx_ir.passes.common  # which the package does not import by itself
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from dyzoo.errors import ExportError
from dyzoo.export.preparation import is_preparation

NORMALISATIONS = (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)
SEQUENCES = frozenset({"SplitToSequence", "SequenceConstruct", "SequenceInsert", "SequenceErase", "SequenceEmpty"})
"""Operators whose output the inference of types takes for a tensor."""

MOST_FOLDED = 2**27
"""Values of the largest constant that is computed beforehand: a transposed weight, above all."""

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
PRODUCTS = frozenset({"Conv", "Gemm", "MatMul", "DeformConv"})
POSITIONS = {"DeformConv": 2, "GridSample": 1}
"""Operators that read a map at positions, and the number of the input that has these."""


def fuse(model: ir.Model) -> None:
    """Let convolutions do the batch normalisation after them, and take casts to the same type away, in place.

    Weights are then rounded as they are used; every value has its type.

    Raises:
        ExportError: there are graphs within the graph.
    """
    if any(attribute.type in _GRAPHS for node in model.graph for attribute in node.attributes.values()):
        raise ExportError("the network has loops or branches, which are exported in fp32 alone")
    RewritePass(NORMALISATIONS)(model)
    fold_constants(model, input_size_limit=MOST_FOLDED, output_size_limit=MOST_FOLDED)
    ir.passes.common.ShapeInferencePass()(model)
    for node in list(model.graph):
        if node.op_type == "CastLike":
            _resolve_cast(node)
        elif node.op_type in SEQUENCES:
            node.outputs[0].type = node.outputs[0].shape = None
    ir.passes.common.RemoveUnusedNodesPass()(model)


def network_nodes(graph: ir.Graph, maps: Sequence[str]) -> set[ir.Node]:
    """The nodes that lead from pictures to the raw maps of these names, without those that prepare the pictures."""
    return nodes_above(_producers(graph, maps), is_preparation)


def output_nodes(graph: ir.Graph, maps: Sequence[str]) -> set[ir.Node]:
    """The nodes from the last products of the network on to the raw maps, the products not among them."""
    return nodes_above(_producers(graph, maps), _is_end)


def reading_nodes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that make positions, which maps are read at, of the offsets that a convolution has given."""
    grids = [node.inputs[POSITIONS[node.op_type]] for node in graph if node.op_type in POSITIONS]
    return nodes_above([value.producer() for value in grids if value is not None], _is_end)


def is_product(node: ir.Node) -> bool:
    """Whether it multiplies by weights or by other maps."""
    return node.op_type in PRODUCTS


def has_weights(node: ir.Node, least: int = 1) -> bool:
    """Whether it multiplies by weights, of at least so many values."""
    weights = node.inputs[1] if is_product(node) else None
    return weights is not None and weights.const_value is not None and weights.const_value.size >= least


def products_before(nodes: set[ir.Node]) -> set[ir.Node]:
    """The products whose outputs these nodes take."""
    before = {value.producer() for node in nodes for value in node.inputs if value is not None}
    return {node for node in before if node is not None and is_product(node)}


def leads_to_product(graph: ir.Graph) -> set[ir.Node]:
    """The nodes whose outputs come to a product with weights, however late."""
    with_weights = [
        value.producer() for node in graph if has_weights(node) for value in node.inputs if value is not None
    ]
    return nodes_above(with_weights, lambda _: False)


def nodes_above(nodes: Iterable[ir.Node | None], stop: Callable[[ir.Node], bool]) -> set[ir.Node]:
    """These nodes and all that lead to them, up to the ones where it stops, which are not among them."""
    found: set[ir.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found and not stop(node):
            found.add(node)
            waiting += [value.producer() for value in node.inputs if value is not None]
    return found


def _producers(graph: ir.Graph, names: Sequence[str]) -> list[ir.Node]:
    wanted = set(names)
    return [node for node in graph if wanted & {value.name for value in node.outputs}]


def _resolve_cast(node: ir.Node) -> None:
    value, like = node.inputs
    assert value is not None
    assert like is not None
    assert like.dtype is not None
    if value.dtype == like.dtype:
        node.outputs[0].replace_all_uses_with(value, replace_graph_outputs=True)
        return
    cast = ir.node("Cast", [value], {"to": like.dtype.value}, name=node.name)
    new, old = cast.outputs[0], node.outputs[0]
    new.name, new.type, new.shape = f"{old.name}_cast", old.type, old.shape
    assert node.graph is not None
    node.graph.insert_before(node, cast)
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _is_end(node: ir.Node) -> bool:
    return is_product(node) or node.op_type == "Shape"  # a size says nothing of the values
