"""Files of other code bases: fetched whole or not at all, whatever the server, the network and the disk do."""

from __future__ import annotations

import hashlib
import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import dyzoo
from dyzoo import environment
from dyzoo.cli import run
from dyzoo.errors import CheckpointError, HubError
from dyzoo.model.detector import Detector
from dyzoo.zoo import fetching, sources, store
from dyzoo.zoo.catalog import Checkpoint, checkpoints
from dyzoo.zoo.fetching import UnverifiedWarning, fetch_foreign
from dyzoo.zoo.store import Provenance
from tests.hub.hub_client import set_offline, use_hub
from tests.hub.hub_server import Hub
from tests.model.narrow_detectors import SAVED_FILES
from tests.zoo.conftest import CONTENT, NAME, Publish
from tests.zoo.file_server import FileServer

FILE = "/pub/weights.pth"
FOREIGN = sorted(name for name, entry in checkpoints().items() if entry.is_foreign)


def failure(entry: Checkpoint) -> str:
    """One line, and nothing is kept."""
    with pytest.raises((HubError, CheckpointError, OSError)) as caught:
        fetch_foreign(entry)
    assert str(caught.value).isprintable()
    assert store.kept(entry) is None
    return str(caught.value)


@pytest.mark.parametrize("name", FOREIGN)
def test_every_published_detector_is_fetched_by_its_name(
    name: str, publish: Publish, server: FileServer, small_conversion: list[str], small_detector: Detector
) -> None:
    entry = publish(FILE, name=name)
    model = dyzoo.create_model(name, pretrained=True)
    assert small_conversion == [entry.architecture]
    card = model.model_card(name)
    assert f"A COCO box AP of {100 * entry.reported['AP']:.1f} is reported for" in card
    assert f"({entry.reported_by})" in card
    assert entry.addresses[0] in card
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in small_detector.state_dict().items())
    server.files.clear()
    alone = sum(each.partition(".")[0] == entry.architecture for each in FOREIGN) == 1
    for again in (dyzoo.load(name), dyzoo.create_model(entry.architecture if alone else name, pretrained=True)):
        assert again.config == model.config
    assert server.requests == [(FILE, 0)]
    assert small_conversion == [entry.architecture]


def test_what_is_kept_says_where_it_comes_from(publish: Publish, home: Path, server: FileServer) -> None:
    entry = publish(FILE)
    folder = fetch_foreign(entry)
    assert folder == home / "checkpoints" / NAME
    assert {path.name for path in folder.iterdir()} == {*SAVED_FILES, "provenance.json"}
    provenance = Provenance.read(folder)
    assert provenance is not None
    assert (provenance.address, provenance.sha256) == (server.url + FILE, hashlib.sha256(CONTENT).hexdigest())
    assert (provenance.size, provenance.licence) == (len(CONTENT), "Apache-2.0")
    card = (folder / "README.md").read_text()
    for words in ("license: apache-2.0", "`weights.pth`", provenance.sha256, "43.3", "it was not measured here"):
        assert words in card
    assert not list((home / "unfinished").rglob("*.*"))


