"""The Gradio page in a browser: what somebody sees who uploads a picture, and what the browser asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

from dyzoo.demo.app import create_app  # noqa: E402
from dyzoo.demo.serving import start  # noqa: E402
from dyzoo.model.detector import Detector  # noqa: E402
from dyzoo.zoo.catalog import sample_image  # noqa: E402
from dyzoo.zoo.creation import load_model  # noqa: E402
from dyzoo.zoo.names import DEFAULT_MODEL  # noqa: E402

pytestmark = pytest.mark.slow

LONG_MS = 60_000


@pytest.fixture(scope="module")
def address(evil_model: str) -> Iterator[str]:
    """Address of a page with the embedded detector, and one with a hostile label."""
    app = create_app([DEFAULT_MODEL, evil_model], catalog=False, device="cpu")
    yield start(app, "127.0.0.1")
    app.close()


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    """The page, open; in the end it has asked nobody but its own server, and no script of a stranger has run."""
    context = chromium.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.locator("input[type=file]").first.wait_for(state="attached", timeout=LONG_MS)
    yield page
    assert page.evaluate("window.hacked") is None
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    context.close()


def upload(page: Any, path: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(path)


def wait_for_words(page: Any, words: str) -> None:
    playwright.expect(page.locator("#found textarea")).to_have_value(words, timeout=LONG_MS)


def words(threshold: float, classes: list[str] | None = None, model: Detector | None = None) -> str:
    """The line on the sample picture."""
    (found,) = (model or load_model(DEFAULT_MODEL)).predict(sample_image(), threshold, classes=classes)
    counts = ", ".join(f"{number} {name}" for name, number in found.counts().items())
    return "\n".join([counts or "nothing found", *found.notes])


def choose(page: Any, name: str, option: str) -> None:
    page.locator(f"#{name} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def test_a_picture_is_uploaded_and_settings_are_changed(page: Any, tmp_path: Path) -> None:
    upload(page, sample_image())
    wait_for_words(page, words(0.3))
    image = page.locator("#annotated img")
    assert image.evaluate("image => image.complete && image.naturalWidth") >= 480
    playwright.expect(page.locator("#objects")).to_contain_text("Platelets")
    number = page.locator("#threshold input[type=number]")
    number.fill("0.5")
    number.blur()
    wait_for_words(page, words(0.5))
    choose(page, "classes", "WBC")
    wait_for_words(page, words(0.5, ["WBC"]))
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "detections.json")
    assert download.value.suggested_filename == "detections.json"
    written = json.loads((tmp_path / "detections.json").read_text())
    assert (written["threshold"], written["classes"]) == (0.5, ["WBC"])
    assert {each["name"] for each in written["images"][0]["detections"]} == {"WBC"}


def test_the_example_is_a_picture_like_any(page: Any) -> None:
    page.locator("button.gallery-item, .gallery button, .gallery-item").first.click()
    wait_for_words(page, words(0.3))


@pytest.mark.filterwarnings("ignore::dyzoo.model.missed.MissedWarning")
def test_labels_and_names_of_strangers_stay_text(page: Any, evil_model: str, tmp_path: Path) -> None:
    upload(page, sample_image())
    wait_for_words(page, words(0.3))
    choose(page, "model", evil_model)
    wait_for_words(page, words(0.3, model=Detector.from_pretrained(evil_model)))
    page.locator("#classes input").click()
    (tmp_path / "<img src=x onerror='window.hacked=1'>.png").write_bytes(b"no picture")
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    wait_for_words(page, "")
    upload(page, next(tmp_path.glob("*.png")))
    toast = page.get_by_test_id("toast-body")
    playwright.expect(toast).to_contain_text("is not an image of a known format", timeout=LONG_MS)
    assert "Traceback" not in toast.inner_text()
    assert page.locator("img[src=x]").count() == 0
