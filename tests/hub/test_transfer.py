"""Downloads from a Hub that breaks off, trickles, is busy or lies; caches that cannot be written or were changed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from dyzoo import hub as client
from dyzoo.environment import HUB_PATIENCE
from dyzoo.errors import CheckpointError, HubError
from dyzoo.hub.fetching import StaleCacheWarning
from tests.hub.hub_faults import Busy
from tests.hub.hub_server import Hub

NAME = "org/cells"
WEIGHTS = "model.safetensors"
CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def commit(hub: Hub, cache: Path) -> str:
    return hub.add(NAME, {"config.json": b"{}", WEIGHTS: CONTENT})


def fetched(name: str = WEIGHTS, **options: bool) -> bytes:
    return client.download(NAME, [name], **options)[0].read_bytes()


def failure(name: str = WEIGHTS) -> str:
    with pytest.raises((HubError, CheckpointError)) as caught:
        client.download(NAME, [name])
    assert str(caught.value).isprintable()
    return str(caught.value)


def sent(hub: Hub) -> int:
    return sum(request.startswith("GET") and request.endswith(WEIGHTS) for request in hub.requests)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_broken_connection_goes_on_where_it_broke(hub: Hub, commit: str, how: str) -> None:
    """Each connection brings 100 kB more of 512; one that began anew would never come to the end."""
    hub.drop(WEIGHTS, after=100_000, step=100_000, how=how)
    assert fetched() == CONTENT
    assert sent(hub) == 6


def test_what_has_arrived_is_kept_for_the_next_call(hub: Hub, cache: Path, commit: str) -> None:
    hub.drop(WEIGHTS, after=300_000)
    assert "the download of model.safetensors from org/cells broke off" in failure()
    (part,) = cache.rglob("*.incomplete")
    kept = part.stat().st_size
    assert 0 < kept <= 300_000
    assert part.read_bytes() == CONTENT[:kept]
    hub.mend()
    ranges_before = len(hub.ranges_asked)
    assert fetched() == CONTENT
    assert hub.ranges_asked[ranges_before:] == [kept]
    assert not list(cache.rglob("*.incomplete"))


def test_a_part_that_is_longer_than_the_file_is_thrown_away(hub: Hub, cache: Path, commit: str) -> None:
    hub.drop(WEIGHTS, after=300_000)
    failure()
    (part,) = cache.rglob("*.incomplete")
    part.write_bytes(CONTENT * 2)
    hub.mend()
    assert fetched() == CONTENT


def test_a_hub_that_knows_no_ranges_sends_the_whole_again(hub: Hub, commit: str) -> None:
    hub.ranges = False
    hub.drop(WEIGHTS, after=300_000, times=2)
    assert fetched() == CONTENT


@pytest.mark.parametrize("content", [b"", b"x"])
def test_small_files(hub: Hub, cache: Path, content: bytes) -> None:
    hub.add(NAME, {"small.txt": content})
    assert fetched("small.txt") == content
    assert fetched("small.txt", force_download=True) == content


def test_more_than_was_announced_is_not_written(hub: Hub, cache: Path, commit: str) -> None:
    hub.spoilt[WEIGHTS] = lambda content: content * 3
    assert "cannot be fetched: more than 512000 bytes arrive" in failure()
    assert all(path.stat().st_size <= len(CONTENT) for path in cache.rglob("*") if path.is_file())


def test_a_trickle_ends(hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps every single read alive."""
    monkeypatch.setenv(HUB_PATIENCE, "1")
    hub.drop(WEIGHTS, after=1000, how="trickle")
    assert "does not give model.safetensors of org/cells (not done in time, the limit is 1 s" in failure()


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_hub_is_asked_again(hub: Hub, commit: str, status: int) -> None:
    hub.busy[WEIGHTS] = Busy(status, 2, {"Retry-After": "1"})
    assert fetched() == CONTENT
    assert sent(hub) == 3


def test_an_hour_is_not_waited(hub: Hub, commit: str) -> None:
    hub.busy[WEIGHTS] = Busy(429, headers={"Retry-After": "3600"})
    message = failure()
    assert "it asks to wait 3600 s, the limit is 300 s" in message
    assert HUB_PATIENCE in message
    assert sent(hub) == 1


def test_another_refusal_is_final(hub: Hub, commit: str) -> None:
    hub.busy[WEIGHTS] = Busy(418, message="\x1b[2Jgo\u202e\naway")
    assert "answers 418 for org/cells (" in failure()
    assert sent(hub) == 1


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf"])
def test_patience_is_a_number_of_seconds(hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(HUB_PATIENCE, value)
    assert f"{HUB_PATIENCE} is {value!r}, expected a number of seconds" in failure()
    assert hub.requests == []


@pytest.mark.parametrize("etag", ["../../../../outside", "/tmp/outside", "a/b", "..", "x" * 300])
def test_a_name_that_leads_out_of_the_cache_is_refused(hub: Hub, cache: Path, commit: str, etag: str) -> None:
    hub.etags[WEIGHTS] = etag
    before = {path for path in cache.parent.rglob("*") if cache not in path.parents}
    assert "is answered, but not by a Hub" in failure()
    assert {path for path in cache.parent.rglob("*") if cache not in path.parents} | {cache} == before | {cache}


@pytest.mark.parametrize("change", [lambda text: text[:1], lambda text: b"[]", lambda text: b""])
def test_a_small_file_that_was_changed_in_the_cache_is_found(hub: Hub, commit: str, change) -> None:  # type: ignore[no-untyped-def]
    (path,) = client.download(NAME, ["config.json"])
    path.resolve().write_bytes(change(path.read_bytes()))
    message = failure("config.json")
    assert "config.json of org/cells is damaged (its git hash is not the Hub's)" in message
    assert "fetch it again with force_download=True" in message
    assert fetched("config.json", force_download=True) == b"{}"
    assert fetched("config.json") == b"{}"


@pytest.fixture
def read_only(hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A warm cache that this process may not write: root becomes somebody else for that."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    client.download(NAME, ["config.json", WEIGHTS])
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in folders:
            path.chmod(0o755)
        shutil.rmtree(folder)


def test_a_warm_cache_that_cannot_be_written_serves_when_the_branch_moves(
    hub: Hub, commit: str, read_only: Path
) -> None:
    files = [path.read_bytes() for path in client.download(NAME, ["config.json", WEIGHTS])]
    moved = hub.add(NAME, {WEIGHTS: b"newer"})
    with pytest.warns(StaleCacheWarning, match=f"commit {commit[:12]} of {NAME} is used.*and not {moved[:12]}"):
        paths = client.download(NAME, ["config.json", WEIGHTS])
    assert [path.read_bytes() for path in paths] == files
    with pytest.raises(HubError, match="cannot be written"):
        client.download(NAME, [WEIGHTS], revision=moved)
    with pytest.raises(HubError, match="cannot be written"):
        client.download(NAME, [WEIGHTS], force_download=True)
