"""Launches of a DyHead block, recorded on tensors without memory, and what has to be compiled for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from ..launch.launching import Launch

TARGETS = ("sm_75", "sm_80", "sm_89", "sm_90", "sm_100", "gfx942")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHAPES = ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))
"""Levels P3..P7 of an image of 800x1344 pixels."""
NORM_GROUPS = 16

_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
Place = tuple[int, ...]
"""An argument of a kernel, (index,), or a field of one, (index, field)."""

WIDE_DILATION = 8
"""So far apart are the taps of a convolution that windows do not serve."""

OPTIONS = ("num_warps", "num_stages", "maxnreg")


@dataclass(frozen=True)
class Job:
    """One kernel to compile: enough to do it in another process.

    Attributes:
        signature: each argument's name and type; the type of a tuple is the tuple of its fields' types.
        constants: where in the arguments, as (index,) or (index, field), and the value.
        divisible: where multiples of 16 are.
    """

    module: str
    name: str
    dtype: str
    channels: int
    target: str
    signature: tuple[tuple[str, Any], ...]
    constants: tuple[tuple[Place, Any], ...]
    divisible: tuple[Place, ...]
    options: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Recorded:
    """One pass of a block: its launches, and PyTorch's own operations beside them.

    Attributes:
        aside: bytes that each of those operations reads and writes; views and fresh memory are none.
    """

    launches: tuple[Launch, ...]
    aside: tuple[int, ...]


def recorded(dtype: str, channels: int, target: str, deterministic: bool = False) -> dict[str, Recorded]:
    """The passes "forward" and "backward" of a block over `SHAPES`, with the launch parameters of a target."""
    from ..dyhead_block import triton as form
    from ..dyhead_block.layout import BranchLayout
    from ..dyhead_block.parameters import BlockParameters, parameter_shapes
    from ..launch import tuning
    from ..launch.launching import recording

    layout = BranchLayout(SHAPES)
    positions = sum(height * width for height, width in layout.shapes)

    def empty(*shape: int, of: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*shape, dtype=of, device="meta")

    values = empty(1, positions, channels, of=DTYPES[dtype])
    shapes = parameter_shapes(channels, channels, channels // 4)
    parameters = BlockParameters(
        **{
            name: empty(*shape, of=DTYPES[dtype if name == "conv_weight" else "float32"])
            for name, shape in shapes.items()
        }
    )
    before = torch.are_deterministic_algorithms_enabled()
    table = tuning.load_table(tuning.architecture_table(target))
    passes = {}
    torch.use_deterministic_algorithms(deterministic)
    try:
        for _ in range(2):  # the first call makes the tables that later ones find
            with tuning.overriding(table, weakest=True):
                with recording() as launches, _Aside() as aside:
                    output, state = form.forward(values, parameters, layout, "resize", NORM_GROUPS)
                passes["forward"] = Recorded(tuple(launches), tuple(aside.bytes))
                with recording() as launches, _Aside() as aside:
                    form.backward(output, values, parameters, layout, "resize", NORM_GROUPS, state, (True, True))
                passes["backward"] = Recorded(tuple(launches), tuple(aside.bytes))
    finally:
        torch.use_deterministic_algorithms(before)
    return passes


class _Aside(TorchDispatchMode):
    """Counts the bytes of every operation that runs a kernel of PyTorch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view and "empty" not in func.__name__ and not func.__name__.startswith("detach"):
            tensors = [each for each in tree_leaves((args, kwargs, found)) if isinstance(each, torch.Tensor)]
            self.bytes.append(sum(each.numel() * each.itemsize for each in tensors))
        return found


