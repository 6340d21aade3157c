"""Small detectors on disk, a page that offers them, the embedded detector's static page, and a browser."""

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


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's folder with the page of the embedded detector at `sub folder/page`."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    import dyzoo
    from dyzoo.demo.static_page import write_static_page
    from dyzoo.zoo.names import DEFAULT_MODEL

    folder = tmp_path_factory.mktemp("site")
    write_static_page(dyzoo.load(DEFAULT_MODEL), folder / "sub folder" / "page", title="Blood cells", license="mit")
    return folder
