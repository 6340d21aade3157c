"""Imports within the kernels point one way, folder by folder and step by step."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(str(find_spec("dyhead_kernels").origin)).parent

# Lowest first. A part imports from those below it and from itself, never from beside or above it.
LAYERS = (
    ("_ops", "backends", "checks", "device_cache", "precision", "pyramid"),
    ("compiled", "launch"),
    ("deform_conv.packed", "deform_conv.reference"),
    ("deform_conv",),
    ("dyhead_block.layout", "dyhead_block.parameters"),
    ("dyhead_block.tables", "dyhead_block.native"),
    ("dyhead_block.offsets", "dyhead_block.attention"),
    ("dyhead_block.mix",),
    ("dyhead_block",),
    ("flops", "static"),
    ("",),
)
HEIGHT = {part: height for height, parts in enumerate(LAYERS) for part in parts}


def part_of(module: str) -> str:
    """The longest part that a module belongs to: "dyhead_block.mix.torch" -> "dyhead_block.mix"."""
    while module not in HEIGHT:
        module = module.rpartition(".")[0]
    return module


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, wherever in the file, named from the package's root."""
    folder = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
            for alias in node.names:
                full = [part for part in base if part] + [alias.name]
                is_module = ROOT.joinpath(*full).with_suffix(".py").is_file() or ROOT.joinpath(*full).is_dir()
                yield ".".join(full if is_module else full[:-1])


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    own = part_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip("."))
    for name in imported(path):
        target = part_of(name)
        assert target == own or HEIGHT[target] < HEIGHT[own], f"{path} imports {name}"


def test_the_environment_is_read_in_one_place() -> None:
    readers = {path.name for path in ROOT.rglob("*.py") if "os.environ" in path.read_text(encoding="utf-8")}
    assert readers == {"backends.py"}
