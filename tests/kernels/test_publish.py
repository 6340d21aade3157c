"""The operators as a Hugging Face Hub kernel: what is staged, copies beside the installed package, the way to a Hub."""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.hub.hub_server import Hub

ROOT = Path(__file__).parents[2]
SCRIPT, PACKAGE = ROOT / "kernels" / "publish.py", ROOT / "kernels" / "dyhead_kernels"
VARIANTS = ("torch-cpu", "torch-cuda", "torch-rocm")
REPO_ID = "someone/dyhead-kernels"


def publish(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def python(code: str, folder: Path, **environment: str) -> list[str]:
    """The words that a fresh process prints; run outside the checkout, so that it finds what is installed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), **environment}
    command = [sys.executable, "-c", f"from kernel_copies import *\n{textwrap.dedent(code)}"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("publish") / "staged"
    process = publish("stage", "--out", folder)
    assert (process.returncode, process.stdout.strip()) == (0, str(folder)), process.stderr
    return folder


@pytest.fixture
def module() -> ModuleType:
    """publish.py, imported."""
    spec = importlib.util.spec_from_file_location("publish_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["publish_script"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def _kernels_library() -> None:
    """Skip without Hugging Face's `kernels`; the folder of that name in the checkout is not it."""
    try:
        metadata.version("kernels")
    except metadata.PackageNotFoundError:
        pytest.skip("Hugging Face's kernels is not installed: pip install 'dyzoo[kernels]'")


needs_kernels_library = pytest.mark.usefixtures("_kernels_library")


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_a_variant_holds_the_whole_package_and_no_more(staged: Path) -> None:
    assert sorted(path.name for path in staged.iterdir()) == ["LICENSE", "README.md", "benchmarks", "build"]
    assert sorted(path.name for path in (staged / "build").iterdir()) == sorted(VARIANTS)
    for variant in VARIANTS:
        files = files_in(staged / "build" / variant)
        files.pop("metadata.json")
        assert files == files_in(PACKAGE)
        assert {"__init__.py", "configs/default.json", "deform_conv/packed/kernels.py"} <= files.keys()


def test_metadata_says_what_kernels_reads(staged: Path) -> None:
    ids = set()
    for variant in VARIANTS:
        folder = staged / "build" / variant
        found = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        ids.add(found.pop("id"))
        digests = found.pop("digest")
        assert digests.pop("algorithm") == "sha256"
        assert digests.pop("files") == {
            name: base64.b64encode(hashlib.sha256(content).digest()).decode()
            for name, content in files_in(folder).items()
            if name != "metadata.json"
        }
        backend = variant.removeprefix("torch-")
        assert found == {
            "name": "dyhead-kernels",
            "version": 1,
            "license": "MIT",
            "python-depends": [],
            "backend": {"type": backend},
        }
    assert len(ids) == len(VARIANTS)
    assert all(name.isidentifier() for name in ids)


def test_the_id_changes_with_every_file_and_with_nothing_else(module: ModuleType) -> None:
    manifest = module.Manifest.read()
    contents = {"__init__.py": b"a = 1\n", "op.py": b"b = 2\n"}
    first = module.metadata(manifest, "cuda", contents)["id"]
    assert module.metadata(manifest, "cuda", dict(contents))["id"] == first
    changes = ({"op.py": b"b = 3\n"}, {"more.py": b""}, {"__init__.py": b"b = 2\n", "op.py": b"a = 1\n"})
    assert len({first, *(module.metadata(manifest, "cuda", {**contents, **change})["id"] for change in changes)}) == 4


def test_card_and_licence(staged: Path) -> None:
    card = (staged / "README.md").read_text(encoding="utf-8")
    front = card.split("---\n")[1]
    assert "license: mit\n" in front
    assert "  - kernel\n" in front
    assert 'get_kernel("OWNER/dyhead-kernels", version=1' in card
    assert "{" not in card
    assert (staged / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_card_names_the_public_functions() -> None:
    import dyhead_kernels

    card = (SCRIPT.parent / "CARD.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in card for name in dyhead_kernels.__all__ if name != "OffsetMode")


def test_no_staged_file_names_its_package_in_an_import(staged: Path) -> None:
    for path in (staged / "build").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                names += [str(node.args[0].value)] * ast.unparse(node.func).endswith("import_module")
            assert not any(name.startswith("dyhead_kernels") for name in names), path


def test_staging_again_replaces_what_was_staged(staged: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for _ in range(2):
        assert publish("stage", "--out", folder).returncode == 0
        assert files_in(folder) == files_in(staged)
        (folder / "build" / "torch-cpu" / "stale.py").touch()
        (folder / "LICENSE").write_text("")
        shutil.rmtree(folder / "benchmarks")  # as a version that had none left it
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["notes.txt", "README.md"])
def test_other_peoples_files_are_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    process = publish("stage", "--out", tmp_path)
    assert process.returncode == 1
    assert process.stderr.splitlines() == [
        f"publish: {tmp_path} holds other files, expected a new folder or one staged before: name another by --out"
    ]
    assert files_in(tmp_path) == {name: b"mine"}


def test_staging_that_fails_leaves_the_folder_as_it_was(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = module.stage(tmp_path / "out")
    before = files_in(folder)
    monkeypatch.setattr(module, "LICENSE", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        module.stage(folder)
    assert files_in(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("text", "message"),
    [("[general", r"build\.toml is not TOML: "), ('[general]\nname = "a"\n', r"build\.toml lacks 'torch-noarch'")],
)
def test_a_broken_manifest_is_named(module: ModuleType, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "build.toml"
    path.write_text(text)
    with pytest.raises(module.PublishError, match=message):
        module.Manifest.read(path)


def test_copies_under_other_names_work_beside_the_installed_package(staged: Path, tmp_path: Path) -> None:
    """Each registers operators of its own: PyTorch would let a second registration replace the first in silence."""
    code = f"""
        import importlib, dyhead_kernels as installed
        copies = [load("{staged}/build/torch-" + backend, "copy_on_" + backend) for backend in ("cpu", "cuda")]
        expected = run(installed)
        for module in (*copies, installed):
            own, calls = importlib.import_module(module.__name__ + ".deform_conv.torch"), []
            forward = own.forward
            own.forward = lambda *arguments: calls.append(1) or forward(*arguments)
            assert same(run(module), expected)
            own.forward = forward
            assert calls == [1], module
            assert {{"deform_conv", "dyhead_block"}} <= set(dir(getattr(torch.ops, module.__name__)))
    """
    python(code, tmp_path)


def test_a_copy_runs_triton_kernels(staged: Path, tmp_path: Path, triton_device: torch.device) -> None:
    variant = "torch-cuda" if triton_device.type == "cuda" else "torch-cpu"
    code = f"""
        module = load("{staged}/build/{variant}", "another_name")
        for x, y in zip(run(module, "{triton_device}", backend="triton"), run(module, backend="torch"), strict=True):
            torch.testing.assert_close(x.cpu(), y, atol=2e-3, rtol=2e-3)
        print(*(name for name in sys.modules if name.startswith("dyhead_kernels")))
    """
    assert python(code, tmp_path) == []


@needs_kernels_library
def test_hugging_faces_loader_takes_the_staged_folder(staged: Path, tmp_path: Path) -> None:
    code = f"""
        import dyhead_kernels, kernels
        from kernels._rust import Build, Digest, DigestAlgorithm, Metadata
        Build.open("{SCRIPT.parent}")
        staged = Path("{staged}")
        for backend in (None, "cpu"):
            module = kernels.get_local_kernel(staged, backend=backend)
            assert module is not dyhead_kernels
            assert same(run(module), run(dyhead_kernels))
            print(module.__name__.rpartition("_")[0])
        for folder in (staged / "build").iterdir():
            found = Metadata.read_from_file(folder / "metadata.json")
            found.digest.validate(Digest.hash_variant(DigestAlgorithm.SHA256, folder))
    """
    own, cpu = python(code, tmp_path)
    assert own in ("_dyhead_kernels_cpu", "_dyhead_kernels_cuda", "_dyhead_kernels_rocm")
    assert cpu == "_dyhead_kernels_cpu"


@needs_kernels_library
def test_hugging_faces_benchmark_command_takes_the_staged_folder(staged: Path, tmp_path: Path) -> None:
    """Its own code finds the classes and runs every workload, verified, on maps small enough for a CPU."""
    code = f"""
        from kernels.cli import benchmark
        staged = Path("{staged}")
        (script,) = benchmark.discover_benchmark_scripts("staged", staged)
        for cls in benchmark.discover_benchmark_classes(script, staged):
            sys.modules[cls.__module__].SHAPES = ((9, 12), (5, 6))
            sys.modules[cls.__module__].CHANNELS = 32
            found, _ = benchmark.run_benchmark_class(cls, 2, 1, str(staged), True, "local")
            for name, timing in sorted(found.items()):
                print(f"{{cls.__name__}}.{{name}}", timing.verified, timing.iterations)
    """
    assert python(code, tmp_path) == [
        *("DyHeadBlock.float32", "True", "2"),
        *("ModulatedDeformConv.bfloat16", "True", "2"),
        *("ModulatedDeformConv.float32", "True", "2"),
    ]


def hub_environment(hub: Hub, folder: Path) -> dict[str, str]:
    """Settings that make huggingface_hub use the loopback Hub, and keep its files in `folder`."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "no_proxy": "127.0.0.1",
    }


def test_push_makes_repository_branch_and_card(staged: Path, tmp_path: Path) -> None:
    with Hub() as hub:
        environment = hub_environment(hub, tmp_path)
        process = publish("push", REPO_ID, "--private", **environment)
        assert process.returncode == 0, process.stderr
        repo = hub.repos["kernels", REPO_ID]
        assert process.stdout.strip().endswith(repo.at("v1").sha)
        assert repo.private
        expected = files_in(staged)
        card = expected["README.md"].replace(b"OWNER/dyhead-kernels", REPO_ID.encode())
        assert repo.at("v1").tree == {**expected, "README.md": card}
        assert repo.at("main").tree == {"README.md": card, "LICENSE": expected["LICENSE"]}

        hub.add(REPO_ID, {"build/torch-cpu/stale.py": b"", "notes.md": b"kept"}, "v1", "kernels")
        assert publish("push", REPO_ID, **environment).returncode == 0
        assert repo.at("v1").tree == {**expected, "README.md": card, "notes.md": b"kept"}

        main = repo.at("main").sha
        assert publish("push", REPO_ID, "--revision", "trial", **environment).returncode == 0
        assert repo.at("trial").tree.keys() >= expected.keys()
        assert repo.at("main").sha == main


def test_a_push_that_fails_says_so_in_one_line(tmp_path: Path) -> None:
    with Hub() as hub:
        environment = hub_environment(hub, tmp_path)
        refused = publish("push", REPO_ID, **{**environment, "HF_TOKEN": "hf_wrong"})
        unnamed = publish("push", "dyhead-kernels", **environment)
        misnamed = publish("push", "some one/dyhead-kernels", **environment)
        assert not hub.repos
    away = publish("push", REPO_ID, **environment)
    for process, message in (
        (refused, "the Hub refuses: set HF_TOKEN to one that may write to someone"),
        (unnamed, "the repository is 'dyhead-kernels', expected OWNER/NAME"),
        (misnamed, "some one/dyhead-kernels"),
        (away, f"{hub.url} does not answer: "),
    ):
        assert process.returncode == 1
        assert len(process.stderr.splitlines()) == 1, process.stderr
        assert process.stderr.startswith("publish: ")
        assert message in process.stderr


@needs_kernels_library
def test_what_was_pushed_loads_from_the_hub(tmp_path: Path) -> None:
    with Hub() as hub:
        environment = hub_environment(hub, tmp_path)
        assert publish("push", REPO_ID, **environment).returncode == 0
        code = f"""
            import dyhead_kernels, kernels
            module = kernels.get_kernel("{REPO_ID}", version=1, trust_remote_code=["{REPO_ID}"])
            assert same(run(module), run(dyhead_kernels))
            print(module.__file__)
        """
        (path,) = python(code, tmp_path, **environment)
    assert path.startswith(str(tmp_path / "hf"))
