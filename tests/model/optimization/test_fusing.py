"""Graphs whose norms and activations may be taken into layers, and graphs whose may not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torchvision
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import Tensor, nn

from dyzoo.model.optimization.fusing import fold_norms, fuse_activations, traced
from dyzoo.model.optimization.packing import can_pack

Way = Callable[["Network", Tensor], Tensor]


class Network(nn.Module):
    """A convolution, a norm and an activation, called in one way or another."""

    def __init__(
        self, norm: nn.Module, way: Callable[[Network, Tensor], Tensor], conv: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = conv or nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.act, self.way = norm, nn.ReLU(), way
        for value in norm.buffers():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def in_order(network: Network, x: Tensor) -> Tensor:
    return network.act(network.norm(network.conv(x)))


def without_activation(network: Network, x: Tensor) -> Tensor:
    return network.norm(network.conv(x))


def called_twice(network: Network, x: Tensor) -> Tensor:
    return network.norm(network.conv(network.conv(x)))


def read_twice(network: Network, x: Tensor) -> Tensor:
    y = network.conv(x)
    return network.norm(y) + y


def not_behind_a_convolution(network: Network, x: Tensor) -> Tensor:
    return network.conv(network.norm(x.relu()))


def watched() -> nn.Module:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    conv.register_forward_hook(lambda module, given, output: output + 1)
    return conv


FOLDED = [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), torchvision.ops.FrozenBatchNorm2d(4)]
WITH_ACTIVATION = [BatchNormAct2d(4), FrozenBatchNormAct2d(4), BatchNormAct2d(4, act_layer=nn.SiLU)]


def layers_left(network: Network) -> Counter[str]:
    """The modules that are called, by name, after all has been tried and found to compute the same."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6)
    network = network.eval().requires_grad_(False)
    expected = network(x)
    graph = traced(network)
    fold_norms(graph)
    torch.testing.assert_close(graph(x), expected)
    if can_pack():
        fuse_activations(graph)
        torch.testing.assert_close(graph(x), expected)
    called = [graph.get_submodule(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    return Counter(type(module).__name__ for module in called)


@pytest.mark.parametrize("norm", FOLDED, ids=lambda norm: type(norm).__name__)
def test_a_norm_behind_a_convolution_is_folded(norm: nn.Module) -> None:
    assert layers_left(Network(norm, without_activation)) == {"Conv2d": 1}
    assert layers_left(Network(norm, in_order, nn.Conv2d(4, 4, 1, bias=False))).total() == (1 if can_pack() else 2)


@pytest.mark.parametrize("norm", WITH_ACTIVATION, ids=lambda norm: type(norm).__name__)
def test_the_activation_of_a_norm_stays(norm: nn.Module) -> None:
    assert layers_left(Network(norm, without_activation)).total() == (1 if can_pack() else 2)


@pytest.mark.parametrize("way", [called_twice, read_twice, not_behind_a_convolution])
def test_a_norm_stays_where_the_convolution_has_another_use(way: Way) -> None:
    assert layers_left(Network(nn.BatchNorm2d(4), way))["BatchNorm2d"] == 1


@pytest.mark.parametrize(
    ("norm", "conv"),
    [
        (nn.BatchNorm2d(4, track_running_stats=False), None),
        (nn.GroupNorm(2, 4), None),
        (BatchNormAct2d(4, drop_layer=nn.Dropout2d), None),
        (nn.BatchNorm2d(4), watched()),
        (nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 3)),
    ],
)
def test_what_is_something_else_stays(norm: nn.Module, conv: nn.Module | None) -> None:
    assert layers_left(Network(norm, without_activation, conv))[type(norm).__name__] == 1
