"""CUDA graphs of whole detectors, on a GPU."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dyzoo.config import FasterRCNNConfig, HeadConfig
from dyzoo.model.detector import Detector
from dyzoo.model.graphs import raw_maps, replaying
from dyzoo.model.heads.base import Raw
from tests.model.made_up_cuda import boxes, picture
from tests.model.narrow_detectors import eager_detector, narrow_detector

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::dyzoo.model.missed.MissedWarning"),
]

SEEN_OFTEN = replaying.RUNS_BEFORE + 1


@pytest.fixture(autouse=True)
def _graphs_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DYZOO_CUDA_GRAPHS", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def graph_count(detector: Detector) -> int:
    return len(replaying._graphs[detector]._recordings) if detector in replaying._graphs else 0


def eager(detector: Detector, batch: Tensor) -> Raw:
    with torch.inference_mode():
        return detector.forward_head(detector.forward_features(batch))


def replayed(detector: Detector, batch: Tensor) -> Raw:
    with torch.inference_mode():
        for _ in range(SEEN_OFTEN):
            raw = raw_maps(detector, batch)
    return raw


def assert_equal(found: Raw, expected: Raw) -> None:
    """Kernels are those of a run; only cuDNN may choose another algorithm, where memory is another."""
    assert found.keys() == expected.keys()
    tolerance = 2e-2 if expected["box"][0].dtype.itemsize == 2 else 1e-4
    for kind, levels in expected.items():
        for level, wanted in zip(found[kind], levels, strict=True):
            torch.testing.assert_close(level, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_replays_give_what_runs_give(dtype: torch.dtype) -> None:
    detector = eager_detector().to("cuda", dtype)
    sizes = [(1, 64, 96), (1, 96, 64), (2, 64, 96)]
    batches = [
        torch.randn(count, 3, height, width, device="cuda").to(dtype).contiguous(memory_format=torch.channels_last)
        for count, height, width in sizes
    ]
    for batch in batches:
        replayed(detector, batch)
    assert graph_count(detector) == len(sizes)
    for batch in [*batches, *(batch.flip(0, 3) for batch in reversed(batches))]:
        assert_equal(replayed(detector, batch), eager(detector, batch))


@pytest.mark.parametrize("head", [None, FasterRCNNConfig()], ids=["atss", "faster_rcnn"])
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_predictions_are_those_without_graphs(
    head: HeadConfig | None, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = eager_detector() if head is None else narrow_detector((64, 128), head=head)
    detector = detector.cuda()
    images = [picture(seed=seed) for seed in range(4)]
    settings: dict[str, Any] = {"size": "native", "precision": precision}
    found = [detector.predict(image, 0.01, **settings)[0] for image in [*images[:3], *images]][3:]
    assert graph_count(detector) == 1
    monkeypatch.setenv("DYZOO_CUDA_GRAPHS", "0")
    for image, each in zip(images, found, strict=True):
        (expected,) = detector.predict(image, 0.01, **settings)
        assert len(each) == len(expected)
        torch.testing.assert_close(each.scores, expected.scores, rtol=1e-2, atol=1e-2)


def test_weights_that_are_written_to_or_exchanged_are_seen() -> None:
    detector, batch = eager_detector().cuda(), torch.randn(1, 3, 64, 96, device="cuda")
    before = replayed(detector, batch)
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.1)
    detector.train()
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([0])}
    sum(detector([picture()], [target]).values()).backward()
    optimizer.step()
    detector.eval()
    stepped = replayed(detector, batch)
    assert_equal(stepped, eager(detector, batch))
    assert not torch.equal(stepped["cls"][0], before["cls"][0])
    detector.load_state_dict({name: tensor * 1.1 for name, tensor in detector.state_dict().items()}, assign=True)
    assert_equal(replayed(detector, batch), eager(detector, batch))
    assert graph_count(detector) == 1


def test_two_threads_with_streams_of_their_own() -> None:
    detector = eager_detector().cuda()
    images = [picture(seed=seed, width=64 + 32 * (seed % 2)) for seed in range(4)]
    settings: dict[str, Any] = {"size": "native", "workers": 0}
    expected = [boxes(detector.predict(image, 0.01, **settings)) for image in images]
    wrong: list[tuple[Any, Any]] = []

    def predict(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for turn in range(20):
                index = (turn + number) % 4
                found = boxes(detector.predict(images[index], 0.01, **settings))
                if len(found[0][1]) != len(expected[index][0][1]) or any(
                    abs(a - b) > 1e-3 for a, b in zip(found[0][1], expected[index][0][1], strict=True)
                ):
                    wrong.append((found, expected[index]))

    threads = [threading.Thread(target=predict, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert graph_count(detector) == 2


def test_the_memory_of_many_sizes_is_bounded() -> None:
    """A further size takes a further answer, and no working memory where a larger one has been."""
    detector = eager_detector().cuda()
    widths = [512 - 32 * index for index in range(2 * replaying.MOST_GRAPHS)]
    taken = []
    for width in widths:
        with torch.inference_mode():
            for _ in range(40):
                raw_maps(detector, torch.zeros(1, 3, 256, width, device="cuda"))
        pool = replaying._graphs[detector]._pool
        taken.append(0.0 if pool is None else pool.share_of_memory(torch.device("cuda")))
    assert graph_count(detector) == replaying.MOST_GRAPHS
    assert 0 < taken[-1] <= 4 * taken[0]
    detector.cpu()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert graph_count(detector) == 0


class Asks(nn.Module):
    """The identity, which waits for a value, as no captured pass can."""

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return maps if float(maps[0].sum()) >= 0 else list(maps)


def test_a_pass_that_waits_for_the_gpu_runs_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    detector, batch = eager_detector().cuda(), torch.randn(1, 3, 64, 96, device="cuda")
    detector.fpn = nn.Sequential(detector.fpn, Asks())  # type: ignore[assignment]
    for _ in range(2):
        assert_equal(replayed(detector, batch), eager(detector, batch))
    assert graph_count(detector) == 0
    (record,) = caplog.records
    assert "runs without CUDA graphs" in record.getMessage()
    assert_equal(
        replayed(other := eager_detector().cuda(), batch), eager(other, batch)
    )  # the GPU is not the worse for it
    assert graph_count(other) == 1


def test_a_user_s_own_capture_is_left_alone() -> None:
    detector, batch = eager_detector().cuda(), torch.randn(1, 3, 64, 96, device="cuda")
    expected = replayed(detector, batch)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        with torch.cuda.graph(graph):
            raw = raw_maps(detector, batch)
        graph.replay()
    assert_equal(raw, expected)
