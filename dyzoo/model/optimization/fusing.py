"""A network's norms folded into the convolutions before them, and its activations into the layers before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torchvision
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dyzoo.model.optimization.packing import can_fuse, is_plain, is_watched, packed

_WITH_ACTIVATION = (BatchNormAct2d, FrozenBatchNormAct2d)
_NORMS = (nn.BatchNorm2d, torchvision.ops.FrozenBatchNorm2d, *_WITH_ACTIVATION)


class _Tracer(fx.Tracer):
    """Takes layers and norms as they are, those of timm and torchvision too."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (nn.Conv2d, nn.Linear, *_NORMS)) or super().is_leaf_module(module, name)


def traced(network: nn.Module) -> fx.GraphModule:
    """The graph of a network in evaluation mode, with the same layers, for maps of any size.

    Raises:
        Exception: whatever the network's code does with the stand-in of a tensor.
    """
    graph = fx.GraphModule(network, _Tracer().trace(network))
    for step in _steps(graph):
        if type(step.module) in (nn.Identity, nn.Dropout):
            step.take_out()
    return graph


def fold_norms(network: fx.GraphModule) -> None:
    """Let convolutions do the batch normalisation after them, in place, where nothing else reads what they give."""
    for step in _steps(network):
        norm, conv = step.module, step.layer
        if not (isinstance(conv, nn.Conv2d) and is_plain(conv) and _can_be_folded(norm)):
            continue
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        if isinstance(norm, _WITH_ACTIVATION) and not isinstance(norm.act, nn.Identity):
            step.node.target = f"{step.node.target}.act"
        else:
            step.take_out()
    _clean_up(network)


def fuse_activations(network: fx.GraphModule) -> None:
    """Pack the layers whose activation oneDNN applies, in place, where nothing else reads what they give."""
    for step in _steps(network):
        if step.layer is not None and is_plain(step.layer) and can_fuse(step.module) and not is_watched(step.module):
            network.set_submodule(step.before.target, packed(step.layer, step.module))
            step.take_out()
    _clean_up(network)


def _can_be_folded(norm: Any) -> bool:
    """Whether a module is a norm that multiplies and adds for each channel, and does no more than an activation."""
    is_norm = type(norm) in _NORMS and norm.running_mean is not None and not is_watched(norm)
    return is_norm and isinstance(getattr(norm, "drop", None), nn.Identity | None)


class _Step(NamedTuple):
    """A module in a graph.

    Attributes:
        node: its call.
        module: of one input.
        before: the call that its input comes from.
        layer: the module before, where this one alone reads what it gives, and it is called once; else None.
    """

    node: Any  # fx.Node, whose fields may be of any type
    module: Any
    before: Any
    layer: Any

    def take_out(self) -> None:
        """Have the others read what this one has read."""
        self.node.replace_all_uses_with(self.before)
        self.node.graph.erase_node(self.node)


def _steps(network: fx.GraphModule) -> Iterator[_Step]:
    """The modules of one input, in order, each as the graph is when its turn comes."""
    calls = Counter(node.target for node in network.graph.nodes if node.op == "call_module")
    for node in list(network.graph.nodes):
        if node.op != "call_module" or len(node.all_input_nodes) != 1:
            continue
        (before,) = node.all_input_nodes
        is_its_own = before.op == "call_module" and calls[before.target] == 1 and len(before.users) == 1
        layer = network.get_submodule(before.target) if is_its_own else None
        yield _Step(node, network.get_submodule(node.target), before, layer)


def _clean_up(network: fx.GraphModule) -> None:
    """Let go of modules that are no longer called."""
    network.delete_all_unused_submodules()
    network.recompile()
