"""Detectors whose network is an ONNX file, and files that are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime", minversion="1.25.1")

import onnx
from onnx import TensorProto, helper

import dyzoo
from dyzoo.cli import run
from dyzoo.errors import CheckpointError, TrainingError
from dyzoo.runtime.onnx_detector import OnnxDetector
from tests.export.detectors import small_detector

CONFIG = small_detector("atss").config.to_json()
METADATA = {"config": CONFIG, "input": "uint8", "output": "detections", "deform_conv": "node"}
PLACES = 4


def constant_model(labels: int = 0, counts: int = 1, metadata: dict[str, str] | None = None) -> onnx.ModelProto:
    """A graph that finds the same box in every picture, one picture at a time."""

    def constant(name: str, values: Any, dtype: int) -> onnx.TensorProto:
        array = np.array(values)
        return helper.make_tensor(name, dtype, array.shape, array.flatten().tolist())

    outputs = {
        "boxes": constant("boxes", [[[1.0, 2.0, 30.0, 40.0]] * PLACES], TensorProto.FLOAT),
        "scores": constant("scores", [[0.9] * PLACES], TensorProto.FLOAT),
        "labels": constant("labels", [[labels] * PLACES], TensorProto.INT64),
        "counts": constant("counts", [counts], TensorProto.INT64),
    }
    graph = helper.make_graph(
        [helper.make_node("Constant", [], [name], value=tensor) for name, tensor in outputs.items()],
        "constant",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info(name, t.data_type, list(t.dims)) for name, t in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, METADATA if metadata is None else metadata)
    return model


def written(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_the_command_line_takes_a_file_as_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(constant_model(), tmp_path / "constant.onnx")
    assert run(["predict", "--model", str(path), "--out", str(tmp_path / "seen")]) == 0
    assert "1 a" in capsys.readouterr().out


def test_a_file_is_evaluated(voc: Path, tmp_path: Path) -> None:
    from dyzoo.data import open_dataset

    dataset = open_dataset(voc, "val")
    config = small_detector("atss").config.with_labels([dataset.labels[0], "nothing"]).to_json()
    path = written(constant_model(metadata={**METADATA, "config": config}), tmp_path / "constant.onnx")
    evaluation = dyzoo.evaluate(dyzoo.load(path), dataset)
    assert evaluation.num_images == len(dataset)
    cost = evaluation.cost
    assert cost is not None
    assert cost.weights_mb == path.stat().st_size / 1e6, "of the file"
    assert cost.parameters is None
    assert str(cost.device).startswith("cpu")


def test_two_files_are_evaluated_side_by_side(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dyzoo.data import open_dataset

    config = small_detector("atss").config.with_labels([open_dataset(voc, "val").labels[0], "nothing"]).to_json()
    first, second = (
        written(constant_model(metadata={**METADATA, "config": config}), tmp_path / f"{name}.onnx") for name in "ab"
    )
    words = ["evaluate", "--data", str(voc), "--model", str(first), "--against", str(second), "--draws", "0"]
    assert run([*words, "--out", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    for fact in ("time an image, median", "peak resident memory", "weights", "AP50"):
        assert fact in said


def external(model: onnx.ModelProto, path: Path) -> None:
    tensor = model.graph.node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../secret"


def foreign(model: onnx.ModelProto, path: Path) -> None:
    model.opset_import.add().domain = "evil"


def no_metadata(model: onnx.ModelProto, path: Path) -> None:
    del model.metadata_props[:]


def changed(key: str, value: str) -> Callable[[onnx.ModelProto, Path], None]:
    def change(model: onnx.ModelProto, path: Path) -> None:
        next(entry for entry in model.metadata_props if entry.key == key).value = value

    return change


def told(key: str, value: str) -> Callable[[onnx.ModelProto, Path], None]:
    def tell(model: onnx.ModelProto, path: Path) -> None:
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value

    return tell


def other_input(model: onnx.ModelProto, path: Path) -> None:
    model.graph.input[0].name = "pictures"


def no_graph(model: onnx.ModelProto, path: Path) -> None:
    model.ClearField("graph")


def broken_graph(model: onnx.ModelProto, path: Path) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


def endless(model: onnx.ModelProto, path: Path) -> None:
    """A loop that goes on as long as a condition holds, which is never changed."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    model.graph.node.append(helper.make_node("Loop", ["", "always"], [], body=body))
    model.graph.initializer.append(helper.make_tensor("always", TensorProto.BOOL, [], [True]))


def sparse(model: onnx.ModelProto, path: Path) -> None:
    """Eight bytes that say to be a tensor of a terabyte."""
    values = helper.make_tensor("huge", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("places", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**38]))


def without_values(model: onnx.ModelProto, path: Path) -> None:
    tensor = model.graph.initializer.add()
    tensor.name, tensor.data_type = "huge", TensorProto.FLOAT
    tensor.dims.append(2**38)
    model.graph.node.append(helper.make_node("Identity", ["huge"], ["taken"]))


