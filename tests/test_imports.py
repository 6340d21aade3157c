"""Imports point one way, and the package is light until it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import dyzoo

ROOT = Path(dyzoo.__file__).parent
KERNELS = Path(str(find_spec("dyhead_kernels").origin)).parent

# Lowest first. A module imports from layers below its own, never from beside or above it.
LAYERS = (
    ("_version", "errors", "files", "labels", "colors", "boxes", "distributed", "recipe"),
    ("config", "pixels", "drawing", "losses", "plots", "targets", "locks", "catalog", "hub"),
    ("images", "preprocess", "architectures", "cards"),
    ("pretrained", "backbones", "fpn", "dyhead", "heads", "detections", "data"),
    ("prediction",),
    ("detector",),
    ("zoo", "evaluation", "complexity", "checkpoints", "fixed_size"),
    ("reporting",),
    ("training",),
    ("cli",),
    ("__main__",),
)
HEIGHT = {module: height for height, modules in enumerate(LAYERS) for module in modules}
MODULES = sorted(path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file())

HEAVY = {
    "torch", "torchvision", "timm", "accelerate", "matplotlib", "numpy", "PIL", "pycocotools", "safetensors",
    "tensorboard", "jinja2", "wandb",
    "huggingface_hub", "faster_coco_eval",
}  # fmt: skip


def sources(module: str) -> list[Path]:
    folder = ROOT / module
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imported_names(path: Path) -> Iterator[str]:
    """Full dotted names of all that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import: these tests, and readers, want full names"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_its_layer() -> None:
    assert sorted(HEIGHT) == [module for module in MODULES if module != "__init__"]


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__"])
def test_imports_point_downward(module: str) -> None:
    for path in sources(module):
        for name in imported_names(path):
            package, _, rest = name.partition(".")
            target = rest.split(".")[0]
            if package == "dyzoo" and target in HEIGHT and target != module:
                assert HEIGHT[target] < HEIGHT[module], f"{path} imports {name}"
            assert name != "dyzoo.__version__", f"{path} imports the whole package for it: take dyzoo._version"


def test_only_dyhead_uses_the_kernels() -> None:
    users = {
        module
        for module in MODULES
        for path in sources(module)
        if any(name.split(".")[0] == "dyhead_kernels" for name in imported_names(path))
    }
    assert users == {"dyhead"}


@pytest.mark.parametrize("path", sorted(KERNELS.rglob("*.py")), ids=lambda path: str(path.relative_to(KERNELS)))
def test_the_kernels_need_nothing_but_torch_and_triton_and_name_themselves_relatively(path: Path) -> None:
    """A Hub kernel is imported under another name than `dyhead_kernels`, and several versions of it side by side."""
    depth = len(path.relative_to(KERNELS).parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level <= depth, f"{path}:{node.lineno} climbs out of the package"
            names = [str(node.module)] if node.level == 0 else []
        roots = {name.split(".")[0] for name in names}
        assert roots <= {"torch", "triton", *sys.stdlib_module_names}, f"{path}:{getattr(node, 'lineno', 0)}"


def test_nothing_imports_what_is_not_installed_with_it() -> None:
    for path in ROOT.rglob("*.py"):
        roots = {name.split(".")[0] for name in imported_names(path)}
        assert not roots & {"tests", "benchmarks", "weights", "pytest"}, path


@pytest.mark.parametrize("statement", ["import dyzoo", "import dyzoo.cli"])
def test_importing_the_package_and_its_command_line_is_light(statement: str) -> None:
    code = f"import sys\n{statement}\nprint(*sorted(set(sys.modules) & {HEAVY!r}))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == []


def test_help_does_not_load_torch() -> None:
    code = "import sys, dyzoo.cli\ncode = dyzoo.cli.run(['train', '--help'])\nprint(code, 'torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split()[-2:] == ["0", "False"]


def test_every_public_name_is_there() -> None:
    for name in dyzoo.__all__:
        assert getattr(dyzoo, name) is not None
    assert set(dyzoo.__all__) <= set(dir(dyzoo))
    with pytest.raises(AttributeError, match="has no attribute 'creat_model'"):
        dyzoo.creat_model  # noqa: B018
