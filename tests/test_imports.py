"""Imports point one way, and the package is light until it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import dyzoo
import dyzoo.data

ROOT = Path(dyzoo.__file__).parent
TESTS = Path(__file__).parent
BENCHMARKS = TESTS.parent / "benchmarks"
KERNELS = Path(str(find_spec("dyhead_kernels").origin)).parent

# Lowest first. A module imports from its own folder and from those of lines above, never from the same line or below.
ORDER = (
    ("_version", "environment", "errors", "text"),
    ("files", "locks", "distributed"),
    ("config", "images"),
    ("hub", "dyhead", "grounding"),
    ("model",),
    ("data", "checkpoints", "runtime"),
    ("zoo", "evaluation", "prediction", "serving"),
    ("export", "explain", "hf_transformers"),
    ("training", "demo"),
    ("cli",),
    ("__main__",),
)
HEIGHT = {name: height for height, names in enumerate(ORDER) for name in names}
MODULES = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}

HEAVY = {
    "torch", "torchvision", "timm", "accelerate", "matplotlib", "numpy", "PIL", "pycocotools", "safetensors",
    "tensorboard", "jinja2", "wandb", "onnx", "onnxruntime", "openvino", "gradio", "fastapi", "uvicorn",
    "prometheus_client", "transformers",
    "huggingface_hub", "faster_coco_eval",
}  # fmt: skip


def imported_names(path: Path, relative: bool = False) -> Iterator[str]:
    """Full dotted names of all that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or relative, f"{path} has a relative import, expected a full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports. A package's public names are looked up when they are used,
    from modules above or below, and no import of its own."""
    found = {}
    for module, path in MODULES.items():
        lazy = path.name == "__init__.py" and "import_module" in path.read_text(encoding="utf-8")
        found[module] = set() if lazy else {home(name) for name in imported_names(path)} & set(MODULES) - {module}
    return found


def relative_imports(root: Path) -> dict[str, set[str]]:
    """The same of a package that names its modules relatively; names begin at its root."""
    paths = {path.relative_to(root).with_suffix("").parts: path for path in root.rglob("*.py")}
    modules = {parts[:-1] if parts[-1] == "__init__" else parts: path for parts, path in paths.items()}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        folder = path.relative_to(root).parts[:-1]
        targets = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = (*folder[: len(folder) - node.level + 1], *(node.module.split(".") if node.module else ()))
                targets |= {(*base, alias.name) if (*base, alias.name) in modules else base for alias in node.names}
        found[".".join(module)] = {".".join(target) for target in targets & set(modules) - {module}}
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


def test_imports_point_downward() -> None:
    """The order that the README's pipeline has: a reader who goes through it meets nothing that is not known yet."""
    top = {module: module.partition(".")[2].partition(".")[0] for module in MODULES}
    assert {name for name in top.values() if name} == set(HEIGHT)
    for module, targets in imports().items():
        for target in targets:
            if top[module] and top[target] != top[module]:
                assert HEIGHT[top[target]] < HEIGHT[top[module]], f"{module} imports {target}"


def test_no_two_files_import_each_other() -> None:
    """Neither do three in a circle: read from the lowest on, every name is known when it is met."""
    assert circle(imports()) is None


def test_no_two_folders_import_each_other() -> None:
    """A folder is one thing to those outside it, at every depth."""
    for depth in (2, 3, 4):
        folders: dict[str, set[str]] = {}
        for module, targets in imports().items():
            folder = cut(module, depth)
            folders.setdefault(folder, set()).update(cut(target, depth) for target in targets)
        for folder, targets in folders.items():
            # the package above a folder has its names; that they are not made there is the files' test
            targets -= {folder, *(".".join(folder.split(".")[:n]) for n in range(1, folder.count(".") + 1))}
        assert circle(folders) is None


def test_modules_that_are_named_in_strings_are_known() -> None:
    """Names of a package that are loaded when they are used, and the benchmarks, which lie elsewhere in a checkout."""
    dynamic = {"importlib.import_module", "importlib.util.spec_from_file_location", "importlib"}
    users = {module for module, path in MODULES.items() if dynamic & set(imported_names(path))}
    assert users == {"dyzoo", "dyzoo.data", "dyzoo.cli.bench", "dyzoo.model.detector", "dyzoo.model.prediction"}
    for package in (dyzoo, dyzoo.data):
        for name, module in package._HOMES.items():
            assert module in MODULES, name
            # found there as the type checker is told: `from MODULE import NAME as NAME`
            assert f"{module}.{name}" in set(imported_names(MODULES[package.__name__])), name


def test_benchmarks_stand_above_the_package_but_for_the_command_line() -> None:
    for path in BENCHMARKS.rglob("*.py"):
        for name in imported_names(path, relative=True):
            assert not name.startswith(("tests", "dyzoo.cli", "dyzoo.training")), f"{path} imports {name}"
    graph = relative_imports(BENCHMARKS)
    assert "rows" in graph["runner"]
    assert circle(graph) is None


def test_circles_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_nothing_imports_the_whole_package_for_its_version() -> None:
    for path in MODULES.values():
        assert "dyzoo.__version__" not in set(imported_names(path)), f"{path}: take dyzoo._version"


def test_the_environment_is_read_in_one_place() -> None:
    """A user finds every variable that changes something in one file."""
    readers = set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            if {"environ", "environb", "getenv", "getenvb"} & set(names):
                readers.add(module)
    assert readers == {"dyzoo.environment"}


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


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["train", "--help"], ("torch",)),
        (["data", "--help"], ("torch",)),
        (["list"], ("torch",)),
        (["list", "official_atss_r50"], ("torch",)),
        (["list", "official_atss_r50.coco"], ("torch",)),
        (["fetch", "--help"], ("torch",)),
        (["explain", "--help"], ("torch", "matplotlib", "jinja2")),
        (["demo", "--help"], ("torch", "gradio")),
        (["serve", "--help"], ("torch", "fastapi")),
        (["cache"], ("torch",)),
        (["data", "check", "voc", "-o", "checked"], ("torch", "timm")),
        (["data", "convert", "voc", "converted", "--to", "coco"], ("torch", "timm")),
    ],
    ids=lambda value: " ".join(value),
)
def test_commands_load_what_they_need(arguments: list[str], absent: tuple[str, ...], voc: Path, tmp_path: Path) -> None:
    (tmp_path / "voc").symlink_to(voc)
    code = (
        f"import sys, dyzoo.cli\ncode = dyzoo.cli.run({arguments!r})\n"
        f"print(code, *sorted(set(sys.modules) & {set(absent)!r}))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert process.stdout.splitlines()[-1].split() == ["0"], process.stdout


@pytest.mark.parametrize("package", [dyzoo, dyzoo.data], ids=lambda package: package.__name__)
def test_every_public_name_is_there(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'creat_model'"):
        package.creat_model  # noqa: B018


def test_tests_import_helpers_by_their_full_names_and_no_other_test() -> None:
    helpers = {path.stem for path in TESTS.rglob("*.py") if not path.name.startswith(("test_", "conftest"))}
    for path in TESTS.rglob("*.py"):
        for name in imported_names(path):
            first, *rest = name.split(".")
            assert first not in helpers, f"{path} imports {name}: write tests.FOLDER.{name}"
            assert first != "tests" or not any(part.startswith("test_") for part in rest), f"{path} imports {name}"
