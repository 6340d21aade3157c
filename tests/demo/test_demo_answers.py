"""Answers of the page are those of `Detector.predict`, and of the detectors that it offers."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

import dyzoo.demo.installed
import dyzoo.demo.models
from dyzoo.demo.detecting import Upload, Wish, answer
from dyzoo.demo.explaining import CAPTIONS, reasons
from dyzoo.demo.models import Models, offered_models
from dyzoo.errors import DyzooError, ImageError, SettingError, UnknownModelError
from dyzoo.explain import PANELS
from dyzoo.model.detector import Detector
from dyzoo.zoo.names import DEFAULT_MODEL
from tests.cli.cli_helpers import Cli, assert_one_error
from tests.cli.conftest import cli as cli


def upload(path: Path) -> Upload:
    return Upload(path.name, path.read_bytes())


@pytest.mark.filterwarnings("ignore::dyzoo.model.missed.MissedWarning")
@pytest.mark.parametrize(
    ("threshold", "size", "classes"),
    [(0.0, None, None), (0.3, None, None), (0.9, 320, None), (0.3, None, ("blue",)), (1.0, None, None)],
)
def test_answers_are_those_of_predict(
    eager_model: str, picture: Path, threshold: float, size: int | None, classes: tuple[str, ...] | None
) -> None:
    given = answer(Models([eager_model]), upload(picture), Wish(eager_model, threshold, size, classes))
    model = Detector.from_pretrained(eager_model)
    (expected,) = model.predict(picture, threshold, size, classes=classes)
    assert given.detections.to_dict() == replace(expected, path=None, source="good.png").to_dict()
    assert given.plot.tobytes() == expected.plot().tobytes()
    assert len(given.rows()) == len(expected)
    document = json.loads(given.to_json())
    assert document["images"] == [given.detections.to_dict()]
    assert (document["model"], document["threshold"], document["size"]) == (eager_model, threshold, size)


def test_another_threshold_or_class_needs_no_second_look(
    eager_model: str, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models([eager_model])
    first = answer(models, upload(picture), Wish(eager_model, 0.9))
    looks = []
    predict = Detector.predict
    monkeypatch.setattr(Detector, "predict", lambda *given, **more: looks.append(1) or predict(*given, **more))
    for wish in (Wish(eager_model, 0.0), Wish(eager_model, 0.3, classes=("red",))):
        again = answer(models, upload(picture), wish, first.memory)
        fresh = answer(models, upload(picture), wish)
        assert again.to_json() == fresh.to_json()
        assert again.plot.tobytes() == fresh.plot.tobytes()
    assert len(looks) == 2  # the fresh ones
    answer(models, upload(picture), Wish(eager_model, 0.9, 320), first.memory)
    answer(models, Upload("other", picture.read_bytes() + b"\0"), Wish(eager_model, 0.9), first.memory)
    assert len(looks) == 4


def test_what_cannot_be_answered_is_one_line(eager_model: str, picture: Path) -> None:
    models = Models([eager_model])
    for wish, error in (
        (Wish("somebody/elses"), UnknownModelError),
        (Wish(["a", "list"]), UnknownModelError),  # type: ignore[arg-type] # a client may send anything
        (Wish(eager_model, 2.0), SettingError),
        (Wish(eager_model, "x"), SettingError),  # type: ignore[arg-type]
        (Wish(eager_model, size=100_000), SettingError),
        (Wish(eager_model, classes=("green",)), SettingError),
    ):
        with pytest.raises(error) as raised:
            answer(models, upload(picture), wish)
        assert "\n" not in str(raised.value)
    for content in (b"", b"no picture", picture.read_bytes()[:60]):
        with pytest.raises(ImageError):
            answer(models, Upload("x.png", content), Wish(eager_model))


@pytest.mark.filterwarnings("ignore::dyzoo.model.missed.MissedWarning")
def test_reasons_are_those_of_explain(eager_model: str, picture: Path) -> None:
    given = reasons(Models([eager_model]), upload(picture), Wish(eager_model, 0.3, 320), 2)
    expected = Detector.from_pretrained(eager_model).explain(picture, detection=2, threshold=0.3, size=320)
    assert [caption for _, caption in given.panels] == list(CAPTIONS.values())
    for (panel, _), kind in zip(given.panels, PANELS, strict=True):
        assert panel.tobytes() == expected.panel(kind).tobytes(), kind
    assert "<script" in given.page
    assert "http://" not in given.page


@pytest.mark.filterwarnings("ignore::dyzoo.model.missed.MissedWarning")
def test_where_nothing_is_found_the_maps_are_shown_all_the_same(eager_model: str, picture: Path) -> None:
    given = reasons(Models([eager_model]), upload(picture), Wish(eager_model, 1.0, 320), None)
    assert [caption for _, caption in given.panels] == [CAPTIONS[kind] for kind in PANELS if kind != "object"]


@pytest.mark.parametrize(
    ("size", "number", "words"),
    [
        (1280, None, r"network's input would be .* expected at most 0\.3 million for an explanation"),
        (320, 99, "detection is 99, expected 0 to 7"),
        (7, None, "the size is 7, expected one of 320"),
    ],
)
def test_what_cannot_be_explained_is_one_line(
    eager_model: str, picture: Path, size: int, number: int | None, words: str
) -> None:
    with pytest.raises(DyzooError, match=words):
        reasons(Models([eager_model]), upload(picture), Wish(eager_model, 0.3, size), number)


def test_a_bomb_is_refused_before_it_is_decoded(eager_model: str, picture: Path) -> None:
    content = bytearray(picture.read_bytes())
    content[16:24] = (12_000).to_bytes(4, "big") * 2  # the size in the header of a PNG, and the sum over it
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(ImageError, match="has 12000 x 12000 pixels, 144 million, expected at most"):
        answer(Models([eager_model]), Upload("bomb.png", bytes(content)), Wish(eager_model))


def test_so_many_detectors_are_in_memory_and_no_more(
    eager_model: str, evil_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load = dyzoo.demo.models.load_model
    monkeypatch.setattr(dyzoo.demo.models, "load_model", lambda name, device: loads.append(name) or load(name, device))
    models = Models([eager_model, evil_model, eager_model, DEFAULT_MODEL], "cpu", in_memory=2)
    assert models.names == (eager_model, evil_model, DEFAULT_MODEL)
    first = models.get(eager_model)
    models.get(evil_model)
    assert models.get(eager_model) is first
    models.get(DEFAULT_MODEL)  # in the place of the one that was not asked for longest
    assert models.get(eager_model) is first
    models.get(evil_model)
    assert loads == [eager_model, evil_model, DEFAULT_MODEL, evil_model]


def test_a_detector_that_cannot_be_loaded_leaves_the_others(eager_model: str, tmp_path: Path) -> None:
    models = Models([str(tmp_path), eager_model], "cpu", in_memory=1)
    models.get(eager_model)
    with pytest.raises(DyzooError, match=r"has no config\.json"):
        models.get(str(tmp_path))
    assert models.get(eager_model).labels == ("red", "blue")


def test_the_embedded_detector_is_offered_and_what_is_not_here_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYZOO_HOME", str(tmp_path))
    assert offered_models() == [DEFAULT_MODEL]


def test_without_gradio_the_command_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dyzoo.demo.installed, "find_spec", lambda name: None)
    assert_one_error(cli("demo"), "needs the package gradio: pip install 'dyzoo[demo]'")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--title", "Cells"], "--title: a page that is served has no use for it"),
        (["--static", "page", "--port", "80"], "--port: a page that is written has no use for it"),
        (["--static", "page", "-m", "a", "-m", "b"], "--model: a page that is written has one detector, this names 2"),
    ],
)
def test_options_of_the_other_kind_of_page_are_refused(cli: Cli, arguments: list[str], expected: str) -> None:
    done = cli("demo", *arguments)
    assert done.code == 2
    assert done.err == f"error: Invalid value for {expected} (see dyzoo demo --help)\n"
