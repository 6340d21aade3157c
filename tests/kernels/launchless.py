"""The whole way of a CUDA launch on CPU tensors, for GPUs that are not at hand: a driver that launches nothing.

`python -m tests.kernels.launchless sm_90` runs operators forward and backward. Triton specialises, compiles to machine
code, checks shared memory, threads and tensor memory, and hands the launch to the driver, which checks the grid.
Tensors hold what was in memory before. One line for each kernel: name, dtype, bytes of shared memory. Not for a process
in which Triton interprets.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import torch
from dyhead_kernels import dyhead_block, modulated_deform_conv2d
from dyhead_kernels.launch import launching, tuning
from dyhead_kernels.static import resources
from dyhead_kernels.static.disassembly import disassembled
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tests.kernels.block_cases import random_parameters, random_pyramid
from tests.kernels.conv_cases import Case

MOST_THREADS = 1024  # of a program


class Utils:
    """Answers to what Triton asks the CUDA driver about a device and a kernel."""

    def __init__(self, target: str) -> None:
        self.target = target

    def get_device_properties(self, device: int | None = None) -> dict[str, int]:
        return {
            "max_shared_mem": resources.SHARED_BYTES[self.target],
            "max_num_regs": resources.USUAL_REGISTERS,
            "multiprocessor_count": 64,
            "warpSize": 32,
            "sm_clock_rate": 1,
            "mem_clock_rate": 1,
            "mem_bus_width": 1,
        }

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        """Module and function (made up), registers, spill bytes, and as many threads as the registers allow."""
        registers, spilled = resources.registers_and_spills(disassembled(kernel))
        fitting = resources.USUAL_REGISTERS // (-(-registers // 8) * 8) // 32 * 32
        return 1, 1, registers, spilled, min(MOST_THREADS, fitting)

    def unload_module(self, *arguments: Any) -> None:
        pass


class Launcher:
    """Takes the arguments of a launch and checks the grid."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.name, self.shared = metadata.name, metadata.shared

    def __call__(self, x: int, y: int, z: int, stream: int, function: int, *arguments: Any) -> None:
        assert 0 < x < 2**31, f"{self.name}: grid {(x, y, z)}"
        assert 0 < y <= launching.MOST_PROGRAMS, f"{self.name}: grid {(x, y, z)}"
        assert 0 < z <= launching.MOST_PROGRAMS, f"{self.name}: grid {(x, y, z)}"
        launched[self.name] = max(self.shared, launched.get(self.name, 0))


class Driver:
    """A driver for Triton 3.6 to 3.8 whose device has all properties of a target but does not exist."""

    launcher_cls = Launcher

    def __init__(self, target: str) -> None:
        self.target, self.utils = target, Utils(target)

    def is_active(self) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", int(self.target.removeprefix("sm_")), 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return torch.cpu

    def map_python_to_cpp_type(self, type_: str) -> str:
        return type_


launched: dict[str, int] = {}


def install(target: str) -> None:
    """From now on the operators' Triton form takes CPU tensors, as a GPU of `target` without a table of its own."""
    driver.set_active(Driver(target))
    for operator in ("dyhead_block", "deform_conv"):
        module = import_module(f"dyhead_kernels.{operator}.op")
        module.check_triton = lambda device, dtype: None
    tuning._table_of = lambda device: tuning.load_table(tuning.architecture_table(target))


def block(channels: int, dtype: torch.dtype, deterministic: bool) -> None:
    """A block, forward and backward."""
    torch.use_deterministic_algorithms(deterministic)
    pyramid = random_pyramid(((9, 6), (5, 3), (3, 2)), channels, dtype=dtype)
    parameters = random_parameters(channels, channels, dtype)
    output = dyhead_block(pyramid, parameters, offset_mode="resize", norm_groups=16, backend="triton").values
    output.sum().backward()


def convolution(case: Case, dtype: torch.dtype) -> None:
    """A deformable convolution, forward and backward."""
    torch.use_deterministic_algorithms(False)
    modulated_deform_conv2d(**case.tensors(dtype), **case.geometry, backend="triton").sum().backward()


def main(target: str) -> None:
    """Run everything, float32 and bfloat16."""
    install(target)
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.float32:
            block(64, dtype, deterministic=False)
            convolution(Case(channels=128, out_channels=128), dtype)
        else:
            block(256, dtype, deterministic=True)
            convolution(
                Case(channels=96, out_channels=64, groups=2, offset_groups=3, stride=(2, 2), masked=False), dtype
            )
        for name, shared in launched.items():
            print(name, str(dtype).removeprefix("torch."), shared, flush=True)
        launched.clear()


if __name__ == "__main__":
    main(sys.argv[1])