def jobs(dtype: str, channels: int, targets: Sequence[str] = TARGETS) -> list[Job]:
    """Every different launch of a block, forward, backward and deterministic.

    With them the gradients of a convolution dilated too widely for windows of its map.
    """
    found = []
    for target in targets:
        passes = [*recorded(dtype, channels, target).values(), recorded(dtype, channels, target, True)["backward"]]
        launches = [launch for each in passes for launch in each.launches] + _dilated(dtype, channels, target)
        found += [job_of(launch, dtype, channels, target) for launch in launches]
    return list(dict.fromkeys(found))


def _dilated(dtype: str, channels: int, target: str) -> list[Launch]:
    """Launches of the gradients of a widely dilated convolution, in any order and deterministic."""
    from ..deform_conv import triton as single
    from ..launch import tuning
    from ..launch.launching import recording

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=DTYPES[dtype], device="meta")

    image, offset, mask = (empty(1, number, *SHAPES[0]) for number in (channels, 18, 9))
    weight, wide = empty(channels, channels, 3, 3), (WIDE_DILATION, WIDE_DILATION)
    needs = (True, True, False, False, True)
    table = tuning.load_table(tuning.architecture_table(target))
    before = torch.are_deterministic_algorithms_enabled()
    try:
        with recording() as launches, tuning.overriding(table, weakest=True):
            for deterministic in (False, True):
                torch.use_deterministic_algorithms(deterministic)
                single.backward(image, image, offset, weight, None, mask, (1, 1), wide, wide, needs)
    finally:
        torch.use_deterministic_algorithms(before)
    return launches


def job_of(launch: Launch, dtype: str, channels: int, target: str) -> Job:
    """The compilation that a recorded launch needs."""
    kernel, arguments, constants, _ = launch
    signature: list[tuple[str, Any]] = []
    values: list[tuple[Place, Any]] = []
    divisible: list[Place] = []

    def type_of(value: Any, place: Place) -> Any:
        if isinstance(value, tuple):
            fields = [type_of(each, (*place, index)) for index, each in enumerate(value)]
            return type(value)(*fields)  # a kernel reads fields by the names that the type's class has
        if isinstance(value, torch.Tensor):
            divisible.append(place)  # PyTorch's memory is aligned
            return _POINTERS[value.dtype]
        if value == 1:  # Triton turns a one into a constant
            values.append((place, 1))
            return "constexpr"
        if value % 16 == 0:
            divisible.append(place)
        return "i32"

    for index, name in enumerate(kernel.arg_names):
        if index < len(arguments):
            signature.append((name, type_of(arguments[index], (index,))))
            continue
        value = constants[name]
        if name == "PRECISION" and target.startswith("gfx"):
            value = "ieee"  # see launching.dot_precision
        signature.append((name, "constexpr"))
        values.append(((index,), value))
    options = tuple((name, constants[name]) for name in OPTIONS if name in constants)
    return Job(
        kernel.fn.__module__,
        kernel.fn.__name__,
        dtype,
        channels,
        target,
        tuple(signature),
        tuple(values),
        tuple(divisible),
        options,
    )


def source_of(job: Job) -> Any:
    """The kernel with all that Triton compiles it for, a `triton.compiler.ASTSource`."""
    from importlib import import_module

    from triton.compiler import ASTSource

    kernel = getattr(import_module(job.module), job.name)
    return ASTSource(kernel, dict(job.signature), dict(job.constants), _attributes(job))


def _attributes(job: Job) -> dict[Place, list[list[Any]]]:
    """Attributes of each argument, spelled as a launch spells them, so that a launch finds the kernel in the cache."""
    import triton

    all_have_one = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7)  # but for constants among fields
    constants = dict(job.constants)
    found: dict[Place, list[list[Any]]] = {}
    for index, (_, type_) in enumerate(job.signature):
        for place in [(index, field) for field in range(len(type_))] if isinstance(type_, tuple) else [(index,)]:
            if place in job.divisible:
                found[place] = [["tt.divisibility", 16]]
            elif place not in constants or isinstance(constants[place], str) or (all_have_one and len(place) == 1):
                found[place] = []
    return found
