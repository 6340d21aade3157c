"""The choice of a form."""

from __future__ import annotations

import pytest
from dyhead_kernels.backends import ENVIRONMENT_VARIABLE, resolve_backend


def test_auto_takes_the_fast_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    assert resolve_backend("auto") == "torch"


def test_the_environment_decides_for_auto_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYHEAD_KERNELS_BACKEND", "reference")
    assert resolve_backend("auto") == "reference"
    assert resolve_backend("torch") == "torch"


def test_a_wrong_name_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYHEAD_KERNELS_BACKEND", "fast")
    with pytest.raises(ValueError, match="DYHEAD_KERNELS_BACKEND is 'fast', expected one of auto, reference, torch"):
        resolve_backend("auto")
