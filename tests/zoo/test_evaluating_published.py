"""`dyzoo evaluate` of a checkpoint with reported numbers: both on screen, in JSON and in the card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import dyzoo
from dyzoo.zoo import store
from dyzoo.zoo.origins import checkpoint_of
from tests.cli.cli_helpers import Cli
from tests.hub.hub_client import use_hub
from tests.hub.hub_server import Hub
from tests.training.training_runs import write_voc
from tests.zoo.conftest import NAME, Publish

FILE = "/pub/weights.pth"


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Drawn pictures of one of COCO's classes."""
    folder = write_voc(tmp_path / "people")
    for path in (folder / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<name>red<", "<name>person<").replace("<name>blue<", "<name>cat<"))
    return folder


def test_what_is_reported_stands_beside_what_is_measured(cli: Cli, publish: Publish, people: Path) -> None:
    publish(FILE, reported={"AP": 0.433}, reported_by="somebody, COCO val")
    outcome = cli("evaluate", "--data", people, "--model", NAME, "--size", 64, "--json", "m.json", "--card", "card.md")
    assert outcome.code == 0, outcome.err
    report = json.loads(Path("m.json").read_text())
    measured = report["metrics"]["AP"]
    assert report["reported"] == {
        "by": "somebody, COCO val",
        "metrics": {"AP": 0.433},
        "differences": {"AP": measured - 0.433},
    }
    assert f"AP     {measured:.3f}     0.433      {measured - 0.433:+.3f}" in outcome.out
    assert "reported by somebody, COCO val; a difference says something on the same images only" in outcome.out
    assert json.loads(Path("evaluation/metrics.json").read_text()) == report
    card = Path("card.md").read_text()
    for words in (
        f"On the val split of people, {report['images']} images",
        f"| difference |  | {measured - 0.433:+.3f} | - | - |",
        f"with dyzoo {dyzoo.__version__} and torch ",
        f"dyzoo evaluate --data people --split val --model {NAME} --size 64\n",
        f'dyzoo.load("{NAME}")',
        "license: apache-2.0",
        "OpenMMLab's [mmdetection]",
    ):
        assert words in card
    assert str(people) not in card
    # the folder that it is kept in is the same detector, and a copy is anybody's
    assert cli("evaluate", "--data", people, "--model", store.kept_folder(NAME), "--size", 64).code == 0
    assert json.loads(Path("evaluation/metrics.json").read_text())["reported"] == report["reported"]
    dyzoo.load(NAME).save_pretrained("mine")
    outcome = cli("evaluate", "--data", people, "--model", "mine", "--size", 64)
    assert json.loads(Path("evaluation/metrics.json").read_text())["reported"] is None
    assert "reported" not in outcome.out


def test_a_card_beside_the_weights_is_pushed_with_them(
    cli: Cli, publish: Publish, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(FILE)
    dyzoo.load(NAME).save_pretrained("mine")
    for size in (64, 96):  # the second time in place of the first
        options = ("--data", people, "--model", "mine", "--size", size, "--card", "mine/README.md")
        assert cli("evaluate", *options).code == 0
    with Hub(50_000) as hub:
        use_hub(monkeypatch, hub, tmp_path / "cache")
        assert cli("push", "mine", "me/mine", "--dtype", "float16").code == 0
        card = hub.files("me/mine")["README.md"].decode()
    (result,) = yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"]
    assert result["dataset"] == {"name": "people", "type": "people", "split": "val"}
    assert "dyzoo evaluate --data people --split val --model me/mine --size 96\n" in card
    assert "--size 64" not in card
    assert "before the weights were rounded to float16:" in card
    assert "Converted by `dyzoo convert`" in card
    assert dyzoo.load("mine").train().eval().model_card("mine").count("Nothing has been measured") == 1


def test_a_card_that_is_not_to_be_written_costs_no_evaluation(
    cli: Cli, publish: Publish, people: Path, tmp_path: Path
) -> None:
    publish(FILE)
    model = dyzoo.load(NAME)
    model.save_pretrained("mine")
    model.save_pretrained("run/best")
    Path("other").mkdir()
    Path("other/model.safetensors").touch()
    Path("by_hand.md").write_text("# Mine\n")
    Path("folder").mkdir()
    for source, card, words in (
        ("mine", "by_hand.md", "by_hand.md is not as dyzoo wrote it, it is left alone"),
        ("mine", "folder", "folder: is a folder, expected a file to write to"),
        ("mine", "other/README.md", "other/README.md lies beside other weights than those of mine"),
        ("mine", "/dev/null/x", "/dev/null: is a file, expected a folder"),
        ("run", "run/best/README.md", "`dyzoo push run` writes the card of a run itself"),
        (NAME, "mine/README.md", f"beside other weights than those of {NAME}"),
    ):
        outcome = cli("evaluate", "--data", people, "--model", source, "--card", card)
        assert (outcome.code, outcome.out) == (1, "")
        assert words in outcome.err
        assert outcome.err.count("\n") == 1
    assert not Path("evaluation").exists()
    assert Path("by_hand.md").read_text() == "# Mine\n"


def test_weights_that_were_changed_are_no_longer_the_checkpoints(publish: Publish) -> None:
    publish(FILE)
    dyzoo.load(NAME)
    folder = store.kept_folder(NAME)
    for source in (NAME, str(folder)):
        known = checkpoint_of(source)
        assert known is not None
        assert known.name == NAME
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b" ")
    for source in (str(folder), "absent", "org/name", str(folder / "config.json")):
        assert checkpoint_of(source) is None
    (folder / "model.safetensors").unlink()
    assert checkpoint_of(str(folder)) is None
