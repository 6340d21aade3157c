"""`Detector.from_pretrained("org/name")`: what comes from where, and every way it can go wrong, each in one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dyzoo.config import DetectorConfig
from dyzoo.errors import CheckpointError, DyzooError, HubError, UnknownModelError
from dyzoo.model.detector import Detector
from dyzoo.zoo.creation import load_model
from tests.hub.hub_client import set_offline
from tests.hub.hub_server import Hub

Files = dict[str, bytes]

NAME = "org/cells"


def same(found: Detector, expected: Detector) -> bool:
    weights = found.state_dict()
    return found.config == expected.config and all(
        torch.equal(value, weights[name]) for name, value in expected.state_dict().items()
    )


def relabelled(files: Files, *labels: str) -> bytes:
    """The configuration of a detector of other classes."""
    config = DetectorConfig.from_json(files["config.json"].decode())
    return config.with_labels(labels).to_json(for_transformers=True).encode()


def failure(*arguments: Any, **options: Any) -> DyzooError:
    """The error of `from_pretrained`, known to be one line."""
    with pytest.raises(DyzooError) as caught:
        Detector.from_pretrained(*arguments, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def test_only_configuration_and_weights_are_fetched(hub: Hub, cache: Path, files: Files, detector: Detector) -> None:
    hub.add(NAME, {**files, "extra.bin": b"never asked for", "../../outside.txt": b"a path that leads out"})
    loaded = Detector.from_pretrained(NAME)
    assert same(loaded, detector)
    assert not loaded.training
    asked = {request.rpartition("/")[2] for request in hub.requests}
    assert asked == {"config.json", "model.safetensors"}
    assert {path.name for path in cache.rglob("snapshots/*/*")} == asked
    assert not list(cache.parent.rglob("outside.txt"))


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub, cache: Path, files: Files, detector: Detector) -> None:
    first = hub.add(NAME, files)
    hub.repo(NAME).tags["v1"] = first
    hub.add(NAME, {"config.json": relabelled(files, "a", "b")})
    hub.add(NAME, {**files, "config.json": relabelled(files, "x", "y")}, branch="dev")
    expected = {None: ("a", "b"), "main": ("a", "b"), "v1": ("cat", "dog"), first: ("cat", "dog"), "dev": ("x", "y")}
    for revision, labels in expected.items():
        assert Detector.from_pretrained(NAME, revision=revision).labels == labels
    assert load_model(f"{NAME}@v1").labels == ("cat", "dog")


def test_both_files_are_of_one_commit(hub: Hub, cache: Path, files: Files, detector: Detector) -> None:
    """Somebody pushes a detector of other classes between the two downloads."""
    hub.add(NAME, files)
    other = relabelled(files, "one", "two", "three")
    pushed = {"config.json": other, "model.safetensors": b"of three classes"}
    hub.after_sending["config.json"] = lambda: hub.add(NAME, pushed)
    assert same(Detector.from_pretrained(NAME), detector)
    assert hub.files(NAME)["config.json"] == other


def test_what_is_cached_costs_one_question(hub: Hub, cache: Path, files: Files) -> None:
    commit = hub.add(NAME, files)
    Detector.from_pretrained(NAME)
    hub.requests.clear()
    Detector.from_pretrained(NAME)
    assert hub.requests == [f"HEAD /{NAME}/resolve/main/config.json"]
    Detector.from_pretrained(NAME, revision=commit)
    Detector.from_pretrained(NAME, local_files_only=True)
    assert len(hub.requests) == 1
    Detector.from_pretrained(NAME, force_download=True)
    assert f"GET /{NAME}/resolve/{commit}/model.safetensors" in hub.requests


def test_an_update_that_broke_off_leaves_the_older_one_in_use(
    hub: Hub, cache: Path, files: Files, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, files)
    Detector.from_pretrained(NAME)
    hub.add(NAME, {"model.safetensors": files["model.safetensors"] + b"newer"})
    hub.drop("model.safetensors", after=1000)
    assert "broke off" in str(failure(NAME))
    set_offline(monkeypatch)
    assert same(Detector.from_pretrained(NAME), detector)


@pytest.mark.parametrize("owner", [True, False])
def test_private_repositories_open_to_their_owner(
    hub: Hub, cache: Path, files: Files, monkeypatch: pytest.MonkeyPatch, owner: bool
) -> None:
    hub.add(NAME, files)
    hub.repo(NAME).private = True
    if owner:
        monkeypatch.delenv("HF_TOKEN")
        assert Detector.from_pretrained(NAME, token=hub.token).labels == ("cat", "dog")
        return
    for token in (False, hub.stranger_token):
        error = failure(NAME, token=token)
        assert isinstance(error, HubError)
        assert all(words in str(error) for words in ("has no repository 'org/cells'", "private", "hf auth login"))


def test_gated_repositories_say_where_to_ask(hub: Hub, cache: Path, files: Files) -> None:
    hub.add(NAME, files)
    hub.repo(NAME).gated = True
    for token in (False, hub.stranger_token):
        assert f"org/cells is gated: ask for access on {hub.url}/org/cells" in str(failure(NAME, token=token))
    assert Detector.from_pretrained(NAME, token=hub.token).labels == ("cat", "dog")


def test_a_token_that_nobody_has(hub: Hub, cache: Path, files: Files) -> None:
    hub.add(NAME, files)
    assert "does not accept the token" in str(failure(NAME, token="hf_typo"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("org/nothing", {}, "has no repository 'org/nothing'"),
        (NAME, {"revision": "v9"}, "has no branch, tag or commit 'v9'"),
        (NAME, {"revision": "0" * 40}, "has no branch, tag or commit '000"),
        (NAME, {"revision": "../../up"}, "is no name of a branch"),
        (NAME, {"revision": ""}, "is no name of a branch"),
        (f"{NAME}@a", {"revision": "b"}, "asks for revision 'a', and revision is 'b'"),
        ("org/na me", {}, "is no id of a repository"),
        ("org/a--b", {}, "is no id of a repository"),
        (NAME, {"local_files_only": True, "force_download": True}, "leave one of them out"),
    ],
)
def test_what_is_not_there(hub: Hub, cache: Path, files: Files, name: str, options: Any, message: str) -> None:
    hub.add(NAME, files)
    error = failure(name, **options)
    assert isinstance(error, HubError)
    assert message in str(error)


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "./here", "https://huggingface.co/org/cells", Path("org/cells")])
def test_what_is_no_id_is_not_asked_for(hub: Hub, cache: Path, name: str | Path) -> None:
    assert isinstance(failure(name), UnknownModelError)
    assert hub.requests == []


def test_a_folder_that_is_not_there_may_have_been_meant(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trained").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "there is no folder trained/mine, and " in str(failure("trained/mine"))
    assert "there is no folder runs/mine, and " in str(failure("runs/mine"))  # there may be no run at all yet
    assert "there is no folder" not in str(failure("org/mine"))


def test_a_folder_goes_before_a_repository(
    hub: Hub, cache: Path, files: Files, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    detector.save_pretrained(NAME)
    assert same(Detector.from_pretrained(NAME), detector)
    assert hub.requests == []


class Marker:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_pickles_are_neither_fetched_nor_run(hub: Hub, cache: Path, files: Files, tmp_path: Path) -> None:
    poison = pickle.dumps(Marker(tmp_path / "it ran"))
    hub.add(NAME, {"config.json": files["config.json"], "pytorch_model.bin": poison})
    error = failure(NAME)
    assert isinstance(error, CheckpointError)
    assert all(words in str(error) for words in ("no model.safetensors", "only pytorch_model.bin", "dyzoo convert"))
    hub.add(NAME, {"model.safetensors": poison})
    assert "damaged or no safetensors file" in str(failure(NAME))
    assert not any(request.endswith(".bin") for request in hub.requests)
    pickle.loads(poison)
    assert (tmp_path / "it ran").is_dir(), "the poison works where it is run"


def test_a_repository_of_something_else(hub: Hub, cache: Path, files: Files) -> None:
    hub.add(NAME, {"README.md": b"# Data"})
    assert "org/cells has no config.json" in str(failure(NAME))
    hub.add(NAME, {**files, "config.json": b'{"model_type": "bert", "hidden_size": 768}'})
    assert "config.json of org/cells: unknown setting 'hidden_size'" in str(failure(NAME))


def test_a_connection_that_breaks_is_taken_up_again(hub: Hub, cache: Path, files: Files, detector: Detector) -> None:
    hub.add(NAME, files)
    hub.drop("model.safetensors", after=100_000, times=2)
    assert same(Detector.from_pretrained(NAME), detector)
    assert hub.dropped["model.safetensors"].times == 0


def test_a_connection_that_always_breaks_leaves_nothing_that_counts(
    hub: Hub, cache: Path, files: Files, detector: Detector
) -> None:
    hub.add(NAME, files)
    hub.drop("model.safetensors", after=100_000)
    error = failure(NAME)
    assert isinstance(error, HubError)
    assert "the download of model.safetensors from org/cells broke off" in str(error)
    assert not list(cache.rglob("model.safetensors"))
    hub.mend()
    assert same(Detector.from_pretrained(NAME), detector)


def flip_a_bit(blob: bytes) -> bytes:
    return blob[:-1] + bytes([blob[-1] ^ 1])


def test_damage_on_the_way_is_found_and_mended(hub: Hub, cache: Path, files: Files, detector: Detector) -> None:
    hub.add(NAME, files)
    hub.spoilt["model.safetensors"] = flip_a_bit
    for _ in range(2):  # the second time from the cache
        error = failure(NAME)
        assert isinstance(error, CheckpointError)
        assert "model.safetensors of org/cells is damaged" in str(error)
        assert "force_download=True, or `hf download org/cells" in str(error)
        hub.mend()
    assert same(Detector.from_pretrained(NAME, force_download=True), detector)
    assert same(Detector.from_pretrained(NAME), detector)


def test_a_file_that_arrives_short_does_not_count(hub: Hub, cache: Path, files: Files, detector: Detector) -> None:
    hub.add(NAME, files)
    hub.spoilt["model.safetensors"] = lambda blob: blob[:-1000]
    assert "model.safetensors of org/cells cannot be fetched: 20174104 bytes arrive" in str(failure(NAME))
    hub.mend()
    assert same(Detector.from_pretrained(NAME), detector)


def test_a_cached_file_that_was_swapped_is_found(hub: Hub, cache: Path, files: Files, detector: Detector) -> None:
    hub.add(NAME, files)
    Detector.from_pretrained(NAME)
    other = Detector(detector.config)
    other.save_pretrained(cache.parent / "other")
    (weights,) = cache.rglob("snapshots/*/model.safetensors")
    shutil.copy(cache.parent / "other" / "model.safetensors", weights.resolve())
    assert "is damaged (its sha256 is not the Hub's)" in str(failure(NAME, local_files_only=True))


def test_weights_of_another_detector(hub: Hub, cache: Path, files: Files) -> None:
    hub.add(NAME, {**files, "config.json": relabelled(files, "cat", "dog", "cow")})
    assert "these weights are not of dyhead_atss_resnet10t with 3 classes" in str(failure(NAME))


def test_a_configuration_of_a_newer_version(hub: Hub, cache: Path, files: Files) -> None:
    hub.add(NAME, {**files, "config.json": json.dumps({"version": 99, "shape": "unheard of"}).encode()})
    error = str(failure(NAME))
    assert "config.json of org/cells has version 99" in error
    assert "update dyzoo" in error


@pytest.mark.parametrize(
    "backbone", ["hf-hub:org/backbone", "hf_hub:org/backbone", "local-dir:/tmp", "timm/resnet10t.c3_in1k", "../x", ""]
)
def test_a_backbone_that_names_a_place_is_not_looked_for(hub: Hub, cache: Path, files: Files, backbone: str) -> None:
    hub.add("org/backbone", {"config.json": b"{}", "pytorch_model.bin": b""})
    config = json.loads(files["config.json"])
    config["backbone"]["name"] = backbone
    hub.add(NAME, {**files, "config.json": json.dumps(config).encode()})
    assert "config.json of org/cells describes no detector" in str(failure(NAME))
    assert all(NAME in request for request in hub.requests)


def test_a_full_disk_is_one_line(hub: Hub, cache: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, files)

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dyzoo.hub.transfer.fetch", full)
    assert f"{cache}: no room for config.json of org/cells (No space left on device)" in str(failure(NAME))


def test_a_cache_that_cannot_be_written_is_one_line(hub: Hub, cache: Path, files: Files) -> None:
    hub.add(NAME, files)
    cache.write_text("a file where the folder should be")
    assert str(cache) in str(failure(NAME))
