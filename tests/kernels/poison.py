"""Fresh memory filled with what shows, so that a value never written does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


def poison_allocations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill memory from `torch.empty` and its kin with NaN, integers with -1."""

    def poisoning(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def allocate_poisoned(*arguments: Any, **options: Any) -> torch.Tensor:
            tensor = allocate(*arguments, **options)
            return tensor.fill_(float("nan") if tensor.is_floating_point() else -1)

        return allocate_poisoned

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoning(getattr(owner, name)))
    assert torch.zeros(2).new_empty(3).isnan().all()
