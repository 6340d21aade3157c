"""Files in fp16 and int8: their size, their answers, and what is refused."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime", minversion="1.25.1")

import onnx

import dyzoo
from dyzoo.cli import run
from dyzoo.errors import ExportError
from dyzoo.export import ExportOptions
from dyzoo.export.calibration import MOST_PICTURES, calibration_files
from dyzoo.export.precision import BOUNDS
from tests.export.exported import Exported, export_small

FLOAT, FLOAT16, INT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five drawn pictures, a text and a picture that is cut off."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(5):
        blocks = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(20, axis=0).repeat(20, axis=1)).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:200])
    return folder


def told(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}


def stored_bytes(path: Path, dtype: int) -> int:
    """Bytes of the weights of a type."""
    return sum(len(each.raw_data) for each in onnx.load(str(path)).graph.initializer if each.data_type == dtype)


def check(exported: Exported) -> None:
    bounds, report = BOUNDS[exported.options.precision], exported.report
    assert 0 < report.map_difference < bounds.map_difference
    if exported.options.decode:
        assert report.detections >= 20
        assert report.agreement >= bounds.agreement
    onnx.checker.check_model(str(report.path))
    model = onnx.load(str(report.path))
    assert {node.domain for node in model.graph.node} == {""}, "operators of ONNX alone"
    assert {entry.domain for entry in model.opset_import} == {""}
    assert told(report.path)["precision"] == exported.options.precision
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type != FLOAT16


HEADS = [
    pytest.param("atss", {}, {"offset_mode": "flat"}, id="atss"),
    pytest.param("retinanet", {"decode": False, "preprocess": False}, {"offset_mode": "resize"}, id="retinanet"),
    pytest.param("faster_rcnn", {"deform_conv": "grid-sample"}, {"offset_mode": "crop"}, id="faster_rcnn"),
    pytest.param(
        "fcos", {"preprocess": False}, {"offset_mode": "resize"}, id="fcos", marks=pytest.mark.slow
    ),  # a graph that no other test traces takes a dozen seconds
    pytest.param("atss", {}, {"backbone": "swin_tiny_patch4_window7_224"}, id="swin", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("head", "options", "settings"), HEADS)
def test_half_precision_takes_half_the_space_and_finds_the_same(
    head: str, options: Any, settings: Any, tmp_path: Path
) -> None:
    exported = export_small(tmp_path, ExportOptions(**options, precision="fp16"), head, **settings)
    check(exported)
    path = exported.report.path
    assert stored_bytes(path, FLOAT) < 0.05 * stored_bytes(path, FLOAT16)


def test_positions_boxes_and_scores_stay_in_float32(exported_atss: Exported, tmp_path: Path) -> None:
    path = export_small(tmp_path, ExportOptions(precision="fp16"), "atss", offset_mode="flat").report.path
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    of: dict[str, set[int]] = {}
    for node in model.graph.node:
        of.setdefault(node.op_type, set()).update(types[name] for name in node.output if name in types)
    assert of["DeformConv"] == of["InstanceNormalization"] == {FLOAT}
    assert of["Conv"] == {FLOAT16}
    model32 = exported_atss.model
    picture = np.random.default_rng(1).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    (want,), (got,) = (each.predict([picture], 0.001) for each in (model32, dyzoo.load(path)))
    assert len(got) > 0
    assert abs(len(got) - len(want)) <= 0.1 * len(want)
    rounded = got.boxes_xyxy.half().float()
    assert (rounded != got.boxes_xyxy).any(), "boxes are not rounded to half precision"


@pytest.mark.parametrize(("head", "options", "settings"), HEADS[:2])
def test_eight_bits_take_less_space_and_find_much_the_same(
    head: str, options: Any, settings: Any, pictures: Path, tmp_path: Path
) -> None:
    given = ExportOptions(**options, precision="int8", calibration=pictures)
    exported = export_small(tmp_path, given, head, **settings)
    check(exported)
    path = exported.report.path
    assert told(path)["calibration_pictures"] == "5", "the one that is cut off is passed over"
    assert stored_bytes(path, INT8) > stored_bytes(path, FLOAT16) > 0
    assert stored_bytes(path, FLOAT) < 0.05 * stored_bytes(path, INT8)


@pytest.mark.slow  # a graph that no other test traces, but the one of half precision
def test_eight_bits_that_find_too_much_else_leave_no_file(pictures: Path, tmp_path: Path) -> None:
    """Random weights of FCOS answer a little noise with other boxes, and there is nothing to tell that from a fault."""
    given = ExportOptions(preprocess=False, precision="int8", calibration=pictures)
    with pytest.raises(ExportError, match="nothing is written") as raised:
        export_small(tmp_path, given, "fcos", offset_mode="resize")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_quantised_file_is_the_same_every_time_and_predicts(pictures: Path, tmp_path: Path) -> None:
    given = ExportOptions(precision="int8", calibration=str(pictures))
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        path = export_small(tmp_path / name, given, "atss", offset_mode="flat").report.path
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    picture = np.random.default_rng(1).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    (found,) = dyzoo.load(path).predict([picture], 0.001)
    assert len(found) > 0


def test_pictures_for_calibration_are_spread_evenly_and_bounded(tmp_path: Path) -> None:
    for number in range(2 * MOST_PICTURES + 1):
        (tmp_path / f"{number}.png").touch()
    files = calibration_files(tmp_path)
    assert len(files) == MOST_PICTURES
    assert [int(file.stem) for file in files[:3]] == [0, 2, 4]
    assert int(files[-1].stem) >= 2 * MOST_PICTURES - 2


def test_a_dataset_gives_the_pictures_that_are_trained_on(voc: Path) -> None:
    from dyzoo.data import open_dataset

    files = calibration_files(voc)
    assert set(files) <= {sample.image_path for sample in open_dataset(voc, "train").samples}
    assert files


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "fp8"}, "precision is 'fp8', expected 'fp32' or 'fp16' or 'int8'"),
        (
            {"precision": "int8"},
            r"int8 needs pictures to measure ranges on, expected calibration \(--calibration DIR\)",
        ),
        ({"precision": "fp16", "calibration": "x"}, "calibration is for int8 and does nothing for fp16"),
        ({"calibration": "x"}, "calibration is for int8 and does nothing for fp32"),
        *(
            (
                {"to": to, "precision": precision, "calibration": "x"},
                f"{precision} is for onnx, {to} is written in fp32",
            )
            for to in ("openvino", "torch-export")
            for precision in ("fp16", "int8")
        ),
        ({"to": "openvino", "deform_conv": "node"}, "OpenVINO reads no DeformConv: leave the form out"),
        ({"to": "tflite"}, "to is 'tflite', expected 'onnx' or 'openvino' or 'torch-export'"),
        ({"input_type": "int8"}, "input_type is 'int8', expected 'uint8' or 'float32'"),
        ({"preprocess": False, "input_type": "float32"}, "input_type is for pictures, and batches are float32 already"),
    ],
)
def test_options_that_do_not_go_together_are_said(given: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message) as raised:
        ExportOptions(**given)
    assert "\n" not in str(raised.value)


def test_pictures_that_are_not_there_are_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command_module = import_module("dyzoo.cli.export")  # whose name in its package is the command
    monkeypatch.setattr(command_module, "load_detector", lambda *_: pytest.fail("loaded before the check"))
    command = ["export", "--out", str(tmp_path / "none.onnx"), "--precision", "int8"]
    assert run(command) == 1
    assert "int8 needs pictures" in capsys.readouterr().err
    assert run([*command, "--calibration", str(tmp_path / "nothing")]) == 1
    assert "nothing for calibration is not there" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_without_pictures_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no pictures and is no dataset with a split 'train'"):
        calibration_files(tmp_path)


def test_pictures_that_cannot_be_read_leave_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"no picture")
    given = ExportOptions(precision="int8", calibration=folder)
    with pytest.raises(ExportError, match="none of 3 pictures for calibration can be read"):
        export_small(tmp_path, given, "atss", offset_mode="flat")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
