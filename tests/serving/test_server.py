"""`dyzoo serve` as a process: many clients at a time, bad ones among them, and its end."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

import httpx
import psutil

from dyzoo.cli import run
from dyzoo.model.detector import Detector
from tests.model.narrow_detectors import eager_detector
from tests.serving.serving_helpers import PNG, assert_same, bomb, error_of, expected, files, picture

CLIENTS = 200

UNFINISHED = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 90000\r\n\r\nabc"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector's folder."""
    folder = tmp_path_factory.mktemp("served") / "mine"
    eager_detector().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector(folder: Path) -> Detector:
    return Detector.from_pretrained(folder)


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], line: str) -> None:
        self.process, self.line = process, line
        self.url = line.split(": ", 1)[1].strip()
        self.port = int(self.url.rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def numbers(self) -> dict[str, float]:
        lines = httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "dyzoo", "serve", "--model", str(folder), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        threading.Thread(target=process.stderr.read, daemon=True).start()  # type: ignore[union-attr]
        try:
            line = process.stdout.readline()  # type: ignore[union-attr]
            assert line, "the server has not started"
            yield Served(process, line)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with serving(folder, "--max-bytes", "200000", "--timeout", "60") as served:
        yield served


def test_the_line_on_stdout_says_what_is_served_and_where(server: Served, folder: Path) -> None:
    assert server.line.startswith("mine on cpu: http://127.0.0.1:")
    model = httpx.get(f"{server.url}/model").json()
    assert model["model"] == "mine"
    assert str(folder.parent) not in json.dumps(model)


@pytest.mark.slow
def test_many_clients_at_a_time_get_each_their_own_answer(server: Served, detector: Detector) -> None:
    """No request is lost, whatever the others send."""
    wanted = {seed: expected(detector, picture(seed)) for seed in range(16)}

    async def everyone() -> list[str]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(one(client, number) for number in range(CLIENTS)))

    async def one(client: Any, number: int) -> str:
        seed = number % 16
        kind = ("good", "good", "good", "raw", "two", "broken", "no image", "empty", "large", "chunked", "type", "bomb",
                "parameter", "path", "gone")[number % 15]  # fmt: skip
        good = picture(seed)
        while True:
            answer = await ask(client, kind, good)
            if answer is None or answer.status_code != 503:
                break
            await asyncio.sleep(float(answer.headers["retry-after"]) * random.random())
        if answer is None:
            return kind
        status = {"broken": 422, "no image": 422, "empty": 422, "large": 413, "chunked": 413, "type": 415, "bomb": 422,
                  "parameter": 422, "path": 404}.get(kind, 200)  # fmt: skip
        assert answer.status_code == status, (kind, answer.text)
        if status != 200:
            error_of(answer)
            return kind
        results = answer.json()["results"]
        assert_same(results[0], {**wanted[seed], "source": "image" if kind == "raw" else "0.png"})
        if kind == "two":
            assert "is not an image" in results[1]["error"]
        return kind

    async def ask(client: Any, kind: str, good: bytes) -> Any:
        async def chunks() -> Any:
            for _ in range(30):
                yield bytes(10_000)

        if kind in ("good", "two"):
            return await client.post("/predict", files=files(good, *([b"hello"] if kind == "two" else [])))
        if kind == "gone":
            task = asyncio.create_task(client.post("/predict", files=files(good)))
            await asyncio.sleep(0.02 * random.random())
            task.cancel()
            return None
        body = {"broken": good[:500], "no image": b"hello", "empty": b"", "large": bytes(300_000), "bomb": bomb(),
                "chunked": chunks()}.get(kind, good)  # fmt: skip
        path = {"parameter": "/predict?threshold=7", "path": "/a/../b"}.get(kind, "/predict")
        headers = {"content-type": "text/plain"} if kind == "type" else PNG
        return await client.post(path, content=body, headers=headers)

    assert len(asyncio.run(everyone())) == CLIENTS
    until(lambda: server.numbers()["dyzoo_queue_pictures"] == 0)
    numbers = server.numbers()
    assert numbers["dyzoo_held_bytes"] == 0
    assert numbers['dyzoo_errors_total{kind="server"}'] == numbers['dyzoo_errors_total{kind="network"}'] == 0
    assert numbers["dyzoo_batch_pictures_sum"] > numbers["dyzoo_batch_pictures_count"]  # some went together


def until(condition: Any, patience_s: float = 60) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_client_that_goes_leaves_nothing_behind(server: Served) -> None:
    before = server.numbers()
    with server.connect() as client:
        client.sendall(UNFINISHED)
        until(lambda: server.numbers()["dyzoo_held_bytes"] == 3)
    until(lambda: server.numbers()["dyzoo_held_bytes"] == 0)
    key = 'dyzoo_requests_total{route="/predict",status="499"}'
    until(lambda: server.numbers().get(key, 0) > before.get(key, 0))


