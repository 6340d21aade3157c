"""The application: its routes, and a request's way from body to answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from dyzoo._version import __version__
from dyzoo.config.serving import ServeConfig
from dyzoo.errors import ImageError
from dyzoo.images.detections import Detections
from dyzoo.images.reading import Picture, decode_picture
from dyzoo.images.sources.public import fetch_public_image
from dyzoo.images.sources.web import Bounds
from dyzoo.model.pipeline import Pipeline
from dyzoo.model.prediction import PredictingModel
from dyzoo.serving.access import Access, error_body
from dyzoo.serving.bodies import Body, Held, Upload, read_body
from dyzoo.serving.choices import choose
from dyzoo.serving.engine import Engine
from dyzoo.serving.metrics import Metrics
from dyzoo.serving.page import HEADERS, render_page
from dyzoo.serving.refusals import LONGEST, ClientGone, Refusal, busy
from dyzoo.serving.schemas import REASONS, Answer, Error, Health, Model, predict_document
from dyzoo.text import printable

ROUTES = ("/", "/predict", "/model", "/healthz", "/metrics", "/openapi.json")

_FETCHING_THREADS = 8


def create_app(detector: PredictingModel, config: ServeConfig | None = None, name: str | None = None) -> FastAPI:
    """An application that answers requests with what a detector finds; to be run by an ASGI server, or mounted.

    Args:
        detector: any that predicts, from `dyzoo.load` or `dyzoo.create_model`.
        config: settings; host and port are those of `dyzoo serve` alone.
        name: what answers call the detector; None: its architecture.

    Raises:
        SettingError: the detector cannot follow the settings, as in `predict`.
    """
    config = ServeConfig() if config is None else config
    service = _Service(detector, config, printable(name or detector.config.architecture))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.open()
        await anyio.to_thread.run_sync(service.engine.warm_up)
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(service.engine.close)
            service.fetching.shutdown(wait=False, cancel_futures=True)
            service.fetching = service.fetchers()  # which begin with the first address

    app = FastAPI(
        title=f"dyzoo: {service.name}", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        redirect_slashes=False,
    )  # fmt: skip
    service.add_routes(app)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_there)
    app.add_middleware(Access, routes=ROUTES, metrics=service.metrics)  # type: ignore[arg-type]
    return app


class _Service:
    """One detector's routes."""

    def __init__(self, detector: PredictingModel, config: ServeConfig, name: str) -> None:
        self.detector, self.config, self.name = detector, config, name
        settings = {
            key: getattr(config, key)
            for key in ("threshold", "size", "tiles", "flips", "classes", "iou", "max_detections", "precision")
        }
        self.pipeline: Pipeline = detector.pipeline(batch_size=config.max_batch, **settings)
        self.metrics = Metrics()
        self.engine = Engine(self.pipeline, config, self.metrics)
        self.held = Held(config.max_held_bytes)
        self.fetching = self.fetchers()
        self.metrics.watch(lambda: self.engine.taken, lambda: self.held.bytes)
        self.metrics.model.info({"name": name, "version": __version__, "device": str(detector.device)})

    @staticmethod
    def fetchers() -> ThreadPoolExecutor:
        """Threads that fetch pictures from addresses."""
        return ThreadPoolExecutor(_FETCHING_THREADS, "serving: addresses")

    def add_routes(self, app: FastAPI) -> None:
        """Add all but the OpenAPI document's."""
        errors: dict[int | str, dict[str, Any]] = {
            status: {"model": Error, "description": reason} for status, reason in REASONS.items()
        }
        app.add_api_route("/", self.page, methods=["GET"], response_class=HTMLResponse, summary="A page to try it")
        app.add_api_route(
            "/predict", self.predict, methods=["POST"], summary="Detect objects in pictures",
            responses={200: {"model": Answer}, **errors},
            openapi_extra=predict_document(self.config, self.detector.labels),
        )  # fmt: skip
        app.add_api_route("/model", self.model, methods=["GET"], response_model=Model, summary="The detector")
        app.add_api_route(
            "/healthz", self.healthz, methods=["GET"], response_model=Health, summary="Whether pictures are taken",
            responses={503: {"model": Error}},
        )  # fmt: skip
        app.add_api_route(
            "/metrics", self.numbers, methods=["GET"], summary="Numbers for Prometheus",
            response_class=PlainTextResponse,
        )  # fmt: skip

    async def page(self, request: Request) -> HTMLResponse:
        """A short page with a form."""
        shown = self.config.threshold if isinstance(self.config.threshold, int | float) else 0.3
        page = render_page(self.name, __version__, self.detector.labels, shown, str(request.base_url))
        return HTMLResponse(page, headers=HEADERS)

    async def model(self) -> JSONResponse:
        """The detector's classes and configuration, and the bounds of a request."""
        limits = ("max_pictures", "max_bytes", "max_pixels", "max_size", "timeout", "allow_urls")
        return JSONResponse(
            {
                "model": self.name,
                "version": __version__,
                "device": str(self.detector.device),
                "labels": list(self.detector.labels),
                "config": json.loads(self.detector.config.to_json()),
                "limits": {key: getattr(self.config, key) for key in limits},
            }
        )

    async def healthz(self) -> JSONResponse:
        """200 where pictures are taken, otherwise 503."""
        if not self.engine.is_ready:
            raise busy("no pictures are taken")
        return JSONResponse({"status": "ok"})

    async def numbers(self) -> Response:
        """Prometheus' text format."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def predict(self, request: Request) -> Response:
        """Detect objects in the pictures of a form, in a picture that is the whole body, or in those at addresses."""
        body = Body(request, self.config.max_bytes, self.held)
        try:
            if self.engine.is_full:
                raise busy(f"{self.engine.taken} pictures are waiting already")
            return await self._answer(request, body)
        except Refusal as refusal:
            if not await body.discard():
                refusal.headers["Connection"] = "close"
            raise
        finally:
            body.close()

    async def _answer(self, request: Request, body: Body) -> Response:
        query = request.query_params.multi_items()
        choose(query, (), self.pipeline, self.config)  # what is wrong is said before the body
        try:
            with anyio.fail_after(self.config.timeout):
                given = await read_body(request, body, self.config)
        except TimeoutError:
            raise Refusal(408, f"the body has not come within {self.config.timeout:g} s") from None
        pipeline = choose(query, given.fields, self.pipeline, self.config)
        begin = time.monotonic()
        try:
            with anyio.fail_after(self.config.timeout):
                found = await _unless_gone(self._detect(given.uploads, given.addresses, pipeline, body), body)
        except TimeoutError:
            raise Refusal(504, f"there is no answer after {self.config.timeout:g} s") from None
        return self._made(found, time.monotonic() - begin)

    async def _detect(
        self, uploads: Sequence[Upload], addresses: Sequence[str], pipeline: Pipeline, body: Body
    ) -> list[tuple[str, Detections | BaseException]]:
        """Names of all pictures, and what was found in them or went wrong, in order."""
        fetched = await self._fetch(addresses, body)
        pictures = [*((upload.name, upload.content) for upload in uploads), *fetched]
        usable = [(name, content) for name, content in pictures if isinstance(content, bytes)]
        makes = [partial(_decode, content, name, self.config.max_pixels) for name, content in usable]
        futures = self.engine.submit(makes, pipeline)
        answers = iter(await _all(futures))
        return [(name, next(answers) if isinstance(each, bytes) else each) for name, each in pictures]

    async def _fetch(self, addresses: Sequence[str], body: Body) -> list[tuple[str, bytes | BaseException]]:
        loop = asyncio.get_running_loop()
        bounds = Bounds(self.config.max_bytes, self.config.timeout)
        fetched: list[tuple[str, bytes | BaseException]] = []
        running = [loop.run_in_executor(self.fetching, fetch_public_image, each, bounds) for each in addresses]
        try:
            for address, content in zip(addresses, await asyncio.gather(*running, return_exceptions=True), strict=True):
                fetched.append((printable(address)[:LONGEST], content))
                if isinstance(content, bytes):
                    body.take(len(content))
        finally:
            for each in running:
                each.cancel()
        return fetched

    def _made(self, found: Sequence[tuple[str, Detections | BaseException]], seconds: float) -> Response:
        """The answer: an error where no picture can be used, otherwise each picture's own."""
        results = [
            each.to_dict() if isinstance(each, Detections) else {"source": name, "error": _line(each)}
            for name, each in found
        ]
        failed = [each for _, each in found if not isinstance(each, Detections)]
        if len(failed) == len(found):
            lines = "; ".join(dict.fromkeys(map(_line, failed)))
            status = 422 if any(isinstance(each, ImageError) for each in failed) else 500
            raise Refusal(status, lines)
        answer = {"model": self.name, "seconds": round(seconds, 4), "results": results}
        return Response(json.dumps(answer), media_type="application/json")


def _decode(content: bytes, name: str, max_pixels: int | None, pipeline: Pipeline) -> Picture:
    return decode_picture(content, name, pipeline.least_size, max_pixels)


async def _all(futures: Sequence[Future[Detections]]) -> list[Detections | BaseException]:
    """Their results, or exceptions, in order; what is left of them is dropped where nobody waits any more."""
    try:
        return await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    finally:
        for future in futures:
            future.cancel()


async def _unless_gone(work: Any, body: Body) -> Any:
    """The result of some work, which is given up when the client goes. Raises `ClientGone`."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(body.gone())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()


def _line(error: BaseException) -> str:
    """An error as the client may see it: that of a picture in full, another without what it holds."""
    if isinstance(error, ImageError):
        return printable(str(error))
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "the memory does not do for this picture, a smaller size may"
    return "the server has failed, its log says why"


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return Response(error_body(error.message), error.status, error.headers, "application/json")


async def _not_there(_: Request, error: Exception) -> Response:
    """An unknown path, or another method."""
    assert isinstance(error, HTTPException)
    return Response(error_body(error.detail), error.status_code, dict(error.headers or {}), "application/json")
