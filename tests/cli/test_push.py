"""`dyzoo push`: a run or a folder goes to the Hub, and nothing of the machine with it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import dyzoo
from dyzoo.hub.run_card import MetricsLeftOutWarning
from dyzoo.model.detector import Detector
from tests.cli.cli_helpers import Cli, Outcome, assert_one_error
from tests.hub.hub_client import use_hub
from tests.hub.hub_server import Hub
from tests.model.narrow_detectors import SAVED_FILES

NAME = "org/shapes"
METRICS = {"AP": 0.5, "AP50": 0.75, "AP75": None, "APs": None, "APm": 0.5, "APl": None, "AR1": 0.25, "AR100": 0.5}
PER_CLASS = {"red": {"AP": 0.5, "AP50": 0.75, "AP75": None, "boxes": 2}}
SETTINGS = {
    "data": "/home/somebody/secret project/Shapes",
    "model": "dyhead_atss_resnet10t",
    "out": "/home/somebody/secret project/runs/a",
    "train_split": "train",
    "val_split": "valid",
    "epochs": 7,
    "batch_size": 4,
    "lr": 0.001,
    "pretrained_backbone": True,
    "device": "cuda:3",
    "workers": 2,
    "seed": 5,
    "resume": False,
    "transform": {"scale_range": [0.75, 1.33]},
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(lfs_threshold=50_000) as server:
        use_hub(monkeypatch, server, tmp_path / "cache")
        yield server


@pytest.fixture
def run_folder(tmp_path: Path, tiny_model: Path) -> Path:
    """A folder as `dyzoo train` leaves it."""
    folder = tmp_path / "runs" / "a"
    shutil.copytree(tiny_model, folder / "best")
    (folder / "evaluation").mkdir()
    (folder / "checkpoints").mkdir()
    (folder / "train.json").write_text(json.dumps(SETTINGS))
    for name in (
        "curves.png",
        "metrics.csv",
        "evaluation/pr_curve.png",
        "checkpoints/step_00000008.pt",
        "evaluation/detections.json",
    ):
        (folder / name).write_bytes(name.encode())
    write_metrics(folder)
    return folder


def write_metrics(folder: Path) -> None:
    report = {"images": 9, "metrics": METRICS, "per_class": PER_CLASS, "notes": ["/home/somebody/x.png is damaged"]}
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(report))


def card_of(hub: Hub, name: str = NAME, revision: str = "main") -> str:
    return hub.files(name, revision)["README.md"].decode()


def metadata_of(card: str) -> dict[str, object]:
    return yaml.safe_load(card.split("---\n")[1])


def assert_refused(outcome: Outcome, *words: str) -> None:
    assert outcome.out == ""
    assert_one_error(outcome, *words)


def test_a_run_brings_weights_curves_and_measured_metrics(cli: Cli, hub: Hub, run_folder: Path) -> None:
    outcome = cli("push", run_folder, NAME, "--license", "mit", "--dataset", "org/shapes-data", "--message", "Mine")
    assert (outcome.code, outcome.out) == (0, f"{hub.url}/{NAME}/commit/{hub.repo(NAME).at().sha}\n")
    assert [commit.message for commit in hub.repo(NAME).branches["main"]] == ["initial commit", "Mine"]
    files = hub.files(NAME)
    assert set(files) == {
        *SAVED_FILES,
        "curves.png",
        "metrics.csv",
        "evaluation/pr_curve.png",
        "train.json",
    }
    assert files["model.safetensors"] == (run_folder / "best" / "model.safetensors").read_bytes()
    card = card_of(hub)
    metadata = metadata_of(card)
    assert metadata["license"] == "mit"
    assert metadata["datasets"] == ["org/shapes-data"]
    assert metadata["base_model"] == "timm/resnet10t.c3_in1k"
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"] == {"name": "Shapes", "type": "shapes", "split": "valid"}
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "map": 0.5,
        "map_50": 0.75,
        "map_medium": 0.5,
        "mar_100": 0.5,
    }
    assert "dyzoo evaluate --data Shapes --split valid --model org/shapes" in card
    assert "7 epochs in batches of 4" in card


def test_python_pushes_the_same(cli: Cli, hub: Hub, run_folder: Path) -> None:
    commit = dyzoo.push_run(
        run_folder, NAME, revision="python", commit_message="Mine", dtype=torch.float16, license="mit", datasets="org/a"
    )
    branches = hub.repo(NAME).branches
    assert (branches["python"][-1].sha, branches["python"][-1].message) == (commit.oid, "Mine")
    assert len(branches["main"]) == 1
    options = ("--message", "Mine", "--dtype", "float16", "--license", "mit", "--dataset", "org/a")
    assert cli("push", run_folder, NAME, *options).code == 0
    assert hub.files(NAME) == hub.files(NAME, "python")
    assert "rounded to float16" in card_of(hub, revision="python")
    assert metadata_of(card_of(hub))["datasets"] == ["org/a"]


def test_python_is_warned_of_numbers_that_are_not_these_weights(hub: Hub, run_folder: Path) -> None:
    make_old(run_folder)
    with pytest.warns(MetricsLeftOutWarning, match="is older than the weights, the card says nothing") as warned:
        dyzoo.push_run(str(run_folder), NAME, private=True)
    assert warned[0].filename == __file__
    assert hub.repo(NAME).private
    assert "Nothing has been measured" in card_of(hub)


def test_nothing_of_the_machine_is_uploaded(cli: Cli, hub: Hub, run_folder: Path) -> None:
    assert cli("push", run_folder, NAME).code == 0
    for name, content in hub.files(NAME).items():
        for word in (b"somebody", b"secret", b"cuda:3", str(run_folder).encode()):
            assert word not in content, name
    settings = json.loads(hub.files(NAME)["train.json"])
    kept = {name: value for name, value in SETTINGS.items() if name not in ("out", "device", "workers", "resume")}
    assert settings == {**kept, "data": "Shapes"}


def test_a_pushed_run_predicts(cli: Cli, hub: Hub, run_folder: Path, picture: Path) -> None:
    assert cli("push", run_folder, NAME, "--dtype", "float16", "--revision", "half").code == 0
    assert "rounded to float16" in card_of(hub, revision="half")
    outcome = cli("predict", picture, "--model", f"{NAME}@half", "--threshold", 0)
    assert outcome.code == 0, outcome.err
    assert json.loads(Path("predictions/detections.json").read_text())["images"][0]["detections"]


def make_old(folder: Path) -> None:
    os.utime(folder / "evaluation" / "metrics.json", (0, 0))


def remove(folder: Path) -> None:
    (folder / "evaluation" / "metrics.json").unlink()


def damage(folder: Path) -> None:
    (folder / "evaluation" / "metrics.json").write_text('{"metrics": ')


@pytest.mark.parametrize(
    ("change", "why"), [(make_old, "is older than the weights"), (remove, "has no evaluation"), (damage, "is damaged")]
)
def test_numbers_that_are_not_these_weights_stay_out(cli: Cli, hub: Hub, run_folder: Path, change, why: str) -> None:
    change(run_folder)
    outcome = cli("push", run_folder, NAME)
    assert outcome.code == 0
    assert why in outcome.err
    assert "dyzoo evaluate --data DIR --split valid" in outcome.err
    assert "model-index" not in metadata_of(card_of(hub))
    assert "Nothing has been measured" in card_of(hub)
    assert "evaluation/pr_curve.png" not in hub.files(NAME)


@pytest.mark.parametrize(
    ("changes", "base_model", "words"),
    [
        ({"pretrained_backbone": False}, None, "from random weights"),
        ({"resume": True}, None, "seed 5. All settings"),
        ({"backbone_weights": "/home/somebody/r10.pth"}, None, "the backbone weights `r10.pth`"),
        ({"weights": "/home/somebody/runs/cells"}, None, "from the detector `cells`"),
    ],
)
def test_a_base_model_is_named_where_it_is_known(
    cli: Cli, hub: Hub, run_folder: Path, changes: dict[str, object], base_model: str | None, words: str
) -> None:
    (run_folder / "train.json").write_text(json.dumps({**SETTINGS, **changes}))
    assert cli("push", run_folder, NAME).code == 0
    assert metadata_of(card_of(hub)).get("base_model") == base_model
    assert words in card_of(hub)


def test_a_folder_brings_its_card_along(cli: Cli, hub: Hub, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    Detector.from_pretrained(tiny_model).save_pretrained(folder)
    assert cli("push", folder, NAME, "--license", "mit", "--private").code == 0
    assert set(hub.files(NAME)) == SAVED_FILES
    assert hub.repo(NAME).private
    card = card_of(hub)
    assert metadata_of(card)["license"] == "mit"
    assert 'dyzoo.load("org/shapes")' in card
    assert "folder" not in card.split("## What it is")[0]


@pytest.mark.parametrize("kind", ["run", "folder"])
def test_a_card_written_beside_the_weights_is_the_card(cli: Cli, hub: Hub, run_folder: Path, kind: str) -> None:
    (run_folder / "best" / "README.md").write_text("# By hand\n")
    assert cli("push", run_folder if kind == "run" else run_folder / "best", NAME).code == 0
    assert card_of(hub) == "# By hand\n"


def test_a_card_edited_on_the_hub_is_kept_and_that_is_said(cli: Cli, hub: Hub, run_folder: Path) -> None:
    hub.add(NAME, {"README.md": b"# Edited there\n"})
    outcome = cli("push", run_folder, NAME)
    assert outcome.code == 0
    assert "note: org/shapes has a README.md that somebody wrote or edited, it is kept" in outcome.err
    assert card_of(hub) == "# Edited there\n"
    assert cli("push", run_folder, NAME, "--replace-card").code == 0
    assert "model-index" in metadata_of(card_of(hub))


def test_a_pull_request_prints_its_own_address(cli: Cli, hub: Hub, run_folder: Path) -> None:
    hub.repo(NAME)
    outcome = cli("push", run_folder, NAME, "--create-pr")
    assert (outcome.code, outcome.out) == (0, f"{hub.url}/{NAME}/discussions/1\n")


def test_mistakes_are_one_line(
    cli: Cli, hub: Hub, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(cli("push", "absent", NAME), "absent is no folder")
    assert_refused(cli("push", "empty", NAME), "empty has no config.json")
    assert_refused(cli("push", run_folder, "org/na me"), "'org/na me' is no id")
    hub.repo("org/public")
    assert_refused(cli("push", run_folder, "org/public", "--private"), "org/public is there already and public")
    (run_folder / "train.json").write_text("{")
    assert_refused(cli("push", run_folder, NAME), "train.json is damaged")
    monkeypatch.setenv("HF_TOKEN", hub.stranger_token)
    assert_refused(cli("push", run_folder / "best", "org/public"), "your token may not do this to org/public")
    assert ("models", NAME) not in hub.repos


def test_without_a_token_nothing_is_loaded(
    cli: Cli, hub: Hub, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    (run_folder / "best" / "model.safetensors").write_bytes(b"")
    assert_refused(cli("push", run_folder, NAME), "needs a token, and there is none: log in with `hf auth login`")
    assert hub.requests == []
