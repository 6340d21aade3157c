"""Arguments of the kernels: launches and kernels share named tuples, and neither goes by another name or order."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import dyhead_kernels
from dyhead_kernels.deform_conv.packed.arguments import Constants, Gradients, Sampling, Windows
from dyhead_kernels.dyhead_block.attention.arguments import Attention, ParameterPointers, Sizes
from dyhead_kernels.dyhead_block.mix.kernels import Block
from dyhead_kernels.static import OPTIONS

from tests.kernels.launch_cases import recorded_launches

MOST_ARGUMENTS = 16
ROOT = Path(dyhead_kernels.__file__).parent
TUPLES: dict[str, Any] = {each.__name__: each for each in (Sampling, Gradients, Attention, ParameterPointers, Block)}
CONSTANTS: dict[str, Any] = {
    "CONV": Constants,
    "WINDOWS": Windows,
    "SIZES": Sizes,
}  # by the argument: the annotation says "constexpr"
LAUNCHES = {each.name: each for each in recorded_launches()}


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function in Triton's language, with the name of its module."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "triton.jit" in map(ast.unparse, node.decorator_list):
                yield ".".join((ROOT.name, *path.relative_to(ROOT).with_suffix("").parts)), node


def annotations(function: ast.FunctionDef) -> dict[str, str]:
    return {each.arg: ast.unparse(each.annotation) for each in function.args.args if each.annotation}


def fields_read(function: ast.FunctionDef, argument: str) -> set[str]:
    return {
        node.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == argument
    }


def test_kernels_read_their_tuples_by_the_names_of_their_fields() -> None:
    """No other name, and no name that nobody reads."""
    unread = {kind: set(tuple_._fields) for kind, tuple_ in TUPLES.items()}
    for module, function in functions():
        for argument, kind in annotations(function).items():
            tuple_ = CONSTANTS.get(argument) or TUPLES.get(kind)
            if tuple_ is not None:
                read = fields_read(function, argument)
                assert read <= set(tuple_._fields), f"{module}.{function.name} reads {argument}.{read}"
                unread[kind] = unread.get(kind, set()) - read
    assert not any(unread.values()), unread


def test_annotations_are_tuples_that_modules_import() -> None:
    """Triton does not read them, so it would not say that one is wrong."""
    for module, function in functions():
        for kind in set(annotations(function).values()) - {"tl.constexpr"}:
            assert getattr(import_module(module), kind) is TUPLES[kind], f"{module}.{function.name}"


@pytest.mark.parametrize("name", LAUNCHES)
def test_launches_give_each_argument_what_its_name_says(name: str) -> None:
    """A tuple of the annotated class, tensors for pointers, integers for the rest, and every constant by its name."""
    kernel, arguments, constants, _ = LAUNCHES[name]
    parameters = inspect.signature(kernel.fn).parameters
    by_position = list(parameters)[: len(arguments)]
    assert len(parameters) <= MOST_ARGUMENTS
    assert set(constants) - set(OPTIONS) == set(parameters) - set(by_position)
    for argument, value in zip(by_position, arguments, strict=True):
        tuple_ = TUPLES.get(parameters[argument].annotation)
        if tuple_ is None:
            assert isinstance(value, torch.Tensor if argument.endswith("_ptr") else int), argument
            continue
        assert type(value) is tuple_, argument
        for field, each in value._asdict().items():
            pointer = field.endswith("_ptr") or tuple_ is Attention
            assert isinstance(each, torch.Tensor if pointer else int), f"{argument}.{field}"
    for argument, tuple_ in CONSTANTS.items():
        if argument in constants:
            assert type(constants[argument]) is tuple_


def test_recorded_launches_are_compiled_as_triton_would_compile_them() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    code = "from tests.kernels.launch_cases import check_specialisations as check; check()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
