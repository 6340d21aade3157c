"""Exports to OpenVINO: their answers, and that they are models like others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torchvision.ops import box_iou

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

import dyzoo
from dyzoo.cli import run
from dyzoo.export import ExportOptions
from dyzoo.export.precision import BOUNDS
from dyzoo.runtime.openvino_detector import OpenVinoDetector
from tests.export.exported import Exported, export_small
from tests.training.training_runs import write_voc

pytestmark = pytest.mark.slow  # a graph of Faster R-CNN, if no other test in the process has traced it


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Faster R-CNN, whose graph has all operators that differ from runtime to runtime."""
    options = ExportOptions(to="openvino")
    return export_small(tmp_path_factory.mktemp("openvino"), options, "faster_rcnn", offset_mode="crop")


def test_a_file_is_compared_and_is_as_close_as_onnx(exported: Exported) -> None:
    report = exported.report
    assert "openvino" in report.runtime.lower()
    assert report.map_difference is not None
    assert 0 < report.map_difference < BOUNDS["fp32"].map_difference
    assert report.detections >= 100
    assert report.agreement >= BOUNDS["fp32"].agreement
    assert report.path.with_suffix(".bin").stat().st_size > 1_000_000


def test_a_file_that_is_loaded_predicts_as_the_detector(exported: Exported) -> None:
    loaded = dyzoo.load(exported.report.path)
    assert isinstance(loaded, OpenVinoDetector)
    assert loaded.labels == exported.model.labels
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((90, 70), (61, 130))]
    bounds = BOUNDS["fp32"]
    for batch_size in (1, 2):
        wanted, found = (each.predict(pictures, 0.1, batch_size=batch_size) for each in (exported.model, loaded))
        for want, got in zip(wanted, found, strict=True):
            assert len(want) > 0
            same = (box_iou(want.boxes_xyxy, got.boxes_xyxy) > bounds.iou) & (want.labels[:, None] == got.labels)
            same &= (want.scores[:, None] - got.scores).abs() < bounds.score_difference
            assert same.any(dim=1).sum() >= bounds.agreement * max(len(want), len(got))


def test_a_detector_is_evaluated_against_its_file(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_voc(tmp_path / "data")
    for path in (data / "Annotations").iterdir():
        path.write_text(path.read_text().replace(">red<", ">a<").replace(">blue<", ">b<"))
    exported.model.save_pretrained(tmp_path / "small")
    words = ["evaluate", "--data", data, "--model", tmp_path / "small", "--against", exported.report.path]
    assert run([str(word) for word in [*words, "--draws", "0"]]) == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.strip().startswith("AP50 ")]
    assert line.split()[1] == line.split()[2], said
    for fact in ("time an image, median", "peak resident memory", "weights"):
        assert fact in said
