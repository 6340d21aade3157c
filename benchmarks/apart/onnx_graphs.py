"""Cases as ONNX graphs, and onnxruntime running them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from dyzoo.dyhead import DyHead
from dyzoo.dyhead.levelwise import LevelwiseDyHead
from dyzoo.errors import ExportError
from dyzoo.runtime.sessions import TO_EXPORT, check_deform_conv, check_installed, open_session

from ..cases import Case
from ..cases.blocks import OFFSET_MODE, Stack
from ..cases.deform_conv import DeformableConvolution
from ..providers.operators import Unavailable
from ..providers.prepare import Results, Run

if TYPE_CHECKING:
    import onnx

OPSET = 20


def check_onnx() -> None:
    """Raise `Unavailable` where a graph cannot be made or run."""
    try:
        check_installed(TO_EXPORT, ExportError, "onnxruntime's part")
        check_deform_conv(ExportError, "or --no-onnx")
    except ExportError as error:
        raise Unavailable(str(error)) from None


def export_case(case: Case, path: Path) -> None:
    """Write a case's forward pass at its own size."""
    check_onnx()
    import onnx
    import onnx_ir

    from dyzoo.export.graph import translate

    if isinstance(case.network, DeformableConvolution):
        onnx.save(_one_node(case), path)
        return
    network = _levelwise(case.network)
    activations = {name: tensor.contiguous() for name, tensor in case.activations.items()}
    with torch.no_grad():
        names = [f"output{index}" for index, _ in enumerate(network(**activations))]
    onnx_ir.save(translate(network, activations, None, names, "node"), path)


def prepare_onnxruntime(case: Case, path: Path) -> Run:
    """A function that runs an exported case, with as many threads as PyTorch has."""
    check_onnx()
    session = open_session(path)
    feeds = {name: tensor.contiguous().numpy() for name, tensor in case.activations.items()}
    names = [output.name for output in session.get_outputs()]

    def run() -> Results:
        found = session.run(names, feeds)
        return {f"output {index}": torch.from_numpy(array) for index, array in enumerate(found)}

    return run


def _one_node(case: Case) -> onnx.ModelProto:
    from onnx import TensorProto, checker, helper, numpy_helper

    network = cast(DeformableConvolution, case.network)
    shapes = {name: list(tensor.shape) for name, tensor in case.activations.items()}
    node = helper.make_node(
        "DeformConv",
        ["input", "weight", "offset", "bias", "mask"],
        ["output0"],
        kernel_shape=[3, 3],
        pads=[1] * 4,
        strides=[1, 1],
    )
    graph = helper.make_graph(
        [node],
        "deform_conv",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, shapes["input"])],
        [numpy_helper.from_array(p.detach().contiguous().numpy(), name) for name, p in network.named_parameters()],
    )
    # the version of the format that goes with the opset: onnx's newest may be too new for onnxruntime
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    checker.check_model(model)
    return model


def _levelwise(network: nn.Module) -> nn.Module:
    """A copy whose blocks are one operator each, as the translation wants them."""
    own = copy.deepcopy(network).eval()
    for module in list(own.modules()):
        for name, child in module.named_children():
            if isinstance(child, Stack):
                levelwise = LevelwiseDyHead(cast(DyHead, child))  # which it takes the blocks from
                levelwise.offset_modes = [OFFSET_MODE] * len(levelwise.offset_modes)  # the case's, not the detector's
                setattr(module, name, levelwise)
    return own
