"""An evaluation measures time, size and memory."""

from __future__ import annotations

import json
import math
import mmap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dyzoo.evaluation import Cost, evaluate, evaluate_together, running
from dyzoo.evaluation.cost import TIMED_BATCHES, WARM_UP_BATCHES, Stopwatch
from dyzoo.images.detections import Detections
from tests.evaluation.evaluation_cases import TRUTH, Oracle, make_dataset, the_truth


class Module(nn.Module):
    """A predictor that is a torch module."""

    labels = ("cat", "dog", "bird")

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)  # 20 parameters of 4 bytes
        self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))

    def predict(self, images: Any, threshold: float = 0.3, size: Any = None, batch_size: int = 1) -> list[Detections]:
        return Oracle(the_truth).predict(images)


class Clock:
    """A clock that only `predict` moves, by the seconds given in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> None:
        self.now, self.left = 0.0, list(seconds)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def wrap(self, model: Any) -> Any:
        predict = model.predict

        def slow(images: Any, *arguments: Any, **options: Any) -> Any:
            self.now += self.left.pop(0)
            return predict(images, *arguments, **options)

        model.predict = slow
        return model


def timed(folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: list[float], images: int, batch_size: int) -> Cost:
    dataset = make_dataset(folder, [TRUTH[0]] * images)
    model = Clock(monkeypatch, seconds).wrap(Oracle(lambda _: []))
    found = evaluate(model, dataset, batch_size=batch_size, progress=False).cost
    assert found is not None
    return found


def test_an_images_time_is_its_share_of_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = timed(tmp_path, monkeypatch, [0.2, 0.4, 0.9], images=5, batch_size=2)
    assert (found.images, found.warm_up_images, found.batch_size) == (5, 0, 2)
    assert found.median_ms == pytest.approx(200)  # of 100, 100, 200, 200 and 900 ms
    assert found.p95_ms == pytest.approx(200 + 0.8 * 700)
    assert found.images_per_s == pytest.approx(5 / 1.5)


def test_the_first_batches_warm_up_where_enough_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enough = WARM_UP_BATCHES + TIMED_BATCHES
    seconds = [9.0] * WARM_UP_BATCHES + [0.1] * TIMED_BATCHES
    found = timed(tmp_path, monkeypatch, seconds, images=enough, batch_size=1)
    assert (found.images, found.warm_up_images) == (TIMED_BATCHES, WARM_UP_BATCHES)
    assert found.p95_ms == pytest.approx(100)
    found = timed(tmp_path, monkeypatch, seconds[:-1], images=enough - 1, batch_size=1)
    assert (found.images, found.warm_up_images) == (enough - 1, 0)


def test_reading_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, [0.5] * 2)
    read = running.read_image

    def slow(path: Path) -> Any:
        clock.now += 100
        return read(path)

    monkeypatch.setattr(running, "read_image", slow)
    found = evaluate(clock.wrap(Oracle(the_truth)), make_dataset(tmp_path, TRUTH[:2]), progress=False).cost
    assert found is not None
    assert found.median_ms == pytest.approx(500)


def test_images_that_cannot_be_read_are_not_counted(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    dataset.samples[1].image_path.unlink()
    found = evaluate(Oracle(the_truth), dataset).cost
    assert found is not None
    assert found.images == 3


def test_together_the_main_process_tells_of_its_own_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "process_count", lambda: 2)
    for gather in ("gather_everywhere", "gather_on_main"):
        monkeypatch.setattr(running, gather, lambda mine: [mine, [[] for _ in mine]])
    found = evaluate_together(Oracle(the_truth), make_dataset(tmp_path), progress=False)
    assert found is not None
    assert found.cost is not None
    assert (found.num_images, found.cost.images) == (4, 2)


def test_a_predictor_that_is_no_module_has_times_but_no_size(tmp_path: Path) -> None:
    found = evaluate(Oracle(the_truth), make_dataset(tmp_path)).cost
    assert found is not None
    assert (found.device, found.threads, found.parameters, found.weights_mb) == (None, None, None, None)
    assert found.images == 4
    assert dict(found.facts())["parameters"] == "-"


def test_a_module_tells_its_size_and_device(tmp_path: Path) -> None:
    found = evaluate(Module(), make_dataset(tmp_path)).cost
    assert found is not None
    assert (found.parameters, found.weights_mb) == (20, pytest.approx((20 * 4 + 4 * 8) / 1e6))
    assert found.device is not None
    assert found.device.startswith("cpu")
    assert found.threads == torch.get_num_threads()
    assert found.memory_kind == "peak resident memory of the process"


def take_and_give_back(size: int) -> None:
    """Let the process hold so many bytes more for a moment, past the allocators that keep what they have been given."""
    with mmap.mmap(-1, size) as memory:
        for page in range(0, size, mmap.PAGESIZE):
            memory[page] = 1


def test_memory_of_the_process_is_the_peak_since_the_evaluation_began() -> None:
    size = 300_000_000
    take_and_give_back(2 * size)
    stopwatch = Stopwatch(Module(), 1)
    first = stopwatch.cost().peak_memory_mb
    if first is None:
        pytest.skip("this system does not tell a process's memory")
    take_and_give_back(size)
    later = stopwatch.cost().peak_memory_mb
    assert later is not None
    # Not all of it: meanwhile the system may take other pages of a large process away.
    assert later - first > 0.5 * size / 1e6 or not Path("/proc/self/clear_refs").exists()


def test_facts_are_labels_with_values_and_json_is_plain(tmp_path: Path) -> None:
    found = evaluate(Module(), make_dataset(tmp_path)).cost
    assert found is not None
    facts = found.facts()
    assert all(isinstance(text, str) and text for fact in facts for text in fact)
    assert len({label for label, _ in facts}) == len(facts)
    assert dict(facts)["parameters"] == "20"
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    assert all(
        value is None or not isinstance(value, float) or math.isfinite(value) for value in found.to_dict().values()
    )


def test_the_evaluations_json_holds_the_cost(tmp_path: Path) -> None:
    evaluation = evaluate(Module(), make_dataset(tmp_path))
    evaluation.save(tmp_path / "report")
    assert evaluation.cost is not None
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["cost"] == evaluation.cost.to_dict()


def test_a_large_model_is_in_millions() -> None:
    facts = dict(Cost("cpu", 2, 38_900_000, 155.6, 1, 10, 3, 1234.5, 8.25, 0.81, 2000.0, "peak").facts())
    assert facts["device"] == "cpu, 2 threads"
    assert facts["parameters"] == "38.90 M"
    assert (facts["time an image, median"], facts["time an image, 95th percentile"]) == ("1234 ms", "8.25 ms")
    assert facts["images timed"] == "10 after 3 to warm up, 1 at a time"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_device_is_waited_for_and_its_memory_measured(tmp_path: Path) -> None:
    class Busy(Module):
        def predict(self, images: Any, *arguments: Any, **options: Any) -> list[Detections]:
            product = torch.ones(4096, 4096, device="cuda")
            for _ in range(50):
                product = product @ product
            return super().predict(images)

    found = evaluate(Busy().cuda(), make_dataset(tmp_path, [TRUTH[0]] * 12)).cost
    assert found is not None
    assert found.device is not None
    assert found.device.startswith("cuda:0 (")
    assert found.threads is None
    assert found.memory_kind == "peak GPU memory allocated"
    assert found.peak_memory_mb is not None
    assert found.peak_memory_mb > 4096 * 4096 * 4 / 1e6
    assert found.median_ms is not None
    assert found.median_ms > 1  # 50 products of 137 GFLOP are not finished when they are queued
