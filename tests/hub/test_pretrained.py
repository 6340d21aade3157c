"""Detectors in folders: nothing is lost in writing, and nothing absurd is believed in reading."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.errors import CheckpointError
from dyzoo.model.detector import Detector


@pytest.fixture
def folder(detector: Detector, tmp_path: Path) -> Path:
    detector.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refusal(folder: Path) -> str:
    """The one line that loading the folder ends with."""
    with pytest.raises(CheckpointError) as caught:
        Detector.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    labels = config["labels"]
    change(config)
    if config["labels"] != labels:
        del config["id2label"], config["label2id"]
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_half_precision_files_load_to_float32(detector: Detector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path, torch.float16)
    stored = load_file(tmp_path / "model.safetensors")
    loaded = Detector.from_pretrained(tmp_path).state_dict()
    for name, value in detector.state_dict().items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], stored[name].to(value.dtype))
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float16}


def test_the_same_weights_give_the_same_file(detector: Detector, tmp_path: Path) -> None:
    written = set()
    for number in range(8):
        detector.save_pretrained(tmp_path / str(number), card=False)
        written.add((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert len(written) == 1


def test_a_value_that_does_not_fit_is_refused_before_anything_is_written(detector: Detector, tmp_path: Path) -> None:
    large = Detector(detector.config)
    with torch.no_grad():
        next(large.fpn.parameters()).fill_(1e5)
    with pytest.raises(CheckpointError, match=r"values up to 1e\+05, too large for torch.float16: use torch.bfloat16"):
        large.save_pretrained(tmp_path / "model", torch.float16)
    assert not (tmp_path / "model").exists()
    large.save_pretrained(tmp_path / "model", torch.bfloat16)
    with pytest.raises(ValueError, match=r"dtype is torch.int8, expected a floating-point type"):
        large.save_pretrained(tmp_path / "model", torch.int8)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits on the size of files")
def test_a_full_disk_leaves_the_older_model_whole(detector: Detector, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = Detector(replace(detector.config, labels=("a", "b", "c")))
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be written: "):
            other.save_pretrained(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    name = next(name for name, weight in load_file(folder / "model.safetensors").items() if weight.ndim == 4)
    change_weights(folder, lambda weights: weights[name].view(-1)[3:4].fill_(value))
    assert f"{name!r} holds infinity or NaN" in refusal(folder)


def test_infinities_that_the_architecture_has_itself_are_no_damage() -> None:
    class Masked(Detector):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))

    model = Masked(replace(ARCHITECTURES["dyhead_atss_resnet10t"](), labels=("a",)))
    model.load_weights(model.state_dict(), "itself")


def test_a_pickle_in_the_folder_is_named_and_left_alone(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert f"{folder} has no model.safetensors, only pytorch_model.bin" in message
    assert "`dyzoo convert`" in message


@pytest.mark.parametrize(
    ("part", "changes"), [("fpn", {"channels": 4096}), ("dyhead", {"num_blocks": 64, "channels": 4096})]
)
def test_a_configuration_far_larger_than_the_weights_is_not_built(
    folder: Path, part: str, changes: dict[str, int]
) -> None:
    """4,096 channels take 600 MB for a single convolution, and there are dozens."""
    change_config(folder, lambda config: config[part].update(changes))
    grown_kib = -resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "describes no detector: it has far more parameters than the weights beside it" in refusal(folder)
    grown_kib += resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert grown_kib < 1_500_000


def test_the_limit_is_this_threads_alone(folder: Path) -> None:
    """Another thread may build a large model while a small one is loaded."""
    change_config(folder, lambda config: config["fpn"].update(channels=4096))
    failures: list[Exception] = []
    stop = threading.Event()

    def build() -> None:
        while not stop.is_set():
            try:
                nn.Linear(20_000, 20_000, device="meta")
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    try:
        refusal(folder)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    nn.Linear(20_000, 20_000, device="meta")


ABSURD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a size of a million": (
        lambda config: config["preprocess"].update(shortest_edge=10**6),
        "preprocess.shortest_edge is 1000000, expected 1 to 16384",
    ),
    "a divisor of zero": (
        lambda config: config["preprocess"].update(size_divisor=0),
        "preprocess.size_divisor is 0, expected 1 to 512",
    ),
    "negative channels": (
        lambda config: config["fpn"].update(channels=-1),
        "fpn.channels is -1, expected 1 to 4096",
    ),
    "not a number": (
        lambda config: config["preprocess"].update(mean=[0.0, float("nan"), 0.0]),
        "preprocess.mean is nan, expected",
    ),
    "a divisor that pads to 10 gigapixels": (
        lambda config: config["preprocess"].update(size_divisor=99_999),
        "preprocess.size_divisor is 99999, expected 1 to 512",
    ),
    "a class name of megabytes": (
        lambda config: config.update(labels=["x" * 3_000_000]),
        "labels has 3000000 characters, expected 0 to 200",
    ),
    "half a character": (
        lambda config: config.update(labels=["\ud800"]),
        r"labels is '\ud800', expected text",
    ),
    "more classes than anybody has": (
        lambda config: config.update(labels=[str(number) for number in range(100_000)]),
        "labels has 100000 items, expected 0 to 30000",
    ),
    "an unknown setting that is a page long": (
        lambda config: config.update({"y" * 100_000: 1}),
        "unknown setting 'yyyyy",
    ),
    "a type that is a list": (
        lambda config: config["head"].update(type=[]),
        "head.type is [], expected one of atss",
    ),
    "a control character in the backbone's name": (
        lambda config: config["backbone"].update(name="\x1b[2J\u202e"),
        r"timm has no backbone '\x1b[2J\u202e'",
    ),
    "no labels": (lambda config: config.update(labels=[]), "names no labels"),
    "a backbone that timm does not have": (
        lambda config: config["backbone"].update(name="resnet5O"),
        "timm has no backbone 'resnet5O'",
    ),
    "a backbone without a pyramid": (
        lambda config: config["backbone"].update(name="vit_tiny_patch16_224"),
        "describes no detector",
    ),
    "a backbone of a path": (
        lambda config: config["backbone"].update(name="/etc/passwd"),
        "timm has no backbone '/etc/passwd'",
    ),
    "other code for transformers": (
        lambda config: config["auto_map"].update(AutoConfig="org/evil--modeling_dyzoo.DyzooConfig"),
        "auto_map is {'AutoConfig': 'org/evil--modeling_dyzoo.DyzooConfig'",
    ),
    "another pipeline for transformers": (
        lambda config: config.update(custom_pipelines={"\x1b[2J": [{}]}),
        r"custom_pipelines is {'\x1b[2J': [{}]}, expected {",
    ),
    "a model of another library": (lambda config: config.update(model_type="detr"), "model_type is 'detr', expected"),
    "other classes for transformers": (
        lambda config: config["id2label"].update({"0": "cow"}),
        "id2label names other classes than labels: change both, or remove id2label and label2id",
    ),
    "numbers of classes that are none": (lambda config: config.update(label2id=[]), "label2id names other classes"),
    "another backbone": (
        lambda config: config["backbone"].update(name="resnet18"),
        "these weights are not of dyhead_atss_resnet10t",
    ),
}


@pytest.mark.parametrize("change", ABSURD)
def test_an_absurd_configuration_is_one_line(folder: Path, change: str) -> None:
    action, message = ABSURD[change]
    change_config(folder, action)
    error = refusal(folder)
    assert message in error
    assert error.isprintable()
    assert len(error) < 1000


def test_a_detector_that_could_not_be_loaded_again_is_not_built(detector: Detector) -> None:
    with pytest.raises(CheckpointError, match="the configuration: labels has 300 characters, expected 0 to 200"):
        Detector(replace(detector.config, labels=("x" * 300,)))


BROKEN: dict[str, tuple[bytes, str]] = {
    "a number of thousands of digits": (b'{"version": ' + b"9" * 5000 + b"}", "cannot be read"),
    "lists of thousands of levels": (b"[" * 100_000, "config.json"),
    "too long": (b'{"labels": ["' + b"x" * (1 << 24) + b'"]}', "bytes, expected at most 16777216"),
    "empty": (b"", "is not JSON"),
    "not text": (b"\xff\xfe", "is not a text file"),
    "a newer version": (b'{"version": 99}', "update dyzoo"),
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_configuration_is_one_line(folder: Path, content: str) -> None:
    written, message = BROKEN[content]
    (folder / "config.json").write_bytes(written)
    assert message in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "an endless file", "a loop"])
def test_what_is_no_file_is_not_opened(folder: Path, name: str, kind: str) -> None:
    """Reading any of them would wait for ever, or never end."""
    (folder / name).unlink()
    if kind == "a pipe":
        os.mkfifo(folder / name)
    else:
        target = {"a device": "/dev/zero", "an endless file": "/proc/kmsg", "a loop": name}[kind]
        (folder / name).symlink_to(target)
    assert name in refusal(folder)


def test_symlinks_to_files_are_followed(detector: Detector, folder: Path, tmp_path: Path) -> None:
    """As in the Hub's cache."""
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    assert Detector.from_pretrained(folder).config == detector.config


