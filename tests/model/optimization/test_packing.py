"""Layers packed for oneDNN beside the same layers of PyTorch."""

from __future__ import annotations

import pytest
import torch
from timm.layers import StdConv2d
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from dyzoo.model.backbones.layers import slice_for_few_channels
from dyzoo.model.optimization import packing
from dyzoo.model.optimization.packing import can_fuse, can_pack, is_plain, pack_layers, packed

pytestmark = pytest.mark.skipif(not can_pack(), reason="PyTorch has no oneDNN here, or not its operators")

CONVS = {
    "3x3": lambda: nn.Conv2d(24, 40, 3, padding=1),
    "3x3 stride 2 without bias": lambda: nn.Conv2d(3, 32, 3, 2, 1, bias=False),
    "192 channels": lambda: nn.Conv2d(192, 192, 3, padding=1),  # in another order where maps are small
    "1x1": lambda: nn.Conv2d(32, 48, 1),
    "1x1 stride 2 without bias": lambda: nn.Conv2d(32, 48, 1, 2, bias=False),
    "1x1 padded": lambda: nn.Conv2d(8, 8, 1, padding=1),
    "1x1 grouped": lambda: nn.Conv2d(32, 48, 1, groups=4),
    "grouped": lambda: nn.Conv2d(32, 48, 3, padding=1, groups=8),
    "depthwise": lambda: nn.Conv2d(48, 48, 5, 2, 2, groups=48),
    "dilated": lambda: nn.Conv2d(16, 16, 3, padding=2, dilation=2),
    "1x3": lambda: nn.Conv2d(16, 16, (1, 3), padding=(0, 1)),
    "patches": lambda: nn.Conv2d(3, 24, 4, 4),
}
FUSED = {
    "relu": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(-0.5, 0.25),
    "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "gelu": nn.GELU(),
    "gelu of tanh": nn.GELU("tanh"),
}


def agree(found: Tensor, expected: Tensor, share: float = 1e-5) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=share * float(expected.abs().max()))


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("name", CONVS)
@torch.no_grad()
def test_a_packed_convolution_computes_the_same_for_maps_of_any_size(name: str, memory: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = CONVS[name]()
    fast = packed(conv)
    assert torch.equal(fast.weight, conv.weight)  # type: ignore[arg-type]
    for shape in ((1, 5, 7), (2, 4, 4), (1, 33, 20), (3, 12, 9), (1, 5, 7)):
        batch, height, width = shape
        x = torch.randn(batch, conv.in_channels, height, width).contiguous(memory_format=memory)
        agree(fast(x), conv(x))
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert torch.equal(fast(x), conv(x))


@torch.no_grad()
def test_a_packed_linear_layer_computes_the_same_for_rows_of_any_number() -> None:
    torch.manual_seed(0)
    for layer in (nn.Linear(24, 40), nn.Linear(7, 3, bias=False)):
        for rows in ((1,), (5,), (2, 3, 4), ()):
            x = torch.randn(*rows, layer.in_features)
            agree(packed(layer)(x), layer(x))
        assert packed(layer)(x.expand(0, -1)).shape == (0, layer.out_features)  # proposals of an empty picture
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(packed(layer)(x), layer(x))


@pytest.mark.parametrize("activation", FUSED.values(), ids=FUSED.keys())
@torch.no_grad()
def test_a_fused_activation_is_the_same(activation: nn.Module) -> None:
    torch.manual_seed(0)
    assert can_fuse(activation)
    x = 3 * torch.randn(2, 16, 6, 5)
    for layer in (nn.Conv2d(16, 24, 3), nn.Conv2d(16, 24, 1)):
        agree(packed(layer, activation)(x), activation(layer(x)))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(packed(layer, activation)(x), activation(layer(x)))
    linear = nn.Linear(5, 8)
    agree(packed(linear, activation)(x), activation(linear(x)))


def test_other_activations_are_not_fused() -> None:
    class Other(nn.ReLU):
        pass

    for activation in (nn.Sigmoid(), nn.LeakyReLU(), nn.PReLU(), Other()):
        assert not can_fuse(activation)


def test_layers_that_compute_something_else_are_left_alone() -> None:
    sliced = nn.Sequential(nn.Conv2d(8, 8, 1, 2))
    slice_for_few_channels(sliced)
    watched = nn.Conv2d(8, 8, 3)
    watched.register_forward_hook(lambda module, given, output: None)
    replaced = nn.Conv2d(8, 8, 3)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    others = [
        StdConv2d(8, 8, 3),
        Conv2dSame(8, 8, 3),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(8, 8, 3),
        nn.Bilinear(8, 8, 8),
        sliced[0],
        watched,
        replaced,
    ]
    network = nn.Sequential(*others, nn.Conv2d(8, 8, 3))
    assert not any(map(is_plain, others))
    pack_layers(network)
    assert list(network)[:-1] == others
    assert not isinstance(network[-1], nn.Conv2d)


@torch.no_grad()
def test_orders_are_shared_by_sizes_and_forgotten_where_sizes_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MOST_SIZES", 3)
    torch.manual_seed(0)
    conv = nn.Conv2d(192, 192, 3, padding=1)
    fast = packed(conv)
    for width in range(1, 24):
        x = torch.randn(1, 192, 6, width)
        agree(fast(x), conv(x))
    assert len(fast._order_for) <= 3  # type: ignore[arg-type]
    assert len(fast._orders) <= 3  # type: ignore[arg-type]


def test_a_pytorch_without_the_operators_cannot_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(packing, "_OPERATORS", (*packing._OPERATORS, "_an_operator_that_is_none"))
        assert not can_pack()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack()
