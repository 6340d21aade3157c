"""The Gradio page as programs see it, honest ones and others."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

gradio = pytest.importorskip("gradio")

from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from dyzoo.demo.app import create_app  # noqa: E402
from dyzoo.demo.explaining import CAPTIONS  # noqa: E402
from dyzoo.demo.serving import page_options, start  # noqa: E402
from dyzoo.model.detector import Detector  # noqa: E402
from tests.cli.cli_helpers import Cli, assert_one_error  # noqa: E402
from tests.cli.conftest import cli as cli  # noqa: E402

Detect = Callable[..., tuple[Any, ...]]


@pytest.fixture(scope="module")
def address(eager_model: str, evil_model: str) -> Iterator[str]:
    """Address of a page with two detectors."""
    app = create_app([eager_model, evil_model], catalog=False, device="cpu")
    yield start(app, "127.0.0.1")
    app.close()


@pytest.fixture
def client(address: str, tmp_path: Path) -> Client:
    return Client(address, verbose=False, analytics_enabled=False, download_files=str(tmp_path / "answers"))


@pytest.fixture
def detect(client: Client, eager_model: str, picture: Path) -> Detect:
    """Ask for the detections of a picture: `detect(threshold=0.5)`."""

    def ask(
        file: Any = None, model: Any = eager_model, threshold: Any = 0.3, classes: Any = (), size: Any = 0
    ) -> tuple[Any, ...]:
        sent = handle_file(picture) if file is None else file
        kept = list(classes) if isinstance(classes, tuple) else classes
        return client.predict(sent, model, threshold, kept, size, api_name="/detect")

    return ask


@pytest.mark.filterwarnings("ignore::dyzoo.model.missed.MissedWarning")
def test_a_picture_comes_back_with_its_detections(detect: Detect, eager_model: str, picture: Path) -> None:
    annotated, found, table, listed = detect(classes=("red",))
    (expected,) = Detector.from_pretrained(eager_model).predict(picture, classes=["red"])
    assert Path(annotated).suffix == ".jpg"
    assert found.splitlines() == [f"{len(expected)} red", *expected.notes]
    assert [row[0] for row in table["data"]] == ["red"] * len(expected)
    path = listed["value"] if isinstance(listed, dict) else listed
    (image,) = json.loads(Path(path["path"] if isinstance(path, dict) else path).read_text())["images"]
    assert image["detections"] == expected.to_dict()["detections"]
    assert (image["path"], image["source"]) == (None, "good.png")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"model": "org/other"}, "not in the list of choices"),
        ({"model": "/etc"}, "not in the list of choices"),
        ({"classes": ("green",)}, "not in the list of choices"),
        ({"size": 20_000}, "not in the list of choices"),
        ({"threshold": 7}, "greater than maximum|expected 0 to 1"),
        ({"threshold": -1}, "less than minimum|expected 0 to 1"),
    ],
)
def test_only_what_is_offered_can_be_asked_for(detect: Detect, sent: dict[str, Any], words: str) -> None:
    with pytest.raises(AppError, match=words):
        detect(**sent)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.png", b"", "empty"),
        ("text.jpg", b"no picture", "is not an image of a known format"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", "is not an image"),
        ("page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image of a known format"),
        ("cut.png", None, "damaged"),
    ],
)
def test_what_is_no_picture_is_one_line(
    detect: Detect, tmp_path: Path, picture: Path, name: str, content: bytes | None, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(picture.read_bytes()[:300] if content is None else content)
    with pytest.raises(AppError, match=words) as raised:
        detect(handle_file(path))
    assert "\n" not in str(raised.value)
    assert "Traceback" not in str(raised.value)


@pytest.fixture
def post(address: str, eager_model: str) -> Callable[[Any], str]:
    """Send anything in the place of an uploaded picture, as no honest client does; gives the end of the answer."""
    import httpx

    def send(picture: Any) -> str:
        with httpx.Client(base_url=f"{address}gradio_api/call/", trust_env=False, timeout=60) as http:
            sent = http.post("detect", json={"data": [picture, eager_model, 0.3, [], 0]})
            return http.get(f"detect/{sent.json()['event_id']}").text

    return send


def file_data(**given: str) -> dict[str, Any]:
    return {**given, "meta": {"_type": "gradio.FileData"}}


def test_an_honest_picture_may_be_posted(
    post: Callable[[Any], str], address: str, picture: Path
) -> None:  # or the refusals below would show nothing
    import httpx

    with picture.open("rb") as file:
        (path,) = httpx.post(f"{address}gradio_api/upload", files={"files": file}, trust_env=False).json()
    assert "event: complete" in post(file_data(path=path))


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "pyproject.toml", "/dev/zero", "", "x\0y"])
def test_files_of_the_server_are_not_read(post: Callable[[Any], str], path: str) -> None:
    assert "event: error" in post(file_data(path=path))


def test_addresses_are_not_fetched(post: Callable[[Any], str]) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/secret.png"
        elsewhere = "http://example.invalid/x.png"
        for sent in (file_data(path=url), file_data(path=url, url=url), file_data(path=elsewhere)):
            assert "an address came, expected the file of a picture" in post(sent)
        for sent in (file_data(url=url), file_data(path="", url="data:image/png;base64,AAAA")):
            assert "event: error" in post(sent)
        server.shutdown()
    assert asked == []


def test_a_file_that_is_too_large_is_refused(address: str, tmp_path: Path) -> None:
    import httpx

    from dyzoo.demo.uploads import MOST_BYTES

    files = {"files": ("large.png", b"\0" * (MOST_BYTES + 1))}
    answer = httpx.post(f"{address}gradio_api/upload", files=files, trust_env=False)
    assert answer.status_code == 413


def test_the_classes_follow_the_model(client: Client, detect: Detect, evil_model: str) -> None:
    update = client.predict(evil_model, api_name="/choose_model")
    assert [value for _, value in update["choices"]] == list(Detector.from_pretrained(evil_model).labels)
    assert detect(model=evil_model, classes=("tame",))[1].splitlines()[0].endswith(" tame")


def test_the_attentions_are_shown(client: Client, eager_model: str, picture: Path) -> None:
    panels, whole = client.predict(handle_file(picture), eager_model, 0.3, [], 320, 1, api_name="/explain")
    assert [panel["caption"] for panel in panels] == list(CAPTIONS.values())
    path = whole["value"] if isinstance(whole, dict) else whole
    assert "<script" in Path(path["path"] if isinstance(path, dict) else path).read_text()
    for sent, words in ((handle_file(picture), "detection is 99, expected 0 to 7"), (None, "there is no picture")):
        with pytest.raises(AppError, match=words):
            client.predict(sent, eager_model, 0.3, [], 320, 99, api_name="/explain")


def test_nothing_of_the_disk_is_served(address: str, eager_model: str) -> None:
    import httpx

    for path in (f"{eager_model}/config.json", "/etc/passwd", __file__, "pyproject.toml"):
        answer = httpx.get(f"{address}gradio_api/file={path}", trust_env=False)
        assert answer.status_code in (403, 404), path


def test_a_page_without_models_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="there is no model to offer"):
        create_app(catalog=False)


def test_a_page_in_another_application_reads_no_files_of_the_server_either(eager_model: str, picture: Path) -> None:
    fastapi, testclient = pytest.importorskip("fastapi"), pytest.importorskip("fastapi.testclient")
    page = create_app([eager_model], catalog=False, device="cpu")
    application = gradio.mount_gradio_app(fastapi.FastAPI(), page, "/cells", **page_options())
    with testclient.TestClient(application) as http:
        with picture.open("rb") as file:
            (path,) = http.post("/cells/gradio_api/upload", files={"files": file}).json()
        for given, answer in ((path, "event: complete"), (str(picture), "the file was not uploaded")):
            asked = {"data": [file_data(path=given), eager_model, 0.3, [], 0]}
            event = http.post("/cells/gradio_api/call/detect", json=asked).json()["event_id"]
            assert answer in http.get(f"/cells/gradio_api/call/detect/{event}").text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "."], "has no config.json"),
        (["--host", "nowhere.invalid"], "nowhere.invalid: "),
        (["--port", "TAKEN"], "127.0.0.1:TAKEN: Address already in use"),
    ],
)
def test_a_page_that_cannot_be_served_is_one_line(cli: Cli, options: list[str], words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        outcome = cli("demo", *(option.replace("TAKEN", taken) for option in options))
    assert_one_error(outcome, words.replace("TAKEN", taken))


def test_uploads_and_answers_do_not_stay_on_the_disk(
    eager_model: str, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "files"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(home))
    monkeypatch.setattr("dyzoo.demo.app._CLEAR_EVERY_S", 1)
    monkeypatch.setattr("dyzoo.demo.app._KEEP_S", 1)

    def kept() -> set[str]:
        return {path.name for path in home.rglob("*") if path.is_file()}

    app = create_app([eager_model], catalog=False, device="cpu")
    try:
        client = Client(start(app, "127.0.0.1"), verbose=False, analytics_enabled=False, download_files=False)
        client.predict(handle_file(picture), eager_model, 0.3, [], 0, api_name="/detect")
        for _ in range(200):
            if kept() == {"sample.jpg"}:  # the example
                break
            time.sleep(0.1)
        assert kept() == {"sample.jpg"}
    finally:
        app.close()
