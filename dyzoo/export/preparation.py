"""The beginning of a graph: from pixels to the network's input, as `dyzoo.model.preprocess.batch_images` does it."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from dyzoo.config import PreprocessConfig
from dyzoo.export.options import InputType

INPUT_NAME = "images"
_NODE_NAME = "prepare_"


def prepend_preparation(model: ir.Model, config: PreprocessConfig, input_type: InputType) -> None:
    """Let a graph that takes `batch`, and maybe `image_sizes`, take images (N, 3, H, W) of any H and W instead.

    Args:
        model: changed in place.
        config: mean, std, channel order and the divisor of the padded size.
        input_type: "uint8" for pixels 0..255, "float32" for 0..1, both RGB.
    """
    graph = model.graph
    batch, *rest = graph.inputs
    images = ir.Value(
        name=INPUT_NAME,
        type=ir.TensorType(ir.DataType.UINT8 if input_type == "uint8" else ir.DataType.FLOAT),
        shape=ir.Shape(["batch", 3, "height", "width"]),
    )
    tape = Tape()

    def constant(values: list[int] | list[float], dtype: ir.DataType) -> ir.Value:
        return tape.op("Constant", [], {"value": ir.tensor(values, dtype=dtype)})

    def of_channels(values: tuple[float, ...]) -> ir.Value:
        flat = constant(list(values), ir.DataType.FLOAT)
        return tape.op("Reshape", [flat, constant([1, 3, 1, 1], ir.DataType.INT64)])

    if input_type == "uint8":
        pixels = tape.op("Cast", [images], {"to": int(ir.DataType.FLOAT)})
    else:
        pixels = tape.op("Mul", [images, constant([255.0], ir.DataType.FLOAT)])
    if config.channel_order == "BGR":
        pixels = tape.op("Gather", [pixels, constant([2, 1, 0], ir.DataType.INT64)], {"axis": 1})
    normalised = tape.op("Div", [tape.op("Sub", [pixels, of_channels(config.mean)]), of_channels(config.std)])
    size = tape.op("Shape", [images], {"start": 2})
    divisor = constant([config.size_divisor], ir.DataType.INT64)
    missing = tape.op("Mod", [tape.op("Neg", [size]), divisor])  # of the divisor's sign
    before = constant([0] * 6, ir.DataType.INT64)
    pads = tape.op("Concat", [before, missing], {"axis": 0})
    padded = tape.op("Pad", [normalised, pads])
    replaced = {batch: padded}
    if rest:
        number = tape.op("Shape", [images], {"start": 0, "end": 1})
        shape = tape.op("Concat", [number, constant([2], ir.DataType.INT64)], {"axis": 0})
        replaced[rest[0]] = tape.op("Expand", [size, shape])
    for number_, value in enumerate(tape.nodes):
        value.name = f"{_NODE_NAME}{number_}"
    graph.insert_before(graph[0], tape.nodes)
    for old, new in replaced.items():
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new)
    graph.inputs[:] = [images]


def is_preparation(node: ir.Node) -> bool:
    """Whether `prepend_preparation` has made the node."""
    return (node.name or "").startswith(_NODE_NAME)
