"""One DyHead block over a pyramid: argument checks and the choice of a form."""

from __future__ import annotations

from typing import get_args

from dyhead_kernels.backends import resolve_backend
from dyhead_kernels.checks import check_kind, check_shape
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
        A pyramid of the same level shapes and C channels, in the common dtype of the pyramid and the convolutions, or
        autocast's where it is on. The reference ignores autocast and computes in the common dtype of its arguments.

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
    check_kind("pyramid.values", pyramid.values, pyramid.values.device)
    if not pyramid.shapes or min(min(shape) for shape in pyramid.shapes) < 1:
        raise ValueError(f"pyramid.shapes is {pyramid.shapes}, expected one level or more, each of one pixel or more")
    for index, ((height, width), coarser) in enumerate(zip(pyramid.shapes, pyramid.shapes[1:], strict=False), start=1):
        expected = ((height + 1) // 2, (width + 1) // 2)
        if tuple(coarser) != expected:
            raise ValueError(
                f"level {index} of the pyramid is {tuple(coarser)}, expected {expected}: half of {(height, width)}, "
                "the level before it, rounded up; pad the images to a multiple of the coarsest stride"
            )


def _check_parameters(pyramid: Pyramid, parameters: BlockParameters) -> None:
    for name, dimensions in (("conv_weight", 5), ("relu_weight1", 2)):
        shape = tuple(getattr(parameters, name).shape)
        if len(shape) != dimensions:
            raise ValueError(f"{name} is {shape}, expected {dimensions} dimensions")
    in_channels = pyramid.values.shape[2]
    channels, hidden = parameters.conv_weight.shape[1], parameters.relu_weight1.shape[0]
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
    why = f"the pyramid has {in_channels} channels and conv_weight makes {channels} of them"
    for name, shape in expected.items():
        tensor = getattr(parameters, name)
        if tensor is not None or name != "conv_bias":
            check_kind(name, tensor, pyramid.values.device)
            check_shape(name, tensor, shape, why)
