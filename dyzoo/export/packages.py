"""Programs of `torch.export` compiled by AOTInductor: packages of machine code that need none of their Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from dyzoo.errors import ExportError

SETTINGS: dict[str, Any] = {
    "cpp.dynamic_threads": True,  # as many as who runs it has, not as many as who made it
    "aot_inductor.check_lowerbound": False,  # a single picture goes in too, though 2 is what it says
}


def check_compiler() -> None:
    """Raise an `ExportError` where there is no C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError):
        raise ExportError(
            "no C++ compiler found, aoti needs one: install g++ or clang++, or name one in the variable CXX"
        ) from None


def compile_package(program: ExportedProgram, told: Mapping[str, str], file: Path) -> None:
    """Write a package of AOTInductor.

    Args:
        program: on the CPU, of operators that PyTorch or torchvision have; gradients are to be off.
        told: what becomes its metadata.
        file: ends in .pt2.
    """
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    logger = logging.getLogger("torch")  # which says what nobody here can act on
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with fresh_cache(dir=str(file.parent)):  # sources and objects, of no use once the package is there
            aoti_compile_and_package(
                program, package_path=str(file), inductor_configs={**SETTINGS, "aot_inductor.metadata": dict(told)}
            )
    finally:
        logger.setLevel(before)


def open_package(file: Path) -> Any:
    """The package as a function of its inputs."""
    from torch._inductor import aoti_load_package

    return aoti_load_package(str(file))
