"""Real foreign checkpoints, from the address to the foreign implementation's answers; one of them from a Hub."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

import dyzoo
from dyzoo.errors import CheckpointError, HubError
from dyzoo.model.detector import Detector
from dyzoo.model.preprocess import batch_images
from dyzoo.zoo import sources, store
from dyzoo.zoo.catalog import checkpoints
from dyzoo.zoo.fetching import fetch_foreign
from tests.golden.agreement import MAP_TOLERANCE, deviation
from tests.golden.foreign import foreign_weights, golden_outputs
from tests.hub.hub_client import set_offline, use_hub
from tests.hub.hub_server import Hub
from tests.zoo.conftest import use_catalog
from tests.zoo.file_server import FileServer

OFFICIAL, MMDET = "official_atss_r50.coco", "mmdet_atss_r50.coco"
REPOSITORY, PATH = "fuliucansheng/detectron2", "dyhead/atss_r50_model.bin"


def foreign_file(folder: Path, case: str, key: str) -> bytes:
    path = folder / "foreign.pth"
    torch.save({key: foreign_weights(case)}, path)
    return path.read_bytes()


def assert_golden(detector: Detector, case: str) -> None:
    """Raw predictions are those of the other code base."""
    golden = golden_outputs(case)
    with torch.no_grad():
        batch, _ = batch_images([golden["image"]], detector.config.preprocess, detector.device)
        raw = detector.forward_head(detector.dyhead(detector.fpn(detector.backbone(batch))))
    stored = [name for name in golden if name.startswith("head.")]
    assert len(stored) >= 14
    for name in stored:
        _, kind, level = name.split(".")
        assert deviation(raw[kind][int(level)], golden[name]) < MAP_TOLERANCE, name


@pytest.fixture
def hub(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with Hub(50_000) as server:
        use_hub(monkeypatch, server, tmp_path / "cache")
        yield server


def test_a_file_on_the_web(server: FileServer, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = server.files["/weights.pth"] = foreign_file(tmp_path, "mmdet_atss_r50", "state_dict")
    server.drop_after = 100_000_000
    digest = hashlib.sha256(content).hexdigest()
    use_catalog(monkeypatch, MMDET, addresses=[f"{server.url}/weights.pth"], sha256_prefix=digest[:8])
    assert_golden(dyzoo.create_model(MMDET, pretrained=True), "mmdet_atss_r50")
    first, second = (start for _, start in server.requests)
    assert first == 0
    assert 99_000_000 < second <= 100_000_000
    # the same file by its name: the catalogue knows its hash
    assert dyzoo.load(tmp_path / "foreign.pth").config.architecture == "mmdet_atss_r50"


def test_a_file_of_the_catalogue_on_the_hub(hub: Hub, home: Path, tmp_path: Path) -> None:
    hub.add(REPOSITORY, {PATH: foreign_file(tmp_path, "official_atss_r50", "model")})
    with pytest.warns(UserWarning, match="a copy by a third party"):
        model = dyzoo.create_model(OFFICIAL, pretrained=True)
    assert_golden(model, "official_atss_r50")
    assert not list((tmp_path / "cache").rglob("*model.bin"))
    assert not list((home / "unfinished").rglob("*.*"))
    hub.repos.clear()
    assert dyzoo.load("official_atss_r50").config.architecture == "official_atss_r50"


def test_a_hub_whose_file_is_not_what_it_says(hub: Hub, home: Path) -> None:
    hub.add(REPOSITORY, {PATH: b"x" * 100_000})
    hub.spoilt[PATH] = lambda content: b"y" * len(content)
    with pytest.raises(CheckpointError, match="its sha256 is not the Hub's"):
        fetch_foreign(checkpoints()[OFFICIAL])
    assert store.kept(checkpoints()[OFFICIAL]) is None


def test_a_hub_whose_file_is_too_large(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MOST_BYTES", 50_000)
    hub.add(REPOSITORY, {PATH: b"x" * 100_000})
    with pytest.raises(CheckpointError, match="it has 100000 bytes, expected at most 50000"):
        fetch_foreign(checkpoints()[OFFICIAL])


def test_a_hub_without_the_file_and_no_hub(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match=f"has no repository '{REPOSITORY}'"):
        fetch_foreign(checkpoints()[OFFICIAL])
    set_offline(monkeypatch)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        fetch_foreign(checkpoints()[OFFICIAL])


def test_a_file_that_is_no_checkpoint_is_not_kept(hub: Hub, home: Path) -> None:
    hub.add(REPOSITORY, {PATH: b"<html>" * 100})
    with pytest.raises(CheckpointError, match="is a web page"):
        fetch_foreign(checkpoints()[OFFICIAL])
    assert store.kept(checkpoints()[OFFICIAL]) is None
