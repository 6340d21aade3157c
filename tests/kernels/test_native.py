"""The compiled loops of the form for CPUs: against the reference, on any number of threads, and where absent."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dyhead_kernels import backends, compiled, modulated_deform_conv2d
from dyhead_kernels.deform_conv.packed import native

from tests.kernels.conv_cases import CASES, Case, assert_all_near, every_case, forward_and_gradients, in_float64

needs_compiler = pytest.mark.skipif(shutil.which(backends.compiler_name()) is None, reason="no C++ compiler")
WIDE = Case(channels=70, out_channels=67, size=(13, 17), batch=2)  # more than one block and panel, none of them full


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Nothing is known of libraries before and after."""
    compiled.library.cache_clear()
    yield
    compiled.library.cache_clear()


@needs_compiler
def test_float32_on_a_cpu_is_served() -> None:
    assert compiled.library(native.SOURCE) is not None
    assert native._number("panels_size", native.Products.FLOAT32, 1, 1) in (8, 16, 32)


@needs_compiler
@every_case
@pytest.mark.usefixtures("poisoned_memory")
def test_agrees_with_the_reference(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    call = native._call
    monkeypatch.setattr(native, "_call", lambda name, *arguments: calls.append(name) or call(name, *arguments))
    tensors = case.tensors(torch.float32)
    expected = forward_and_gradients(modulated_deform_conv2d, in_float64(tensors), **case.geometry, backend="reference")
    actual = forward_and_gradients(modulated_deform_conv2d, tensors, **case.geometry, backend="torch")
    assert {"deform_conv_forward", "deform_conv_backward", "deform_conv_weight_backward"} <= set(calls)
    assert_all_near(actual, expected, torch.float32)


@needs_compiler
@pytest.mark.parametrize("offset_scale", [1.0, 20.0])
def test_many_tiles_chunks_blocks_and_parts_agree_with_the_reference(
    offset_scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "CHUNK_BYTES", 1)
    monkeypatch.setattr(native, "BLOCK_CHANNELS", 32)
    monkeypatch.setattr(native, "LEAST_PART", 100)
    tensors = WIDE.tensors(torch.float32, offset_scale)
    expected = forward_and_gradients(modulated_deform_conv2d, in_float64(tensors), padding=1, backend="reference")
    assert_all_near(forward_and_gradients(modulated_deform_conv2d, tensors, padding=1), expected, torch.float32)


@needs_compiler
def test_any_number_of_threads_gives_the_same_bits() -> None:
    tensors = WIDE.tensors(torch.float32)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(forward_and_gradients(modulated_deform_conv2d, tensors, padding=1))
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(other[name], value), name


@needs_compiler
@pytest.mark.parametrize("wanted", ["input", "offset", "mask", "weight"])
def test_each_gradient_alone_is_that_of_all(wanted: str) -> None:
    tensors = replace(WIDE, size=(5, 6)).tensors(torch.float32)
    together = forward_and_gradients(modulated_deform_conv2d, tensors, padding=1)
    alone = {name: tensor.detach().requires_grad_(name == wanted) for name, tensor in tensors.items()}
    found = forward_and_gradients(modulated_deform_conv2d, alone, padding=1)
    assert torch.equal(found[wanted], together[wanted])


@needs_compiler
@pytest.mark.parametrize("empty", [{"batch": 0}, {"out_channels": 0}], ids=str)
def test_nothing_to_do(empty: dict[str, int]) -> None:
    tensors = replace(CASES["plain"], **empty).tensors(torch.float32)
    found = forward_and_gradients(modulated_deform_conv2d, tensors, padding=1)
    expected = forward_and_gradients(modulated_deform_conv2d, tensors, padding=1, backend="reference")
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert not found[name].any()


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("why", ["not wanted", "no compiler", "no source"])
def test_without_a_library_pytorch_does_it(
    why: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    if why == "not wanted":
        monkeypatch.setenv(backends.NATIVE_VARIABLE, "0")
    elif why == "no compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    else:
        monkeypatch.setattr(native, "SOURCE", Path("absent.cpp"))
    monkeypatch.setattr(native, "forward", None)  # would fail if it were called
    tensors = CASES["plain"].tensors(torch.float32)
    expected = modulated_deform_conv2d(**in_float64(tensors), padding=1, backend="reference")
    assert_all_near({"output": modulated_deform_conv2d(**tensors, padding=1)}, {"output": expected}, torch.float32)
    assert not recwarn.list


@needs_compiler
@pytest.mark.usefixtures("forgetful")
def test_a_source_that_does_not_compile_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "broken.cpp"
    source.write_text("int main( {\n", encoding="utf-8")
    with pytest.warns(UserWarning, match=r"broken\.cpp cannot be compiled, PyTorch's operators do its work: .*error"):
        assert compiled.library(source) is None
    assert list((tmp_path / "cache").rglob("*.so")) == []
    assert (
        compiled.library(source) is None
    )  # and no second warning: the suite turns none into an error, this one counts


@needs_compiler
@pytest.mark.usefixtures("forgetful")
def test_a_compiler_that_writes_rubbish_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiler = tmp_path / "fake"
    compiler.write_text('#!/bin/sh\nfor last; do [ "$past" = -o ] && echo rubbish > "$last"; past=$last; done\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.warns(UserWarning, match="cannot be compiled"):
        assert compiled.library(native.SOURCE) is None


@needs_compiler
@pytest.mark.usefixtures("forgetful")
def test_a_folder_that_others_can_write_to_is_not_run_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "dyhead_kernels"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match="can be written by others"):
        assert compiled.library(native.SOURCE) is None
    assert not list(folder.iterdir())


@needs_compiler
@pytest.mark.usefixtures("forgetful")
def test_a_compiler_behind_another_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", f"env {backends.compiler_name()}")
    assert compiled.library(native.SOURCE) is not None


@needs_compiler
@pytest.mark.usefixtures("forgetful")
def test_what_was_compiled_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.library(native.SOURCE) is not None
    (path,) = tmp_path.rglob("*.so")
    assert path.parent.stat().st_mode & 0o077 == 0
    compiled.library.cache_clear()
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("compiled again"))
    assert compiled.library(native.SOURCE) is not None


@needs_compiler
def test_one_openmp_runtime_is_loaded() -> None:
    """A second one's threads would wait for the first one's."""
    script = (
        "import torch; from dyhead_kernels import compiled; from dyhead_kernels.deform_conv.packed import native\n"
        "torch.mm(torch.ones(300, 300), torch.ones(300, 300)); assert compiled.library(native.SOURCE)\n"
        "names = {line.split()[-1] for line in open('/proc/self/maps') if 'omp' in line.rsplit('/')[-1]}\n"
        "print(len({name for name in names if 'gomp' in name or 'iomp' in name}))"
    )
    if not Path("/proc/self/maps").is_file():
        pytest.skip("no /proc here")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
