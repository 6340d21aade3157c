"""Resources of the kernels on GPUs that are not at hand, as their compiler and its disassembler tell them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from .disassembly import Code, Counts, code_of, disassembled
from .jobs import Job, jobs, source_of

# What one multiprocessor (compute unit) has: bytes of shared memory a program may use, 32-bit registers, threads.
SHARED_BYTES = {
    "sm_75": 65_536,
    "sm_80": 166_912,
    "sm_89": 101_376,
    "sm_90": 232_448,
    "sm_100": 232_448,
    "gfx942": 65_536,
}
LEAST_SHARED_BYTES = 101_376  # of NVIDIA's other GPUs since sm_86
REGISTERS, USUAL_REGISTERS = {"gfx942": 131_072}, 65_536
THREADS = {"sm_75": 1_024, "sm_89": 1_536}
MOST_THREADS = 2_048
MOST_PROGRAMS = {"sm_75": 16, "sm_89": 24, "gfx942": 16}  # others hold 32

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
        loops: instructions of a warp in an iteration of each innermost loop; not counted for AMD's GPUs.
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
    loops: tuple[int, ...] = ()


def compile_job(job: Job) -> Resources:
    """`compile_code` without the code."""
    return compile_code(job)[0]


def compile_code(job: Job) -> tuple[Resources, Code]:
    """Compile for a device that need not be there. The code of AMD's GPUs is left empty.

    Raises:
        Exception: whatever Triton says of a kernel that does not compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    amd = job.target.startswith("gfx")
    target = GPUTarget("hip", job.target, 64) if amd else GPUTarget("cuda", int(job.target.removeprefix("sm_")), 32)
    compiled = triton.compile(source_of(job), target=target, options=dict(job.options))
    warps = compiled.metadata.num_warps
    code = Code(Counts())
    if amd:
        text = compiled.asm["amdgcn"]
        registers = _number(r"\.vgpr_count:\s+(\d+)", text)
        spill_bytes = 4 * (
            _number(r"\.vgpr_spill_count:\s+(\d+)", text) + _number(r"\.sgpr_spill_count:\s+(\d+)", text)
        )
    else:
        text, listing = compiled.asm["ptx"], disassembled(compiled.asm["cubin"])
        registers, spill_bytes = registers_and_spills(listing)
        code = code_of(listing)
    shared = compiled.metadata.shared
    threads = warps * (64 if amd else 32)
    resources = Resources(
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
            REGISTERS.get(job.target, USUAL_REGISTERS) // (threads * -(-registers // 8) * 8),
            THREADS.get(job.target, MOST_THREADS) // threads,
            MOST_PROGRAMS.get(job.target, 32),
        ),
        matrix=", ".join(name for name in _MATRIX_INSTRUCTIONS if name in text),
        loops=tuple(int(loop.own.instructions) for loop in code.innermost),
    )
    return resources, code


def registers_and_spills(listing: str) -> tuple[int, int]:
    """Registers and spill bytes of a thread, as the head of a disassembled kernel says them."""
    return _number(r"REG:(\d+)", listing), _number(r"STACK:(\d+)", listing)


def compile_or_reason(job: Job) -> Resources | str:
    """The resources, or one line that says why the job does not compile: either can be sent to another process."""
    try:
        return compile_job(job)
    except Exception as error:
        return next(iter(str(error).splitlines()), "") or type(error).__name__


def _fixed(job: Job) -> bool:
    names = [name for name, _ in job.signature]
    return bool(dict(job.constants)[names.index("FIXED_POINT"),])


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else 0


def survey(dtypes: Sequence[str], channels: Sequence[int], targets: Sequence[str], workers: int) -> Iterator[Resources]:
    """Compile all of it, in `workers` processes."""
    work = [job for dtype in dtypes for width in channels for job in jobs(dtype, width, targets)]
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(compile_job, work)
