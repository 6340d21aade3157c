"""Imports point one way, and the package is light until it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from importlib.util import find_spec
from pathlib import Path

import pytest

import dyzoo

ROOT = Path(dyzoo.__file__).parent
KERNELS = Path(str(find_spec("dyhead_kernels").origin)).parent

MODULES = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}

HEAVY = {
    "torch", "torchvision", "timm", "accelerate", "matplotlib", "numpy", "PIL", "pycocotools", "safetensors",
    "tensorboard", "jinja2", "wandb",
    "huggingface_hub", "faster_coco_eval",
}  # fmt: skip


def imported_names(path: Path) -> Iterator[str]:
    """Full dotted names of all that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import: these tests, and readers, want full names"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports. A package's public names are looked up when they are used,
    from modules above or below, and no import of its own."""
    found = {}
    for module, path in MODULES.items():
        lazy = path.name == "__init__.py" and "import_module" in path.read_text(encoding="utf-8")
        found[module] = set() if lazy else {home(name) for name in imported_names(path)} & set(MODULES) - {module}
    return found


def home(name: str) -> str:
    """The module that a full name is, or is in."""
    return name if name in MODULES else name.rpartition(".")[0]


def cut(module: str, depth: int) -> str:
    return ".".join(module.split(".")[:depth])


def circle(graph: Mapping[str, Set[str]]) -> list[str] | None:
    """The nodes of a circle in the order in which they point to each other, the first of them again at the end."""
    done: set[str] = set()

    def search(node: str, way: list[str]) -> list[str] | None:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return None
        for target in sorted(graph.get(node, set())):
            if found := search(target, [*way, node]):
                return found
        done.add(node)
        return None

    return next(filter(None, (search(node, []) for node in sorted(graph))), None)


def test_no_two_files_import_each_other() -> None:
    """Neither do three in a circle: read from the lowest on, every name is known when it is met."""
    assert circle(imports()) is None


def test_no_two_folders_import_each_other() -> None:
    """What lies in a folder is one thing to those outside it, at every depth."""
    for depth in (2, 3, 4):
        folders: dict[str, set[str]] = {}
        for module, targets in imports().items():
            folder = cut(module, depth)
            folders.setdefault(folder, set()).update(cut(target, depth) for target in targets)
        for folder, targets in folders.items():
            # the package above a folder has its names; that they are not made there is the files' test
            targets -= {folder, *(".".join(folder.split(".")[:n]) for n in range(1, folder.count(".") + 1))}
        assert circle(folders) is None


def test_circles_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_nothing_imports_the_whole_package_for_its_version() -> None:
    for path in MODULES.values():
        assert "dyzoo.__version__" not in set(imported_names(path)), f"{path}: take dyzoo._version"


def test_only_dyhead_uses_the_kernels() -> None:
    users = {
        cut(module, 2)
        for module, path in MODULES.items()
        if any(name.split(".")[0] == "dyhead_kernels" for name in imported_names(path))
    }
    assert users == {"dyzoo.dyhead"}


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
