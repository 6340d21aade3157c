"""Detectors made from words by their names: the text encoder is kept, and reads any names without a warning."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import dyzoo
from dyzoo import environment
from dyzoo.checkpoints import ConvertedCheckpoint
from dyzoo.checkpoints.glip import KEY_RULES, read_names, with_words
from dyzoo.cli import run
from dyzoo.config.labels import COCO_LABELS
from dyzoo.errors import CheckpointError, HubError, LabelError
from dyzoo.grounding import LanguageModel, files
from dyzoo.model.detector import Detector
from dyzoo.zoo import fetching, store
from dyzoo.zoo.catalog import Checkpoint, checkpoints
from dyzoo.zoo.creation import NewClassesWarning, takes_words
from dyzoo.zoo.names import DEFAULT_MODEL, find_checkpoint
from tests.cli.cli_helpers import Cli, Outcome, write_picture
from tests.grounding.glip_files import GLIP, TINY, tiny_glip, write_glip
from tests.training.training_runs import write_voc
from tests.zoo.conftest import Publish, use_catalog
from tests.zoo.file_server import FileServer

NAME = f"{GLIP}.zero_shot"
FILE = "/pub/glip.pth"
WORDS = ["red blood cell", "platelet"]


@pytest.fixture(scope="module")
def conversion() -> ConvertedCheckpoint:
    return tiny_glip()


@pytest.fixture
def glip(publish: Publish, conversion: ConvertedCheckpoint, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """The catalogue's entry, whose file is on the server and becomes the small detector."""
    monkeypatch.setattr(fetching, "convert", lambda path, source: conversion)
    monkeypatch.setattr(files, "BERT_BASE", TINY)
    return publish(FILE, name=NAME)


