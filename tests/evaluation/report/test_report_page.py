from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyzoo.config.training import TrainConfig, TransformConfig
from dyzoo.data import DetectionDataset
from dyzoo.evaluation import compare
from dyzoo.evaluation.report import write_report
from tests.evaluation.report.report_cases import SIZE_PX, dataset, evaluation, random_case, results

LABELS = ("cat", "dog", "bird")
A, B, C = (0, 0, 20, 20), (50, 50, 90, 90), (100, 10, 140, 60)
ROWS: list[dict[str, float | None]] = [
    {
        "epoch": 1,
        "lr": 0.1,
        "loss": 2.0,
        "loss_box": 1.0,
        "images_per_s": 9.0,
        "data_wait": 0.1,
        "AP": 0.5,
        "AP50": 0.6,
    },
    {
        "epoch": 2,
        "lr": 0.1,
        "loss": 1.5,
        "loss_box": 0.7,
        "images_per_s": 8.0,
        "data_wait": 0.2,
        "AP": 0.7,
        "AP50": 0.8,
    },
    {"epoch": 3, "lr": 0.1, "loss": 1.4, "loss_box": 0.6, "images_per_s": 8.5, "data_wait": 0.1},
]


class Page(HTMLParser):
    """Words by the id of the section they are in ("" is the head of the page), addresses, tags and pictures."""

    VOID = frozenset({"meta", "img", "source", "br", "hr", "link", "input"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.section = ""
        self.texts: dict[str, list[str]] = {}
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self.feed(self.source)
        self.close()
        assert not self.open, "a tag is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.attributes |= set(values)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = str(values["id"])
        self.addresses += [str(values[name]) for name in ("src", "srcset", "href", "action", "data") if name in values]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self.section, []).append(data.strip())

    def text(self, section: str) -> str:
        return " ".join(self.texts.get(section, []))

    def photographs(self) -> list[Image.Image]:
        """JPEG pictures: ground truth and prediction in turn."""
        start = "data:image/jpeg;base64,"
        contents = [base64.b64decode(each.removeprefix(start)) for each in self.addresses if each.startswith(start)]
        return [Image.open(io.BytesIO(content)) for content in contents]


def draw_images(data: DetectionDataset) -> None:
    for index, each in enumerate(data.samples):
        each.image_path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE_PX, (120, 10 * index % 255, 120)).save(each.image_path, format="PNG")


def report(folder: Path, data: DetectionDataset, found: list[dict[str, Any]], **more: Any) -> Page:
    path = folder / "new" / "report.html"
    write_report(path, data, evaluation(data, found, more.pop("notes", ())), **{"title": "cats on sofas", **more})
    return Page(path)


def run_record() -> dict[str, Any]:
    config = TrainConfig(Path("/home/somebody/sofas"), epochs=7, seed=5, transform=TransformConfig(crop=0.25))
    record = {
        "versions": {"dyzoo": "0.1.0", "torch": "2.15.0"},
        "data": {"train": {"images": 9, "labels": ["cat"], "sha256": "abc123"}},
        "resumed_at_step": None,
        "images_per_step": 8,
        "config": asdict(config),
    }
    return json.loads(json.dumps(record, default=str))


def test_everything_is_there(tmp_path: Path) -> None:
    data = dataset([[(A, 0), (B, 1), (C, 2)], [(A, 0)], []], LABELS, tmp_path)
    draw_images(data)
    found = results([[(A, 0, 0.9), (B, 2, 0.8), (C, 2, 0.1)], [(A, 0, 0.9)], []])
    page = report(tmp_path, data, found, rows=ROWS, record=run_record())
    assert list(page.texts) == ["", "training", "classes", "confusion", "curves", "worst", "sizes"]
    head = page.text("")
    assert "Data set sofas: 3 images with 4 boxes of 3 classes" in head
    assert "Best epoch 2 of 3" in head
    assert "Suggested score threshold 0.1 mean F1 0.556" in head  # F1 1, 0 and 2 / 3
    for word in ("loss", "validation AP", "learning rate", "images per second", "waiting for data"):
        assert word in page.text("training")
    assert "epochs 7 by the data seed 5 0 transform.crop 0.25 0.5" in page.text("training")
    assert "abc123" in page.text("training")
    assert "somebody" not in page.source
    assert "cat 2 1.000 1.000 1.000 1.000 1.000 1.000" in page.text("classes")
    assert page.text("classes").index("dog") < page.text("classes").index("cat"), "the weakest first"
    assert "dog 0 0 1 100% 0" in page.text("confusion")
    assert "dog bird 1 100.0%" in page.text("confusion")
    assert "1. 0.png 1 confused: dog taken for bird; 2 right" in page.text("worst")
    assert "small under 32² px 2 2 0 0 1.000" in page.text("sizes")
    assert "medium under 96² px 2 1 1 0 0.500" in page.text("sizes")


