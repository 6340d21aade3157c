"""One DyHead block as single launches, each with the tensors that it gets in a training step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise

import torch
from dyhead_kernels import BlockParameters
from dyhead_kernels.deform_conv.packed import triton as conv
from dyhead_kernels.dyhead_block import _block_launches as block
from dyhead_kernels.dyhead_block.layout import Layout
from dyhead_kernels.dyhead_block.tables import BlockTables, block_tables
from dyhead_kernels.launch.launching import Launch, launch, recording
from dyhead_kernels.launch.tables import Tables
from torch import Tensor

from ..work import TAPS

NORM_GROUPS = 16
OFFSET_MODE = "resize"  # the one that launches every kernel
OFFSET_PX = 1.5  # standard deviation of offsets
SUFFIX = "_kernel"


class Problem:
    """A block over some levels. What one launch gives the next is computed when first asked for, and kept.

    Everything is done with the launch parameters in force at that time; on meta tensors, inside `recording` only.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int]], channels: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.layout, self.channels = Layout(tuple(shapes)), channels
        positions = sum(height * width for height, width in shapes)
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
            return (mean + std * torch.randn(shape, generator=generator)).to(device)

        def weight(*shape: int, std: float = 1.0) -> Tensor:
            return normal(*shape, std=std / math.sqrt(math.prod(shape[1:])))

        hidden = max(1, channels // 4)
        self.values = normal(1, positions, channels).to(dtype)
        self.grad_output = normal(1, positions, channels).to(dtype)
        self.parameters = BlockParameters(
            offset_weight=weight(3 * TAPS, channels, 3, 3, std=OFFSET_PX),
            offset_bias=normal(3 * TAPS, std=0.5),
            conv_weight=normal(3, channels, channels, 3, 3, std=1 / math.sqrt(TAPS * channels)).to(dtype),
            conv_bias=None,
            norm_weight=normal(3, channels, std=0.2, mean=1.0),
            norm_bias=normal(3, channels, std=0.5),
            scale_weight=normal(channels, std=1 / math.sqrt(channels)),
            scale_bias=normal(1, std=0.1, mean=1.0),
            relu_weight1=weight(hidden, channels),
            relu_bias1=normal(hidden, std=0.1, mean=1.0),
            relu_weight2=weight(4 * channels, hidden),
            relu_bias2=normal(4 * channels),
        )

    @property
    def plan(self) -> BlockTables:
        """Tables of the block."""
        return block_tables(self.layout, OFFSET_MODE)

    @property
    def convolution(self) -> conv.Convolution:
        """The deformable convolution of the branches."""
        return conv.Convolution(self.channels, self.channels)

    @property
    def conv_tables(self) -> Tables:
        """Tiles of the forward convolution, as now in force."""
        return conv.forward_tables(self.convolution, self.operands)

    @cached_property
    def operands(self) -> conv.Operands:
        """Of the convolution."""
        steering = block.steer(self.plan, self.values, self.parameters)
        weight = self.parameters.conv_weight.permute(0, 1, 3, 4, 2).flatten(2, 3).contiguous()
        return conv.Operands(self.values, steering, steering, weight, self.plan.segments)

    def convolve(self) -> tuple[Tensor, Tensor]:
        """Raw convolutions (rows, C), and statistics of their tiles."""
        convolved = self.values.new_empty(self.plan.rows, self.channels)
        shares = self.plan.shares(self.values.device)
        return convolved, conv.forward(self.convolution, self.operands, None, convolved, shares)

    @cached_property
    def convolved(self) -> tuple[Tensor, Tensor]:
        """`convolve`, kept."""
        return self.convolve()

    def fold(self, partial: Tensor) -> block.Coefficients:
        """Statistics of tiles to coefficients."""
        return block.fold(self.plan, partial, self.conv_tables, self.parameters, NORM_GROUPS)

    @cached_property
    def coefficients(self) -> block.Coefficients:
        """`fold`, kept."""
        return self.fold(self.convolved[1])

    def mix_backward(self) -> tuple[Tensor, Tensor, Tables]:
        """Gradients of the mixed maps, and those of coefficients by tile."""
        return block.mix_backward(self.plan, self.grad_output, self.convolved[0], self.coefficients)

    @cached_property
    def mixed_backward(self) -> tuple[Tensor, Tensor, Tables]:
        """`mix_backward`, kept."""
        return self.mix_backward()

    def fold_backward(self, sums: Tensor, tables: Tables) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of the moments and of parameters."""
        return block.fold_backward(
            self.plan, sums, tables, self.conv_tables, self.coefficients, self.parameters, NORM_GROUPS
        )

    @cached_property
    def grad_moments(self) -> Tensor:
        """Of the statistics."""
        _, sums, tables = self.mixed_backward
        return self.fold_backward(sums, tables)[0]

    def convolved_backward(self) -> Tensor:
        """The gradient of the raw convolutions."""
        grad_mixed, _, _ = self.mixed_backward
        return block.convolved_backward(self.plan, grad_mixed, self.convolved[0], self.coefficients, self.grad_moments)

    @cached_property
    def grad_convolved(self) -> Tensor:
        """`convolved_backward`, kept."""
        return self.convolved_backward()

    def convolution_backward(self, fixed_point: bool) -> tuple[Tensor, Tensor]:
        """Gradients of the values, float32, and of the branches' steering."""
        with _deterministic(fixed_point):
            total = conv.ValuesGradient.like(self.convolution, self.operands, self.grad_convolved, True)
        grad = self.operands.offset.new_empty(1, self.plan.branch_steering_size)
        conv.backward(self.convolution, self.operands, self.grad_convolved, total, grad, grad)
        return total.total(), grad

    @cached_property
    def grad_branches(self) -> tuple[Tensor, Tensor]:
        """`convolution_backward`, kept."""
        return self.convolution_backward(False)

    def steer_backward(self) -> Tensor:
        """The gradient of the offset convolution's output."""
        return block.steer_backward(self.plan, self.grad_branches[1], self.operands.offset)

    @cached_property
    def grad_steering(self) -> Tensor:
        """`steer_backward`, kept."""
        return self.steer_backward()


Results = tuple[Tensor, ...]


@dataclass(frozen=True)
class Operation:
    """What is run to see a kernel of the table at work.

    Attributes:
        run: gives results that do not depend on how the work is cut into tiles, but for rounding.
        launched: the kernels that use the table's entry.
        timed_with: kernels whose work depends on the entry, and which are timed with it.
    """

    run: Callable[[Problem], Results]
    launched: tuple[str, ...]
    timed_with: tuple[str, ...] = ()


def _convolve(problem: Problem) -> Results:
    convolved, partial = problem.convolve()
    return convolved, *problem.fold(partial)


def _mix(problem: Problem) -> Results:
    output = torch.empty_like(problem.values)
    block.mix(problem.plan, problem.convolved[0], problem.coefficients, output)
    return (output,)


def _mix_backward(problem: Problem) -> Results:
    grad_mixed, sums, tables = problem.mix_backward()
    grad_moments, _ = problem.fold_backward(sums, tables)
    by_level = torch.stack([sums[:, first:end].sum(dim=1) for first, end in pairwise(tables.first_tile)])
    return grad_mixed, by_level, grad_moments


def _fold_backward(problem: Problem) -> Results:
    _, sums, tables = problem.mixed_backward
    grad_moments, grads = problem.fold_backward(sums, tables)
    return grad_moments, *(grads[each.name] for each in fields(BlockParameters) if each.name in grads)


def _steer_both_ways(problem: Problem) -> Results:
    return block.steer(problem.plan, problem.values, problem.parameters), problem.steer_backward()


def _steer_values_backward(problem: Problem) -> Results:
    added, _ = problem.grad_branches
    weight = problem.parameters.offset_weight
    return (block.steer_values_backward(problem.plan, problem.grad_steering, problem.values, weight, added),)


OPERATIONS: Mapping[str, Operation] = {
    "steering_forward": Operation(
        lambda problem: (block.steer(problem.plan, problem.values, problem.parameters),), ("steering_forward",)
    ),
    "sampled_conv_forward": Operation(_convolve, ("sampled_conv_forward",), ("merge_moments",)),
    "merge_moments": Operation(lambda problem: problem.fold(problem.convolved[1]), ("merge_moments",)),
    "coefficients_forward": Operation(lambda problem: problem.fold(problem.convolved[1]), ("coefficients_forward",)),
    "apply_forward": Operation(_mix, ("apply_forward",)),
    "apply_backward": Operation(_mix_backward, ("apply_backward",), ("sum_tiles",)),
    "sum_tiles": Operation(_fold_backward, ("sum_tiles",)),
    "coefficients_backward": Operation(_fold_backward, ("coefficients_backward",)),
    "convolved_backward": Operation(lambda problem: (problem.convolved_backward(),), ("convolved_backward",)),
    "sampled_conv_backward": Operation(lambda problem: problem.convolution_backward(False), ("sampled_conv_backward",)),
    "sampled_conv_backward_fixed_point": Operation(
        lambda problem: problem.convolution_backward(True), ("sampled_conv_backward",)
    ),
    "sampled_conv_weight_backward": Operation(
        lambda problem: (conv.weight_backward(problem.convolution, problem.operands, problem.grad_convolved),),
        ("sampled_conv_weight_backward",),
    ),
    "steering_pointwise": Operation(_steer_both_ways, ("steering_resize", "steering_backward")),
    "steering_values_backward": Operation(_steer_values_backward, ("steering_values_backward",)),
    "steering_weight_backward": Operation(
        lambda problem: block.steer_weight_backward(problem.plan, problem.grad_steering, problem.values),
        ("steering_weight_backward",),
    ),
}


@dataclass(frozen=True)
class Run:
    """Some launches, one after the other, as often as wanted."""

    launches: tuple[Launch, ...]

    def __call__(self) -> None:
        """Once."""
        for each in self.launches:
            launch(each.kernel, each.grid, *each.arguments, **each.constants)


def record(operation: Operation, problem: Problem, wanted: Sequence[str]) -> Run:
    """The launches of some kernels that the operation asks for, with the launch parameters in force."""
    with recording() as launches, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operation.run(problem)
    return Run(tuple(each for each in launches if kernel_name(each) in wanted))


def kernel_name(each: Launch) -> str:
    """`sampled_conv_forward` of `_sampled_conv_forward_kernel`."""
    return str(each.kernel.fn.__name__).removeprefix("_").removesuffix(SUFFIX)


def results(operation: Operation, problem: Problem) -> Results:
    """Run it for real, in memory full of NaN, so that a value never written shows."""
    with _deterministic(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return operation.run(problem)


@contextmanager
def _deterministic(on: bool) -> Iterator[None]:
    """PyTorch's deterministic algorithms: also fill fresh memory with NaN."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(on, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
