"""Resources of the kernels on GPUs that are not at hand: registers, spills, shared memory, matrix instructions.

`python -m dyhead_kernels.static` compiles every kernel of a DyHead block, forward and backward, with its shipped launch
parameters, and prints a table. Launches are recorded from the operators themselves, run on tensors without memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .backends import kernels_are_interpreted

if TYPE_CHECKING:
    from .launch.launching import Launch

TARGETS = ("sm_80", "sm_89", "sm_90", "sm_100", "gfx942")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# What one multiprocessor (compute unit) has: bytes of shared memory a program may use, 32-bit registers, threads.
SHARED_BYTES = {"sm_80": 166_912, "sm_89": 101_376, "sm_90": 232_448, "sm_100": 232_448, "gfx942": 65_536}
LEAST_SHARED_BYTES = 101_376  # of NVIDIA's other GPUs since sm_86
REGISTERS = {"sm_80": 65_536, "sm_89": 65_536, "sm_90": 65_536, "sm_100": 65_536, "gfx942": 131_072}
THREADS = 2_048

_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
Place = tuple[int, ...]
"""An argument of a kernel, (index,), or a field of one, (index, field)."""

WIDE_DILATION = 8

OPTIONS = ("num_warps", "num_stages", "maxnreg")
_MATRIX_INSTRUCTIONS = ("wgmma", "tcgen05.mma", "mma.sync", "v_mfma")


@dataclass(frozen=True)
class Resources:
    """Resources that one kernel takes on one target.

    Attributes:
        warps: warps of a program; 64 threads each on AMD's GPUs, else 32.
        registers: registers of a thread; on AMD's GPUs vector and accumulation registers together.
        spill_bytes: bytes of a thread that did not fit into registers.
        shared_bytes: bytes of a program in shared memory.
        programs: programs that fit on one multiprocessor at a time.
        matrix: the matrix instruction that products use; "" where there are none.
    """

    kernel: str
    dtype: str
    channels: int
    target: str
    warps: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    programs: int
    matrix: str


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


def jobs(dtype: str, channels: int, targets: Sequence[str] = TARGETS) -> list[Job]:
    """Every different launch of a block over P3..P7 of an 800x1344 image, forward, backward and deterministic.

    With them the gradients of a convolution dilated too widely for windows of its map.
    """
    from .deform_conv import triton as single
    from .dyhead_block import triton as form
    from .dyhead_block.layout import BranchLayout
    from .dyhead_block.parameters import BlockParameters, parameter_shapes
    from .launch import tuning
    from .launch.launching import recording

    layout = BranchLayout(((100, 168), (50, 84), (25, 42), (13, 21), (7, 11)))
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
    image, offset, mask = (empty(1, number, *layout.shapes[0], of=values.dtype) for number in (channels, 18, 9))
    wide = (WIDE_DILATION, WIDE_DILATION)
    before, found = torch.are_deterministic_algorithms_enabled(), []
    for target in targets:
        table = tuning.load_table(tuning.architecture_table(target))
        with recording() as launches, tuning.overriding(table, weakest=True):
            output, state = form.forward(values, parameters, layout, "resize", 16)
            for deterministic in (False, True):
                torch.use_deterministic_algorithms(deterministic)
                form.backward(output, values, parameters, layout, "resize", 16, state, (True, True))
                weight = parameters.conv_weight[0]
                needs = (True, True, False, False, True)
                single.backward(image, image, offset, weight, None, mask, (1, 1), wide, wide, needs)
            torch.use_deterministic_algorithms(before)
        found += [job_of(launch, dtype, channels, target) for launch in launches]
    return list(dict.fromkeys(found))


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


def compile_job(job: Job) -> Resources:
    """Compile for a device that need not be there.

    Raises:
        Exception: whatever Triton says of a kernel that does not compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    amd = job.target.startswith("gfx")
    target = GPUTarget("hip", job.target, 64) if amd else GPUTarget("cuda", int(job.target.removeprefix("sm_")), 32)
    compiled = triton.compile(source_of(job), target=target, options=dict(job.options))
    warps = compiled.metadata.num_warps
    if amd:
        text = compiled.asm["amdgcn"]
        registers = _number(r"\.vgpr_count:\s+(\d+)", text)
        spill_bytes = 4 * (
            _number(r"\.vgpr_spill_count:\s+(\d+)", text) + _number(r"\.sgpr_spill_count:\s+(\d+)", text)
        )
    else:
        text = compiled.asm["ptx"]
        registers, spill_bytes = _cubin_resources(compiled.asm["cubin"])
    shared = compiled.metadata.shared
    threads = warps * (64 if amd else 32)
    return Resources(
        kernel=job.name.strip("_").removesuffix("_kernel"),
        dtype=job.dtype + (", fixed point" if (("FIXED_POINT", "constexpr") in job.signature and _fixed(job)) else ""),
        channels=job.channels,
        target=job.target,
        warps=warps,
        registers=registers,
        spill_bytes=spill_bytes,
        shared_bytes=shared,
        programs=min(
            SHARED_BYTES.get(job.target, LEAST_SHARED_BYTES) // max(1, shared),
            REGISTERS.get(job.target, 65_536) // (threads * -(-registers // 8) * 8),
            THREADS // threads,
        ),
        matrix=", ".join(name for name in _MATRIX_INSTRUCTIONS if name in text),
    )


def compile_or_reason(job: Job) -> Resources | str:
    """The resources, or one line that says why the job does not compile: either can be sent to another process."""
    try:
        return compile_job(job)
    except Exception as error:
        return next(iter(str(error).splitlines()), "") or type(error).__name__


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


def _fixed(job: Job) -> bool:
    names = [name for name, _ in job.signature]
    return bool(dict(job.constants)[names.index("FIXED_POINT"),])


def _cubin_resources(cubin: bytes) -> tuple[int, int]:
    """Registers and spill bytes of a thread, as the disassembler that comes with Triton reports them."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__path__[0]) / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(tool), "--dump-resource-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return _number(r"REG:(\d+)", text), _number(r"STACK:(\d+)", text)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0


def survey(dtypes: Sequence[str], channels: Sequence[int], targets: Sequence[str], workers: int) -> Iterator[Resources]:
    """Compile all of it, in `workers` processes."""
    work = [job for dtype in dtypes for width in channels for job in jobs(dtype, width, targets)]
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(compile_job, work)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or one JSON object per line with --json."""
    parser = argparse.ArgumentParser(prog="python -m dyhead_kernels.static", description=__doc__)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=DTYPES)
    parser.add_argument("--channels", nargs="+", type=int, default=[256])
    parser.add_argument("--target", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    options = parser.parse_args(arguments)
    if kernels_are_interpreted():
        sys.exit("error: TRITON_INTERPRET is 1, so there is nothing to compile: unset it")
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
    if not options.json:
        print("| kernel | dtype | C | target | warps | registers | spill B | shared KiB | programs | matrix |")
        print("|---|---|---:|---|---:|---:|---:|---:|---:|---|")
    for row in survey(options.dtype, options.channels, options.target, options.workers):
        if options.json:
            print(json.dumps(asdict(row)), flush=True)
        else:
            print(
                f"| {row.kernel} | {row.dtype} | {row.channels} | {row.target} | {row.warps} | {row.registers} | "
                f"{row.spill_bytes} | {row.shared_bytes / 1024:.0f} | {row.programs} | {row.matrix} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