def test_no_token_is_told_to_strangers(publish: Publish, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch_foreign(publish(FILE))
    assert "authorization" not in server.headers_seen
    assert server.headers_seen["user-agent"].startswith("dyzoo/")


def test_redirections_are_followed(publish: Publish, server: FileServer) -> None:
    entry = publish(FILE)
    server.files["/other/there"] = server.files.pop(FILE)
    server.redirects.update({FILE: "/moved", "/moved": f"{server.url}/other/there"})
    fetch_foreign(entry)
    assert [path for path, _ in server.requests] == [FILE, "/moved", "/other/there"]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x"])
def test_redirections_elsewhere_are_refused(publish: Publish, server: FileServer, target: str) -> None:
    entry = publish(FILE)
    server.redirects[FILE] = target
    assert "it redirects to " in failure(entry)
    assert server.requests == [(FILE, 0)]


def test_redirections_in_a_circle_end(publish: Publish, server: FileServer) -> None:
    entry = publish(FILE)
    server.redirects[FILE] = FILE
    assert "it redirects more than 10 times" in failure(entry)


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_broken_connection_goes_on_where_it_broke(publish: Publish, server: FileServer, size: int | None) -> None:
    entry = publish(FILE, size=size)
    server.drop_after = 100_000
    fetch_foreign(entry)
    starts = [start for _, start in server.requests]
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert len(starts) == 3


def test_a_later_call_goes_on_with_what_has_come(publish: Publish, server: FileServer, home: Path) -> None:
    entry = publish(FILE)
    part = home / "unfinished" / NAME / "weights.pth.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    fetch_foreign(entry)
    assert server.requests == [(FILE, 1000)]


def test_a_whole_part_is_not_fetched_again(publish: Publish, server: FileServer, home: Path) -> None:
    part = home / "unfinished" / NAME / "weights.pth.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    fetch_foreign(publish(FILE))
    assert server.requests == [(FILE, len(CONTENT))]
    assert part.parent.is_dir() is False or not any(part.parent.iterdir())


@pytest.mark.parametrize("length", [1000, len(CONTENT), 2 * len(CONTENT)])
def test_a_part_of_something_else_is_begun_anew(publish: Publish, server: FileServer, home: Path, length: int) -> None:
    part = home / "unfinished" / NAME / "weights.pth.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * length)
    fetch_foreign(publish(FILE))
    assert server.requests[-1] == (FILE, 0)


@pytest.mark.parametrize("known", [{"sha256": "0" * 64}, {"sha256": None, "sha256_prefix": "00000000"}])
def test_another_hash_is_refused(publish: Publish, home: Path, known: dict[str, str]) -> None:
    entry = publish(FILE, **known)
    message = failure(entry)
    assert f"its sha256 is {hashlib.sha256(CONTENT).hexdigest()}, expected 00000000" in message
    assert store.entries() == []


def test_the_first_eight_digits_are_enough(publish: Publish) -> None:
    fetch_foreign(publish(FILE, sha256=None, sha256_prefix=hashlib.sha256(CONTENT).hexdigest()[:8]))


@pytest.mark.parametrize("difference", [-1, 1])
def test_another_size_is_refused_before_it_arrives(publish: Publish, server: FileServer, difference: int) -> None:
    entry = publish(FILE, size=len(CONTENT) + difference)
    assert "bytes arrive" in failure(entry)
    assert len(server.requests) == 1
    assert store.entries() == []


@pytest.mark.parametrize("length", ["9" * 18, "10000000000000", ""])
def test_an_endless_file_is_not_written(
    publish: Publish, server: FileServer, length: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More is announced than there may be, or nothing is and more comes."""
    monkeypatch.setattr(sources, "MOST_BYTES", 100_000)
    entry = publish(FILE)
    server.lengths[FILE] = length
    assert "more than 100000 bytes arrive" in failure(entry)
    assert store.entries() == []


def test_a_length_that_is_not_announced_ends_with_the_connection(publish: Publish, server: FileServer) -> None:
    entry = publish(FILE)
    server.lengths[FILE] = ""
    fetch_foreign(entry)


@pytest.mark.parametrize("length", ["-1", "many", "1e3", "9" * 60, "\xb2"])
def test_a_length_that_is_no_number(publish: Publish, server: FileServer, length: str) -> None:
    entry = publish(FILE)
    server.lengths[FILE] = length
    with suppress(HubError, CheckpointError):  # as the HTTP library may refuse the answer
        fetch_foreign(entry)
        assert store.kept(entry) is not None
    assert len(store.entries()) <= 1


@pytest.mark.parametrize("status", [403, 404, 410])
def test_the_next_address_is_tried(publish: Publish, server: FileServer, status: int) -> None:
    entry = publish("/a/weights.pth", "/b/weights.pth")
    server.files["/b/weights.pth"] = server.files.pop("/a/weights.pth")
    server.statuses["/a/weights.pth"] = status
    provenance = Provenance.read(fetch_foreign(entry))
    assert provenance is not None
    assert provenance.address.endswith("/b/weights.pth")
    assert [path for path, _ in server.requests] == ["/a/weights.pth", "/b/weights.pth"]


def test_an_address_with_another_file_is_no_obstacle(publish: Publish, server: FileServer) -> None:
    entry = publish("/a/weights.pth", "/b/weights.pth")
    server.files["/b/weights.pth"] = CONTENT
    server.files["/a/weights.pth"] = CONTENT[::-1]
    fetch_foreign(entry)
    assert server.requests == [("/a/weights.pth", 0), ("/b/weights.pth", 0)]


def test_every_address_that_failed_is_named(publish: Publish, server: FileServer) -> None:
    entry = publish("/a/weights.pth", "/b/weights.pth")
    server.files.clear()
    server.statuses["/a/weights.pth"] = 418
    message = failure(entry)
    assert f"{NAME} cannot be fetched: {server.url}/a/weights.pth answers 418; " in message
    assert "/b/weights.pth answers 404: try again, or put weights.pth into a folder" in message
    assert environment.MIRROR in message


def test_without_network(publish: Publish, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = publish(FILE)
    nobody = replace(entry, addresses=["http://127.0.0.1:9/weights.pth"])
    assert "http://127.0.0.1:9/weights.pth cannot be reached" in failure(nobody)
    set_offline(monkeypatch)
    getattr(constants, "reset", lambda: None)()
    assert "HF_HUB_OFFLINE is set" in failure(entry)
    assert server.requests == []


@pytest.mark.parametrize("kind", ["folder", "address"])
def test_a_mirror_is_asked_first(
    publish: Publish, server: FileServer, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = publish(FILE)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "weights.pth").write_bytes(CONTENT)
    server.files["/mirror/weights.pth"] = server.files.pop(FILE)
    address = server.url.replace("//", "//me:secret@") + "/mirror/"
    monkeypatch.setenv(environment.MIRROR, str(tmp_path / "mirror") if kind == "folder" else address)
    provenance = Provenance.read(fetch_foreign(entry))
    assert provenance is not None
    assert "secret" not in provenance.address
    assert server.requests == ([] if kind == "folder" else [("/mirror/weights.pth", 0)])


def test_a_mirror_without_the_file_is_no_obstacle(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.MIRROR, str(tmp_path / "nothing"))
    fetch_foreign(publish(FILE))


@pytest.mark.parametrize("content", ["fifo", "folder", "other"])
def test_a_mirror_with_something_else(
    publish: Publish, server: FileServer, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = publish(FILE)
    server.files.clear()
    monkeypatch.setenv(environment.MIRROR, str(tmp_path))
    place = tmp_path / "weights.pth"
    {"fifo": lambda: os.mkfifo(place), "folder": place.mkdir, "other": lambda: place.write_bytes(b"x")}[content]()
    assert f"{place}" in failure(entry)


def test_a_mirror_of_another_kind(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.MIRROR, "ftp://127.0.0.1/x")
    assert f"{environment.MIRROR} is 'ftp://127.0.0.1/x', expected http" in failure(publish(FILE))


def test_a_full_disk(publish: Publish, home: Path) -> None:
    entry = publish(FILE)
    part = home / "unfinished" / NAME / "weights.pth.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    assert f"No space left on device (free some room, or set {environment.HOME})" in failure(entry)


def test_a_disk_that_is_full_when_the_detector_is_written(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = publish(FILE)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device", "x")

        patch.setattr(Provenance, "write", full)
        assert "No space left on device" in failure(entry)
    fetch_foreign(entry)


@pytest.mark.parametrize("moment", ["convert", "write"])
def test_a_process_that_is_killed_leaves_nothing_that_counts(
    publish: Publish, home: Path, server: FileServer, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = publish(FILE)
    monkeypatch.setenv(environment.MIRROR, str(tmp_path))
    (tmp_path / "weights.pth").write_bytes(CONTENT)
    child = os.fork()
    if not child:

        def die(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(fetching if moment == "convert" else Provenance, moment, die)
        fetch_foreign(entry)
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert store.kept(entry) is None
    left = home / "unfinished" / NAME / NAME / "model.safetensors"
    assert left.is_file() == (moment == "write")
    fetch_foreign(entry)
    assert not left.exists()
    assert store.kept(entry) is not None


def test_two_processes_fetch_once(publish: Publish, server: FileServer, small_conversion: list[str]) -> None:
    entry = publish(FILE)
    with store.working_folder(NAME):
        child = os.fork()
        if not child:  # waits for this process, and finds what it has made
            fetch_foreign(entry)
            os._exit(len(small_conversion))
    fetch_foreign(entry)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status + len(small_conversion) == 1
    assert len(server.requests) == 1


def test_a_kept_detector_that_was_changed_is_refused(publish: Publish) -> None:
    folder = fetch_foreign(publish(FILE))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match=rf"sha256 differs\): `dyzoo cache --remove {NAME}`"):
        dyzoo.create_model(NAME, pretrained=True)
    store.remove(NAME)
    assert dyzoo.create_model(NAME, pretrained=True).config.architecture == "mmdet_atss_r50"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": 1}', "[" * 20_000, "\x00"])
def test_a_damaged_provenance_means_that_nothing_is_kept(publish: Publish, content: str) -> None:
    entry = publish(FILE)
    folder = fetch_foreign(entry)
    (folder / "provenance.json").write_text(content)
    assert store.kept(entry) is None
    fetch_foreign(entry)
    assert store.kept(entry) is not None


def test_a_newer_file_in_the_catalogue_takes_the_place_of_the_kept_one(publish: Publish) -> None:
    first = fetch_foreign(publish(FILE))
    newer = publish(FILE, content=b"newer")
    assert store.kept(newer) is None
    assert fetch_foreign(newer) == first
    assert store.kept(newer) is not None


def test_what_could_not_be_checked_is_said_once(publish: Publish) -> None:
    entry = publish(FILE, unverified="a copy")
    with pytest.warns(UnverifiedWarning, match=f"{NAME} is a copy"):
        fetch_foreign(entry)


def test_a_pushed_copy_keeps_the_card(publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(FILE)
    model, folder = dyzoo.create_model(NAME, pretrained=True), store.kept_folder(NAME)
    with Hub(50_000) as hub:
        use_hub(monkeypatch, hub, tmp_path / "cache")
        model.push_to_hub("me/mine")
        assert run(["push", str(folder), "me/other"]) == 0
        for name in ("me/mine", "me/other"):
            card = hub.files(name)["README.md"].decode()
            for words in ("license: apache-2.0", "Converted by `dyzoo convert`", f'dyzoo.load("{name}")'):
                assert words in card


def test_a_saved_copy_keeps_the_card(publish: Publish, tmp_path: Path) -> None:
    publish(FILE)
    model = dyzoo.load(NAME)
    model.save_pretrained(tmp_path / "copy")
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "Converted by `dyzoo convert`" in card
    assert 'dyzoo.load("copy")' in card
    model.train().eval().save_pretrained(tmp_path / "trained")
    assert "Converted by" not in (tmp_path / "trained" / "README.md").read_text()


def test_the_home_is_beside_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(environment.HOME, raising=False)
    monkeypatch.setattr(constants, "HF_HOME", "/data/huggingface")
    assert store.home() == Path("/data/dyzoo")
