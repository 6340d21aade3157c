"""Files that are exported: their answers, what they say of themselves, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime", minversion="1.25.1")

import onnx
import onnx_ir
import onnxruntime

import dyzoo
from dyzoo.cli import run
from dyzoo.config import DetectorConfig
from dyzoo.errors import ExportError
from dyzoo.export import ExportOptions, exporting, graph
from dyzoo.export.comparison import Comparison
from dyzoo.export.metadata import weights_digest
from dyzoo.export.precision import BOUNDS
from dyzoo.runtime import sessions
from dyzoo.runtime.onnx_detector import OnnxDetector
from dyzoo.runtime.runners import OnnxRunner
from tests.export.detectors import small_detector
from tests.export.exported import Exported, export_small

LEAST_DETECTIONS = 100  # fewer say little


def random_picture(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def check(exported: Exported) -> None:
    assert exported.report.map_difference < BOUNDS["fp32"].map_difference
    assert exported.report.map_difference > 0
    if exported.options.decode:
        assert exported.report.detections >= LEAST_DETECTIONS
        assert exported.report.agreement >= BOUNDS["fp32"].agreement
    onnx.checker.check_model(str(exported.report.path))
    used = {node.domain for node in onnx.load(str(exported.report.path)).graph.node}
    assert used == {""}, "operators of ONNX alone"


def test_atss_finds_the_same_objects_in_pictures_of_every_size(exported_atss: Exported) -> None:
    check(exported_atss)
    model, _, report = exported_atss
    session = onnxruntime.InferenceSession(str(report.path))
    for size in ((33, 50), (128, 96)):
        picture = random_picture(*size)
        boxes, scores, labels, counts = session.run(None, {"images": picture[None].numpy()})
        with torch.no_grad():
            want = model([picture])[0]
        count = int(counts[0])
        assert count == len(want["scores"]) > 0
        assert np.abs(boxes[0, :count] - want["boxes"].numpy()).max() < 1e-2
        assert np.abs(scores[0, :count] - want["scores"].numpy()).max() < 1e-5
        assert (labels[0, :count] == want["labels"].numpy()).all()
        assert (labels[0, count:] == -1).all()
        assert not scores[0, count:].any()


def test_a_file_that_is_loaded_predicts_as_the_detector(exported_atss: Exported) -> None:
    model, path = exported_atss.model, exported_atss.report.path
    loaded = dyzoo.load(path)
    assert isinstance(loaded, OnnxDetector)
    assert loaded.labels == model.labels
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((90, 70), (90, 70), (61, 130))]
    wanted = model.predict(pictures, 0.001, size=96)
    for batch_size in (1, 3):
        found = loaded.predict(pictures, 0.001, size=96, batch_size=batch_size)
        for want, got in zip(wanted, found, strict=True):
            assert len(want) == len(got) > 0
            torch.testing.assert_close(got.scores, want.scores, rtol=0, atol=1e-5)
            torch.testing.assert_close(got.boxes_xyxy, want.boxes_xyxy, rtol=0, atol=2e-2)
            assert got.labels.tolist() == want.labels.tolist()


def test_raw_maps_are_the_detectors(exported_maps: Exported) -> None:
    check(exported_maps)
    session = onnxruntime.InferenceSession(str(exported_maps.report.path))
    names = [output.name for output in session.get_outputs()]
    assert names == [f"{kind}_p{level}" for kind in ("cls", "box") for level in range(3, 8)]
    assert [value.name for value in session.get_inputs()] == ["batch"]


@pytest.mark.parametrize(
    ("head", "options", "settings"),
    [
        ("faster_rcnn", {"deform_conv": "grid-sample"}, {"offset_mode": "crop"}),
        ("grounded_atss", {"input_type": "float32"}, {"form": "tensor", "channel_order": "BGR"}),
    ],
    ids=["faster_rcnn", "grounded_atss"],
)
def test_other_heads_find_the_same_objects(head: str, options: Any, settings: Any, tmp_path: Path) -> None:
    check(export_small(tmp_path, ExportOptions(**options), head, **settings))


@pytest.mark.slow  # a dozen seconds of tracing each, which do not shrink with the detector
@pytest.mark.parametrize(
    ("head", "options", "settings"),
    [
        ("fcos", {"preprocess": False}, {"offset_mode": "resize"}),
        ("retinanet", {"deform_conv": "grid-sample"}, {"offset_mode": "flat"}),
        ("atss", {"deform_conv": "grid-sample"}, {"form": "tensor"}),
        ("atss", {}, {"backbone": "swin_tiny_patch4_window7_224"}),
        ("atss", {}, {"scale": False, "spatial": False, "task": False}),
    ],
    ids=["fcos", "retinanet", "tensor_form", "swin", "switched_off"],
)
def test_further_detectors_find_the_same_objects(head: str, options: Any, settings: Any, tmp_path: Path) -> None:
    check(export_small(tmp_path, ExportOptions(**options), head, **settings))


def test_a_file_says_what_it_is(exported_atss: Exported) -> None:
    model, _, report = exported_atss
    told = {entry.key: entry.value for entry in onnx.load(str(report.path)).metadata_props}
    assert json.loads(told["labels"]) == ["a", "b"]
    assert DetectorConfig.from_json(told["config"]) == model.config
    assert told["weights_sha256"] == weights_digest(model)
    assert (told["head"], told["input"], told["output"], told["deform_conv"]) == ("atss", "uint8", "detections", "node")
    assert json.loads(told["mean"]) == list(model.config.preprocess.mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_of_every_type_have_a_digest(dtype: torch.dtype) -> None:
    model = small_detector("retinanet")
    as_they_are = weights_digest(model)
    assert weights_digest(model.to(dtype)) != as_they_are


def test_the_detector_stays_as_it_is(exported_atss: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stored = onnx_ir.load(exported_atss.report.path)
    monkeypatch.setattr(graph, "detections_and_maps", lambda *_: stored)
    model = small_detector("atss", offset_mode="flat").train()
    before = weights_digest(model)
    model.export(tmp_path / "again.onnx", picture=random_picture(64, 90))
    assert model.training
    assert model.backbone.training
    assert weights_digest(model) == before


def test_a_file_whose_answers_differ_is_not_written(
    exported_atss: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stored = onnx_ir.load(exported_atss.report.path)
    monkeypatch.setattr(graph, "detections_and_maps", lambda *_: stored)
    other = small_detector("atss", offset_mode="crop")
    target = tmp_path / "other.onnx"
    target.write_bytes(b"kept")
    with pytest.raises(ExportError, match=r"detections are the same .* expected at least 98%: nothing is written"):
        other.export(target)
    assert target.read_bytes() == b"kept"
    assert [path.name for path in tmp_path.iterdir()] == ["other.onnx"]


def test_the_command_says_how_well_a_file_agrees(
    exported_atss: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stored = onnx_ir.load(exported_atss.report.path)
    monkeypatch.setattr(graph, "detections_and_maps", lambda *_: stored)
    exported_atss.model.save_pretrained(tmp_path / "small")
    target = tmp_path / "small.onnx"
    assert run(["export", str(tmp_path / "small"), "--out", str(target)]) == 0
    said = capsys.readouterr().out
    assert "160 x 224, 300 x 200, 97 x 331" in said
    assert "detections: 100.0% the same" in said
    assert said.splitlines()[-1].endswith(f"-> {target}")
    assert target.is_file()


def test_maps_that_differ_are_an_error(exported_maps: Exported) -> None:
    other = small_detector("retinanet", offset_mode="crop")
    with pytest.raises(ExportError, match=r"exported maps differ by .* of a level's largest value"):
        Comparison(other, exported_maps.options, random_picture(90, 70)).run(OnnxRunner(exported_maps.report.path))


def test_what_is_not_installed_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sessions, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"onnx, onnxscript, onnxruntime not installed.*pip install 'dyzoo\[onnx\]'"):
        small_detector("atss").export(tmp_path / "none.onnx")


def test_an_old_runtime_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.24.4")
    with pytest.raises(ExportError, match=r"onnxruntime 1\.24\.4 has no DeformConv, expected 1\.25\.1 or later"):
        exporting.check_before_loading(ExportOptions())
    exporting.check_before_loading(ExportOptions(deform_conv="grid-sample"))


def test_options_that_there_are_not_are_said() -> None:
    with pytest.raises(ExportError, match="deform_conv is 'einsum', expected 'node' or 'grid-sample'"):
        ExportOptions(deform_conv="einsum")  # type: ignore[arg-type]