def test_without_a_training_there_is_no_such_section(tmp_path: Path) -> None:
    data = dataset([[(A, 0)]], LABELS, tmp_path)
    page = report(tmp_path, data, results([[(A, 0, 0.9)]]))
    assert "training" not in page.texts
    assert "Best epoch" not in page.text("")
    assert "No image has a mistake" in page.text("worst")


def test_the_page_fetches_nothing_and_runs_nothing(tmp_path: Path) -> None:
    data, found = random_case(3)
    page = report(tmp_path, data, found, rows=ROWS, record=run_record())
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert all(address.startswith(("data:image/png;", "data:image/jpeg;", "#")) for address in page.addresses)
    assert not [name for name in page.attributes if name.startswith("on")]
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert "http" not in page.source.replace("http-equiv", "")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    data, found = random_case(4)
    data = DetectionDataset(
        [type(each)(**{**vars(each), "image_path": tmp_path / each.image_path.name}) for each in data.samples],
        data.labels,
        data.category_ids,
    )
    draw_images(data)
    first, second = (
        report(tmp_path / name, data, found, rows=ROWS, record=run_record()).source for name in ("one", "two")
    )
    assert first == second


def test_names_of_strangers_are_shown_and_do_nothing(tmp_path: Path) -> None:
    labels = ("<script>alert(1)</script>", 'dog" onload="alert(2)', "_$x^{$\x1b[31m\u202eb\nird")
    folder = tmp_path / "pictures"
    data = dataset([[(A, 0), (B, 1), (C, 2)]] * 2, labels, folder)
    names = ["\x1b[2J<b>\n.png", "\udcff.png"]  # the second is no UTF-8
    for each, name in zip(data.samples, names, strict=True):
        object.__setattr__(each, "image_path", folder / name)
    draw_images(data)
    record = run_record()
    record["config"]["model"] = "<img src=x onerror=alert(3)>"
    found = results([[(A, 1, 0.9), (B, 0, 0.8), (C, 1, 0.7)], [(A, 0, 0.9), (B, 1, 0.9), (C, 2, 0.9)]][::-1])
    notes = (f"{folder}/a.png: <i>no such file</i>\x00",)
    page = report(tmp_path, data, found, title="</title><script>", rows=ROWS, record=record, notes=notes)
    assert "script" not in page.tags
    assert "<b>" not in page.source
    assert "<i>no" not in page.source
    assert not [name for name in page.attributes if name.startswith("on")]
    assert not [letter for letter in page.source if not letter.isprintable() and letter != "\n"]
    assert labels[0] in page.text("classes")
    assert labels[1] in page.text("classes")
    assert r"_$x^{$\x1b[31m\u202eb\nird" in page.text("classes")
    assert r"\udcff.png" in page.text("worst")
    assert "a.png: <i>no such file</i>" in page.text("")
    assert str(folder) not in page.source, "where the images lie is nobody's business"


def test_worst_images_come_first_and_right_ones_not_at_all(tmp_path: Path) -> None:
    crowded = [((20 * x, 20 * y, 20 * x + 15, 20 * y + 15), 0) for x in range(9) for y in range(7)]  # 63 objects
    data = dataset([[(A, 0)], crowded, [(A, 0), (B, 0)], [(A, 0)], [(A, 0), (B, 0)]], LABELS, tmp_path)
    draw_images(data)
    found = [(box, label, 0.9) for box, label in crowded]
    images = [[(A, 0, 0.9)], found[:-4], [], [], [(A, 0, 0.9), (B, 1, 0.9)]]
    page = report(tmp_path, data, results(images))
    captions = [text for text in page.texts["worst"] if ". " in text and text.endswith(".png")]
    assert captions == ["1. 2.png", "2. 3.png", "3. 4.png", "4. 1.png"]  # weights 2, 1, 1/2, 16/63
    assert "4 of 5 images have a mistake" in page.text("worst")
    assert "1. 2.png 2 missed: cat; 0 right" in page.text("worst")
    assert len(page.photographs()) == 8


