"""`dyzoo convert` end to end, on a checkpoint made from a golden case's manifest."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import torch

import dyzoo
from dyzoo.checkpoints.conversion import KEY_RULES
from dyzoo.model.detector import Detector
from tests.cli.cli_helpers import Cli, assert_one_error
from tests.grounding.glip_files import GLIP, write_glip
from tests.model.narrow_detectors import SAVED_FILES

NAME = "official_atss_r50"
MANIFEST = Path(__file__).parents[1] / "golden" / f"{NAME}.json"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As detectron2 saves one: weights of 80 classes under "model", the optimizer beside them."""
    keys = json.loads(MANIFEST.read_text())["checkpoint"]
    weights = {key: torch.full(shape, 0.01) for key, (shape, _) in keys.items()}
    path = tmp_path_factory.mktemp("foreign") / "model_final.pth"
    torch.save({"model": weights, "optimizer": {"state": {}}, "iteration": 89999}, path)
    return path


@pytest.fixture(scope="session")
def fine_tuned(checkpoint: Path) -> Path:
    """The same with two classes."""
    content = torch.load(checkpoint)
    for kind in ("weight", "bias"):
        key = f"head.cls_logits.{kind}"
        content["model"][key] = content["model"][key][:2].clone()
    path = checkpoint.with_name("fine_tuned.pth")
    torch.save(content, path)
    return path


def test_converts_and_predicts(cli: Cli, checkpoint: Path, picture: Path) -> None:
    outcome = cli("convert", checkpoint, "--from", NAME, "--out", "models/atss")
    assert outcome.code == 0, outcome.err
    assert "412 keys read, 0 ignored, 38.85 M parameters, 80 classes -> models/atss" in outcome.out
    assert "dyzoo predict IMAGE --model models/atss" in outcome.out
    folder = Path("models/atss")
    assert {path.name for path in folder.iterdir()} == SAVED_FILES
    card = (folder / "README.md").read_text()
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    for words in ("license: mit", "microsoft/DynamicHead", "dyhead_r50_atss_fpn_1x", sha256, "42.4", "as published"):
        assert words in card
    again = cli("convert", checkpoint, "--from", NAME, "--out", "models/atss", "--dtype", "float16")
    assert again.code == 0, again.err
    assert (folder / "model.safetensors").stat().st_size < 0.51 * checkpoint.stat().st_size
    outcome = cli("predict", picture, "--model", folder, "--size", 64)
    assert outcome.code == 0, outcome.err


def test_python_writes_the_same_card_until_the_weights_change(cli: Cli, checkpoint: Path) -> None:
    assert cli("convert", checkpoint, "--from", NAME, "--out", "command/atss").code == 0
    detector = dyzoo.convert_checkpoint(checkpoint, NAME)
    detector.save_pretrained("python/atss")
    assert Path("python/atss/README.md").read_text() == Path("command/atss/README.md").read_text()
    for words in ("by the authors of [microsoft/DynamicHead]", "it was not measured here", "`model_final.pth`"):
        assert words in detector.model_card("atss")
    detector.load_state_dict(detector.state_dict())
    trained = dyzoo.convert_checkpoint(torch.load(checkpoint), NAME)
    assert "weights in memory, of no known file" in trained.model_card("atss")
    trained.train().eval()
    for changed in (detector, trained):
        assert "DynamicHead" not in changed.model_card("atss")
        assert "license" not in changed.model_card("atss")


def test_labels_from_a_list_and_from_a_file(cli: Cli, fine_tuned: Path) -> None:
    Path("names.txt").write_text("cat\n\n  dog \n", encoding="utf-8")
    for labels in ("cat, dog", "names.txt"):
        outcome = cli("convert", fine_tuned, "--from", NAME, "--out", "mine", "--labels", labels)
        assert outcome.code == 0, outcome.err
    assert Detector.from_pretrained("mine").labels == ("cat", "dog")
    card = Path("mine/README.md").read_text()
    assert "no published number is about it" in card
    assert "42.4" not in card


