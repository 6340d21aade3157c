"""Checkpoint files give the tensors that torch, numpy and safetensors would give, and bad ones are one line."""

from __future__ import annotations

import pickle
import struct
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dyzoo.checkpoints.pickles import Inert
from dyzoo.checkpoints.reading import as_tensor, read_checkpoint, weights_of
from dyzoo.checkpoints.stored import Stored
from dyzoo.errors import CheckpointError
from tests.checkpoints.checkpoint_files import FORMATS, PICKLED, Save, save_legacy, save_pickle, save_zip, small_weights


def value_of(stored: Any) -> Tensor:
    return stored.tensor() if isinstance(stored, Stored) else stored


def assert_same(found: dict[str, Any], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        value = value_of(found[key])
        assert value.shape == tensor.shape, key
        assert torch.equal(value.double(), tensor.detach().double()), key


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_saved_tensors(tmp_path: Path, name: str) -> None:
    path = tmp_path / "checkpoint.bin"  # the content tells, not the suffix
    FORMATS[name]({"model": small_weights()}, path)
    weights = weights_of(read_checkpoint(path), "it")
    assert_same({key: weights[key] for key in small_weights()}, small_weights())
    for key in ("plain", "half", "double"):
        assert value_of(weights[key]).dtype == small_weights()[key].dtype


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickled_arrays(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "arrays.pkl"
    save_pickle({"model": small_weights(), "__author__": "someone"}, path, protocol)
    assert_same(weights_of(read_checkpoint(path), "it"), small_weights())


def test_arrays_by_columns_and_of_the_other_byte_order(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps({"columns": np.asfortranarray(array), "swapped": array.astype(">f4")}, protocol=2))
    for value in read_checkpoint(path).values():
        assert torch.equal(value_of(value), torch.from_numpy(array))


def test_an_array_that_python_2_has_written(tmp_path: Path) -> None:
    values = np.array([1.5, -2.0, 3e-9], np.float32)
    content = values.tobytes()
    path = tmp_path / "arrays.pkl"
    path.write_bytes(
        b"\x80\x02}U\x06weightcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", len(content)) + content + b"tbs."
    )
    assert pickle.loads(path.read_bytes(), encoding="latin1")["weight"].tolist() == values.tolist()
    assert_same(read_checkpoint(path), {"weight": torch.from_numpy(values)})


@pytest.fixture
def training_library() -> Iterator[ModuleType]:
    """A package `mmengine` with a class of settings and one of logs, gone again afterwards."""
    code = """
class ConfigDict(dict):
    pass
class HistoryBuffer:
    def __init__(self, values):
        self.values = values
"""
    modules = {name: ModuleType(name) for name in ("mmengine", "mmengine.config")}
    exec(code, modules["mmengine.config"].__dict__)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        yield modules["mmengine.config"]


@pytest.mark.parametrize("name", PICKLED)
def test_what_lies_beside_the_weights_does_not_matter(tmp_path: Path, name: str, training_library: ModuleType) -> None:
    """Logs, settings and counters of training libraries, whose classes need not be installed."""
    meta = {
        "config": training_library.ConfigDict(lr=0.1),
        "log": training_library.HistoryBuffer(np.array([1.0, 2.0])),
        "loss": np.float64(0.25),
        "strings": np.array(["a", None], dtype=object),
        "milestones": Counter([3, 3]),
        "groups": defaultdict(list, a=[1]),
        "time": datetime(2022, 5, 9, tzinfo=timezone.utc),
        "where": tmp_path,
        "shape": torch.Size([2, 3]),
        "dtype": torch.float32,
        "classes": ("cat", "dog"),
        "set": {1, 2},
        "frozen": frozenset([3]),
        (1, 2): "a key that is no string",
        "big": 2**80,
    }
    path = tmp_path / name
    FORMATS[name]({"meta": meta, "state_dict": small_weights(), "optimizer": {"lr": 1.0}}, path)
    for module in ("mmengine", "mmengine.config"):
        del sys.modules[module]
    checkpoint = read_checkpoint(path)
    assert_same(weights_of(checkpoint, "it"), small_weights())
    found = checkpoint["meta"]
    assert found["classes"] == ("cat", "dog")
    assert found["big"] == 2**80
    assert found["loss"] == 0.25
    assert found["log"].class_name == "mmengine.config.HistoryBuffer"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nested", ["model", "state_dict", None])
def test_where_the_weights_are(nested: str | None, prefix: str) -> None:
    weights = {f"{prefix}{key}": value for key, value in small_weights().items()}
    checkpoint = {nested: weights, "iteration": 3} if nested else weights
    assert_same(weights_of(checkpoint, "it"), small_weights())


def test_changing_a_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    """Tensors may be pages of the mapped file."""
    path = tmp_path / "zip.pth"
    save_zip({"weight": torch.ones(1000)}, path)
    before = path.read_bytes()
    read_checkpoint(path)["weight"].tensor().zero_()
    assert path.read_bytes() == before


def nothing(path: Path) -> None:
    """The file is missing."""


def folder(path: Path) -> None:
    path.mkdir()


def page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>404</html>")


def text(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\n")


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no checkpoint")


def compressed(path: Path) -> None:
    save_zip(small_weights(), path.with_suffix(".whole"))
    with (
        zipfile.ZipFile(path.with_suffix(".whole")) as whole,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as again,
    ):
        for name in whole.namelist():
            again.writestr(name, whole.read(name))


def a_list(path: Path) -> None:
    save_zip([torch.zeros(3)], path)


def a_tensor(path: Path) -> None:
    save_zip(torch.zeros(3), path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing, "is no file"),
        (folder, "is a folder"),
        (Path.touch, "is empty"),
        (page, "is a web page"),
        (text, "is of no known format"),
        (other_zip, "is a zip archive without PyTorch's data.pkl"),
        (compressed, "compressed or encrypted"),
        (a_list, "expected a dictionary"),
        (a_tensor, "expected a dictionary"),
    ],
)
def test_a_file_that_is_no_checkpoint(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "bad.pth"
    make(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def read_all(path: Path) -> dict[str, Tensor]:
    weights = weights_of(read_checkpoint(path), "it")
    return {key: as_tensor(weights[key], key) for key in ("plain", "transposed", "shared", "half", "double")}


@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
def test_a_truncated_file_is_one_line(tmp_path: Path, save: Save) -> None:
    path = tmp_path / "cut.pth"
    save(small_weights(), path)
    whole = path.read_bytes()
    for length in [*range(1, len(whole), max(len(whole) // 30, 1)), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            read_all(path)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:invalid escape")  # in code that has become a string
@pytest.mark.parametrize("save", FORMATS.values(), ids=FORMATS)
def test_a_damaged_byte_never_ends_in_a_traceback(tmp_path: Path, save: Save) -> None:
    path = tmp_path / "damaged.pth"
    save(small_weights(), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused, misspelt = [], []
    for _ in range(120):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            read_all(path)
        except CheckpointError as error:
            refused.append(str(error))
        except KeyError as error:  # a key that is spelt differently now
            misspelt.append(error.args[0])
    assert len(refused) > 5
    assert not any("\n" in message for message in refused)
    assert set(misspelt) <= set(small_weights())


def test_a_changed_value_in_a_zip_fails_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "zip.pth"
    save_zip({"weight": torch.full((1000,), 1.5)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<4f", *[1.5] * 4))] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"'weight' cannot be read \(a checksum differs\)"):
        as_tensor(read_checkpoint(path)["weight"], "'weight'")


@pytest.mark.parametrize("value", [torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")])])
def test_weights_are_finite(value: Tensor) -> None:
    with pytest.raises(CheckpointError, match="'a' has infinite values or NaN"):
        as_tensor(value, "'a'")


@pytest.mark.parametrize("value", [torch.tensor([1]), "text", None, [1.0], Inert("mmengine.Config")])
def test_weights_are_floating_point_tensors(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"'a' is .*, expected a floating-point tensor"):
        as_tensor(value, "'a'")


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ({}, "holds no weights but nothing"),
        ({"epoch": 3, "config": "x"}, "holds no weights but 'epoch', 'config'"),
        ({"model": {"a": 1}}, "holds no weights but 'a'"),
        ({"model": Inert("mmdet.models.ATSS")}, "holds a pickled mmdet.models.ATSS"),
        ({"model": None, "epoch": 1}, "holds no weights but 'model', 'epoch'"),
    ],
)
def test_a_checkpoint_without_weights(checkpoint: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^it {message}"):
        weights_of(checkpoint, "it")


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.pth"
    for save in (save_zip, save_legacy):
        save({"weight": torch.zeros(1).expand(2**40)}, path)
        with pytest.raises(CheckpointError, match="cannot be read"):
            as_tensor(read_checkpoint(path)["weight"], "weight")


def test_an_ordered_state_dict_keeps_its_order_and_loses_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "module.pth"
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    save_zip(module.state_dict(), path)
    weights = read_checkpoint(path)
    assert isinstance(module.state_dict(), OrderedDict)
    assert list(weights) == list(module.state_dict())