def test_mistakes_have_their_colours(tmp_path: Path) -> None:
    data = dataset([[((10, 10, 60, 60), 0), ((80, 10, 130, 60), 1), ((10, 80, 60, 130), 2)]], LABELS, tmp_path)
    Image.new("RGB", SIZE_PX, "white").save(data.samples[0].image_path)
    boxes = [((10, 10, 60, 60), 0, 0.9), ((80, 10, 130, 60), 0, 0.9), ((140, 80, 190, 130), 1, 0.9)]
    truth, prediction = report(tmp_path, data, results([boxes])).photographs()
    zoom = truth.width / SIZE_PX[0]

    def shows(picture: Image.Image, color: tuple[int, int, int], x_px: float, y_px: float) -> bool:
        """Whether there is a pixel of about this colour near an edge; JPEG mixes it with its neighbours."""
        x, y, reach = round(x_px * zoom), round(y_px * zoom), 3
        around = np.asarray(picture.convert("RGB"))[y - reach : y + reach + 1, x - reach : x + reach + 1]
        return bool((np.abs(around.astype(int) - color).max(axis=2) < 40).any())

    right, confused, missed, false = (0, 158, 115), (170, 90, 200), (230, 159, 0), (213, 60, 0)
    assert shows(truth, right, 35, 60)
    assert shows(prediction, right, 35, 60)
    assert shows(truth, confused, 105, 60)
    assert shows(prediction, confused, 105, 60)
    assert shows(truth, missed, 60, 130)
    assert not shows(prediction, missed, 60, 130)
    assert shows(prediction, false, 165, 130)
    assert not shows(truth, false, 165, 130)


def test_an_image_that_cannot_be_read_is_named_and_the_next_one_shown(tmp_path: Path) -> None:
    data = dataset([[(A, 0), (B, 0)], [(A, 0)], [(A, 0), (B, 1)]], LABELS, tmp_path)
    draw_images(data)
    data.samples[0].image_path.write_text("no picture")
    data.samples[1].image_path.unlink()
    page = report(tmp_path, data, results([[], [], [(A, 0, 0.9)]]))
    assert len(page.photographs()) == 2
    assert "Cannot be shown 0.png is not an image" in page.text("worst")
    assert "1.png: no such file" in page.text("worst")


@pytest.mark.parametrize("images", [[[(A, 0), (B, 1)], []], [[], []]], ids=["objects", "no objects"])
@pytest.mark.parametrize("finds", [[[], []], [[(C, 0, 0.9)], [(A, 1, 0.8)]]], ids=["nothing found", "false finds"])
def test_where_nothing_is_right_no_threshold_is_suggested(tmp_path: Path, images: Any, finds: Any) -> None:
    data = dataset(images, LABELS, tmp_path)
    draw_images(data)
    page = report(tmp_path, data, results(finds))
    assert "Suggested score threshold - none is better than another" in page.text("")
    assert "at a score of 0.3" in page.text("classes")
    mistakes = sum(bool(objects or found) for objects, found in zip(images, finds, strict=True))
    assert len(page.photographs()) == 2 * mistakes
    assert ("curves" in page.texts) == bool(images[0])


def test_many_classes(tmp_path: Path) -> None:
    data, found = random_case(5, images=60, classes=90, objects=8)
    page = report(tmp_path, data, found)
    assert all(f"class {label}" in page.text("classes") for label in range(90))
    assert "Shown are the 16 classes with the most confusions; the other 74 are one row and one column" in page.text(
        "confusion"
    )
    assert "the 5 weakest classes" in page.text("curves")
    assert len(page.source) < 4_000_000


def test_a_comparison_is_shown(tmp_path: Path) -> None:
    data = dataset([[(A, 0)], [(A, 0)]], LABELS, tmp_path)
    found = [results([[(A, 0, 0.9)], [(A, 0, 0.9)]]), results([[(A, 0, 0.9)], []])]
    compared = compare(*(evaluation(data, each) for each in found), data, draws=20, names=("ours", "<b>theirs</b>"))
    page = report(tmp_path, data, found[0], comparison=compared)
    text = page.text("comparison")
    assert "ours" in text
    assert "<b>theirs</b>" in text
    for row in compared.tables()[0]:
        assert " ".join(row) in text
    assert compared.changed[0].path.name in text


def test_what_the_evaluation_cost_is_shown_if_it_was_measured(tmp_path: Path) -> None:
    class Cost:
        def facts(self) -> list[tuple[str, str]]:
            return [("time per image", "12 ms"), ("device", "<cpu>")]

    data = dataset([[(A, 0)]], LABELS, tmp_path)
    measured = evaluation(data, results([[(A, 0, 0.9)]]))
    object.__setattr__(measured, "cost", Cost())
    write_report(tmp_path / "report.html", data, measured, title="cats on sofas")
    assert "time per image 12 ms device <cpu>" in Page(tmp_path / "report.html").text("")


def test_notes_are_counted_where_there_are_many(tmp_path: Path) -> None:
    data = dataset([[(A, 0)]], LABELS, tmp_path)
    data.notes.append("the data set's own")
    notes = tuple(f"note {number}" for number in range(50))
    head = report(tmp_path, data, results([[(A, 0, 0.9)]]), notes=notes).text("")
    assert "note 11" in head
    assert "note 12" not in head
    assert "and 39 more" in head
