"""The files of an explanation: whole, harmless whatever the names are, and the same in the page and in the numbers."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyzoo.errors import SettingError
from dyzoo.explain import PANELS, Explanation
from dyzoo.explain.page import page
from tests.demo.browsing import CHROMIUM, FLAGS
from tests.explain.conftest import planted

HOSTILE = "<script>alert(1)</script>\u202e\x1b[2J$\\frac{&\"'"


@pytest.fixture(scope="module")
def hostile() -> Explanation:
    """An explanation whose class and file are called by an attacker."""
    model = planted(labels=(HOSTILE, HOSTILE + "2"))
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    explanation = model.explain(noise)
    named = replace(explanation.detections, source=f"/home/me/secret/{HOSTILE[:9]}.png", path=Path("/home/me/secret"))
    return replace(explanation, detections=named)


def test_all_files_are_written_and_can_be_read(saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    assert names == {"explain.html", "explain.json", *(f"{kind}.png" for kind in PANELS)}
    for kind in PANELS:
        with Image.open(saved / f"{kind}.png") as picture:
            picture.load()
            assert min(picture.size) > 300


def test_numbers_are_json_of_the_explanation(saved: Path, explanation: Explanation) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    numbers = json.loads((saved / "explain.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert numbers["detection"] == 0
    assert numbers["place_px"] == [40, 24]
    assert [len(block["levels"]) for block in numbers["blocks"]] == [5, 5]
    for block, levels in zip(numbers["blocks"], explanation.blocks, strict=True):
        for written, level in zip(block["levels"], levels, strict=True):
            assert written["scale_weights"] == {
                name: {str(source): weight for source, weight in branch.weights.items()}
                for name, branch in level.branches.items()
            }
            assert len(written["sampling"]["points"]) == 9 * len(level.branches)
            assert written["relu"]["first_line_share"] == level.first_share.tolist()


def test_the_page_has_one_script_whose_hash_is_in_the_policy(saved: Path) -> None:
    text = (saved / "explain.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = html.unescape(re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[0])
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_the_page_fetches_nothing(saved: Path) -> None:
    text = (saved / "explain.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    sources = re.findall(r'(?:src|href|srcset)="([^"]*)"', text)
    assert sources
    assert all(source.startswith(("data:image/jpeg;base64,", "data:image/png;base64,")) for source in sources)


def test_without_a_script_the_chosen_block_and_level_are_shown(explanation: Explanation) -> None:
    text = page(replace(explanation, block=0, level=2))
    parts = re.findall(r'<(?:div|figure)[^>]* data-block="(\d)" data-level="(\d)"( hidden)?>', text)
    assert {(block, level) for block, level, is_hidden in parts if not is_hidden} == {("0", "2")}
    assert {(block, level) for block, level, _ in parts} == {(str(b), str(n)) for b in range(2) for n in range(5)}


def test_names_of_strangers_are_text(hostile: Explanation) -> None:
    text = page(hostile)
    assert text.count("<script") == 1
    assert "&lt;script&gt;alert(1)" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "/home/me" not in text  # where the file lies is nothing to those who get the page


@pytest.mark.parametrize("kind", PANELS)
@pytest.mark.filterwarnings("error")
def test_panels_are_drawn_whatever_the_names_are(hostile: Explanation, kind: str) -> None:
    assert hostile.panel(kind, block=0, level=4).mode == "RGB"  # type: ignore[arg-type]


def test_another_block_and_level_give_another_panel(explanation: Explanation) -> None:
    first, second = (np.asarray(explanation.panel("sampling", block, level)) for block, level in ((0, 1), (1, 1)))
    assert (first != second).any()
    wrong = [({"kind": "map"}, "expected one of maps"), ({"block": 2}, "block is 2"), ({"level": 9}, "level is 9")]
    for arguments, words in wrong:
        with pytest.raises(SettingError, match=words):
            explanation.panel(**arguments)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_offsets_beyond_all_measure_are_drawn(explanation: Explanation) -> None:
    level = explanation.blocks[1][1]
    far = {name: replace(branch, offsets=branch.offsets * 1e12) for name, branch in level.branches.items()}
    levels = (explanation.blocks[1][0], replace(level, branches=far), *explanation.blocks[1][2:])
    assert replace(explanation, blocks=(explanation.blocks[0], levels)).panel("sampling", 1, 1).mode == "RGB"


def test_a_folder_that_is_a_file_is_refused(explanation: Explanation, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError):  # noqa: PT011 (the system's words)
        explanation.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_shows_the_block_and_level_that_are_chosen(saved: Path) -> None:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        visit = browser.new_page()
        faults: list[str] = []
        requests: list[str] = []
        visit.on("console", lambda message: faults.append(message.text))
        visit.on("pageerror", lambda error: faults.append(str(error)))
        visit.on("request", lambda request: requests.append(request.url))
        visit.goto((saved / "explain.html").as_uri())
        for block, level in (("0", "3"), ("1", "0")):
            visit.locator("#block").fill(block)
            visit.locator("#level").select_option(level)
            shown = visit.locator("[data-block][data-level]:visible:not([data-mark])")
            found = shown.evaluate_all("parts => parts.map(part => part.dataset.block + part.dataset.level)")
            assert set(found) == {block + level}
            assert len(found) == 4  # maps, sampling, channels, the object
            assert visit.locator("#block-name").inner_text() == block
        browser.close()
    assert faults == []
    assert all(url.startswith(("file:", "data:")) for url in requests)
