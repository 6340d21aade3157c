"""The catalogue: entries on the Hub load like those of the package, and a wrong entry is one line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

import dyzoo
from dyzoo.errors import CheckpointError, HubError, UnknownModelError
from dyzoo.model.detector import Detector
from dyzoo.zoo import catalog, creation, names
from tests.hub.hub_server import Hub

NAME = "dyhead_atss_resnet10t.pets"

ENTRY = {
    "name": NAME,
    "repo_id": "org/pets",
    "revision": "0" * 40,
    "sha256": "0" * 64,
    "licence": "MIT",
    "dataset": "Pets",
    "metrics": {"AP": 0.5},
    "source": "Somebody, https://example.org",
}


def write_catalog(folder: Path, *entries: dict[str, object]) -> Path:
    def toml(value: object) -> str:
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
        return str(value) if isinstance(value, int | float) else f"'{value}'"

    lines = [f"[[checkpoint]]\n{chr(10).join(f'{key} = {toml(value)}' for key, value in e.items())}\n" for e in entries]
    folder.mkdir(exist_ok=True)
    (folder / "catalog.toml").write_text("\n".join(lines))
    return folder / "catalog.toml"


@pytest.fixture
def published(
    hub: Hub, cache: Path, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:
    """A catalogue whose one entry is on the Hub, in a folder of its repository; gives the entry."""
    commit = hub.add("org/pets", {f"small/{name}": content for name, content in files.items()})
    entry = {
        **ENTRY,
        "revision": commit,
        "file": "small/model.safetensors",
        "sha256": hashlib.sha256(files["model.safetensors"]).hexdigest(),
    }
    use(monkeypatch, write_catalog(tmp_path / "weights", entry))
    return entry


def use(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    known = catalog.read_catalog(path)
    for module in (creation, names):
        monkeypatch.setattr(module, "checkpoints", lambda: known)
    monkeypatch.setattr(creation, "weights_folder", lambda: path.parent)


def test_a_checkpoint_on_the_hub_loads_by_name(published: dict[str, object], hub: Hub, detector: Detector) -> None:
    for found in (dyzoo.create_model(NAME, pretrained=True), creation.load_model(NAME)):
        assert torch.equal(next(found.parameters()), next(detector.parameters()))
        assert found.labels == ("cat", "dog")
        assert not found.training
    assert dyzoo.list_models(pretrained=True) == [NAME]
    assert f"GET /org/pets/resolve/{published['revision']}/small/model.safetensors" in hub.requests


def test_the_commit_is_the_catalogues(published: dict[str, object], hub: Hub, detector: Detector) -> None:
    hub.add("org/pets", {"small/model.safetensors": b"something newer"})
    assert dyzoo.create_model(NAME, pretrained=True).labels == ("cat", "dog")


def test_other_weights_than_the_catalogues_are_refused(
    published: dict[str, object], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, write_catalog(tmp_path / "weights", {**published, "sha256": "a" * 64}))
    for _ in range(2):  # on download, and from the cache
        with pytest.raises(CheckpointError, match=r"is not the file of the catalogue .*`hf download org/pets"):
            dyzoo.create_model(NAME, pretrained=True)


def test_a_repository_that_is_gone(published: dict[str, object], hub: Hub) -> None:
    hub.repos.clear()
    with pytest.raises(HubError, match="has no repository 'org/pets'"):
        dyzoo.create_model(NAME, pretrained=True)


def test_several_tags_want_to_be_named(
    published: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = NAME.split(".")[0]
    assert dyzoo.create_model(architecture, pretrained=True).labels == ("cat", "dog")
    second = {**published, "name": f"{architecture}.more"}
    use(monkeypatch, write_catalog(tmp_path / "weights", published, second))
    with pytest.raises(UnknownModelError, match=f"several checkpoints, name one: {NAME}, {architecture}.more"):
        dyzoo.create_model(architecture, pretrained=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folde": "x"}, "unknown key 'folde', expected some of name, licence"),
        ({"licence": None}, "licence is missing"),
        ({"name": "untagged"}, "name is 'untagged', expected architecture.tag"),
        ({"sha256": "abc"}, "sha256 is 'abc', expected 64 hexadecimal digits"),
        ({"revision": "main"}, "revision is 'main', expected a commit hash"),
        ({"revision": None}, "expected either folder, or repo_id and revision"),
        ({"folder": "beside"}, "expected either folder, or repo_id and revision"),
        ({"repo_id": None, "revision": None}, "expected either folder, or repo_id and revision"),
        ({"repo_id": None, "revision": None, "folder": "../out"}, "folder is '../out', expected a folder beside"),
        ({"repo_id": None, "revision": None, "folder": "/etc"}, "folder is '/etc', expected a folder beside"),
        ({"repo_id": "org"}, "repo_id is 'org', expected org/name"),
        ({"file": "pytorch_model.bin"}, "expected a .safetensors file"),
        ({"file": "../x.safetensors"}, "expected a .safetensors file"),
        ({"metrics": {"AP": "good"}}, "metrics is {'AP': 'good'}, expected a table of numbers"),
        ({"source": " "}, "source is ' ', expected a text"),
    ],
)
def test_a_wrong_entry_is_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    entry = {key: value for key, value in {**ENTRY, **changes}.items() if value is not None}
    path = write_catalog(tmp_path / "weights", entry)
    with pytest.raises(CheckpointError) as caught:
        catalog.read_catalog(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: {entry['name']}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[checkpoint]", "cannot be read"),
        ("checkpoints = 1", "is no catalogue"),
        ("checkpoint = [1]", "is no catalogue"),
        ("[checkpoint]\nname = 'a.b'", "is no catalogue"),
    ],
)
def test_a_damaged_catalogue_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "catalog.toml").write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        catalog.read_catalog(tmp_path / "catalog.toml")
    assert "\n" not in str(caught.value)


def test_names_are_there_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is there twice"):
        catalog.read_catalog(write_catalog(tmp_path / "weights", ENTRY, ENTRY))
    assert list(catalog.read_catalog(write_catalog(tmp_path / "weights", ENTRY))) == [NAME]
