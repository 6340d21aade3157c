"""The embedded detector's page, made once, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.demo.browsing import CHROMIUM, FLAGS


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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install chromium or google-chrome")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()
