"""Exports that several tests look at: each takes a dozen seconds."""

from __future__ import annotations

import pytest

from dyzoo.export import ExportOptions
from tests.export.exported import Exported, export_small


@pytest.fixture(scope="session")
def exported_atss(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """ATSS, pictures to detections, offsets read flat, by ONNX's node."""
    return export_small(tmp_path_factory.mktemp("atss"), ExportOptions(), "atss", offset_mode="flat")


@pytest.fixture(scope="session")
def exported_maps(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """RetinaNet, batches to raw maps."""
    options = ExportOptions(decode=False, preprocess=False)
    return export_small(tmp_path_factory.mktemp("maps"), options, "retinanet", offset_mode="resize")
