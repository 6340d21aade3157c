"""A folder of weights, and the detector that was saved there."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyzoo.model.detector import Detector
from tests.model.narrow_detectors import eager_detector


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """transformers copies the code of repositories there, and not into the user's cache."""
    folder = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder))
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture(scope="session")
def detector() -> Detector:
    """A detector of "red" and "blue" that finds five things in any picture."""
    return eager_detector()


@pytest.fixture(scope="session")
def folder(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `save_pretrained` writes of it."""
    path = tmp_path_factory.mktemp("saved")
    detector.save_pretrained(path)
    return path
