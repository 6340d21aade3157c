"""The application's answers: what `predict` finds, and one line for everything that is wrong."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")

import httpx
from PIL import Image

import dyzoo
from dyzoo.config.serving import ServeConfig
from dyzoo.errors import SettingError
from dyzoo.model.detector import Detector
from dyzoo.serving import app as application
from dyzoo.serving import create_app
from tests.serving.serving_helpers import PNG, bomb, error_of, expected, files, picture, post, talk


def test_pictures_of_a_form_are_answered_in_order_as_predict_does(detector: Detector) -> None:
    pictures = [picture(seed) for seed in range(5)]
    answer = post(detector, files=files(*pictures), name="runs/mine")
    assert answer.status_code == 200
    assert answer.json()["model"] == "runs/mine"
    assert answer.json()["seconds"] > 0
    assert answer.json()["results"] == [expected(detector, each, f"{i}.png") for i, each in enumerate(pictures)]
    found = [dyzoo.Detections.from_dict(each, detector.labels) for each in answer.json()["results"]]
    assert all(len(each) for each in found)


def test_an_optimised_detector_is_served(detector: Detector) -> None:
    optimised = detector.optimize()
    answer = post(optimised, files=files(*map(picture, range(3))))
    assert answer.json()["results"] == [expected(optimised, picture(i), f"{i}.png") for i in range(3)]


@pytest.mark.parametrize("kind", ["image/png", "image/x-anything", "application/octet-stream", "IMAGE/PNG; a=b"])
def test_a_picture_may_be_the_whole_body(detector: Detector, kind: str) -> None:
    answer = post(detector, content=picture(1), headers={"content-type": kind})
    assert answer.json()["results"] == [expected(detector, picture(1), "image")]


def test_files_may_have_any_field_name(detector: Detector) -> None:
    answer = post(detector, files={"file": ("a.png", picture(1), "text/plain")})
    assert answer.json()["results"] == [expected(detector, picture(1), "a.png")]


@pytest.mark.parametrize(
    ("asked", "settings"),
    [
        ({"threshold": "0.95"}, {"threshold": 0.95}),
        ({"classes": "red"}, {"classes": ["red"]}),
        ({"classes": ["red", "blue"]}, {}),
        ({"classes": "red, blue"}, {}),
        ({"size": "96"}, {"size": 96}),
        ({"size": "96", "threshold": "0", "classes": "blue"}, {"size": 96, "threshold": 0, "classes": ["blue"]}),
    ],
)
@pytest.mark.parametrize("place", ["params", "data"])
def test_parameters_are_those_of_predict(
    detector: Detector, asked: dict[str, Any], settings: dict[str, Any], place: str
) -> None:
    answer = post(detector, files=files(picture(1)), **{place: asked})
    assert answer.json()["results"] == [expected(detector, picture(1), **settings)]


def test_the_servers_settings_hold_where_a_request_says_nothing(detector: Detector) -> None:
    config = {"threshold": {"red": 0.9, "blue": 0.1}, "size": 96, "max_detections": 3, "flips": ("horizontal",)}
    answer = post(detector, files=files(picture(1)), config=config)
    assert answer.json()["results"] == [expected(detector, picture(1), **config)]
    answer = post(detector, files=files(picture(1), picture(2)), config={"tiles": 2})
    assert answer.json()["results"][0] == expected(detector, picture(1), tiles=2)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("threshold=2", "threshold is '2', expected a number from 0 to 1"),
        ("threshold=nan", "threshold is 'nan'"),
        ("threshold=", "threshold is ''"),
        ("threshold=0.5&threshold=0.6", "threshold is there 2 times, expected once"),
        ("size=0", "size is '0', expected 1 to 1536 pixels"),
        ("size=native", "size is 'native'"),
        ("size=1537", "expected 1 to 1536 pixels"),
        ("size=" + "9" * 5000, "expected 1 to 1536 pixels"),
        ("size=%D9%A3", "expected 1 to 1536 pixels"),
        ("classes=rde", "did you mean 'red'?"),
        ("classes=", "the model knows no class ''"),
        ("classes=%1b%5b31m", r"the model knows no class '\x1b[31m'"),
        ("treshold=0.5", "there is no parameter 'treshold', expected threshold, classes, size"),
    ],
)
def test_parameters_out_of_bounds_are_one_line(detector: Detector, asked: str, why: str) -> None:
    answer = post(detector, f"/predict?{asked}", files=files(picture(0)))
    assert answer.status_code == 422
    assert why in error_of(answer)


def test_a_parameter_of_the_form_goes_before_that_of_the_query(detector: Detector) -> None:
    answer = post(detector, "/predict?threshold=0.5&classes=red", files=files(picture(0)), data={"threshold": "0.95"})
    assert answer.json()["results"] == [expected(detector, picture(0), threshold=0.95, classes=["red"])]


def test_classes_that_are_not_served_are_refused(detector: Detector) -> None:
    answer = post(detector, "/predict?classes=blue", files=files(picture(0)), config={"classes": ("red",)})
    assert error_of(answer) == "class 'blue' is not served"


BAD = {
    "not an image": (b"hello", "is not an image of a known format"),
    "truncated": (picture(0)[:500], "is damaged"),
    "empty": (b"", "is empty"),
    "bomb": (bomb(), "is too large"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_picture_has_its_own_error_among_good_ones(detector: Detector, kind: str) -> None:
    content, why = BAD[kind]
    answer = post(detector, files=files(picture(0), content, picture(1)))
    first, bad, last = answer.json()["results"]
    assert answer.status_code == 200
    assert (first, last) == (expected(detector, picture(0)), expected(detector, picture(1), "2.png"))
    assert set(bad) == {"source", "error"}
    assert bad["source"] == "1.png"
    assert why in bad["error"]


@pytest.mark.parametrize("kind", BAD)
def test_where_no_picture_can_be_used_the_request_is_refused(detector: Detector, kind: str) -> None:
    content, why = BAD[kind]
    alone = post(detector, content=content, headers=PNG)
    assert alone.status_code == 422
    assert why in error_of(alone)
    both = post(detector, files=files(content, b"neither"))
    assert both.status_code == 422
    assert f"0.png {why}" in error_of(both)
    assert "1.png is not an image" in error_of(both)


def test_a_picture_of_more_pixels_than_allowed_is_not_decoded(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    answer = post(detector, content=picture(0), headers=PNG, config={"max_pixels": 1000})
    assert "has 64 x 64 pixels" in error_of(answer)


@pytest.mark.parametrize(
    ("headers", "came"),
    [
        ({"content-type": "text/plain"}, "'text/plain'"),
        ({"content-type": "application/json"}, "'application/json'"),
        ({"content-type": "application/x-www-form-urlencoded"}, "'application/x-www-form-urlencoded'"),
        ({}, "has no type"),
        ({"content-type": "image/png", "content-encoding": "gzip"}, "'gzip'"),
    ],
)
def test_bodies_of_another_type_are_refused(detector: Detector, headers: dict[str, str], came: str) -> None:
    answer = post(detector, content=picture(0), headers=headers)
    assert answer.status_code == 415
    assert came in error_of(answer)


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-type": "multipart/form-data"}, b"x", 400),
        ({"content-type": "multipart/form-data; boundary=b"}, b"x", 400),
        ({"content-type": "multipart/form-data; boundary=b"}, b"--b\r\nContent-Disposition: form-data\r\n\r\nx", 400),
        ({"content-type": "multipart/form-data; boundary=b"}, b"--b\r\nA: " + b"a" * 100_000, 400),
        ({"content-type": "multipart/form-data; boundary=b"}, b"--b--\r\n", 422),
        (
            {"content-type": "multipart/form-data; boundary=b"},
            b'--b\r\nContent-Disposition: form-data; name="images"\r\n\r\nx\r\n--b--\r\n',
            422,
        ),
    ],
)
def test_forms_that_are_none_are_one_line(
    detector: Detector, headers: dict[str, str], content: bytes, status: int
) -> None:
    answer = post(detector, content=content, headers=headers)
    assert answer.status_code == status
    assert error_of(answer)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/predict", 405), ("POST", "/", 405), ("GET", "/a", 404)]
)
def test_other_paths_and_methods_have_the_shape_of_errors(
    detector: Detector, method: str, path: str, status: int
) -> None:
    answer = talk(detector, lambda client: client.request(method, path))
    assert answer.status_code == status
    assert error_of(answer)


def test_a_failure_of_the_server_tells_the_client_nothing(
    detector: Detector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(application, "read_body", fail)
    answer = post(detector, files=files(picture(0)))
    assert answer.status_code == 500
    assert error_of(answer) == "the server has failed, its log says why"
    assert "/secret/path" in caplog.text


def test_the_log_has_a_line_for_each_request_and_no_data_of_people(
    detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dyzoo.serving")

    async def work(client: httpx.AsyncClient) -> None:
        await client.post("/predict?threshold=0.25", files={"images": ("anna.png", picture(0))})
        await client.get("/anna%0a?anna=1")

    talk(detector, work)
    lines = [record.getMessage() for record in caplog.records if record.name == "dyzoo.serving"]
    assert [line.split(" ")[:3] for line in lines] == [["POST", "/predict", "200"], ["GET", "other", "404"]]
    assert not [line for line in lines if "anna" in line or "0.25" in line or "127.0.0.1" in line or "\n" in line]


def test_the_other_routes_tell_of_the_server(detector: Detector) -> None:
    async def work(client: httpx.AsyncClient) -> dict[str, httpx.Response]:
        await client.post("/predict", files=files(picture(0), b"no", picture(0)))
        await client.post("/predict", content=b"no", headers={"content-type": "a/b"})
        return {path: await client.get(path) for path in application.ROUTES if path != "/predict"}

    answers = talk(detector, work, name="<b>mine</b>")
    assert {answer.status_code for answer in answers.values()} == {200}
    assert answers["/healthz"].json() == {"status": "ok"}
    model = answers["/model"].json()
    assert (model["labels"], model["version"]) == (["red", "blue"], dyzoo.__version__)
    assert model["config"]["architecture"] == "dyhead_atss_resnet10t"
    assert model["limits"]["max_pictures"] == 32
    assert "<b>" not in answers["/"].text
    assert "default-src 'none'" in answers["/"].headers["content-security-policy"]
    lines = answers["/metrics"].text.splitlines()
    for line in (
        'dyzoo_requests_total{route="/predict",status="200"} 1.0',
        'dyzoo_requests_total{route="/predict",status="415"} 1.0',
        'dyzoo_pictures_total{outcome="detected"} 2.0',
        'dyzoo_pictures_total{outcome="refused"} 1.0',
        "dyzoo_queue_pictures 0.0",
        "dyzoo_held_bytes 0.0",
        'dyzoo_request_seconds_count{route="/predict"} 2.0',
    ):
        assert line in lines
    document = answers["/openapi.json"].json()
    assert set(document["paths"]) == {path for path in application.ROUTES if path != "/openapi.json"}
    assert set(document["paths"]["/predict"]["post"]["responses"]) >= {"200", "408", "413", "415", "422", "503", "504"}


def test_an_application_may_be_mounted_in_another(detector: Detector) -> None:
    from fastapi import FastAPI

    outer = FastAPI()
    outer.mount("/cells", create_app(detector))  # whose lifespan nobody runs

    async def work() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://server") as client:
            return await client.post("/cells/predict", files=files(picture(0))), await client.get("/cells/metrics")

    answer, metrics = asyncio.run(work())
    assert answer.json()["results"] == [expected(detector, picture(0))]
    assert 'dyzoo_requests_total{route="/predict",status="200"} 1.0' in metrics.text


def test_settings_that_the_detector_cannot_follow_are_said_at_once(detector: Detector) -> None:
    with pytest.raises(SettingError, match="knows no class 'green'"):
        create_app(detector, ServeConfig(classes=("green",)))
    with pytest.raises(ValueError, match="max_pictures is 32, expected at most max_queue, which is 8"):
        ServeConfig(max_queue=8)
    with pytest.raises(ValueError, match="max_bytes is"):
        ServeConfig(max_held_bytes=1000)


def test_jpegs_are_read_upright(detector: Detector) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).save(content, "JPEG", exif=exif)
    (result,) = post(detector, content=content.getvalue(), headers=PNG).json()["results"]
    assert (result["width_px"], result["height_px"]) == (96, 64)