def filled(model: onnx.ModelProto, path: Path) -> None:
    """A constant of 2^60 values, which no machine has room for."""
    model.graph.initializer.append(helper.make_tensor("size", TensorProto.INT64, [1], [2**60]))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["huge"]))
    model.graph.node.append(helper.make_node("ReduceMax", ["huge"], ["most"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["scores_0", "most"], ["scores"]))
    next(node for node in model.graph.node if node.output[0] == "scores").output[0] = "scores_0"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (endless, "has loops or branches, expected operators that run once"),
        (sparse, "has sparse tensors"),
        (without_values, "onnxruntime cannot run"),
        (external, "keeps weights in another file"),
        (foreign, "has operators of its own"),
        (no_metadata, "does not say its config, input, output"),
        (changed("output", "maps"), "gives 'maps', expected pictures and detections"),
        (changed("config", "{"), "has a configuration that cannot be used"),
        (changed("config", '{"labels": 3}'), "has a configuration that cannot be used"),
        (changed("config", "[" * 100_000), "has a configuration that cannot be used"),
        (told("labels", '["b", "a"]'), "has other labels in its metadata than in its configuration"),
        (told("labels", '["a"]'), "has other labels in its metadata"),
        (told("labels", "[" * 100_000), "has other labels in its metadata"),
        (other_input, "takes pictures and gives"),
        (no_graph, "it has no graph"),
        (broken_graph, "onnxruntime cannot run"),
    ],
    ids=[
        "loop",
        "sparse",
        "no_values",
        "external",
        "domain",
        "metadata",
        "output",
        "no_json",
        "wrong_config",
        "deep_config",
        "swapped_labels",
        "fewer_labels",
        "deep_labels",
        "input",
        "graph",
        "operator",
    ],
)
def test_a_file_that_is_something_else_is_refused_on_one_line(spoil: Any, message: str, tmp_path: Path) -> None:
    model = constant_model()
    path = tmp_path / "hostile.onnx"
    spoil(model, path)
    with pytest.raises(CheckpointError, match=message) as raised:
        dyzoo.load(written(model, path))
    assert "\n" not in str(raised.value)


def test_a_graph_that_asks_for_more_than_there_is_fails_on_one_line(tmp_path: Path) -> None:
    model = constant_model()
    path = tmp_path / "filled.onnx"
    filled(model, path)
    with pytest.raises(CheckpointError, match="cannot be run") as raised:
        dyzoo.load(written(model, path)).predict(np.zeros((50, 60, 3), np.uint8))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("labels", "counts"), [(7, 1), (-1, 1), (0, PLACES + 1), (0, -1)])
def test_answers_that_are_no_detections_are_an_error(labels: int, counts: int, tmp_path: Path) -> None:
    model = dyzoo.load(written(constant_model(labels, counts), tmp_path / "wild.onnx"))
    with pytest.raises(CheckpointError, match="gives something else than detections of its classes"):
        model.predict(np.zeros((50, 60, 3), np.uint8))


def test_text_and_truncated_files_are_no_onnx(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    for content in (b"not onnx at all", constant_model().SerializeToString()[:-7]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"text\.onnx"):
            dyzoo.load(path)


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.onnx")
    with pytest.raises(OSError, match="no regular file"):
        OnnxDetector.from_file(tmp_path / "fifo.onnx")


@pytest.mark.parametrize("name", ["org/gone.onnx", "gone.onnx", "org/gone.xml"])
def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dyzoo.Detector, "from_pretrained", lambda *_, **__: pytest.fail("taken for a repository"))
    with pytest.raises(CheckpointError, match=f"{name} is not there, expected a file of `dyzoo export`"):
        dyzoo.load(name)
    assert run(["predict", "--model", name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {name} is not there")


def test_a_repository_may_have_the_suffix_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def from_pretrained(name: str, *_: Any, **__: Any) -> Any:
        asked.append(name)
        return small_detector("atss")

    monkeypatch.setattr(dyzoo.Detector, "from_pretrained", from_pretrained)
    for name in ("hf-hub:org/cells.onnx", "org/cells.onnx@main"):
        dyzoo.load(name)
    assert asked == ["hf-hub:org/cells.onnx", "org/cells.onnx@main"]


def test_a_fifo_named_on_the_command_line_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "fifo.onnx")
    assert run(["predict", "--model", str(tmp_path / "fifo.onnx")]) == 1
    assert "no regular file, expected a file on a disk" in capsys.readouterr().err


def test_a_file_takes_no_other_labels_or_device(tmp_path: Path) -> None:
    path = written(constant_model(), tmp_path / "constant.onnx")
    assert dyzoo.load(path, labels=["a", "b"]).labels == ("a", "b")
    with pytest.raises(CheckpointError, match="labels are other ones"):
        dyzoo.load(path, labels=["c"])
    with pytest.raises(CheckpointError, match="device is cuda, expected cpu"):
        dyzoo.load(path, device="cuda")


def test_a_file_is_not_exported_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(constant_model(), tmp_path / "constant.onnx")
    assert run(["export", str(path), "--out", str(tmp_path / "again.onnx")]) == 1
    assert f"error: {path} is exported already: name the detector in PyTorch" in capsys.readouterr().err
    assert not (tmp_path / "again.onnx").exists()


def test_training_does_not_begin_with_a_file(voc: Path, tmp_path: Path) -> None:
    path = written(constant_model(), tmp_path / "constant.onnx")
    config = dyzoo.TrainConfig(data=voc, weights=str(path), out=tmp_path / "run")
    with pytest.raises(TrainingError, match=r"constant\.onnx cannot be trained"):
        dyzoo.train(config)