@pytest.fixture
def strict() -> Iterator[None]:
    """A warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def cli(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        return Outcome(run([str(argument) for argument in arguments]), *capfd.readouterr())

    return call


def worded(conversion: ConvertedCheckpoint, labels: list[str]) -> Detector:
    assert conversion.language is not None
    return with_words(conversion.detector, conversion.language, labels, read_names(labels))


def assert_same(first: Detector, second: Detector) -> None:
    own, other = first.state_dict(), second.state_dict()
    assert first.config == second.config
    assert own.keys() == other.keys()
    assert [name for name, value in own.items() if not torch.equal(value, other[name])] == []


def test_words_become_classes_by_name(
    glip: Checkpoint, strict: None, server: FileServer, conversion: ConvertedCheckpoint
) -> None:
    expected = worded(conversion, WORDS)
    first = dyzoo.create_model(GLIP, pretrained=True, labels=WORDS)
    server.files.clear()
    for model in (first, dyzoo.load(NAME, labels=tuple(WORDS))):
        assert_same(model, expected)
        assert not model.training
        assert model.config.head.tokens_per_class == (3, 2)
    assert_same(dyzoo.load(NAME), conversion.detector)
    some = dyzoo.load(NAME, labels=["person", "cat"])  # known to the kept detector, but read in another caption
    assert_same(some, worded(conversion, ["person", "cat"]))
    assert server.requests == [(FILE, 0)]


def test_what_is_kept_reads_words_exactly(glip: Checkpoint, home: Path, conversion: ConvertedCheckpoint) -> None:
    folder = fetching.fetch_foreign(glip)
    assert conversion.language is not None
    kept, own = load_file(folder / "language.safetensors"), conversion.language.state_dict()
    assert kept.keys() == own.keys()
    assert all(torch.equal(value, own[name]) and value.dtype == torch.float32 for name, value in kept.items())
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["language_sha256"] == hashlib.sha256((folder / "language.safetensors").read_bytes()).hexdigest()


def test_the_result_is_an_ordinary_detector(glip: Checkpoint, tmp_path: Path) -> None:
    model = dyzoo.load(GLIP, labels=WORDS)
    model.save_pretrained(tmp_path / "cells", torch.float16)
    card = (tmp_path / "cells" / "README.md").read_text()
    for words in ("license: apache-2.0", "`glip.pth`", "no published number is about it", 'dyzoo.load("cells")'):
        assert words in card
    assert not (tmp_path / "cells" / "language.safetensors").exists()
    again = dyzoo.load(tmp_path / "cells")
    assert again.config == model.config
    with pytest.warns(NewClassesWarning, match=rf"begins anew for dust: .*let {GLIP} read .*`dyzoo convert --labels`"):
        dyzoo.load(tmp_path / "cells", labels=[*WORDS, "dust"])


def test_the_default_names_do_without_the_text_encoder(glip: Checkpoint, strict: None, server: FileServer) -> None:
    language = fetching.fetch_foreign(glip) / "language.safetensors"
    for damage in (lambda: language.write_bytes(b"x"), language.unlink):
        damage()
        assert dyzoo.load(NAME).labels == COCO_LABELS
        assert dyzoo.load(NAME, labels=COCO_LABELS).labels == COCO_LABELS
    assert server.requests == [(FILE, 0)]


def test_a_detector_kept_without_its_text_encoder_is_fetched_again(
    glip: Checkpoint, server: FileServer, conversion: ConvertedCheckpoint
) -> None:
    folder = fetching.fetch_foreign(glip)
    (folder / "language.safetensors").unlink()
    provenance = json.loads((folder / "provenance.json").read_text())
    del provenance["language_sha256"]
    (folder / "provenance.json").write_text(json.dumps(provenance))
    content = server.files.pop(FILE)
    with pytest.raises(HubError, match=rf"{NAME} cannot be fetched: .*/glip\.pth answers 404: try again"):
        dyzoo.load(NAME, labels=WORDS)
    assert dyzoo.load(NAME).labels == COCO_LABELS  # it has stayed
    server.files[FILE] = content
    assert_same(dyzoo.load(NAME, labels=WORDS), worded(conversion, WORDS))
    assert server.requests == [(FILE, 0)] * 3


def test_a_text_encoder_that_is_not_the_kept_one_is_refused(glip: Checkpoint) -> None:
    language = fetching.fetch_foreign(glip) / "language.safetensors"
    whole = language.read_bytes()
    message = rf"language\.safetensors is not the file .*differs\): `dyzoo cache --remove {NAME}`, and"
    for content in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-4], b""):
        language.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            dyzoo.load(NAME, labels=WORDS)
    store.remove(NAME)
    assert dyzoo.load(NAME, labels=WORDS).labels == tuple(WORDS)


def test_a_text_encoder_with_a_hash_to_fit_is_still_checked(glip: Checkpoint) -> None:
    """Somebody who wrote the file wrote the provenance, too."""
    folder = fetching.fetch_foreign(glip)
    language = folder / "language.safetensors"
    good = load_file(language)
    name = next(iter(good))
    for weights, words in (
        ({key: value for key, value in good.items() if key != name}, "does not hold the text encoder"),
        ({**good, name: good[name].half()}, "does not hold the text encoder"),
        ({**good, name: torch.zeros(3)}, "does not hold the text encoder"),
        ({**good, "more": torch.zeros(3)}, "does not hold the text encoder"),
        ({**good, "projection.weight": good["projection.weight"] * float("nan")}, "infinity or NaN"),
        (b"\xff" * 100, "is damaged or no safetensors file"),
    ):
        language.unlink()
        language.write_bytes(weights) if isinstance(weights, bytes) else save_file(weights, language)
        provenance = json.loads((folder / "provenance.json").read_text())
        provenance["language_sha256"] = hashlib.sha256(language.read_bytes()).hexdigest()
        (folder / "provenance.json").write_text(json.dumps(provenance))
        with pytest.raises(CheckpointError, match=words) as caught:
            dyzoo.load(NAME, labels=WORDS)
        assert str(caught.value).isprintable()


def test_names_that_cannot_be_read_are_refused_before_anything_is_fetched(glip: Checkpoint, server: FileServer) -> None:
    with pytest.raises(LabelError, match=r"class name 2, '\(none\)', has no word"):
        dyzoo.load(NAME, labels=["cat", "(none)"])
    with pytest.raises(LabelError, match="class names are 'cat', expected a list"):
        dyzoo.create_model(NAME, pretrained=True, labels="cat")
    with pytest.raises(ValueError, match=f"the classes of {GLIP} are words: name them with labels="):
        dyzoo.create_model(GLIP, pretrained=True, num_classes=2)
    assert server.requests == []


@torch.no_grad()
def test_a_thousand_names_answer_as_each_caption_alone(glip: Checkpoint, strict: None) -> None:
    names = [f"{number} {label}" for number in range(13) for label in COCO_LABELS][:1000]
    captions = read_names(names)
    assert len(captions) > 10
    whole = dyzoo.load(NAME, labels=names)
    picture = torch.rand(1, 3, 64, 64)
    raw = whole.forward_head(whole.forward_features(picture))
    scores = whole.head.class_probabilities(raw)
    first = 0
    for caption in captions[:2] + captions[-1:]:
        first = len(names) - len(caption.spans) if caption is captions[-1] else first
        chunk = slice(first, first + len(caption.spans))
        alone = dyzoo.load(NAME, labels=names[chunk])
        assert len(read_names(names[chunk])) == 1
        assert alone.config.head.tokens_per_class == whole.config.head.tokens_per_class[chunk]
        found = alone.head.class_probabilities(alone.forward_head(alone.forward_features(picture)))
        torch.testing.assert_close(scores[..., chunk], found, rtol=1e-5, atol=1e-6)
        first = chunk.stop


def test_what_takes_words(glip: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert takes_words(NAME)
    assert takes_words(GLIP)
    for other in (DEFAULT_MODEL, "official_atss_r50", "dyhead_atss_resnet50", "absent", "org/name", tmp_path):
        assert not takes_words(other)
    (tmp_path / "glip.pth").write_bytes(bytes(range(256)) * 1000)
    assert takes_words(tmp_path / "glip.pth")  # by its hash
    monkeypatch.chdir(tmp_path)
    (tmp_path / GLIP).mkdir()
    assert not takes_words(GLIP)


def test_words_on_the_command_line(cli: Cli, glip: Checkpoint, tmp_path: Path) -> None:
    write_picture(tmp_path / "photos" / "a.png")
    outcome = cli("predict", "photos", "--model", GLIP, "--classes", "red blood cell, platelet", "-t", 0, "--json", "a")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    content = json.loads((tmp_path / "a").read_text())
    assert content["classes"] == WORDS
    found = {each["name"] for each in content["images"][0]["detections"]}
    assert found
    assert found <= set(WORDS)
    (tmp_path / "names.txt").write_text("platelet\nred blood cell\n")
    outcome = cli("data", "label", "photos", "-o", "seen", "--model", NAME, "--classes", "names.txt", "-t", 0)
    assert outcome.code == 0, outcome.err
    labelled = json.loads(next((tmp_path / "seen").rglob("*.json")).read_text())
    assert [each["name"] for each in labelled["categories"]] == ["platelet", "red blood cell"]
    outcome = cli("predict", "photos", "--model", GLIP, "--classes", "cat,(dog)")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "class name 2, '(dog)', has no word" in outcome.err


def test_fine_tuning_starts_from_the_words_of_the_data(cli: Cli, glip: Checkpoint, tmp_path: Path) -> None:
    write_voc(tmp_path / "voc")
    options = ("--epochs", 1, "--batch-size", 2, "--size", 64, "--workers", 0, "--device", "cpu", "--out", "run")
    outcome = cli("train", "--data", "voc", "--weights", GLIP, *options)
    assert outcome.code == 0, outcome.err
    trained = dyzoo.load(tmp_path / "run")
    assert set(trained.labels) == {"red", "blue"}
    start = dyzoo.load(GLIP, labels=trained.labels)
    assert trained.config.head.tokens_per_class == start.config.head.tokens_per_class
    difference = (trained.head.cls.weight - start.head.cls.weight).abs().mean()
    assert difference < 0.1 * start.head.cls.weight.abs().mean()


def test_the_words_of_the_data_are_measured(cli: Cli, glip: Checkpoint, tmp_path: Path) -> None:
    write_voc(tmp_path / "voc")
    outcome = cli("evaluate", "--data", "voc", "--model", GLIP, "--size", 64, "--device", "cpu", "--json", "metrics")
    assert outcome.code == 0, outcome.err
    per_class = json.loads((tmp_path / "metrics").read_text())["per_class"]
    assert set(per_class) == {"red", "blue"}
    assert all(values["AP"] is not None for values in per_class.values())


def test_the_cache_shows_and_removes_it_with_the_rest(cli: Cli, glip: Checkpoint, home: Path) -> None:
    assert cli("fetch", GLIP).code == 0
    sizes = {path.name: path.stat().st_size for path in store.kept_folder(NAME).iterdir()}
    assert store.entries()[0].size == sum(sizes.values()) > sizes["language.safetensors"] > 1_000_000
    assert cli("cache", "--remove", NAME).code == 0
    assert not store.kept_folder(NAME).exists()


def test_fetching_ahead_brings_the_text_encoder(cli: Cli, glip: Checkpoint, server: FileServer) -> None:
    assert cli("fetch", GLIP).code == 0
    (store.kept_folder(NAME) / "language.safetensors").unlink()
    assert cli("fetch", NAME).code == 0
    server.files.clear()
    assert dyzoo.load(NAME, labels=WORDS).labels == tuple(WORDS)


def test_list_marks_the_default_and_says_how_large_the_file_is(cli: Cli, home: Path) -> None:
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in cli("list").out.splitlines() if line.split()}
    assert find_checkpoint(GLIP).name == NAME
    assert lines[NAME].startswith("* ")
    for name in (NAME, f"{GLIP}.coco"):
        assert lines[name].endswith("~606 MB to fetch")
    assert sum(line.startswith("* ") for line in lines.values()) == 1


def test_the_size_is_that_of_all_parameters() -> None:
    """As `KEY_RULES` have them: none is counted twice, and the class layer is not in the file."""
    detector = dyzoo.create_model(GLIP)
    own = {name for name, _ in detector.named_parameters() if not name.startswith("head.cls.")}
    count = sum(value.numel() for name, value in detector.named_parameters() if name in own)
    with torch.device("meta"):
        language = LanguageModel()
    count += sum(parameter.numel() for parameter in language.parameters())
    for tag in ("zero_shot", "coco"):
        assert checkpoints()[f"{GLIP}.{tag}"].parameters == count
    assert set(KEY_RULES) == {GLIP}


@pytest.mark.parametrize(("tag", "ap"), [("zero_shot", "43.0"), ("coco", "53.3")])
def test_the_card_has_the_number_of_its_own_checkpoint(
    publish: Publish, conversion: ConvertedCheckpoint, monkeypatch: pytest.MonkeyPatch, tag: str, ap: str
) -> None:
    monkeypatch.setattr(fetching, "convert", lambda path, source: conversion)
    card = (fetching.fetch_foreign(publish(FILE, name=f"{GLIP}.{tag}")) / "README.md").read_text()
    assert f"A COCO box AP of {ap} is reported" in card
    assert ("zero-shot" in card) == (tag == "zero_shot")


@pytest.mark.slow  # BERT-base and Swin-T in their own size: that every key of a real file is read, and the same twice
def test_a_file_of_the_published_size_gives_the_same_by_name_and_converted(
    home: Path, tmp_path: Path, strict: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_glip(tmp_path / "glip.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    use_catalog(monkeypatch, NAME, addresses=["https://127.0.0.1:9/glip.pth"], sha256_prefix=digest[:8])
    monkeypatch.setenv(environment.MIRROR, str(tmp_path))
    by_name = dyzoo.load(GLIP, labels=WORDS)
    assert_same(by_name, dyzoo.convert_checkpoint(path, GLIP, WORDS))
    assert_same(by_name, dyzoo.load(path, labels=WORDS))
