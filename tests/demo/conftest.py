"""Small detectors on disk, and a page that offers them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.cli_helpers import write_picture
from tests.model.narrow_detectors import eager_detector, narrow_detector

EVIL_LABEL = "<img src=x onerror='window.hacked=1'>"


@pytest.fixture(scope="session")
def eager_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a detector of "red" and "blue" that finds eight things in every picture."""
    folder = tmp_path_factory.mktemp("models") / "eager"
    eager_detector(max_detections=8).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def evil_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a detector, one of whose classes has a name that is HTML."""
    folder = tmp_path_factory.mktemp("models") / "evil"
    head = eager_detector(max_detections=8).config.head
    narrow_detector((64, 128), labels=(EVIL_LABEL, "tame"), head=head).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A good image."""
    return write_picture(tmp_path / "good.png")
