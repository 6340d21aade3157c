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
from dyhead_kernels.deform_conv.packed import triton as deform_conv
from dyhead_kernels.dyhead_block.attention import triton as attention
from dyhead_kernels.dyhead_block.attention.arguments import Attention
from dyhead_kernels.dyhead_block.layout import BranchLayout
from dyhead_kernels.dyhead_block.mix import triton as mix
from dyhead_kernels.dyhead_block.offsets import triton as offsets
from dyhead_kernels.dyhead_block.parameters import OFFSETS_AND_MASKS, OffsetMode
from dyhead_kernels.dyhead_block.tables import BlockTables, block_tables
from dyhead_kernels.launch.launching import Launch, launch, recording
from dyhead_kernels.launch.tables import Strips, Tables
from torch import Tensor

from ..work import NORM_GROUPS, TAPS

OFFSET_MODE: OffsetMode = "resize"  # the one that launches every kernel
OFFSET_PX = 1.5  # standard deviation of offsets


class Problem:
    """A block over some levels. What one launch gives the next is computed when first asked for, and kept.

    Everything is done with the launch parameters in force at that time; on meta tensors, inside `recording` only.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int]], channels: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.layout, self.channels = BranchLayout(tuple(shapes)), channels
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
            offset_weight=weight(OFFSETS_AND_MASKS, channels, 3, 3, std=OFFSET_PX),
            offset_bias=normal(OFFSETS_AND_MASKS, std=0.5),
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
        return block_tables(self.values.device, self.layout, OFFSET_MODE)

    @property
    def convolution(self) -> deform_conv.Convolution:
        """The deformable convolution of the branches."""
        return deform_conv.Convolution(self.channels, self.channels)

    @property
    def strips(self) -> Strips:
        """Tiles of the forward convolution, as now in force."""
        return deform_conv.forward_strips(self.convolution, self.operands)

    @cached_property
    def operands(self) -> deform_conv.Operands:
        """Operands of the convolution."""
        offset_mask = offsets.forward(self.plan, self.values, self.parameters)
        weight = self.parameters.conv_weight.permute(0, 1, 3, 4, 2).flatten(2, 3).contiguous()
        return deform_conv.Operands(self.values, offset_mask, offset_mask, weight, self.plan.segments)

    def convolve(self) -> tuple[Tensor, Tensor]:
        """Raw convolutions (rows, C), and statistics of their tiles."""
        convolved = self.values.new_empty(self.plan.rows, self.channels)
        weights = self.plan.mean_weights()
        return convolved, deform_conv.forward(self.convolution, self.operands, None, convolved, weights)

    @cached_property
    def convolved(self) -> tuple[Tensor, Tensor]:
        """`convolve`, kept."""
        return self.convolve()

    def attend(self, partial: Tensor) -> Attention:
        """Statistics of tiles to moments and coefficients."""
        return attention.forward(self.plan, partial, self.strips, self.parameters, NORM_GROUPS)

    @cached_property
    def attended(self) -> Attention:
        """`attend`, kept."""
        return self.attend(self.convolved[1])

    def mix_backward(self) -> tuple[Tensor, Tensor, Tables]:
        """Gradients of the mixed maps, and those of coefficients by tile."""
        return mix.backward(self.plan, self.grad_output, self.convolved[0], self.attended)

    @cached_property
    def mixed_backward(self) -> tuple[Tensor, Tensor, Tables]:
        """`mix_backward`, kept."""
        return self.mix_backward()

    def attention_backward(self, sums: Tensor, tables: Tables) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of the moments and of parameters."""
        return attention.backward(self.plan, sums, tables, self.strips, self.attended, self.parameters, NORM_GROUPS)

    @cached_property
    def grad_moments(self) -> Tensor:
        """Gradients of the moments."""
        _, sums, tables = self.mixed_backward
        return self.attention_backward(sums, tables)[0]

    def branches_backward(self) -> Tensor:
        """The gradient of the raw convolutions."""
        grad_mixed, _, _ = self.mixed_backward
        return mix.branches_backward(self.plan, grad_mixed, self.convolved[0], self.attended, self.grad_moments)

    @cached_property
    def grad_convolved(self) -> Tensor:
        """`branches_backward`, kept."""
        return self.branches_backward()

    def convolution_backward(self, fixed_point: bool) -> tuple[Tensor, Tensor]:
        """Gradients of the values, float32, and of each branch's offsets and masks."""
        with _deterministic(fixed_point):
            total = deform_conv.ValuesGradient.like(self.convolution, self.operands, self.grad_convolved, True)
        grad = self.operands.offset.new_empty(1, self.plan.branch_offset_mask_size)
        deform_conv.backward(self.convolution, self.operands, self.grad_convolved, total, grad, grad)
        return total.total(), grad

    @cached_property
    def grad_branches(self) -> tuple[Tensor, Tensor]:
        """`convolution_backward`, kept."""
        return self.convolution_backward(False)

    def offsets_backward(self) -> tuple[Tensor, Tensor]:
        """The gradient of the offset convolution's output, and its sums over each tile."""
        return offsets.backward(self.plan, self.grad_branches[1], self.operands.offset)

    @cached_property
    def grad_logits(self) -> Tensor:
        """`offsets_backward`, kept."""
        return self.offsets_backward()[0]


