"""Batches of pictures of many requests, and what becomes of those that nobody waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")

import torch

from dyzoo.config.serving import ServeConfig
from dyzoo.errors import ImageError
from dyzoo.images.detections import Detections
from dyzoo.images.reading import Picture, decode_picture
from dyzoo.model.detector import Detector
from dyzoo.model.pipeline import Pipeline
from dyzoo.serving.engine import Engine
from dyzoo.serving.metrics import Metrics
from dyzoo.serving.refusals import Refusal
from tests.serving.serving_helpers import assert_same, expected, picture

SMALL, WIDE = (64, 64), (96, 48)


@contextmanager
def running(detector: Detector, **config: Any) -> Iterator[Engine]:
    settings = ServeConfig(**config)
    engine = Engine(detector.pipeline(batch_size=settings.max_batch), settings, Metrics())
    with closing(engine):
        yield engine


def making(content: bytes) -> Callable[[Pipeline], Picture]:
    return lambda pipeline: decode_picture(content, "0.png", pipeline.least_size)


def detect(engine: Engine, contents: Sequence[bytes]) -> list[Detections]:
    futures = engine.submit([making(content) for content in contents], engine.pipeline)
    return [future.result(60) for future in futures]


def batches(engine: Engine) -> tuple[int, int]:
    """Number of batches and of pictures in them."""
    values = {sample.name: sample.value for sample in next(iter(engine.metrics.batch.collect())).samples}
    return int(values["dyzoo_batch_pictures_count"]), int(values["dyzoo_batch_pictures_sum"])


def outcomes(engine: Engine) -> dict[str, int]:
    samples = next(iter(engine.metrics.pictures.collect())).samples
    return {each.labels["outcome"]: int(each.value) for each in samples if each.name.endswith("_total")}


def test_pictures_of_one_size_go_together_and_are_answered_as_alone(detector: Detector) -> None:
    contents = [picture(seed, SMALL) for seed in range(8)]
    with running(detector, max_batch=8, max_delay_ms=5000) as engine:
        found = detect(engine, contents)
        assert batches(engine) == (1, 8)
    for each, content in zip(found, contents, strict=True):
        assert_same({**each.to_dict(), "source": "0.png"}, expected(detector, content))


def test_an_answer_does_not_depend_on_what_its_neighbours_show(detector: Detector) -> None:
    with running(detector, max_batch=4, max_delay_ms=5000) as engine:
        first, *_ = detect(engine, [picture(seed, SMALL) for seed in (0, 1, 2, 3)])
        second, *_ = detect(engine, [picture(seed, SMALL) for seed in (0, 4, 5, 6)])
        assert batches(engine) == (2, 8)
    assert torch.equal(first.boxes_xyxy, second.boxes_xyxy)
    assert torch.equal(first.scores, second.scores)


def test_pictures_of_other_sizes_never_go_together(detector: Detector) -> None:
    contents = [picture(seed, (SMALL, WIDE)[seed % 2]) for seed in range(8)]
    with running(detector, max_batch=8, max_delay_ms=300) as engine:
        found = detect(engine, contents)
        assert batches(engine) == (2, 8)
    for each, content in zip(found, contents, strict=True):
        assert_same({**each.to_dict(), "source": "0.png"}, expected(detector, content))


def test_requests_with_other_thresholds_go_together(detector: Detector) -> None:
    with running(detector, max_batch=2, max_delay_ms=5000) as engine:
        strict = detector.pipeline(0.93, batch_size=2)
        futures = [
            *engine.submit([making(picture(0, SMALL))], engine.pipeline),
            *engine.submit([making(picture(0, SMALL))], strict),
        ]
        every, few = (future.result(60) for future in futures)
        assert batches(engine) == (1, 2)
    assert_same({**few.to_dict(), "source": "0.png"}, expected(detector, picture(0, SMALL), threshold=0.93))
    assert len(few) < len(every)


def test_a_single_picture_does_not_wait_for_a_full_batch(detector: Detector) -> None:
    with running(detector, max_batch=8, max_delay_ms=1) as engine:
        (found,) = detect(engine, [picture(0)])
        assert len(found)


def test_bad_pictures_sink_no_others(detector: Detector) -> None:
    with running(detector, max_delay_ms=100) as engine:
        futures = engine.submit([making(each) for each in (picture(0), b"no", picture(0))], engine.pipeline)
        wait(futures, 60)
        assert isinstance(futures[1].exception(), ImageError)
        assert len(futures[0].result())
        assert len(futures[2].result())
        assert outcomes(engine) == {"detected": 2, "refused": 1, "failed": 0, "dropped": 0}


def test_a_picture_that_the_network_fails_at_sinks_no_others(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Pipeline.detect

    def fail(self: Pipeline, inputs: Any, pipelines: Any) -> list[Detections]:
        if any(given.picture.source == "bad" for given in inputs):
            raise torch.OutOfMemoryError("full")
        return real(self, inputs, pipelines)

    monkeypatch.setattr(Pipeline, "detect", fail)
    with running(detector, max_batch=3, max_delay_ms=5000) as engine:
        makes = [making(picture(0)), lambda _: decode_picture(picture(0), "bad"), making(picture(0))]
        futures = engine.submit(makes, engine.pipeline)
        wait(futures, 60)
        assert [future.exception() is None for future in futures] == [True, False, True]
        assert engine.is_ready
        assert len(detect(engine, [picture(0)])) == 1


def test_more_pictures_than_there_is_room_for_are_refused_and_room_comes_back(detector: Detector) -> None:
    gate = threading.Event()

    def slow(pipeline: Pipeline) -> Picture:
        gate.wait(60)
        return decode_picture(picture(0), "0.png")

    with running(detector, max_queue=4, max_pictures=4) as engine:
        futures: list[Future[Detections]] = engine.submit([slow] * 3, engine.pipeline)
        with pytest.raises(Refusal, match="3 pictures are waiting already: try again later") as caught:
            engine.submit([slow] * 2, engine.pipeline)
        assert caught.value.status == 503
        futures += engine.submit([slow], engine.pipeline)
        assert engine.is_full
        gate.set()
        wait(futures, 60)
        assert engine.taken == 0
        detect(engine, [picture(0)] * 4)


def test_what_nobody_waits_for_is_dropped(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, seen = threading.Event(), []
    real = Pipeline.detect

    def look(self: Pipeline, inputs: Any, pipelines: Any) -> list[Detections]:
        gate.wait(60)
        seen.extend(given.picture.source for given in inputs)
        return real(self, inputs, pipelines)

    monkeypatch.setattr(Pipeline, "detect", look)
    with running(detector, max_batch=1, decode_threads=1) as engine:
        makes = [lambda _, name=name: decode_picture(picture(0), name) for name in "abc"]
        (first,) = engine.submit(makes[:1], engine.pipeline)
        while not first.running():
            pass
        second, third = engine.submit(makes[1:], engine.pipeline)
        assert second.cancel()
        assert engine.taken == 2
        gate.set()
        third.result(60)
        assert seen == ["a", "c"]
        assert outcomes(engine) == {"detected": 2, "refused": 0, "failed": 0, "dropped": 1}


def test_a_closed_engine_takes_nothing_until_it_is_opened(detector: Detector) -> None:
    with running(detector) as engine:
        detect(engine, [picture(0)])
        engine.close()
        assert not engine.is_ready
        with pytest.raises(Refusal, match="stopping"):
            detect(engine, [picture(0)])
        engine.open()
        detect(engine, [picture(0)])
