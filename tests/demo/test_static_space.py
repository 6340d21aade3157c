"""`dyzoo push --space --space-sdk static`: a Space that holds the page of the browser and the detector."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import dyzoo
from dyzoo.demo import runtime, static_page
from dyzoo.demo.space import push_demo
from dyzoo.errors import HubError
from dyzoo.hub.spaces import SpaceKeptWarning
from dyzoo.runtime import sessions
from tests.cli.cli_helpers import Cli, assert_one_error
from tests.cli.conftest import cli as cli
from tests.hub.hub_client import use_hub
from tests.hub.hub_server import Hub

NAME = "org/cells"
STATIC = ("--space", "--space-sdk", "static")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(lfs_threshold=50_000) as server:
        use_hub(monkeypatch, server, tmp_path / "cache")
        yield server


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The detectors that were to be exported, for which a few bytes are written: exporting is tested elsewhere."""
    exported: list[Any] = []

    def export(model: Any, path: Path, *_: Any) -> None:
        exported.append(model)
        path.write_bytes(b"exported")

    monkeypatch.setattr(static_page, "export_detector", export)
    return exported


def files(hub: Hub) -> dict[str, bytes]:
    return dict(hub.files(NAME, kind="spaces"))


def metadata(hub: Hub) -> dict[str, Any]:
    return yaml.safe_load(files(hub)["README.md"].decode().split("---\n")[1])


def messages(hub: Hub) -> list[str]:
    return [commit.message for commit in hub.repo(NAME, "spaces").branches["main"]]


def test_a_static_space_holds_the_page_and_the_detector(
    cli: Cli, hub: Hub, eager_model: str, exporting: list[Any]
) -> None:
    outcome = cli("push", eager_model, NAME, *STATIC, "--license", "mit")
    assert outcome.code == 0, outcome.err
    assert outcome.out.endswith(f"/commit/{hub.repo(NAME).at().sha}\n{hub.url}/spaces/{NAME}\n")
    (exported,) = exporting
    assert exported.labels == ("red", "blue")
    there = files(hub)
    assert there["detector.onnx"] == b"exported"
    pages = {path.name for path in (Path(static_page.__file__).parent / "page").iterdir()}
    assert set(there) >= pages | {"detector.json", "sample.jpg", "README.md"}
    assert hashlib.sha256(there[f"runtime/{runtime.BINARY_NAME}"]).hexdigest() in runtime.origin()["sha256"].values()
    read = metadata(hub)
    assert (read["sdk"], read["app_file"], read["models"], read["license"]) == ("static", "index.html", [NAME], "mit")
    assert read["custom_headers"]["cross-origin-opener-policy"] == "same-origin"
    assert messages(hub) == ["initial commit", "Demo of org/cells"], "one commit"
    assert not hub.repo(NAME, "spaces").private


def test_pushing_again_renews_all_but_a_readme_that_was_edited(
    cli: Cli, hub: Hub, eager_model: str, exporting: list[Any]
) -> None:
    assert cli("push", eager_model, NAME, *STATIC).code == 0
    edited = files(hub)["README.md"] + b"\nMine.\n"
    hub.add(NAME, {"README.md": edited, "detector.onnx": b"older", "more.txt": b"mine"}, kind="spaces")
    outcome = cli("push", eager_model, NAME, *STATIC)
    assert outcome.code == 0
    assert "note: the Space org/cells has README.md that somebody wrote or edited" in outcome.err
    there = files(hub)
    assert (there["README.md"], there["detector.onnx"], there["more.txt"]) == (edited, b"exported", b"mine")


@pytest.mark.parametrize("readme", [b"# Mine\n", b"---\nsdk: static\n---\n# Mine\n"])
def test_a_space_that_is_somebodys_own_stays_as_it_is(
    cli: Cli, hub: Hub, eager_model: str, exporting: list[Any], readme: bytes
) -> None:
    mine = {"README.md": readme, "index.html": b"<p>mine"}
    hub.add(NAME, mine, kind="spaces")
    outcome = cli("push", eager_model, NAME, *STATIC)
    assert outcome.code == 0
    assert "note: the Space org/cells is somebody's own" in outcome.err
    assert files(hub) == mine
    assert cli("push", eager_model, NAME, *STATIC, "--replace-card").code == 0
    assert files(hub)["index.html"] != mine["index.html"]


def test_an_edited_space_of_the_other_kind_stays_and_an_unedited_one_becomes_static(
    cli: Cli, hub: Hub, eager_model: str, exporting: list[Any]
) -> None:
    assert cli("push", eager_model, NAME, "--space").code == 0
    readme = files(hub)["README.md"]
    hub.add(NAME, {"README.md": readme + b"Mine.\n"}, kind="spaces")
    with pytest.warns(SpaceKeptWarning, match="somebody's own"):
        assert push_demo(NAME, sdk="static") is None
    assert "index.html" not in files(hub)
    hub.add(NAME, {"README.md": readme}, kind="spaces")
    assert push_demo(NAME, sdk="static") is not None
    assert metadata(hub)["sdk"] == "static"


def test_the_static_space_of_a_private_detector_is_private_and_needs_no_secret(
    cli: Cli, hub: Hub, eager_model: str, exporting: list[Any]
) -> None:
    outcome = cli("push", eager_model, NAME, *STATIC, "--private")
    assert outcome.code == 0
    assert hub.repo(NAME, "spaces").private
    assert "HF_TOKEN" not in outcome.err


def test_a_revision_is_what_the_page_holds(cli: Cli, hub: Hub, eager_model: str, exporting: list[Any]) -> None:
    assert cli("push", eager_model, NAME, *STATIC, "--revision", "v2").code == 0
    assert set(hub.repo(NAME).branches) >= {"v2"}
    assert files(hub)["detector.onnx"] == b"exported"
    with pytest.raises(HubError, match="no-such-branch"):
        push_demo(NAME, sdk="static", revision="no-such-branch")


def test_what_cannot_become_a_page_is_refused_before_anything_is_pushed(
    cli: Cli, hub: Hub, eager_model: str, exporting: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = cli("push", eager_model, NAME, "--space-sdk", "static")
    assert (refused.code, refused.out) == (2, "")
    assert "give --space" in refused.err
    with monkeypatch.context() as patch:
        patch.setattr(static_page, "MOST_MODEL_BYTES", 1_000_000)
        assert_one_error(cli("push", eager_model, NAME, *STATIC), "MB, expected at most 1 for a browser")
    with monkeypatch.context() as patch:
        patch.setattr(sessions, "find_spec", lambda name: None)
        assert_one_error(cli("push", eager_model, NAME, *STATIC), "not installed", "pip install 'dyzoo[onnx]'")
    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        patch.setattr(dyzoo, "load", lambda *_: pytest.fail("loaded without a token"))
        assert_one_error(cli("push", eager_model, NAME, *STATIC), "needs a token")
    assert_one_error(cli("push", "no/folder", NAME, *STATIC), "no/folder is no folder")
    assert hub.requests == []
    assert exporting == []


@pytest.mark.slow  # the export of a detector
def test_the_detector_of_a_static_space_finds_what_the_pushed_one_finds(
    cli: Cli, hub: Hub, eager_model: str, picture: Path, tmp_path: Path
) -> None:
    assert cli("push", eager_model, NAME, *STATIC).code == 0
    path = tmp_path / "fetched.onnx"
    path.write_bytes(files(hub)["detector.onnx"])
    (want,), (got,) = (dyzoo.load(each).predict(picture) for each in (eager_model, path))
    assert len(want) > 0
    assert got.counts() == want.counts()
