"""`Detector.push_to_hub`: what arrives, in one commit, and what is never overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from dyzoo.errors import CheckpointError, HubError
from dyzoo.hub.cards import CardDetails, CardKeptWarning, is_hand_written, terms_of
from dyzoo.model.detector import Detector
from tests.hub.hub_client import set_offline
from tests.hub.hub_server import Hub
from tests.model.narrow_detectors import SAVED_FILES

NAME = "org/cells"


def messages(hub: Hub, branch: str = "main", name: str = NAME) -> list[str]:
    return [commit.message for commit in hub.repo(name).branches[branch]]


def test_one_commit_holds_everything(hub: Hub, cache: Path, detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "curves.png").write_bytes(b"a picture")
    commit = detector.push_to_hub(NAME, commit_message="First", files={"plots/curves.png": tmp_path / "curves.png"})
    assert messages(hub) == ["initial commit", "First"]
    assert commit.commit_url == f"{hub.url}/{NAME}/commit/{commit.oid}"
    assert set(hub.files(NAME)) == {*SAVED_FILES, "plots/curves.png"}
    assert hub.repo(NAME).at("main").sha == commit.oid
    assert not hub.repo(NAME).private
    loaded = Detector.from_pretrained(NAME, revision=commit.oid).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in detector.state_dict().items())


def test_pushing_the_same_again_changes_nothing(hub: Hub, cache: Path, detector: Detector) -> None:
    first = detector.push_to_hub(NAME)
    assert detector.push_to_hub(NAME).oid == first.oid
    assert messages(hub) == ["initial commit", "Upload dyhead_atss_resnet10t"]


def test_a_branch_is_made_and_main_stays(hub: Hub, cache: Path, detector: Detector) -> None:
    detector.push_to_hub(NAME)
    before = hub.files(NAME)
    detector.push_to_hub(NAME, revision="half", dtype=torch.float16)
    assert hub.files(NAME) == before
    stored = load(hub.files(NAME, "half")["model.safetensors"])
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float16}
    loaded = Detector.from_pretrained(f"{NAME}@half").state_dict()
    for name, value in detector.state_dict().items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value.to(stored[name].dtype).to(value.dtype))


def test_a_pull_request_leaves_main_alone(hub: Hub, cache: Path, detector: Detector) -> None:
    detector.push_to_hub(NAME)
    other = Detector(detector.config)
    commit = other.push_to_hub(NAME, create_pr=True)
    assert commit.pr_url == f"{hub.url}/{NAME}/discussions/1"
    assert len(messages(hub)) == 2
    loaded = Detector.from_pretrained(NAME, revision=commit.pr_revision)
    assert torch.equal(next(loaded.parameters()), next(other.parameters()))


def test_a_name_alone_is_the_users_own(hub: Hub, cache: Path, detector: Detector) -> None:
    detector.push_to_hub("cells", private=True)
    assert hub.repo("owner/cells").private
    assert 'dyzoo.load("owner/cells")' in hub.files("owner/cells")["README.md"].decode()


def test_private_does_not_go_to_a_public_repository(hub: Hub, cache: Path, detector: Detector) -> None:
    hub.repo(NAME)
    with pytest.raises(HubError, match="org/cells is there already and public"):
        detector.push_to_hub(NAME, private=True)
    assert messages(hub) == ["initial commit"]
    hub.repo(NAME).private = True
    detector.push_to_hub(NAME, private=True)
    assert len(messages(hub)) == 2


def test_a_card_written_by_hand_is_kept(hub: Hub, cache: Path, detector: Detector) -> None:
    by_hand = b"---\nlicense: mit\n---\n# My cells\n"
    hub.add(NAME, {"README.md": by_hand})
    with pytest.warns(CardKeptWarning, match=r"has a README\.md that somebody wrote"):
        detector.push_to_hub(NAME)
    assert hub.files(NAME)["README.md"] == by_hand
    detector.push_to_hub(NAME, replace_card=True)
    assert not is_hand_written(hub.files(NAME)["README.md"].decode())


def test_a_card_that_dyzoo_wrote_is_renewed_until_somebody_edits_it(hub: Hub, cache: Path, detector: Detector) -> None:
    detector.push_to_hub(NAME)
    detector.push_to_hub(NAME, card=CardDetails(license="apache-2.0"))
    card = hub.files(NAME)["README.md"]
    assert b"license: apache-2.0" in card
    edited = card.replace(b"Nothing has been measured", b"I measured")
    hub.add(NAME, {"README.md": edited})
    with pytest.warns(CardKeptWarning):
        detector.push_to_hub(NAME)
    assert hub.files(NAME)["README.md"] == edited


def test_terms_stay_until_others_are_given(hub: Hub, cache: Path, detector: Detector, tmp_path: Path) -> None:
    detector.push_to_hub(NAME, card=CardDetails(license="mit", datasets=["org/data"]))
    detector.push_to_hub(NAME)
    assert terms_of(hub.files(NAME)["README.md"].decode()) == CardDetails(license="mit", datasets=["org/data"])
    detector.save_pretrained(tmp_path / "local", card=CardDetails(datasets=["org/more"]))
    detector.push_to_hub(NAME, card=(tmp_path / "local" / "README.md").read_text())
    assert terms_of(hub.files(NAME)["README.md"].decode()) == CardDetails(license="mit", datasets=["org/more"])


def test_a_whole_card_may_be_given(hub: Hub, cache: Path, detector: Detector) -> None:
    detector.push_to_hub(NAME, card="# All mine\n")
    assert hub.files(NAME)["README.md"] == b"# All mine\n"


@pytest.mark.parametrize(
    ("token", "message"),
    [("hf_typo", "does not accept the token"), ("hf_stranger", "your token may not do this to org/cells")],
)
def test_without_the_right_token_nothing_arrives(
    hub: Hub, cache: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, token: str, message: str
) -> None:
    hub.repo(NAME)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=message):
        detector.push_to_hub(NAME)
    detector.push_to_hub(NAME, token=hub.token)
    assert len(messages(hub)) == 2


def test_not_logged_in(hub: Hub, cache: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    for token in (None, False, ""):
        with pytest.raises(HubError, match="there is none: log in with `hf auth login`, or set HF_TOKEN"):
            detector.push_to_hub(NAME, token=token)
    assert hub.requests == []


def test_offline(hub: Hub, cache: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    set_offline(monkeypatch)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, and org/cells needs"):
        detector.push_to_hub(NAME)


def test_what_cannot_be_stored_is_found_before_the_hub_is_asked(hub: Hub, cache: Path, detector: Detector) -> None:
    large = Detector(detector.config)
    with torch.no_grad():
        next(large.parameters()).fill_(1e6)
    with pytest.raises(CheckpointError, match=r"values up to 1e\+06, too large for torch.float16"):
        large.push_to_hub(NAME, dtype=torch.float16)
    with pytest.raises(FileNotFoundError, match="curves"):
        detector.push_to_hub(NAME, files={"curves.png": "no/curves.png"})
    assert hub.requests == []


def test_a_push_does_not_touch_what_the_cache_knows(
    hub: Hub, cache: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector.push_to_hub(NAME)
    Detector.from_pretrained(NAME)
    detector.push_to_hub(NAME, card=CardDetails(license="mit"))
    Detector(detector.config).push_to_hub(NAME)
    set_offline(monkeypatch)
    loaded = Detector.from_pretrained(NAME)
    assert torch.equal(next(loaded.parameters()), next(detector.parameters()))


HOSTILE_CARDS = [
    "license: [mit",
    "- a list",
    "license: {a: b}\ndatasets: [1, {c: d}]",
    "datasets: 3",
    "license: !!python/object/apply:os.system ['true']",
    "x: " + "[" * 5000 + "]" * 5000,
    "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
]


@pytest.mark.parametrize("metadata", HOSTILE_CARDS)
def test_a_card_that_cannot_be_read_is_no_hindrance(hub: Hub, cache: Path, detector: Detector, metadata: str) -> None:
    hub.add(NAME, {"README.md": f"---\n{metadata}\n---\n# Mine\n".encode()})
    detector.push_to_hub(NAME, replace_card=True)
    assert terms_of(hub.files(NAME)["README.md"].decode()) == CardDetails(datasets=[])


def test_what_the_hub_says_is_spelt_out(
    hub: Hub, cache: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.hub.hub_server.FORBIDDEN", "no\x1b[2J\u202e\nmore")
    hub.repo(NAME)
    with pytest.raises(HubError) as caught:
        detector.push_to_hub(NAME, token=hub.stranger_token)
    assert r"\x1b[2J\u202e" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_trickle_ends(hub: Hub, cache: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, {"README.md": b"# Mine"})
    hub.drop("README.md", after=0, how="trickle")
    monkeypatch.setenv("DYZOO_HUB_PATIENCE", "0.1")
    with pytest.raises(HubError, match=r"cannot be reached for org/cells \(not done in time, the limit is 0\.1 s"):
        detector.push_to_hub(NAME)
    assert messages(hub) == ["initial commit", "add files"]
