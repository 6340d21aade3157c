"""Fixtures for the operators' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded_and_single_threaded() -> Iterator[None]:
    """One thread: on maps of a few pixels, waiting for each other is all that more of them do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory from `torch.empty` and its kin is filled with NaN, so that a value never written shows."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of a few positions, so that small maps take many chunks, and the product meant for large maps."""
    torch.set_num_threads(2)
    monkeypatch.setattr("dyhead_kernels.sampled_conv.CHUNK_BYTES", 5000)
    monkeypatch.setattr("dyhead_kernels.sampled_conv.MIN_CONV_ROWS", 2)
