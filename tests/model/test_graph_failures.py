"""Networks that cannot be captured as a CUDA graph run as ever; on graphs that are made up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dyzoo.model.detector import Detector
from tests.model.made_up_cuda import SEEN_OFTEN, MadeUpCuda, look, look_often, make_up_cuda, picture
from tests.model.narrow_detectors import eager_detector

pytestmark = pytest.mark.filterwarnings("ignore::dyzoo.model.missed.MissedWarning")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> MadeUpCuda:
    return make_up_cuda(monkeypatch)


@pytest.fixture
def detector() -> Detector:
    return eager_detector()


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted\nwhen stream is capturing"), KeyError("odd")])
def test_what_cannot_be_captured_runs_as_ever_and_says_so_once(
    error: Exception, cuda: MadeUpCuda, detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    image = picture()
    expected = look(detector, image)
    look_often(detector, picture(width=64))
    cuda.failure = error
    with caplog.at_level(logging.WARNING, "dyzoo.model"):
        for _ in range(8):
            assert look(detector, image) == expected
        look_often(detector, picture(width=64))
    assert (cuda.captures, cuda.replays) == (2, 1)
    (record,) = caplog.records
    assert record.getMessage() == (
        "this model runs without CUDA graphs, which changes nothing but its speed: "
        f"{str(error).splitlines()[0]} (DYZOO_CUDA_GRAPHS=0 does not try)"
    )


@pytest.mark.parametrize("is_broken_off", [False, True])
def test_the_allocator_hears_of_the_end_of_a_capture(is_broken_off: bool, cuda: MadeUpCuda, detector: Detector) -> None:
    cuda.failure, cuda.is_broken_off = RuntimeError("invalidated"), is_broken_off
    look_often(detector, picture())
    assert cuda.captures == 1
    assert cuda.order == (["the allocator has ended", "its pool is released"] if is_broken_off else [])


class Asks(nn.Module):
    """The identity, after a value has been waited for."""

    def __init__(self, ask: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.ask = ask

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        self.ask(maps[0])
        return maps


@pytest.mark.parametrize(
    "ask",
    [
        lambda maps: float(maps.sum()),
        lambda maps: maps.nonzero(),
        lambda maps: maps[maps > 0],
        lambda maps: bool((maps > 0).any()),
        lambda maps: maps.clone().__setitem__(maps > 0, torch.ones(1)),
        lambda maps: maps.unique(),
        lambda maps: torch.where(maps > 0),
        lambda maps: maps.new_ones(2, device="meta"),
    ],
)
def test_what_waits_for_the_gpu_is_found_before_a_capture(
    ask: Callable[[Tensor], Any], cuda: MadeUpCuda, detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    """A capture that fails costs the process more than a run that does."""
    image = picture()
    expected = look(detector, image)
    detector.fpn = nn.Sequential(detector.fpn, Asks(ask))  # type: ignore[assignment]
    for _ in range(SEEN_OFTEN + 1):
        assert look(detector, image) == expected
    assert cuda.captures == 0
    assert len(caplog.records) == 1


def test_tables_that_are_read_by_index_are_captured(cuda: MadeUpCuda, detector: Detector) -> None:
    """Swin's biases, for one."""
    indices = torch.tensor([[0, 1], [1, 0]])
    detector.fpn = nn.Sequential(detector.fpn, Asks(lambda maps: maps[:, indices]))  # type: ignore[assignment]
    look_often(detector, picture())
    assert cuda.replays == 1


def test_a_full_memory_while_capturing_is_no_failure(
    cuda: MadeUpCuda, detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.failure = torch.OutOfMemoryError("full")
    look_often(detector, picture())
    cuda.failure = None
    assert (cuda.captures, cuda.replays, caplog.records) == (1, 0, [])
    for _ in range(2):
        look_often(detector, picture())
    assert cuda.replays > 0


class CountsItsCalls(nn.Module):
    """The identity, which remembers how often it was called."""

    calls = 0

    def forward(self, given: Any) -> Any:
        self.calls += 1
        return given


def test_a_model_that_changes_itself_is_called_every_time(cuda: MadeUpCuda, detector: Detector) -> None:
    counts = CountsItsCalls()
    detector.fpn = nn.Sequential(detector.fpn, counts)  # type: ignore[assignment]
    for _ in range(8):
        look(detector, picture())
    assert (cuda.captures, counts.calls) == (0, 8)