Results = tuple[Tensor, ...]


@dataclass(frozen=True)
class Operation:
    """An operation that shows a kernel of the table at work.

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
    return convolved, *problem.attend(partial)


def _mix(problem: Problem) -> Results:
    output = torch.empty_like(problem.values)
    mix.forward(problem.plan, problem.convolved[0], problem.attended, output)
    return (output,)


def _mix_backward(problem: Problem) -> Results:
    grad_mixed, sums, tables = problem.mix_backward()
    grad_moments, _ = problem.attention_backward(sums, tables)
    by_level = torch.stack([sums[:, first:end].sum(dim=1) for first, end in pairwise(tables.first_tile)])
    return grad_mixed, by_level, grad_moments


def _attention_backward(problem: Problem) -> Results:
    _, sums, tables = problem.mixed_backward
    grad_moments, grads = problem.attention_backward(sums, tables)
    return grad_moments, *(grads[each.name] for each in fields(BlockParameters) if each.name in grads)


def _offsets_both_ways(problem: Problem) -> Results:
    grad_logits, tile_sums = problem.offsets_backward()
    return offsets.forward(problem.plan, problem.values, problem.parameters), grad_logits, tile_sums.sum(dim=1)


def _offsets_values_backward(problem: Problem) -> Results:
    added, _ = problem.grad_branches
    weight = problem.parameters.offset_weight
    return (offsets.values_backward(problem.plan, problem.grad_logits, problem.values, weight, added),)


OPERATIONS: Mapping[str, Operation] = {
    "offsets_forward": Operation(
        lambda problem: (offsets.forward(problem.plan, problem.values, problem.parameters),),
        ("offsets_forward",),
        ("offsets_split",),
    ),
    "deform_conv_forward": Operation(_convolve, ("deform_conv_forward",), ("attention_moments",)),
    "attention_moments": Operation(lambda problem: problem.attend(problem.convolved[1]), ("attention_moments",)),
    "attention_forward": Operation(lambda problem: problem.attend(problem.convolved[1]), ("attention_forward",)),
    "mix_forward": Operation(_mix, ("mix_forward",)),
    "mix_backward": Operation(_mix_backward, ("mix_backward",), ("attention_sums",)),
    "attention_sums": Operation(_attention_backward, ("attention_sums",)),
    "attention_backward": Operation(_attention_backward, ("attention_backward",)),
    "mix_branches_backward": Operation(lambda problem: (problem.branches_backward(),), ("mix_branches_backward",)),
    "deform_conv_backward": Operation(lambda problem: problem.convolution_backward(False), ("deform_conv_backward",)),
    "deform_conv_backward_fixed_point": Operation(
        lambda problem: problem.convolution_backward(True), ("deform_conv_backward",)
    ),
    "deform_conv_window_backward": Operation(
        lambda problem: problem.convolution_backward(False), ("deform_conv_window_backward",), ("deform_conv_backward",)
    ),
    "deform_conv_window_backward_fixed_point": Operation(
        lambda problem: problem.convolution_backward(True), ("deform_conv_window_backward",), ("deform_conv_backward",)
    ),
    "deform_conv_weight_backward": Operation(
        lambda problem: (deform_conv.weight_backward(problem.convolution, problem.operands, problem.grad_convolved),),
        ("deform_conv_weight_backward",),
    ),
    "offsets_pointwise": Operation(_offsets_both_ways, ("offsets_resize", "offsets_backward")),
    "offsets_values_backward": Operation(_offsets_values_backward, ("offsets_values_backward",)),
    "offsets_weight_backward": Operation(
        lambda problem: (offsets.weight_backward(problem.plan, problem.grad_logits, problem.values),),
        ("offsets_weight_backward",),
    ),
}


@dataclass(frozen=True)
class Run:
    """Some launches, one after the other, as often as wanted."""

    launches: tuple[Launch, ...]

    def __call__(self) -> None:
        """Launch all of them once."""
        for each in self.launches:
            launch(each.kernel, each.grid, *each.arguments, **each.constants)


def record(operation: Operation, problem: Problem, wanted: Sequence[str]) -> Run:
    """The launches of some kernels that the operation asks for, with the launch parameters in force."""
    with recording() as launches, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operation.run(problem)
    return Run(tuple(each for each in launches if each.name in wanted))


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