def test_missing_and_wrong_labels(cli: Cli, checkpoint: Path, fine_tuned: Path) -> None:
    Path("names.txt").write_bytes(b"\xff\xfe\x00\x81")
    assert_one_error(cli("convert", fine_tuned, "--from", NAME, "--out", "mine"), "2 classes", "give labels")
    wrong = cli("convert", checkpoint, "--from", NAME, "--out", "mine", "--labels", "cat,dog")
    assert_one_error(wrong, "80 classes, but 2 labels")
    for labels in ("cat,,dog", "names.txt"):
        outcome = cli("convert", fine_tuned, "--from", NAME, "--out", "mine", "--labels", labels)
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
    assert not Path("mine").exists()


class Hostile:
    def __reduce__(self) -> object:
        return os.system, ("touch made",)


def test_what_is_no_checkpoint_of_it(cli: Cli, checkpoint: Path) -> None:
    Path("page.pth").write_text("<html></html>")
    Path("cut.pth").write_bytes(checkpoint.read_bytes()[:100_000])
    Path("hostile.pkl").write_bytes(pickle.dumps({"model": Hostile()}))
    for file, source, words in (
        ("absent.pth", NAME, ("absent.pth", "is no file")),
        (".", NAME, ("is a folder",)),
        ("page.pth", NAME, ("page.pth", "web page")),
        ("cut.pth", NAME, ("cut.pth", "is damaged")),
        ("hostile.pkl", NAME, ("system", "nothing of it was run")),
        (checkpoint, "mmdet_atss_r50", ("is it of official_atss_r50",)),
        (checkpoint, "official_faster_rcnn_r50", ("lacks 'roi_heads",)),
        (checkpoint, "official_ats_r50", ("did you mean official_atss_r50",)),
    ):
        assert_one_error(cli("convert", file, "--from", source, "--out", "mine"), *words)
    assert not Path("mine").exists()
    assert not Path("made").exists()


def test_nothing_else_is_written_over(cli: Cli, checkpoint: Path, tiny_model: Path) -> None:
    Path("notes").mkdir()
    Path("notes/README.md").write_text("mine")
    Path("file").write_text("mine")
    for out in ("notes", tiny_model, "file"):
        outcome = cli("convert", checkpoint, "--from", NAME, "--out", out)
        assert_one_error(outcome, str(out))
    assert Path("notes/README.md").read_text() == "mine"
    assert Path("file").read_text() == "mine"
    assert Detector.from_pretrained(tiny_model).labels == ("red", "blue")
    Path("empty").mkdir()
    assert cli("convert", checkpoint, "--from", NAME, "--out", "empty").code == 0


def test_help_names_what_can_be_converted(cli: Cli) -> None:
    outcome = cli("convert", "--help")
    assert outcome.code == 0
    for name in KEY_RULES:
        assert f" {name} " in outcome.out


@pytest.fixture(scope="session")
def glip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of GLIP-T (A) as it is published."""
    return write_glip(tmp_path_factory.mktemp("glip") / "glip.pth")


def test_any_names_of_a_detector_whose_classes_are_text(cli: Cli, glip: Path, picture: Path) -> None:
    outcome = cli("convert", glip, "--from", GLIP, "--labels", "red blood cell,platelets", "--out", "cells")
    assert outcome.code == 0, outcome.err
    assert "M parameters, 2 classes -> cells" in outcome.out
    detector = Detector.from_pretrained("cells")
    assert detector.labels == ("red blood cell", "platelets")
    assert detector.config.head.tokens_per_class == (3, 2)
    card = Path("cells/README.md").read_text()
    assert "license: apache-2.0" in card
    assert "GLIP-T (A)" in card
    assert "43.0" not in card
    outcome = cli("predict", picture, "--model", "cells", "--size", 64)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("cat\n(dog)\n", "class name 2, '(dog)', has no word"),
        ("cat\x1b[31m\n", "'cat\\x1b[31m', has characters that cannot be seen"),
        ("x" * 10_000, "has 10000 characters, expected at most 200"),
        ("\u202ecat", "'\\u202ecat', has characters that cannot be seen"),
    ],
)
def test_names_that_cannot_be_looked_for(cli: Cli, glip: Path, names: str, words: str) -> None:
    Path("names.txt").write_text(names, encoding="utf-8")
    outcome = cli("convert", glip, "--from", GLIP, "--labels", "names.txt", "--out", "mine")
    assert_one_error(outcome, words)
    assert not Path("mine").exists()
