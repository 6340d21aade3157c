"""`dyzoo.load`, the one door: names, folders, runs, repositories, files; and new classes on trained weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import dyzoo
from dyzoo.errors import CheckpointError, HubError, UnknownModelError
from dyzoo.model.detector import Detector
from dyzoo.zoo.creation import NewClassesWarning, load_model
from dyzoo.zoo.names import DEFAULT_MODEL
from tests.golden.foreign import foreign_weights
from tests.hub.hub_client import use_hub
from tests.hub.hub_server import Hub
from tests.zoo.conftest import NAME, Publish

CASE = "official_retinanet_r50"


def same(first: Detector, second: Detector) -> bool:
    own, other = first.state_dict(), second.state_dict()
    return own.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in own.items())


def test_names_folders_runs_and_own_files(small_detector: Detector, tmp_path: Path) -> None:
    small_detector.save_pretrained(tmp_path / "plain")
    small_detector.save_pretrained(tmp_path / "run" / "best")
    for place in ("plain", "run", "plain/model.safetensors"):
        for source in (tmp_path / place, str(tmp_path / place)):
            assert same(dyzoo.load(source), small_detector)
    assert dyzoo.load(DEFAULT_MODEL).labels == ("Platelets", "RBC", "WBC")
    assert not dyzoo.load(DEFAULT_MODEL).training
    assert same(load_model(tmp_path / "run"), small_detector)


def test_repositories(small_detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    small_detector.save_pretrained(tmp_path / "plain")
    files = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    with Hub(50_000) as hub:
        use_hub(monkeypatch, hub, tmp_path / "cache")
        hub.add("org/cells", files, branch="v1")
        hub.add("org/cells", files)
        for name in ("org/cells", "org/cells@v1", "hf-hub:org/cells", "hf-hub:org/cells@v1"):
            assert same(dyzoo.load(name), small_detector)
        assert same(dyzoo.load("org/cells", revision="v1", token=False), small_detector)
        assert same(Detector.from_pretrained("hf-hub:org/cells"), small_detector)
        with pytest.raises(HubError, match="has no repository 'org/absent'"):
            dyzoo.load("hf-hub:org/absent")
        monkeypatch.chdir(tmp_path)
        small_detector.save_pretrained("org/absent")
        assert same(dyzoo.load("org/absent"), small_detector)
        with pytest.raises(HubError, match="has no repository 'org/absent'"):
            dyzoo.load("hf-hub:org/absent")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "model.pth"
    torch.save({"model": foreign_weights(CASE)}, path)
    return path


def test_a_file_of_another_code_base(foreign: Path) -> None:
    with pytest.raises(CheckpointError, match=f"architecture= has to say what it is of: it has the keys of {CASE}$"):
        dyzoo.load(foreign)
    assert dyzoo.load(foreign, architecture=CASE).config.architecture == CASE
    with pytest.raises(CheckpointError, match="80 classes, but 1 labels were given"):
        dyzoo.load(foreign, architecture=CASE, labels=["cat"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": CASE}, "architecture is for a file of another code base"),
        ({"revision": "v1"}, "revision is for a repository, org/name"),
        ({"token": "hf_x"}, "token is for a repository, org/name"),
    ],
)
def test_what_is_for_something_else_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}, and '{DEFAULT_MODEL}' is none: leave it out"):
        dyzoo.load(DEFAULT_MODEL, **options)


def test_every_error_suggests_what_works_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"or a folder with config\.json .* or org/name"):
        dyzoo.load(tmp_path / "absent")
    with pytest.raises(UnknownModelError) as caught:
        dyzoo.create_model("absent", pretrained=True)
    assert "folder" not in str(caught.value)
    with pytest.raises(UnknownModelError, match=r"dyzoo\.load knows the names of checkpoints too"):
        Detector.from_pretrained(NAME)


def test_classes_of_the_same_name_keep_what_they_know() -> None:
    whole = dyzoo.create_model(DEFAULT_MODEL, pretrained=True)
    with pytest.warns(NewClassesWarning, match=r"2 of 3 classes are known .* begins anew for yeast"):
        model = dyzoo.create_model(DEFAULT_MODEL, pretrained=True, labels=["WBC", "yeast", "RBC"])
    assert model.labels == ("WBC", "yeast", "RBC")
    assert not model.training
    own, known = model.state_dict(), whole.state_dict()
    assert torch.equal(own["head.cls.weight"][[0, 2]], known["head.cls.weight"][[2, 1]])
    assert torch.equal(own["head.box.weight"], known["head.box.weight"])


def test_known_classes_give_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fewer = dyzoo.create_model(DEFAULT_MODEL, pretrained=True, labels=["WBC"])
        assert fewer.labels == ("WBC",)
        same_labels = dyzoo.load(DEFAULT_MODEL, labels=["Platelets", "RBC", "WBC"])
    assert same(same_labels, dyzoo.load(DEFAULT_MODEL))
    fewer.save_pretrained(tmp_path)
    assert dyzoo.load(tmp_path).labels == ("WBC",)


def test_new_classes_on_a_published_detector(publish: Publish) -> None:
    publish("/pub/weights.pth")
    with pytest.warns(NewClassesWarning, match="1 of 2 classes are known to the pretrained mmdet_atss_r50"):
        model = dyzoo.create_model(NAME, pretrained=True, labels=["person", "gnome"])
    losses = model.train()(
        [torch.zeros(3, 64, 64)], [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}]
    )
    assert all(bool(loss.isfinite()) for loss in losses.values())
