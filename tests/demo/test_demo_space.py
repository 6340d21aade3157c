"""`dyzoo push --space`: a Space that runs the page for what was pushed, beside what others have written there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dyzoo._version import __version__
from dyzoo.demo.space import space_texts
from dyzoo.errors import HubError
from dyzoo.hub.spaces import push_space
from dyzoo.model.detector import Detector
from tests.cli.cli_helpers import Cli
from tests.cli.conftest import cli as cli
from tests.hub.hub_client import use_hub
from tests.hub.hub_server import Hub

NAME = "org/cells"
FILES = {"README.md", "app.py", "requirements.txt"}
OF_THE_HUB = b"""---
title: Cells
emoji: X
sdk: gradio
sdk_version: 6.0.0
app_file: app.py
pinned: false
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(lfs_threshold=50_000) as server:
        use_hub(monkeypatch, server, tmp_path / "cache")
        yield server


def files(hub: Hub) -> dict[str, str]:
    return {name: content.decode() for name, content in hub.files(NAME, kind="spaces").items()}


def metadata(hub: Hub) -> dict[str, Any]:
    return yaml.safe_load(files(hub)["README.md"].split("---\n")[1])


def messages(hub: Hub) -> list[str]:
    return [commit.message for commit in hub.repo(NAME, "spaces").branches["main"]]


def test_a_space_runs_the_page_for_the_pushed_detector(cli: Cli, hub: Hub, eager_model: str) -> None:
    outcome = cli("push", eager_model, NAME, "--space", "--license", "mit")
    assert outcome.code == 0, outcome.err
    sha = hub.repo(NAME).at().sha
    assert outcome.out == f"{hub.url}/{NAME}/commit/{sha}\n{hub.url}/spaces/{NAME}\n"
    assert set(files(hub)) == FILES
    assert messages(hub) == ["initial commit", "Demo of org/cells"]
    read = metadata(hub)
    assert (read["sdk"], read["app_file"], read["models"], read["license"]) == ("gradio", "app.py", [NAME], "mit")
    assert files(hub)["requirements.txt"].endswith(f"\ndyzoo[demo]=={__version__}\n")
    assert "private" not in outcome.err
    assert not hub.repo(NAME, "spaces").private


def test_the_app_of_a_space_serves_that_detector_alone(
    hub: Hub, eager_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio")
    import dyzoo.demo.serving

    Detector.from_pretrained(eager_model).push_to_hub(NAME)
    served: list[Any] = []
    monkeypatch.setattr(dyzoo.demo.serving, "serve", served.append)
    exec(compile(space_texts(NAME)["app.py"], "app.py", "exec"), {})
    (app,) = served
    (model,) = [block for block in app.blocks.values() if getattr(block, "label", "") == "Model"]
    assert [value for _, value in model.choices] == [NAME]


def test_a_revision_is_what_the_space_runs(cli: Cli, hub: Hub, eager_model: str) -> None:
    assert cli("push", eager_model, NAME, "--space", "--revision", "v2").code == 0
    assert '"org/cells@v2"' in files(hub)["app.py"]


def test_pushing_again_changes_nothing_and_an_older_one_is_renewed(cli: Cli, hub: Hub, eager_model: str) -> None:
    push_space(NAME, space_texts(NAME, license="mit"), sdk="gradio")
    assert metadata(hub)["license"] == "mit"
    for _ in range(2):
        outcome = cli("push", eager_model, NAME, "--space", "--license", "apache-2.0")
        assert (outcome.code, "kept" in outcome.err) == (0, False)
    assert metadata(hub)["license"] == "apache-2.0"
    assert len(messages(hub)) == 3


def test_what_somebody_wrote_there_is_kept_and_that_is_said(cli: Cli, hub: Hub, eager_model: str) -> None:
    assert cli("push", eager_model, NAME, "--space").code == 0
    edited = files(hub)["app.py"] + "print('mine')\n"
    by_hand = {"app.py": edited.encode(), "README.md": b"# Mine\n", "more.txt": b"mine"}
    hub.add(NAME, by_hand, kind="spaces")
    outcome = cli("push", eager_model, NAME, "--space")
    assert outcome.code == 0
    assert "note: the Space org/cells has README.md, app.py that somebody wrote or edited" in outcome.err
    assert {name: files(hub)[name].encode() for name in by_hand} == by_hand
    assert cli("push", eager_model, NAME, "--space", "--replace-card").code == 0
    assert "print" not in files(hub)["app.py"]
    assert files(hub)["more.txt"] == "mine"


def test_the_readme_that_the_hub_writes_is_nobodys(cli: Cli, hub: Hub, eager_model: str) -> None:
    """A push that broke after the Space was made leaves it so."""
    hub.add(NAME, {"README.md": OF_THE_HUB}, kind="spaces")
    outcome = cli("push", eager_model, NAME, "--space")
    assert (outcome.code, "kept" in outcome.err) == (0, False)
    assert metadata(hub)["models"] == [NAME]


@pytest.mark.parametrize("option", [("--private",), ()], ids=["asked for", "as the detector is"])
def test_the_space_of_a_private_detector_is_private(
    cli: Cli, hub: Hub, eager_model: str, option: tuple[str, ...]
) -> None:
    if not option:
        hub.repo(NAME).private = True
    outcome = cli("push", eager_model, NAME, "--space", *option)
    assert outcome.code == 0
    assert hub.repo(NAME).private
    assert hub.repo(NAME, "spaces").private
    assert "as the secret HF_TOKEN" in outcome.err


def test_mistakes_are_one_line(cli: Cli, hub: Hub, eager_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = cli("push", eager_model, NAME, "--space", "--create-pr")
    assert (refused.code, refused.out) == (2, "")
    assert hub.requests == []
    hub.repo(NAME, "spaces")
    outcome = cli("push", eager_model, NAME, "--space", "--private")
    assert (outcome.code, outcome.out) == (1, f"{hub.url}/{NAME}/commit/{hub.repo(NAME).at().sha}\n")
    *_, line = outcome.err.splitlines()  # after the bar of the detector's upload
    assert line.startswith("error: org/cells is there already and public")
    assert f"{hub.url}/spaces/org/cells/settings" in line
    assert messages(hub) == ["initial commit"]
    monkeypatch.setenv("HF_TOKEN", hub.stranger_token)
    with pytest.raises(HubError, match="your token may not do this to org/cells"):
        push_space(NAME, space_texts(NAME), sdk="gradio")
    assert messages(hub) == ["initial commit"]


def test_names_of_strangers_stay_names() -> None:
    texts = space_texts("me/it-is.mine", "v'1", 'x"\nsdk: static')
    (call,) = [node for node in ast.parse(texts["app.py"]).body if isinstance(node, ast.Expr)]
    assert ast.literal_eval(call.value.args[0].args[0]) == ["me/it-is.mine@v'1"]  # type: ignore[attr-defined]
    read = yaml.safe_load(texts["README.md"].split("---\n")[1])
    assert (read["sdk"], read["license"]) == ("gradio", 'x"\nsdk: static')
