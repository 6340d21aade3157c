"""A catalogue whose files are on a loopback server, and a converter that makes a small detector of any of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dyzoo import environment
from dyzoo.checkpoints import Conversion
from dyzoo.cli import run
from dyzoo.hub import patience
from dyzoo.model.detector import Detector
from dyzoo.zoo import catalog, fetching, names, origins
from dyzoo.zoo.catalog import Checkpoint
from tests.cli.cli_helpers import Cli, Outcome
from tests.hub.hub_client import set_offline
from tests.model.narrow_detectors import narrow_detector
from tests.zoo.file_server import FileServer

CONTENT = bytes(range(256)) * 1000
NAME = "mmdet_atss_r50.coco"


def use_catalog(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> Checkpoint:
    """Change one entry of the catalogue; gives it."""
    known = {**catalog.checkpoints(), name: replace(catalog.checkpoints()[name], **changes)}
    for module in (catalog, names, origins):
        monkeypatch.setattr(module, "checkpoints", lambda: known)
    return known[name]


@pytest.fixture
def server() -> Iterator[FileServer]:
    """A server without files."""
    with FileServer() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that keeps all that is fetched; not there yet."""
    monkeypatch.setenv(environment.HOME, str(tmp_path / "home"))
    monkeypatch.delenv(environment.MIRROR, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    set_offline(monkeypatch, False)
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)  # between attempts
    return tmp_path / "home"


@pytest.fixture(scope="session")
def small_detector() -> Detector:
    """A detector that is a converted `mmdet_atss_r50` in name, but small."""
    return narrow_detector(architecture="mmdet_atss_r50")


@pytest.fixture
def small_conversion(small_detector: Detector, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The converter makes the small detector of any file; gives the architectures that were asked for."""
    asked: list[str] = []

    def convert(path: Path, source: str, labels: Any = None) -> Conversion:
        asked.append(source)
        return Conversion(small_detector, 1, ())

    monkeypatch.setattr(fetching, "convert", convert)
    return asked


Publish = Callable[..., Checkpoint]


@pytest.fixture
def publish(server: FileServer, home: Path, small_conversion: list[str], monkeypatch: pytest.MonkeyPatch) -> Publish:
    """`publish("/a/x.pth", name=...)` puts `CONTENT` there and makes it the entry of that name, with changes."""

    def published(*paths: str, name: str = NAME, content: bytes = CONTENT, **changes: Any) -> Checkpoint:
        server.files.update(dict.fromkeys(paths[:1], content))
        return use_catalog(
            monkeypatch,
            name,
            addresses=[f"{server.url}{path}" for path in paths],
            **{"sha256": hashlib.sha256(content).hexdigest(), "sha256_prefix": None, "unverified": None, **changes},
        )

    return published


@pytest.fixture
def cli(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """The command line in `tmp_path`, with a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DYZOO_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        return Outcome(run([str(argument) for argument in arguments]), *capfd.readouterr())

    return call
