"""Detectors whose network is an OpenVINO model, and files that are refused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")

import openvino

import dyzoo
from dyzoo.cli import run
from dyzoo.errors import CheckpointError
from dyzoo.runtime import openvino_files
from dyzoo.runtime.openvino_detector import OpenVinoDetector
from dyzoo.runtime.openvino_files import METADATA, WEIGHTS_DIGEST
from tests.export.detectors import small_detector

FACTS = {"config": small_detector("atss").config.to_json(), "input": "uint8", "output": "detections"}
PLACES = 4


def written(path: Path, facts: dict[str, str] = FACTS, labels: int = 0) -> Path:
    """A network that finds the same box in every picture, one picture at a time."""
    ops = openvino.opset13
    images = ops.parameter([-1, 3, -1, -1], np.uint8)
    images.output(0).set_names({"images"})
    answers = {
        "boxes": np.array([[[1.0, 2.0, 30.0, 40.0]] * PLACES], np.float32),
        "scores": np.array([[0.9] * PLACES], np.float32),
        "labels": np.array([[labels] * PLACES]),
        "counts": np.array([1]),
    }
    results = []
    for name, values in answers.items():
        constant = ops.constant(values)
        constant.output(0).set_names({name})
        results.append(ops.result(constant))
    model = openvino.Model(results, [images])
    weights = path.with_suffix(".bin")
    openvino.serialize(model, path, weights)
    for name, value in facts.items():
        model.set_rt_info(value, [METADATA, name])
    model.set_rt_info(hashlib.sha256(weights.read_bytes()).hexdigest(), [METADATA, WEIGHTS_DIGEST])
    openvino.serialize(model, path, weights)
    return path


def test_a_file_is_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "constant.xml")
    model = dyzoo.load(path)
    assert isinstance(model, OpenVinoDetector)
    assert model.predict(np.zeros((50, 60, 3), np.uint8))[0].labels.tolist() == [0]
    assert run(["predict", "--model", str(path), "--out", str(tmp_path / "seen")]) == 0
    assert "1 a" in capsys.readouterr().out


def replaced(old: str, new: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return spoil


def content(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text) and None


def other_weights(path: Path) -> None:
    weights = path.with_suffix(".bin")
    weights.write_bytes(bytes(len(weights.read_bytes())))


def truncated_weights(path: Path) -> None:
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[:-1])


BOMB = "<!DOCTYPE net [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]><net><layers>&b;</layers></net>"
LEAK = "<!DOCTYPE net [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><net><layers>&a;</layers></net>"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (content("no xml"), "is no XML that can be used"),
        (content("<net>" * 100_000), "is no XML that can be used"),
        (content("<net>" * 100_000 + "</net>" * 100_000), "is nested more than 8 deep"),
        (content("<?xml version='1.0' encoding='klingon'?><net/>"), "is no XML that can be used"),
        (content(BOMB), "is no XML that can be used"),
        (content(LEAK), "is no XML that can be used"),
        (content("<html/>"), "is a <html>, expected a <net>"),
        (content("<net><layers/></net>"), "does not say its config, input, output"),
        (replaced('type="Const" version="opset1"', 'type="Const" version="extension"'), "has a layer 'Const' of 'ext"),
        (replaced('offset="0"', 'offset="4096"'), "a constant outside of its"),
        (replaced('offset="0"', 'offset="-8"'), "a constant outside of its"),
        (replaced('shape="1, 4, 4"', 'shape="65536, 65536, 65536"'), "a constant outside of its"),
        (replaced('offset="0"', 'offset="zero"'), "a constant without a place"),
        (replaced('<output value="detections"', '<output value="maps"'), "gives 'maps', expected pictures"),
        (replaced('<config value="', '<config value="['), "has a configuration that cannot be used"),
        (replaced('names="boxes"', 'names="other"'), "gives .*other.* expected images and boxes"),
        (replaced('type="Const"', 'type="NoSuchLayer"'), "OpenVINO cannot run"),
        (other_weights, "is not the one of"),
        (truncated_weights, "a constant outside of its"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_are_something_else_are_refused_on_one_line(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "hostile.xml")
    spoil(path)
    with pytest.raises(CheckpointError, match=message) as raised:
        dyzoo.load(path)
    assert "\n" not in str(raised.value)


def test_weights_are_a_regular_file_beside(tmp_path: Path) -> None:
    path = written(tmp_path / "alone.xml")
    path.with_suffix(".bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"alone\.bin"):
        dyzoo.load(path)
    os.mkfifo(path.with_suffix(".bin"))
    with pytest.raises(OSError, match="no regular file"):
        dyzoo.load(path)


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "large.xml")
    monkeypatch.setattr(openvino_files, "MOST_XML_BYTES", 1000)
    with pytest.raises(OSError, match="too large"):
        dyzoo.load(path)


def test_answers_that_are_no_detections_are_an_error(tmp_path: Path) -> None:
    model = dyzoo.load(written(tmp_path / "wild.xml", labels=7))
    with pytest.raises(CheckpointError, match="gives something else than detections of its classes"):
        model.predict(np.zeros((50, 60, 3), np.uint8))


def test_what_is_not_installed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "constant.xml")
    monkeypatch.setattr("dyzoo.runtime.sessions.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"openvino not installed.*pip install 'dyzoo\[openvino\]'"):
        dyzoo.load(path)
