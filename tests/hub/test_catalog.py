"""The catalogue: entries on the Hub load like those of the package, and a wrong entry is one line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

import dyzoo
from dyzoo.checkpoints.conversion import KEY_RULES
from dyzoo.config.architectures import PUBLISHED
from dyzoo.errors import CheckpointError, HubError
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
        if isinstance(value, list):
            return "[" + ", ".join(map(toml, value)) + "]"
        return str(value).lower() if isinstance(value, int | float) else f"'{value}'"

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
    for module in (catalog, names):
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


def test_a_name_without_tag_means_the_first_of_the_catalogue(
    published: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = NAME.split(".")[0]
    assert dyzoo.create_model(architecture, pretrained=True).labels == ("cat", "dog")
    for order in (("a", "more"), ("more", "a")):
        tags = [{**published, "name": f"{architecture}.{tag}"} for tag in order]
        use(monkeypatch, write_catalog(tmp_path / "weights", *tags))
        assert names.find_checkpoint(architecture).name == f"{architecture}.{order[0]}"
        assert names.find_checkpoint(f"{architecture}.more").name == f"{architecture}.more"


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


FOREIGN = {
    "name": "mmdet_atss_r50.coco",
    "addresses": ["https://example.org/a/weights.pth", "hf://org/name@v1/a/weights.pth"],
    "sha256_prefix": "0" * 8,
    "licence": "MIT",
    "dataset": "COCO",
    "reported": {"AP": 0.5},
    "reported_by": "Somebody",
    "source": "Somebody, https://example.org",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"addresses": []}, "addresses is [], expected a list of"),
        ({"addresses": ["file:///etc/passwd"]}, "addresses is ['file:///etc/passwd'], expected a list of"),
        ({"addresses": ["https://example.org/"]}, "expected a list of"),
        ({"addresses": ["https://example.org/a/.."]}, "expected a list of"),
        ({"addresses": ["https://example.org/a/.x"]}, "expected a list of"),
        ({"addresses": ["https://me:secret@example.org/x"]}, "expected a list of"),
        ({"addresses": ["hf://org/name"]}, "expected a list of"),
        ({"addresses": ["hf://org/name/../x"]}, "expected a list of"),
        ({"addresses": ["https://example.org/a", "https://example.org/b"]}, "the addresses end in different names"),
        ({"sha256_prefix": "abc"}, "sha256_prefix is 'abc', expected 8 hexadecimal digits or more"),
        ({"sha256_prefix": None}, "sha256 or sha256_prefix is missing, only the Hub can do without"),
        ({"size": 0}, "size is 0, expected a number of bytes"),
        ({"size": True}, "size is True, expected a number of bytes"),
        ({"reported": None}, "reported is missing"),
        ({"reported_by": None}, "reported_by is missing"),
        ({"folder": "beside"}, "expected either folder, or repo_id and revision, or addresses"),
        ({"repo_id": "org/pets", "revision": "0" * 40}, "expected either folder, or repo_id and revision, or"),
    ],
)
def test_a_wrong_entry_of_another_code_base_is_one_line(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    entry = {key: value for key, value in {**FOREIGN, **changes}.items() if value is not None}
    path = write_catalog(tmp_path / "weights", entry)
    with pytest.raises(CheckpointError) as caught:
        catalog.read_catalog(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_other_code_bases(tmp_path: Path) -> None:
    fine_tuned = {**FOREIGN, "name": "mmdet_atss_r50.more", "size": 5, "sha256": "a" * 64, "unverified": "a copy"}
    on_hub = {**FOREIGN, "name": "mmdet_atss_r50.hub", "addresses": ["hf://org/name/weights.pth"]}
    del on_hub["sha256_prefix"]
    known = catalog.read_catalog(write_catalog(tmp_path / "weights", FOREIGN, fine_tuned, on_hub))
    first, second, third = known.values()
    assert (first.architecture, first.file_name, first.is_foreign) == ("mmdet_atss_r50", "weights.pth", True)
    assert first.is_of("0" * 64)
    assert not first.is_of("1" * 64)
    assert second.is_of("a" * 64)
    assert not second.is_of("0" * 64)
    assert not third.has_hash


@pytest.mark.parametrize("key", ["sha256_prefix", "size", "reported", "unverified"])
def test_keys_of_foreign_files_are_of_no_others(tmp_path: Path, key: str) -> None:
    value = {"size": 5, "reported": {"AP": 0.5}}.get(key, "0" * 8)
    with pytest.raises(CheckpointError, match=f"{key} is of files of other code bases"):
        catalog.read_catalog(write_catalog(tmp_path / "weights", {**ENTRY, key: value}))


def test_reported_numbers_are_those_beside_the_architectures() -> None:
    foreign = [entry for entry in catalog.checkpoints().values() if entry.is_foreign]
    assert {entry.architecture for entry in foreign if entry.name.endswith(".coco")} == set(KEY_RULES)
    for entry in foreign:
        assert entry.metrics == {}  # nobody has measured them here
        published = PUBLISHED[entry.architecture]
        if entry.name == "mmdet_glip_t_a.coco":  # trained further; beside the architecture stands the zero-shot one
            continue
        assert round(100 * entry.reported["AP"], 1) == published.ap
        assert entry.reported_by.removesuffix(", zero-shot") == published.where.removesuffix(", zero-shot")


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
