"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    # Read when Triton is imported and when a kernel is defined; torchvision imports Triton.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_report_header() -> str:
    """A line on top of every run: the versions that decide what kernels compile to and what numbers come out."""
    names = ("torch", "torchvision", "timm", "huggingface_hub", "numpy")
    return ", ".join([*(f"{name} {version(name)}" for name in names), f"triton {_triton_version()}"])


def _triton_version() -> str:
    try:
        return version("triton")
    except PackageNotFoundError:
        return "absent"


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of larger data that several checkouts share: `$DYZOO_SHARED`, else `shared` beside the repository."""
    folder = Path(os.environ.get("DYZOO_SHARED") or Path(__file__).parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}: set DYZOO_SHARED")
    return folder


@pytest.fixture(scope="session")
def bccd_folder(shared_folder: Path) -> Path:
    """The blood cell dataset, Pascal VOC, splits train and val."""
    folder = shared_folder / "data" / "bccd"
    if not folder.is_dir():
        pytest.skip(f"no BCCD at {folder}")
    return folder


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn pictures, train and val alike."""
    from tests.training.training_runs import write_voc  # not before Triton's variable is set

    return write_voc(tmp_path_factory.mktemp("data") / "voc")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    from tests.demo.browsing import CHROMIUM, FLAGS

    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here: install chromium or google-chrome")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()
