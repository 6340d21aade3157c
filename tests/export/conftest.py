"""Exports that several tests look at: each takes a dozen seconds."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from dyzoo.export import ExportOptions, ExportReport
from dyzoo.model.detector import Detector
from tests.export.detectors import small_detector


class Exported(NamedTuple):
    model: Detector
    options: ExportOptions
    report: ExportReport


def export_small(folder: Path, options: ExportOptions, head: str, **settings: str) -> Exported:
    from dyzoo.export.exporting import export_detector

    model = small_detector(head, **settings)
    return Exported(model, options, export_detector(model, folder / "small.onnx", options))


@pytest.fixture(scope="session")
def exported_atss(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """ATSS, pictures to detections, offsets read flat, by ONNX's node."""
    return export_small(tmp_path_factory.mktemp("atss"), ExportOptions(), "atss", offset_mode="flat")


@pytest.fixture(scope="session")
def exported_maps(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """RetinaNet, batches to raw maps."""
    options = ExportOptions(decode=False, preprocess=False)
    return export_small(tmp_path_factory.mktemp("maps"), options, "retinanet", offset_mode="resize")
