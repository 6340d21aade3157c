"""The choice of a form."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from dyhead_kernels import BlockParameters, Pyramid, backends, dyhead_block, modulated_deform_conv2d
from dyhead_kernels.backends import ENVIRONMENT_VARIABLE, check_triton, resolve_backend
from dyhead_kernels.dyhead_block.parameters import OFFSETS, parameter_shapes

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_auto_takes_the_fastest_form_of_the_device() -> None:
    assert resolve_backend("auto", CPU) == "torch"
    assert resolve_backend("auto", torch.device("meta")) == "torch"
    assert resolve_backend("auto", CUDA) == "triton"


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_the_environment_decides_for_auto_only(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "reference")
    assert resolve_backend("auto", device) == "reference"
    assert resolve_backend("torch", device) == "torch"


def test_a_wrong_name_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "fast")
    expected = "DYHEAD_KERNELS_BACKEND is 'fast', expected one of auto, reference, torch, triton"
    with pytest.raises(ValueError, match=expected):
        resolve_backend("auto", CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_triton_serves_cuda_devices_and_the_interpreter(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "TRITON_IS_INSTALLED", True)
    check_triton(CUDA, dtype)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    check_triton(CPU, dtype)


def test_where_triton_cannot_serve_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    way_out = 'pass backend="torch" or backend="reference"'
    monkeypatch.setattr(backends, "TRITON_IS_INSTALLED", True)
    with pytest.raises(RuntimeError, match=f"the input is on cpu, expected a CUDA device .*{way_out}"):
        check_triton(CPU, torch.float32)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="the input is on cpu"):
        check_triton(CPU, torch.float32)
    with pytest.raises(TypeError, match=rf"torch\.float64, expected float32, float16 or bfloat16 .*{way_out}"):
        check_triton(CUDA, torch.float64)
    monkeypatch.setattr(backends, "TRITON_IS_INSTALLED", False)
    with pytest.raises(RuntimeError, match=f"triton is not installed, expected .*{way_out}"):
        check_triton(CUDA, torch.float32)


def test_both_operators_ask_before_they_take_triton() -> None:
    parameters = BlockParameters(**{name: torch.zeros(shape) for name, shape in parameter_shapes(8, 8, 2).items()})
    pyramid = Pyramid(torch.zeros(1, 4, 8), ((2, 2),))
    with pytest.raises(RuntimeError, match=r"the input is on cpu|triton is not installed"):
        dyhead_block(pyramid, parameters, offset_mode="crop", norm_groups=4, backend="triton")
    input, offset, weight = torch.zeros(1, 8, 2, 2), torch.zeros(1, OFFSETS, 2, 2), torch.zeros(8, 8, 3, 3)
    with pytest.raises(RuntimeError, match=r"the input is on cpu|triton is not installed"):
        modulated_deform_conv2d(input, offset, weight, padding=1, backend="triton")


def test_importing_the_operators_does_not_import_triton() -> None:
    code = """if True:
        import builtins
        plain = builtins.__import__
        def guarded(name, globals=None, *rest):
            importer = (globals or {}).get("__name__", "")
            assert not (name.partition(".")[0] == "triton" and importer.startswith("dyhead_kernels")), importer
            return plain(name, globals, *rest)
        builtins.__import__ = guarded
        import dyhead_kernels, sys
        assert not [name for name in sys.modules if name.startswith("dyhead_kernels") and "triton" in name]
    """
    subprocess.run([sys.executable, "-c", code], check=True)
