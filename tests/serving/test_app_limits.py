"""Strangers send too much, too slowly, or what is none: the application stops at its limits and says so."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")

import httpx

from dyzoo.errors import ImageError
from dyzoo.model.detector import Detector
from dyzoo.model.pipeline import Pipeline
from dyzoo.serving import app as application
from tests.serving.serving_helpers import PNG, error_of, expected, files, picture, post, talk


def test_forms_are_bounded_in_pictures_and_fields(detector: Detector) -> None:
    answer = post(detector, files=files(*[picture(0)] * 3), config={"max_pictures": 2})
    assert answer.status_code in (400, 413)
    assert "2" in error_of(answer)
    answer = post(detector, files=files(picture(0)), data={"classes": ["red"] * 100})
    assert answer.status_code == 400
    answer = post(detector, files=files(picture(0)), data={"classes": "r" * 10_000})
    assert answer.status_code == 400


@pytest.mark.parametrize("way", ["announced", "chunked", "form", "chunked form"])
def test_a_body_over_the_limit_is_refused_before_it_is_held(detector: Detector, way: str) -> None:
    sent = 0

    async def chunks(begin: bytes = b"") -> AsyncIterator[bytes]:
        nonlocal sent
        yield begin
        for _ in range(1000):
            sent += 10_000
            yield bytes(10_000)

    begin = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    given: dict[str, Any] = {
        "announced": {"content": bytes(100_001), "headers": PNG},
        "chunked": {"content": chunks(), "headers": PNG},
        "form": {"files": files(bytes(50_000), bytes(60_000))},
        "chunked form": {"content": chunks(begin), "headers": {"content-type": "multipart/form-data; boundary=b"}},
    }[way]
    answer = post(detector, **given, config={"max_bytes": 100_000})
    assert answer.status_code == 413
    assert error_of(answer) == "the body is larger than 100000 bytes"
    assert sent <= 9_000_000  # a moderate rest is received and forgotten


def test_a_false_announcement_does_not_help(detector: Detector) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(10_000)

    answer = post(detector, content=chunks(), headers={**PNG, "content-length": "5"}, config={"max_bytes": 100_000})
    assert answer.status_code == 413


def test_all_requests_together_hold_no_more_than_allowed(detector: Detector) -> None:
    async def work(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response, httpx.Response]:
        going = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield picture(0)[:9000]
            await going.wait()
            yield picture(0)[9000:]

        first = asyncio.create_task(client.post("/predict", content=slow(), headers=PNG))
        await asyncio.sleep(0.2)
        second = await client.post("/predict", content=picture(1), headers=PNG)
        going.set()
        return await first, second, await client.post("/predict", content=picture(1), headers=PNG)

    first, second, third = talk(detector, work, max_bytes=30_000, max_held_bytes=30_000)
    assert (first.status_code, second.status_code, third.status_code) == (200, 200, 200)
    first, second, third = talk(detector, work, max_bytes=20_000, max_held_bytes=20_000)
    assert (first.status_code, second.status_code, third.status_code) == (200, 503, 200)
    assert int(second.headers["retry-after"]) > 0
    assert "try again later" in error_of(second)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..\\..\\a.png", "a\x1b[31mb.png", "a\nb.png", "‮gnp.a", "n" * 5000]
)
def test_names_of_files_are_names_and_nothing_else(detector: Detector, name: str) -> None:
    answer = post(detector, files={"images": (name, picture(0))})
    if answer.status_code == 400:  # the head of a part is bounded
        assert len(name) > 1000
        return
    (result,) = answer.json()["results"]
    assert result["detections"] == expected(detector, picture(0))["detections"]
    assert result["path"] is None
    assert result["source"].isprintable()
    answer = post(detector, files={"images": (name, b"no image")})
    assert error_of(answer)


def test_bodies_that_do_not_come_are_given_up(detector: Detector) -> None:
    async def silent() -> AsyncIterator[bytes]:
        yield picture(0)[:100]
        await asyncio.sleep(30)

    answer = post(detector, content=silent(), headers=PNG, config={"timeout": 0.2})
    assert answer.status_code == 408
    assert error_of(answer) == "the body has not come within 0.2 s"


def test_an_answer_that_takes_too_long_is_given_up_and_its_picture_dropped(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gate = Pipeline.detect, threading.Event()

    def slow(self: Pipeline, inputs: Any, pipelines: Any) -> Any:
        if inputs[0].picture.source is not None:  # that of warming up has no name
            gate.wait(60)
        return real(self, inputs, pipelines)

    monkeypatch.setattr(Pipeline, "detect", slow)

    async def work(client: httpx.AsyncClient) -> tuple[httpx.Response, str]:
        answer = await client.post("/predict", files=files(picture(0), picture(0), picture(0)))
        while "dyzoo_queue_pictures 1.0" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.01)  # the one that the network sees is left
        gate.set()
        return answer, (await client.get("/metrics")).text

    answer, metrics = talk(detector, work, timeout=1, max_batch=1)
    assert answer.status_code == 504
    assert error_of(answer) == "there is no answer after 1 s"
    assert 'dyzoo_pictures_total{outcome="dropped"} 2.0' in metrics


def test_addresses_are_refused_unless_they_are_allowed(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "fetch_public_image", lambda *_: pytest.fail("it was fetched"))
    answer = post(detector, json={"urls": ["https://a.example/a.png"]})
    assert answer.status_code == 415
    assert "json" not in json.dumps(answer.json()).replace("'application/json'", "")


def test_pictures_of_allowed_addresses_are_fetched(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(address: str, bounds: Any) -> bytes:
        assert bounds.bytes == 50_000
        if "no" in address:
            raise ImageError(f"{address} cannot be fetched")
        return picture(1)

    monkeypatch.setattr(application, "fetch_public_image", fetch)
    urls = ["https://a.example/no", "https://a.example/a.png"]
    config = {"allow_urls": True, "max_bytes": 50_000}
    answer = post(detector, "/predict?threshold=0.5", json={"urls": urls}, config=config)
    bad, good = answer.json()["results"]
    assert bad == {"source": urls[0], "error": f"{urls[0]} cannot be fetched"}
    assert good == expected(detector, picture(1), urls[1], threshold=0.5)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "[::1]", "0"])
def test_allowed_addresses_are_public_ones(detector: Detector, host: str) -> None:
    answer = post(detector, json={"urls": [f"http://{host}/latest/meta-data"]}, config={"allow_urls": True})
    assert answer.status_code == 422
    assert "is not a public address of the internet" in error_of(answer)


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", "{", '{"urls": "a"}', '{"urls": [1]}', '{"urls": [], "x": 1}', "[" * 100_000]
)
def test_lists_of_addresses_that_are_none_are_one_line(detector: Detector, body: str) -> None:
    headers = {"content-type": "application/json"}
    answer = post(detector, content=body.encode(), headers=headers, config={"allow_urls": True})
    assert answer.status_code == 422
    assert error_of(answer)
