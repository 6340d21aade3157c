"""Pictures, detectors and clients for tests of the server."""

from __future__ import annotations

import asyncio
import io
import warnings
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx
import numpy as np
from PIL import Image

from dyzoo.config.serving import ServeConfig
from dyzoo.model.missed import MissedWarning
from dyzoo.model.prediction import PredictingModel
from dyzoo.serving import create_app

ResultT = TypeVar("ResultT")

PNG = {"content-type": "image/png"}

SIZES = ((64, 64), (64, 96), (96, 64), (80, 60))
"""(width, height) of pictures, some of which differ in the network, too."""


def picture(seed: int, size: tuple[int, int] | None = None, suffix: str = "PNG") -> bytes:
    """The file of a picture of noise; another for each seed."""
    width, height = size or SIZES[seed % len(SIZES)]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, suffix)
    return content.getvalue()


def bomb() -> bytes:
    """A small PNG whose head says that it has 2 500 million pixels."""
    content = bytearray(picture(0))
    content[16:24] = (50_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def files(*contents: bytes, name: str = "{}.png") -> list[tuple[str, tuple[str, bytes]]]:
    """A form's pictures, as httpx has them."""
    return [("images", (name.format(place), content)) for place, content in enumerate(contents)]


def expected(detector: PredictingModel, content: bytes, source: str = "0.png", **settings: Any) -> dict[str, Any]:
    """The entry of a picture in an answer: what `predict` and `to_dict` give for it alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissedWarning)
        (found,) = detector.predict(content, **settings)
    return {**found.to_dict(), "source": source}


def talk(
    detector: PredictingModel,
    work: Callable[[httpx.AsyncClient], Awaitable[ResultT]],
    name: str | None = None,
    **config: Any,
) -> ResultT:
    """Let a client work with an application, without a network in between."""

    async def run() -> ResultT:
        app = create_app(detector, ServeConfig(**config), name)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client,
        ):
            return await work(client)

    return asyncio.run(run())


def post(detector: PredictingModel, url: str = "/predict", name: str | None = None, **given: Any) -> httpx.Response:
    """The answer to one request; `config` among what is given are the server's settings."""
    config = given.pop("config", {})

    async def work(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(url, **given)

    return talk(detector, work, name, **config)


def error_of(answer: httpx.Response) -> str:
    """The line of an error, which is in the one shape that errors have."""
    assert answer.headers["content-type"] == "application/json", answer.text
    assert set(answer.json()) == {"error"}
    line = answer.json()["error"]
    assert line.isprintable(), line
    assert "Traceback" not in line
    return line


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Entries of one picture that went through the network alone and in a batch, whose sums may be rounded otherwise:
    numbers differ by one in their last place at most."""
    assert {**found, "detections": []} == {**wanted, "detections": []}
    assert [each["name"] for each in found["detections"]] == [each["name"] for each in wanted["detections"]]
    for one, other in zip(found["detections"], wanted["detections"], strict=True):
        assert abs(one["score"] - other["score"]) < 1.5e-4
        assert all(abs(a - b) < 0.015 for a, b in zip(one["box_xyxy"], other["box_xyxy"], strict=True))
