"""The page in a browser: what it finds, what it shows and saves, and what it does with broken things."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dyzoo
from dyzoo.demo.static_page import MODEL_NAME, page_options, write_static_page
from dyzoo.images.colors import class_color
from dyzoo.model.detector import Detector
from dyzoo.zoo.catalog import sample_image
from dyzoo.zoo.names import DEFAULT_MODEL
from tests.demo.browsing import FOUND, PATIENCE_MS, Visit, serving, visiting
from tests.export.detectors import small_detector

pytestmark = pytest.mark.slow

PAGE = "sub folder/page"
BOX_PX, SCORE = 0.5, 2e-3  # at most between Python's answers and the page's


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with serving(site) as server:
        yield f"{server}/{PAGE}/"


@pytest.fixture(scope="module")
def visit(chromium: Any, address: str) -> Iterator[Visit]:
    """One visitor for all tests that leave the page as they found it."""
    with visiting(chromium, address, accept_downloads=True) as each:
        each.expect_state("Ready")
        yield each


@pytest.fixture(scope="module")
def detector() -> Detector:
    return dyzoo.load(DEFAULT_MODEL)


def assert_same(page: dict[str, Any], python: dict[str, Any]) -> None:
    """Every object of one is in the other, and what else is known of a picture is the same."""
    assert page.keys() == python.keys()
    for key in ("height_px", "width_px", "frame", "time_s", "notes"):
        assert page[key] == python[key], key
    assert len(page["detections"]) == len(python["detections"]) > 0
    left = list(page["detections"])
    for want in python["detections"]:
        box = np.array(want["box_xyxy"])
        nearest = min(left, key=lambda got: np.abs(np.array(got["box_xyxy"]) - box).max())
        left.remove(nearest)
        assert np.abs(np.array(nearest["box_xyxy"]) - box).max() <= BOX_PX
        assert abs(nearest["score"] - want["score"]) <= SCORE
        assert (nearest["name"], nearest["label"]) == (want["name"], want["label"])


def show(visit: Visit, *paths: Path) -> None:
    visit.page.set_input_files("#files", [str(path) for path in paths])
    visit.expect_state(FOUND)


def test_the_sample_is_detected_as_in_python(visit: Visit, detector: Detector) -> None:
    visit.set_threshold(0.1)
    visit.page.click("#sample")
    visit.expect_state(re.compile(r"^sample\.jpg: 640 x 480 pixels, \d+ ms$"))
    (python,) = detector.predict(sample_image(), threshold=0.1)
    page = visit.saved_json()
    assert page["source"] == "sample.jpg"
    assert_same(page, python.to_dict())


@pytest.mark.parametrize("kind", ["upright", "turned", "transparent", "grey"])
def test_pictures_of_every_kind_are_detected_as_in_python(
    kind: str, visit: Visit, detector: Detector, tmp_path: Path
) -> None:
    path = tmp_path / f"{kind}.png"
    with Image.open(sample_image()) as sample:
        if kind == "upright":
            sample.resize((1111, 823)).save(path)
        elif kind == "turned":
            exif = Image.Exif()
            exif[0x0112] = 6
            path = path.with_suffix(".jpg")
            sample.save(path, quality=95, exif=exif)
        elif kind == "transparent":
            alpha = Image.new("L", sample.size, 255)
            alpha.paste(0, (0, 0, 200, 480))
            sample.putalpha(alpha)
            sample.save(path)
        else:
            sample.convert("L").save(path)
    visit.set_threshold(0.1)
    show(visit, path)
    (python,) = detector.predict(path, threshold=0.1)
    assert_same(visit.saved_json(), python.to_dict())


def test_threshold_and_classes_choose_what_is_listed_and_saved(visit: Visit, detector: Detector) -> None:
    show(visit, sample_image())
    (python,) = detector.predict(sample_image(), threshold=0.0)
    page = visit.page
    for threshold, classes in ((0.3, detector.labels), (0.5, detector.labels), (0.3, ("WBC", "Platelets")), (0.3, ())):
        visit.set_threshold(threshold)
        page.click("#no-classes")
        for name in classes:
            page.get_by_role("checkbox", name=name).check()
        want = python.filter(threshold, list(classes))
        assert page.locator("#found li").count() == len(want)
        assert page.locator("#count").text_content().startswith(f"{len(want)} object")
        assert [each["name"] for each in visit.saved_json()["detections"]] == want.class_names
    page.click("#all-classes")


def test_the_saved_picture_has_the_boxes(visit: Visit, detector: Detector) -> None:
    show(visit, sample_image())
    visit.set_threshold(0.6)
    (best, *_) = detector.predict(sample_image(), threshold=0.6)[0]
    with Image.open(visit.save("#save-png")) as saved:
        assert saved.format == "PNG"
        assert saved.size == (640, 480)
        x1, _, _, y2 = (round(edge) for edge in best.box_xyxy)
        below = np.asarray(saved.convert("RGB"))[y2 - 2 : y2 + 1, x1 + 20]
    assert np.abs(below.astype(int) - class_color(best.label)).max(axis=1).min() < 40


def test_a_bad_file_is_one_line_and_the_good_ones_still_come(visit: Visit, tmp_path: Path) -> None:
    bad, cut, huge = tmp_path / "<b>bad.png", tmp_path / "cut.png", tmp_path / "huge.png"
    bad.write_text("no picture")
    cut.write_bytes(sample_image().read_bytes()[:300])
    Image.new("1", (10_000, 6000)).save(huge)
    files = [bad, sample_image(), cut, huge]
    visit.page.set_input_files("#files", [str(file) for file in files])
    lines = visit.page.locator("#errors li")
    lines.nth(2).wait_for(timeout=PATIENCE_MS)
    texts = lines.all_text_contents()
    assert texts[0] == "<b>bad.png is no picture that this browser can read"
    assert texts[1].startswith("cut.png is ")
    assert texts[2].startswith("huge.png is too large: 10000 x 6000 pixels, expected at most 50 million")
    visit.expect_state(re.compile(r"^sample\.jpg: 640 x 480 pixels, .* ms$"))
    assert visit.saved_json()["source"] == "sample.jpg"
    assert visit.page.locator("b").count() == visit.page.locator("#opened li").count() == 0


def test_a_dropped_and_a_pasted_file_are_opened(visit: Visit) -> None:
    for kind, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        content = list(sample_image().read_bytes())
        visit.page.evaluate(
            """([kind, holder, content]) => {
              const transfer = new DataTransfer();
              transfer.items.add(new File([new Uint8Array(content)], `${kind}.jpg`, { type: "image/jpeg" }));
              const type = kind === "drop" ? DragEvent : ClipboardEvent;
              document.body.dispatchEvent(new type(kind, { [holder]: transfer, bubbles: true, cancelable: true }));
            }""",
            [kind, holder, content],
        )
        visit.expect_state(re.compile(rf"^{kind}\.jpg: 640 x 480"))


def test_several_pictures_can_be_looked_at_again(visit: Visit, tmp_path: Path) -> None:
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path, color in zip(paths, ("white", "black"), strict=True):
        Image.new("RGB", (40, 30), color).save(path)
    visit.page.set_input_files("#files", [str(path) for path in paths])
    visit.expect_state(re.compile(r"^two\.png: 40 x 30"))
    visit.page.get_by_role("button", name="one.png").click()
    visit.expect_state(re.compile(r"^one\.png: 40 x 30"))


def test_nothing_is_asked_of_another_server(visit: Visit, address: str) -> None:
    show(visit, sample_image())
    sent = [url for url in visit.requests if not url.startswith(("blob:", "data:"))]
    assert f"{address.replace(' ', '%20')}runtime/ort-wasm-simd-threaded.wasm" in sent, (
        "requests of the worker are seen"
    )
    assert all(url.startswith(address.replace(" ", "%20")) for url in sent), sent
    assert not visit.faults


def test_threads_are_used_where_the_server_allows_them(chromium: Any, site: Path, detector: Detector) -> None:
    with serving(site, isolated=True) as server, visiting(chromium, f"{server}/{PAGE}/") as visit:
        visit.expect_state("Ready")
        assert visit.page.evaluate("() => crossOriginIsolated")
        threads = min(visit.page.evaluate("() => navigator.hardwareConcurrency"), 4)
        assert ("One thread." if threads == 1 else f"{threads} threads.") in visit.page.locator("#about").text_content()
        visit.set_threshold(0.1)
        visit.page.click("#sample")
        visit.expect_state(FOUND)
        assert_same(visit.saved_json(), detector.predict(sample_image(), threshold=0.1)[0].to_dict())
        assert not visit.faults


def test_the_camera_is_detected_in_until_it_is_stopped(chromium: Any, address: str) -> None:
    with visiting(chromium, address, permissions=["camera"]) as visit:
        visit.expect_state("Ready")
        visit.page.click("#camera")
        visit.expect_state(re.compile(r"^camera: \d+ x \d+ pixels, \d+ ms$"))
        first = visit.page.locator("#status").text_content()
        visit.expect_state(re.compile(f"^(?!{re.escape(first)}$).* ms$"))  # another frame has come
        visit.page.get_by_role("button", name="Stop camera").click()
        assert visit.page.get_by_role("button", name="Start camera").is_visible()
        assert visit.saved_json()["source"] == "camera"
        visit.page.click("#sample")
        visit.expect_state(re.compile(r"^sample\.jpg: .* ms$"))
        assert not visit.faults


def test_a_camera_that_is_refused_is_one_line(chromium: Any, address: str) -> None:
    with visiting(chromium, address) as visit:
        visit.expect_state("Ready")
        visit.page.click("#camera")
        visit.expect_error(re.compile("^the camera was refused: "))
        visit.page.click("#sample")
        visit.expect_state(FOUND)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "runtime/ort-wasm-simd-threaded.wasm",
            r"^runtime/ort-wasm-\S+ is missing \(the server says 404",
        ),
        ("runtime/ort.wasm.bundle.min.js", r"^runtime/ort\.wasm\.bundle\.min\.js is missing or cannot be run here"),
        ("worker.js", "^the detector has stopped "),
        ("detector.json", r"^detector\.json is missing"),
        (MODEL_NAME, r"^detector\.onnx has 1000 bytes, expected \d+"),
    ],
)
def test_a_file_that_is_missing_or_cut_is_one_line(
    name: str, line: str, chromium: Any, site: Path, tmp_path: Path
) -> None:
    shutil.copytree(site / PAGE, tmp_path / "page", copy_function=os.link)
    (tmp_path / "page" / name).unlink()
    if name == MODEL_NAME:
        (tmp_path / "page" / name).write_bytes((site / PAGE / name).read_bytes()[:1000])
    with serving(tmp_path) as server, visiting(chromium, f"{server}/page/") as visit:
        visit.expect_error(re.compile(line))
        visit.expect_state("The detector could not be loaded")
        assert visit.page.locator("#sample").is_disabled()
        assert not visit.faults


def test_a_detector_of_floating_point_and_inclusive_corners_has_a_page(chromium: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = small_detector("grounded_atss", channel_order="BGR", offset_mode="flat")
    write_static_page(model, tmp_path / "page", title="small", options=replace(page_options(), input_type="float32"))
    with serving(tmp_path) as server, visiting(chromium, f"{server}/page/") as visit:
        visit.expect_state("Ready")
        visit.page.click("#sample")
        visit.expect_state(FOUND)
        visit.set_threshold(0.05)
        assert_same(visit.saved_json(), model.predict(sample_image(), threshold=0.05)[0].to_dict())


def test_class_names_of_strangers_stay_text(chromium: Any, site: Path, tmp_path: Path) -> None:
    name = "<img src=x onerror=\"document.title = 'taken'\"><b>bold</b>"
    loaded = dyzoo.load(site / PAGE / MODEL_NAME)
    loaded.config = replace(loaded.config, labels=(name, "</script><script>document.title = 'taken'</script>", "WBC"))
    write_static_page(loaded, tmp_path / "page", title=name)
    with serving(tmp_path) as server, visiting(chromium, f"{server}/page/") as visit:
        visit.expect_state("Ready")
        visit.page.click("#sample")
        visit.expect_state(FOUND)
        assert visit.page.locator("#classes li").first.text_content().startswith(name)
        assert visit.page.title() == visit.page.locator("h1").text_content() == name
        assert visit.page.locator("img, b").count() == 0
        assert len(visit.page.locator("script").all()) == 1


def test_opened_from_a_file_the_page_says_how_to_serve_it(chromium: Any, site: Path) -> None:
    with visiting(chromium, (site / PAGE / "index.html").as_uri()) as visit:
        notice = visit.page.locator("#unserved")
        notice.wait_for(timeout=PATIENCE_MS)
        assert "python -m http.server" in notice.inner_text()
        assert not visit.page.locator("#main").is_visible()
