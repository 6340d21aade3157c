"""One DyHead block over a pyramid: argument checks and the choice of a form."""

from __future__ import annotations

from typing import get_args

from dyhead_kernels.backends import resolve_backend
from dyhead_kernels.dyhead_block import reference
from dyhead_kernels.dyhead_block import torch as torch_form
from dyhead_kernels.dyhead_block.parameters import BlockParameters, OffsetMode
from dyhead_kernels.pyramid import Pyramid

FORMS = {"reference": reference.dyhead_block, "torch": torch_form.dyhead_block}


def dyhead_block(
    pyramid: Pyramid,
    parameters: BlockParameters,
    *,
    offset_mode: OffsetMode,
    norm_groups: int = 16,
    backend: str = "auto",
) -> Pyramid:
    """Spatial, scale and task attention of Dai et al., CVPR 2021, as microsoft/DynamicHead computes them.

    Args:
        pyramid: L levels of C_in channels, finest first, each half the size of the one before, rounded up.
        parameters: see `BlockParameters`; C_in -> C channels.
        offset_mode: how the `high` branch reads its oversize offset map, see `offset_modes`.
        norm_groups: groups of the three GroupNorms, a divisor of C.
        backend: "auto", "reference" or "torch"; "auto" asks DYHEAD_KERNELS_BACKEND.

    Returns:
        A pyramid of the same level shapes with C channels.

    Raises:
        ValueError: shapes that do not fit each other, an unknown offset mode or backend.
        TypeError: tensors that are not floating point or on different devices.
    """
    _check_pyramid(pyramid)
    _check_parameters(pyramid, parameters)
    channels = parameters.conv_weight.shape[1]
    if norm_groups < 1 or channels % norm_groups:
        raise ValueError(f"norm_groups is {norm_groups}, expected a divisor of the {channels} output channels")
    if offset_mode not in get_args(OffsetMode):
        raise ValueError(f"offset_mode is {offset_mode!r}, expected one of {', '.join(get_args(OffsetMode))}")
    return FORMS[resolve_backend(backend)](pyramid, parameters, offset_mode, norm_groups)


def _check_pyramid(pyramid: Pyramid) -> None:
    for index, ((height, width), coarser) in enumerate(zip(pyramid.shapes, pyramid.shapes[1:], strict=False)):
        expected = ((height + 1) // 2, (width + 1) // 2)
        if tuple(coarser) != expected:
            raise ValueError(
                f"level {index + 1} is {tuple(coarser)}, expected {expected}: each level is half the size of the one "
                f"before it, here {(height, width)}, rounded up"
            )


def _check_parameters(pyramid: Pyramid, parameters: BlockParameters) -> None:
    values = pyramid.values
    in_channels = values.shape[2]
    channels = parameters.conv_weight.shape[1] if parameters.conv_weight.ndim == 5 else 0
    hidden = parameters.relu_weight1.shape[0]
    expected = {
        "offset_weight": (27, in_channels, 3, 3),
        "offset_bias": (27,),
        "conv_weight": (3, channels, in_channels, 3, 3),
        "conv_bias": (3, channels),
        "norm_weight": (3, channels),
        "norm_bias": (3, channels),
        "scale_weight": (channels,),
        "scale_bias": (1,),
        "relu_weight1": (hidden, channels),
        "relu_bias1": (hidden,),
        "relu_weight2": (4 * channels, hidden),
        "relu_bias2": (4 * channels,),
    }
    if not values.is_floating_point():
        raise TypeError(f"pyramid.values is {values.dtype}, expected a floating-point tensor")
    for name, shape in expected.items():
        tensor = getattr(parameters, name)
        if tensor is None and name == "conv_bias":
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}, expected {shape} for {in_channels} input and {channels} output "
                "channels"
            )
        if not tensor.is_floating_point():
            raise TypeError(f"{name} is {tensor.dtype}, expected a floating-point tensor")
        if tensor.device != values.device:
            raise TypeError(f"{name} is on {tensor.device}, expected {values.device} like the pyramid")
