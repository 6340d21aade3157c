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

from dyzoo.architectures import ARCHITECTURES
from dyzoo.config import DyHeadConfig, FPNConfig
from dyzoo.detector import Detector
from dyzoo.errors import CheckpointError


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    config = replace(
        ARCHITECTURES["dyhead_atss_resnet10t"](),
        labels=("cat", "dog"),
        fpn=FPNConfig(channels=32),
        dyhead=DyHeadConfig(channels=32, num_blocks=1),
    )
    return Detector(config).eval()


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
    change(config)
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
    ("part", "changes"), [("fpn", {"channels": 8000}), ("dyhead", {"num_blocks": 90_000, "channels": 256})]
)
def test_a_configuration_far_larger_than_the_weights_is_not_built(
    folder: Path, part: str, changes: dict[str, int]
) -> None:
    """8,000 channels take 2.3 GB for a single convolution, and there are dozens."""
    change_config(folder, lambda config: config[part].update(changes))
    grown_kib = -resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "describes no detector: it has far more parameters than the weights beside it" in refusal(folder)
    grown_kib += resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert grown_kib < 1_500_000


def test_the_limit_is_this_threads_alone(folder: Path) -> None:
    """Another thread may build a large model while a small one is loaded."""
    change_config(folder, lambda config: config["fpn"].update(channels=8000))
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
        "preprocess.shortest_edge is 1000000, expected 1 to 100000",
    ),
    "a divisor of zero": (
        lambda config: config["preprocess"].update(size_divisor=0),
        "preprocess.size_divisor is 0, expected 1 to 100000",
    ),
    "negative channels": (
        lambda config: config["fpn"].update(channels=-1),
        "fpn.channels is -1, expected 1 to 100000",
    ),
    "not a number": (
        lambda config: config["preprocess"].update(mean=[0.0, float("nan"), 0.0]),
        "preprocess.mean is nan, expected",
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
    "another backbone": (
        lambda config: config["backbone"].update(name="resnet18"),
        "these weights are not of dyhead_atss_resnet10t",
    ),
}


@pytest.mark.parametrize("change", ABSURD)
def test_an_absurd_configuration_is_one_line(folder: Path, change: str) -> None:
    action, message = ABSURD[change]
    change_config(folder, action)
    assert message in refusal(folder)


BROKEN: dict[str, tuple[bytes, str]] = {
    "a number of thousands of digits": (b'{"version": ' + b"9" * 5000 + b"}", "cannot be read"),
    "lists of thousands of levels": (b"[" * 100_000, "config.json"),
    "too long": (b'{"labels": ["' + b"x" * (1 << 24) + b'"]}', "expected a few thousand"),
    "empty": (b"", "is not JSON"),
    "not text": (b"\xff\xfe", "is not a text file"),
    "a newer version": (b'{"version": 99}', "update dyzoo"),
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_configuration_is_one_line(folder: Path, content: str) -> None:
    written, message = BROKEN[content]
    (folder / "config.json").write_bytes(written)
    assert message in refusal(folder)


def test_weights_cut_short_or_of_another_kind(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    header_claims_more_than_there_is = (1 << 62).to_bytes(8, "little") + whole[8:]
    for content in (whole[:-1], whole[:100], b"", b"\x80\x04.", header_claims_more_than_there_is, os.urandom(1000)):
        (folder / "model.safetensors").write_bytes(content)
        assert "model.safetensors is damaged or no safetensors file" in refusal(folder)