def answer_to(server: Served, request: bytes) -> bytes:
    """All that the server says until it closes the connection."""
    with server.connect() as client:
        client.sendall(request)
        pieces = []
        while piece := client.recv(65536):
            pieces.append(piece)
        return b"".join(pieces)


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * 50_000 + b"\r\n",
        b"GET /" + b"a" * 100_000,
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"hello\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["long header", "many headers", "long path", "TLS", "no HTTP", "negative", "two lengths", "no chunk"],
)
def test_heads_that_are_none_end_their_connection_alone(server: Served, request_head: bytes) -> None:
    try:
        answer = answer_to(server, request_head)
    except ConnectionResetError:
        answer = b""
    assert answer == b"" or answer.split(b" ")[1][:1] == b"4"
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}


def test_an_announced_body_is_refused_before_it_is_sent(server: Served) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nExpect: 100-continue\r\n"
    answer = answer_to(server, head + b"Content-Length: 99999999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer


def test_the_command_line_says_in_one_line_what_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options, line in (
            (["--port", str(port)], f"127.0.0.1:{port} cannot be listened on: Address already in use"),
            (["--port", "0", "--max-queue", "3"], "max_pictures is 32, expected at most max_queue, which is 3"),
            (["--port", "0", "--classes", "green"], "the model knows no class 'green'"),
            (["--host", "no.such.host.invalid"], "no.such.host.invalid:8000 cannot be listened on"),
        ):
            assert run(["serve", "--model", str(folder), *options]) in (1, 2)
            (error,) = capsys.readouterr().err.splitlines()
            assert error.startswith("error: ")
            assert line in error


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_when_what_runs_is_finished(
    folder: Path, detector: Detector, number: signal.Signals
) -> None:
    with serving(folder, "--max-batch", "1", "--max-pictures", "64") as served:
        answers: list[Any] = []
        contents = [picture(0)] * 64

        def ask() -> None:
            answers.append(httpx.post(f"{served.url}/predict", files=files(*contents), timeout=60))

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: served.numbers()["dyzoo_queue_pictures"] > 1)
        served.process.send_signal(number)
        asking.join(60)
        assert served.process.wait(60) == 0
        with pytest.raises(OSError, match=r"refused"):
            served.connect()
    (answer,) = answers
    assert answer.status_code == 200
    assert answer.json()["results"] == [expected(detector, picture(0), f"{place}.png") for place in range(64)]


@pytest.mark.slow
def test_what_does_not_finish_is_given_up_at_the_end(folder: Path) -> None:
    with serving(folder, "--shutdown-timeout", "1") as served, served.connect() as client:
        client.sendall(UNFINISHED)
        until(lambda: served.numbers()["dyzoo_held_bytes"] == 3)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 0


@pytest.mark.slow
def test_clients_that_say_nothing_are_left(server: Served) -> None:
    """Before a request, in the middle of its head, and in that of a second request."""
    whole = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    clients = [server.connect() for _ in range(3)]
    for client, begin in zip(clients, (b"", b"GET / HT", whole + b"GET / HT"), strict=True):
        client.sendall(begin)
    for client in clients:
        said = b""
        while piece := client.recv(65536):  # ends when the server closes it; the socket's timeout is an error
            said += piece
        assert said.count(b"HTTP/1.1") <= 1
        client.close()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_requests(server: Served) -> None:
    """After the first rounds, in which the libraries' pools fill, 15 further ones add less than 24 MB: one body of
    120 kB that stays behind for each picture would be 70 MB."""
    process = psutil.Process(server.process.pid)
    sizes = []
    with httpx.Client(base_url=server.url, timeout=120) as client, ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert list(pool.map(_round, [client] * 8)) == [[200, 200, 200, 200, 422, 422, 415]] * 8
            until(lambda: server.numbers()["dyzoo_queue_pictures"] == 0)
            sizes.append(process.memory_info().rss)
    assert max(sizes[15:]) - max(sizes[:5]) < 24_000_000, [size // 1_000_000 for size in sizes]
    assert process.num_fds() < 100


def _round(client: httpx.Client) -> list[int]:
    """Statuses of good and bad requests, beside one whose client goes."""
    large, small = picture(0, (200, 200)), picture(1, (64, 64))
    sent: list[dict[str, Any]] = [
        {"content": large, "headers": PNG},
        {"content": small, "headers": PNG},
        *({"files": files(content, content[:100])} for content in (large, large)),
        {"content": b"no image", "headers": PNG},
        {"content": large[:3000], "headers": PNG},
        {"content": bytes(150_000), "headers": {"content-type": "text/plain"}},
    ]
    with suppress(httpx.TimeoutException):
        client.post("/predict", content=large, headers=PNG, timeout=0.01)
    return [client.post("/predict", **each).status_code for each in sent]
