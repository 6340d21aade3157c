"""`--classes` of a detector whose classes are fixed keeps some of them, for `dyzoo predict` and `dyzoo data label`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.cli_helpers import Cli


def found(path: str) -> set[str]:
    return {each["name"] for image in json.loads(Path(path).read_text())["images"] for each in image["detections"]}


def test_predict_keeps_the_named_classes(cli: Cli, tiny_model: Path, picture: Path) -> None:
    assert cli("predict", picture, "-m", tiny_model, "-t", 0.01, "--json", "all.json").code == 0
    assert found("all.json") == {"red", "blue"}
    whole = json.loads(Path("all.json").read_text())["images"][0]["detections"]
    Path("names.txt").write_text("blue\n")
    for classes in ("blue", "names.txt"):
        assert cli("predict", picture, "-m", tiny_model, "-t", 0.01, "--json", "a.json", "--classes", classes).code == 0
        content = json.loads(Path("a.json").read_text())
        assert content["classes"] == ["blue"]
        assert content["images"][0]["detections"] == [each for each in whole if each["name"] == "blue"]


def test_nothing_of_the_named_classes_is_no_fault(cli: Cli, tiny_model: Path, picture: Path) -> None:
    outcome = cli("predict", picture, "-m", tiny_model, "-t", 1.0, "--classes", "red")
    assert (outcome.code, outcome.err) == (0, "")
    assert "nothing found" in outcome.out


def test_data_label_keeps_the_named_classes_in_their_order(cli: Cli, tiny_model: Path, picture: Path) -> None:
    for classes in ("blue,red", "red"):
        options = ("-m", tiny_model, "-t", 0.01, "-o", classes, "--classes", classes)
        assert cli("data", "label", picture, *options).code == 0
        labelled = json.loads(next(Path(classes).rglob("*.json")).read_text())
        assert [each["name"] for each in labelled["categories"]] == classes.split(",")


@pytest.mark.parametrize("command", [("predict",), ("data", "label")], ids=" ".join)
@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("red,blu", "the model knows no class 'blu': did you mean blue?"),
        ("zebra", "the model knows no class 'zebra': did you mean red, blue?"),
        ("red, red", "'red' is there 2 times, expected once"),
        ("red,,blue", "has a class without a name"),
        ("", "has a class without a name"),
        ("latin.txt", "latin.txt is not a text file"),
        ("\x1b[31m", "did you mean red, blue?"),
    ],
    ids=["misspelt", "strange", "twice", "gap", "empty", "no_text", "escape"],
)
def test_classes_that_cannot_be_kept_are_one_line(
    cli: Cli, tiny_model: Path, picture: Path, command: tuple[str, ...], classes: str, words: str
) -> None:
    Path("latin.txt").write_bytes(b"\xff\xfe\x81")
    outcome = cli(*command, picture, "-m", tiny_model, "-o", "out", "--classes", classes)
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.err.strip().isprintable()


def test_a_run_goes_on_with_the_same_classes_alone(cli: Cli, tiny_model: Path, picture: Path) -> None:
    common = ("predict", picture, "-m", tiny_model, "-t", 0.01)
    assert cli(*common, "--classes", "red").code == 0
    assert cli(*common, "--classes", "red", "--resume").code == 0
    for others in (("--classes", "blue"), ()):
        outcome = cli(*common, *others, "--resume")
        assert outcome.code == 1
        assert "was made with classes ['red'], not " in outcome.err
