"""Layers with weights in the order in which oneDNN reads them, and with an activation that it applies as it writes."""

from __future__ import annotations

import ctypes
from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OPERATORS = (
    "_convolution_pointwise",
    "_linear_pointwise",
    "_reorder_convolution_weight",
    "_reorder_linear_weight",
    "_nbytes",
    "data_ptr",
)
"""Operators that Inductor emits for a CPU; they belong to no public interface, so that a PyTorch may lack them."""

MOST_SIZES = 256
"""Sizes of maps for which a convolution remembers the order of its weights."""


def can_pack() -> bool:
    """Whether this PyTorch has oneDNN and the operators for it."""
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)


class _Fused(NamedTuple):
    """An activation as oneDNN is told of it; the fields are the last arguments of its operators."""

    name: str = "none"
    scalars: tuple[float, ...] = ()
    algorithm: str = ""


def _fused(activation: nn.Module | None) -> _Fused | None:
    """How oneDNN is told of an activation; None where it is not."""
    kind = type(activation)
    if activation is None:
        return _Fused()
    if isinstance(activation, nn.Hardtanh) and kind in (nn.Hardtanh, nn.ReLU6):
        return _Fused("hardtanh", (activation.min_val, activation.max_val))
    if isinstance(activation, nn.GELU) and kind is nn.GELU:
        return _Fused("gelu", (), activation.approximate)
    names = {nn.ReLU: "relu", nn.SiLU: "swish", nn.Hardswish: "hardswish"}
    return _Fused(names[kind]) if kind in names else None


def can_fuse(activation: nn.Module) -> bool:
    """Whether oneDNN applies an activation as it writes."""
    return _fused(activation) is not None


class _Packed(nn.Module):
    """A layer with packed weights, and the activation behind it; for inference.

    Under autocast it computes as the layer would have done, from weights that are unpacked in each call.

    Args:
        layer: its weights are copied.
        activation: that follows, one that `can_fuse`; None for none.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, activation: nn.Module | None) -> None:
        super().__init__()
        self.activation, fused = activation, _fused(activation)
        assert fused is not None
        self._fused = (fused.name, list(fused.scalars), fused.algorithm)
        self.bias = layer.bias
        self._packed = nn.Parameter(self._pack(layer.weight.detach()), requires_grad=False)  # read by oneDNN alone

    @property
    def weight(self) -> Tensor:
        """The weights in PyTorch's own order, which a module may ask for that computes with them itself."""
        return self._packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """As the layer and the activation."""
        if not torch.is_autocast_enabled("cpu"):
            return self._compute(x)
        output = self._compute_plainly(x)
        return output if self.activation is None else self.activation(output)  # type: ignore[no-any-return]

    @abstractmethod
    def _pack(self, weight: Tensor) -> Tensor: ...
    @abstractmethod
    def _compute(self, x: Tensor) -> Tensor: ...
    @abstractmethod
    def _compute_plainly(self, x: Tensor) -> Tensor: ...


class _PackedLinear(_Packed):
    """(..., C_in) -> (..., C_out)."""

    def _pack(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight, None)  # type: ignore[no-any-return]

    def _compute(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, *self._fused)  # type: ignore[no-any-return]

    def _compute_plainly(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _PackedConv1x1(_PackedLinear):
    """(N, C_in, H, W) -> (N, C_out, H, W) in channels-last memory, as a product of matrices."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None) -> None:
        self._shape, self._stride = conv.weight.shape, conv.stride
        super().__init__(conv, activation)

    @property
    def weight(self) -> Tensor:
        return super().weight.view(self._shape)

    def _pack(self, weight: Tensor) -> Tensor:
        return super()._pack(weight.flatten(1))

    def _compute(self, x: Tensor) -> Tensor:
        stride_y, stride_x = self._stride
        return super()._compute(x[:, :, ::stride_y, ::stride_x].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _compute_plainly(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self._stride)


class _PackedConv2d(_Packed):
    """(N, C_in, H, W) -> (N, C_out, H', W').

    oneDNN wants the weights of some convolutions in another order where maps are small, and bringing them from one
    packed order to another takes ten times as long as convolving. So each order is made when it is first asked for,
    and kept: one for most layers, two for the others.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None) -> None:
        self._how = (conv.padding, conv.stride, conv.dilation, conv.groups)
        super().__init__(conv, activation)
        self._orders = [self._packed.data]
        self._order_for: dict[torch.Size, Tensor] = {}

    def _pack(self, weight: Tensor, size: torch.Size | None = None) -> Tensor:
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *self._how, size)  # type: ignore[no-any-return]

    def _compute(self, x: Tensor) -> Tensor:
        packed = self._order_for.get(x.shape)
        if packed is None:
            packed = self._find_order(x.shape)
        return torch.ops.mkldnn._convolution_pointwise(x, packed, self.bias, *self._how, *self._fused)  # type: ignore[no-any-return]

    def _find_order(self, size: torch.Size) -> Tensor:
        """The weights for maps of a size: those of another size where the order is the same, and so are the bytes."""
        packed = self._pack(self.weight, size)
        for known in tuple(self._orders):
            if torch.equal(_bytes(known), _bytes(packed)):
                packed = known
                break
        else:
            self._orders.append(packed)
        if len(self._order_for) >= MOST_SIZES:
            self._order_for.clear()
        self._order_for[size] = packed
        return packed

    def _compute_plainly(self, x: Tensor) -> Tensor:
        padding, stride, dilation, groups = self._how
        return F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)  # type: ignore[arg-type]


def _bytes(packed: Tensor) -> Tensor:
    """The memory of packed weights, which lives as long as these do."""
    size = torch.ops.mkldnn._nbytes(packed)
    memory = (ctypes.c_char * size).from_address(torch.ops.mkldnn.data_ptr(packed))
    return torch.frombuffer(memory, dtype=torch.uint8)


def is_watched(layer: nn.Module) -> bool:
    """Whether hooks look at what goes into a layer or comes out of it, or it was given a `forward` of its own."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a convolution or a linear layer that computes what its name says, with weights of its own."""
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and isinstance(layer.padding, tuple) and not is_watched(layer)
    return type(layer) is nn.Linear and not is_watched(layer)


def packed(layer: nn.Conv2d | nn.Linear, activation: nn.Module | None = None) -> nn.Module:
    """A layer that `is_plain`, packed."""
    if isinstance(layer, nn.Linear):
        return _PackedLinear(layer, activation)
    is_product = layer.kernel_size == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
    return (_PackedConv1x1 if is_product else _PackedConv2d)(layer, activation)


def pack_layers(module: nn.Module) -> nn.Module:
    """Pack every plain layer in a module, in place; the module itself where it is one."""
    if is_plain(module):
        return packed(module)  # type: ignore[arg-type]
    for name, child in module.named_children():
        setattr(module, name, pack_layers(child))
    return module
