"""One DyHead block over a pyramid: argument checks, the choice of a form, and the custom op that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, cast, get_args

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix, ops
from ..backends import check_triton, form_of, resolve_backend
from ..checks import check_kind, check_shape
from ..precision import matmul_dtype, without_autocast
from ..pyramid import Pyramid
from . import reference
from .layout import BranchLayout
from .parameters import BlockParameters, OffsetMode, parameter_shapes

PARAMETERS = tuple(field.name for field in fields(BlockParameters))
TENSORS = 1 + len(PARAMETERS)  # values, then the parameters
_ARGUMENTS = (
    "Tensor values, "
    + ", ".join(f"Tensor{'?' if name == 'conv_bias' else ''} {name}" for name in PARAMETERS)
    + ", SymInt[] sizes, str offset_mode, int norm_groups, str backend"
)


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
        offset_mode: how the `high` branch reads its oversize offset map, see `offsets.reference`.
        norm_groups: groups of the three GroupNorms, a divisor of C.
        backend: "auto", "reference", "torch" or "triton"; "auto" asks DYHEAD_KERNELS_BACKEND, else the device.

    Returns:
        A pyramid of the same level shapes and C channels, in the common dtype of the pyramid and the convolutions, or
        autocast's where it is on. Offsets and statistics are computed in float32 or wider all the same. The reference
        ignores autocast, computes in the common dtype of its arguments and is the only form with second derivatives.

    Raises:
        ValueError: shapes that do not fit each other, an unknown offset mode or backend.
        TypeError: tensors that are not floating point or on different devices, a dtype that Triton cannot serve.
        RuntimeError: the Triton form is asked for where it cannot run.
    """
    _check_pyramid(pyramid)
    _check_parameters(pyramid, parameters)
    channels = parameters.conv_weight.shape[1]
    if norm_groups < 1 or channels % norm_groups:
        raise ValueError(f"norm_groups is {norm_groups}, expected a divisor of the {channels} output channels")
    if offset_mode not in get_args(OffsetMode):
        raise ValueError(f"offset_mode is {offset_mode!r}, expected one of {', '.join(get_args(OffsetMode))}")
    values = pyramid.values
    form = resolve_backend(backend, values.device)
    if form == "reference":
        return reference.dyhead_block(pyramid, parameters, offset_mode, norm_groups)
    dtype = matmul_dtype(values, parameters.conv_weight)
    if form == "triton":
        check_triton(values.device, dtype)
        values = values.to(dtype)  # the plain form blends in float32 whatever comes, so there it is spared the rounding
    parameters = replace(parameters, conv_weight=parameters.conv_weight.to(dtype))
    tensors = (getattr(parameters, name) for name in PARAMETERS)
    sizes = [length for shape in pyramid.shapes for length in shape]
    # What the backward pass needs follows the output and goes away here, unless autograd has kept it.
    output = ops.dyhead_block(values, *tensors, sizes, offset_mode, norm_groups, form)[0]
    return Pyramid(output, pyramid.shapes)


@torch.library.custom_op(add_op_namespace_prefix("dyhead_block"), mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor[]")
def _forward(values: Tensor, *arguments: Any) -> list[Tensor]:
    """The output (N, S, C), then the form's `State`."""
    block, backend = _parse(arguments)
    with without_autocast(values):
        output, state = form_of("dyhead_block", backend).forward(values, *block)
    return [output, *state]


@_forward.register_fake
def _(values: Tensor, *arguments: Any) -> list[Tensor]:
    block, backend = _parse(arguments)
    return list(form_of("dyhead_block", backend).state_like(values, *block))


@torch.library.custom_op(
    add_op_namespace_prefix("dyhead_block_backward"),
    mutates_args=(),
    schema=f"(Tensor grad_output, {_ARGUMENTS}, Tensor[] state, bool values_needed, bool parameters_needed)"
    " -> Tensor[]",
)
def _backward(grad_output: Tensor, values: Tensor, *arguments: Any) -> list[Tensor]:
    """Gradients of values and of each parameter; (0,) where there is none."""
    state, values_needed, parameters_needed = arguments[-3:]
    block, backend = _parse(arguments[:-3])
    with without_autocast(values):
        grad_values, grad_parameters = form_of("dyhead_block", backend).backward(
            grad_output, values, *block, state, (values_needed, parameters_needed)
        )
    needs = (values_needed, *[parameters_needed] * len(PARAMETERS))
    return [
        grad.contiguous() if need and grad is not None else values.new_empty(0)
        for grad, need in zip((grad_values, *grad_parameters), needs, strict=True)
    ]


@_backward.register_fake
def _(grad_output: Tensor, values: Tensor, *arguments: Any) -> list[Tensor]:
    values_needed, parameters_needed = arguments[-2:]
    needs = (values_needed, *[parameters_needed] * len(PARAMETERS))
    return [
        torch.empty_like(tensor, memory_format=torch.contiguous_format)
        if need and tensor is not None
        else values.new_empty(0)
        for tensor, need in zip((values, *arguments[: len(PARAMETERS)]), needs, strict=True)
    ]


def _parse(arguments: Sequence[Any]) -> tuple[tuple[BlockParameters, BranchLayout, OffsetMode, int], Any]:
    """The op's arguments after `values` -> the arguments that every form takes, and the form's name."""
    sizes, offset_mode, norm_groups, backend = arguments[len(PARAMETERS) :]
    layout = BranchLayout(tuple(zip(sizes[::2], sizes[1::2], strict=True)))
    return (BlockParameters(*arguments[: len(PARAMETERS)]), layout, cast(OffsetMode, offset_mode), norm_groups), backend


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    state = output[1:]
    ctx.mark_non_differentiable(*state)
    ctx.set_materialize_grads(False)  # else zeros as large as the state come with every gradient
    ctx.save_for_backward(*inputs[:TENSORS], *state)
    ctx.options = inputs[TENSORS:]


def _autograd(ctx: Any, grads: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    options = (None for _ in ctx.options)
    if grads[0] is None:
        return *(None for _ in range(TENSORS)), *options
    saved = ctx.saved_tensors  # checkpointing hands them out once
    inputs, state = saved[:TENSORS], list(saved[TENSORS:])
    needs = ctx.needs_input_grad[:TENSORS]
    found = ops.dyhead_block_backward(grads[0], *inputs, *ctx.options, state, needs[0], any(needs[1:]))
    return *(grad if need else None for grad, need in zip(found, needs, strict=True)), *options


def _no_second_derivative(ctx: Any, *grads: Any) -> None:
    raise RuntimeError('dyhead_block has no second derivative in this form: pass backend="reference", which has')


_forward.register_autograd(_autograd, setup_context=_setup_context)
_backward.register_autograd(_no_second_derivative)


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
    expected = parameter_shapes(in_channels, channels, hidden)
    why = f"the pyramid has {in_channels} channels and conv_weight makes {channels} of them"
    for name, shape in expected.items():
        tensor = getattr(parameters, name)
        if tensor is not None or name != "conv_bias":
            check_kind(name, tensor, pyramid.values.device)
            check_shape(name, tensor, shape, why)