def test_a_configuration_of_a_gigabyte_is_not_read(folder: Path) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (folder / "config.json").open("ab") as file:
        file.truncate(1 << 30)
    assert "bytes, expected at most 16777216" in refusal(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 500_000


def test_damage_in_a_file_that_can_be_had_again_says_how(folder: Path) -> None:
    files = folder / "config.json", folder / "model.safetensors"
    text = files[0].read_text()
    files[0].write_text(text[:100])
    with pytest.raises(CheckpointError, match=r"is not JSON: .*; if it is damaged, fetch it again$"):
        Detector.from_files(*files, mend_hint="fetch it again")
    files[0].write_text(text)
    files[1].write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no safetensors file \(.*\): fetch it again$"):
        Detector.from_files(*files, mend_hint="fetch it again")


def test_names_without_number_are_refused_before_they_become_tensors(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*arguments: Any) -> None:
        raise AssertionError("the tensors were read")

    monkeypatch.setattr("dyzoo.hub.pretrained.load_file", too_late)
    weights = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    header |= {f"n{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(30_000)}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + weights[8 + length :])
    assert "has the unknown 'n0' and 29999 more" in refusal(folder)


def test_complex_weights_are_refused(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"fpn.p6.weight": weights["fpn.p6.weight"] + 1j}))
    assert "'fpn.p6.weight' is torch.complex64, expected torch.float32" in refusal(folder)


def test_weights_cut_short_or_of_another_kind(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    header_claims_more_than_there_is = (1 << 62).to_bytes(8, "little") + whole[8:]
    for content in (whole[:-1], whole[:100], b"", b"\x80\x04.", header_claims_more_than_there_is, os.urandom(1000)):
        (folder / "model.safetensors").write_bytes(content)
        assert "model.safetensors is damaged or no safetensors file" in refusal(folder)
