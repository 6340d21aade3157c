"""A loopback Hub, and a small detector to put on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dyzoo.model.detector import Detector
from tests.hub.hub_client import use_hub
from tests.hub.hub_server import Hub
from tests.model.narrow_detectors import narrow_detector

LFS_THRESHOLD = 50_000  # bytes: weights go through LFS, configurations do not


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub without repositories."""
    with Hub(LFS_THRESHOLD) as server:
        yield server


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process talks to `hub`, as its owner; the folder is huggingface_hub's cache, not there yet."""
    folder = tmp_path / "cache"
    use_hub(monkeypatch, hub, folder)
    return folder


@pytest.fixture(scope="session")
def detector() -> Detector:
    """A detector of "cat" and "dog" with random weights."""
    return narrow_detector(labels=("cat", "dog"))


@pytest.fixture(scope="session")
def files(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files that `save_pretrained` writes of `detector`, by name."""
    folder = tmp_path_factory.mktemp("detector")
    detector.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}
