"""Choices of a run where its settings leave it open."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dyzoo.config.training import ResolvedConfig, TrainConfig
from dyzoo.data import DetectionDataset, Sample
from dyzoo.errors import TrainingError
from dyzoo.model.detector import Detector
from dyzoo.training import defaults, memory, train
from dyzoo.training.defaults import default_epochs, default_images_in_a_step, default_size, resolve
from dyzoo.training.loop import Trainer
from dyzoo.zoo.names import model_config
from tests.training.training_runs import known_models, tiny, tiny_run, write_voc


def dataset(images: int, size: tuple[int, int] = (640, 480), box_px: float = 50.0) -> DetectionDataset:
    """Pictures of (width, height) that are never read, with one square box each."""
    box = np.array([[0, 0, box_px, box_px]], np.float32)
    samples = [
        Sample(Path(f"{index}.png"), *size, box, np.zeros(1, np.int64), np.zeros(1, bool), index)
        for index in range(images)
    ]
    return DetectionDataset(samples, ["thing"])


def chosen(config: TrainConfig, images: int = 205, processes: int = 1, **settings: Any) -> ResolvedConfig:
    described = replace(model_config("dyhead_atss_resnet10t"), labels=("thing",))
    lines: list[str] = []
    resolved = resolve(
        config, dataset(images, **settings), described, torch.device("cpu"), processes, torch.float32, lines.append
    )
    assert len(lines) >= 1
    return resolved


def test_more_images_mean_fewer_epochs_and_more_of_them_seen() -> None:
    counts = [1, 8, 50, 205, 1000, 5000, 20_000, 118_287]
    epochs = [default_epochs(count) for count in counts]
    seen = [count * each for count, each in zip(counts, epochs, strict=True)]
    assert epochs == sorted(epochs, reverse=True)
    assert seen == sorted(seen)
    assert (epochs[0], epochs[3], epochs[-1]) == (300, 60, 12)


def test_an_epoch_has_fifty_steps_where_there_are_images_for_them() -> None:
    batches = {count: default_images_in_a_step(count) for count in (1, 8, 199, 200, 800, 10**6)}
    assert batches == {1: 2, 8: 2, 199: 2, 200: 4, 800: 16, 10**6: 16}


def test_the_processes_share_a_step() -> None:
    assert [chosen(TrainConfig(Path()), 1000, processes).batch_size for processes in (1, 2, 8, 64)] == [16, 8, 2, 1]


def test_small_images_are_enlarged_twofold_at_most() -> None:
    assert default_size(dataset(3, (640, 480)), 800) == 800
    assert default_size(dataset(3, (96, 100)), 800) == 192
    assert default_size(dataset(3, (4000, 3000)), 320) == 320


def test_given_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "free_bytes", lambda device: 0.0)  # nor is the memory asked for
    resolved = chosen(TrainConfig(Path(), epochs=7, batch_size=32))
    assert (resolved.epochs, resolved.batch_size, resolved.size_px) == (7, 32, 320)


def test_the_batch_shrinks_with_the_memory_then_the_images_and_then_it_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for free in (8e9, 1.2e9, 0.5e9, 0.25e9):
        monkeypatch.setattr(defaults, "free_bytes", lambda device, free=free: free)
        resolved = chosen(TrainConfig(Path()), 1000)
        found.append((resolved.batch_size, resolved.size_px))
    assert found[0] == (16, 320)
    assert 1 < found[1][0] < 16
    assert found[1][1] == 320
    assert found[2][0] < found[1][0]
    assert found[3][0] == 1
    assert found[3][1] < 320
    monkeypatch.setattr(defaults, "free_bytes", lambda device: 1e8)
    with pytest.raises(TrainingError, match="--size"):
        chosen(TrainConfig(Path()), 1000)


def test_a_backbone_that_only_real_images_pass_is_trained_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise RuntimeError("Cannot copy out of meta tensor")

    monkeypatch.setattr(defaults, "bytes_per_image", fail)
    assert chosen(TrainConfig(Path()), 1000).batch_size == 16


def test_choosing_a_batch_does_not_change_the_weights_to_start_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dyzoo.training.setup.model_config", known_models)
    memory._without_values.cache_clear()
    given = tiny_run(write_voc(tmp_path / "voc"), tmp_path / "run", batch_size=2)
    chose, told = (Trainer(config).model.state_dict() for config in (replace(given, batch_size=None), given))
    assert all(torch.equal(value, told[name]) for name, value in chose.items())


def test_the_estimate_is_above_what_a_step_takes_and_not_far_above() -> None:
    """Measured as bytes that are alive, by a hook on what autograd keeps, of a real step at the same size."""
    config = replace(tiny(), labels=("a", "b"))
    model = Detector(config).train()
    kept: dict[int, int] = {}
    storages = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        storages.append(storage)
        kept[storage._cdata] = storage.nbytes()
        return value

    images = [torch.zeros(3, 128, 256, dtype=torch.uint8)] * 2
    targets: Any = [{"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([1])}] * 2
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        losses = model(images, targets)
    assert losses
    weights = sum(p.numel() * 4 for p in model.state_dict().values())
    needed = memory.bytes_per_image(config, (128, 256), torch.float32)
    assert (sum(kept.values()) - weights) / 2 < needed < 3 * sum(kept.values()) / 2


def test_memory_grows_with_the_image_and_with_the_precision() -> None:
    config = replace(tiny(), labels=("a",))
    small, large = (memory.bytes_per_image(config, (side, side), torch.float32) for side in (128, 256))
    assert large == pytest.approx(4 * small, rel=0.1)
    assert memory.bytes_per_image(config, (256, 256), torch.bfloat16) < large


def test_free_memory_is_shared_by_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = memory.free_bytes(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert 0 < memory.free_bytes(torch.device("cpu")) < alone / 2


@pytest.mark.parametrize(("box_px", "is_small"), [(10.0, True), (13.0, False)])  # two thirds of that at 320 px
def test_many_small_boxes_are_pointed_out(box_px: float, is_small: bool) -> None:
    described = replace(model_config("dyhead_atss_resnet10t"), labels=("thing",))
    lines: list[str] = []
    data = dataset(4, box_px=box_px)
    resolve(TrainConfig(Path(), batch_size=1), data, described, torch.device("cpu"), 1, torch.float32, lines.append)
    assert any("4 of 4 boxes are under 8 px" in line for line in lines) == is_small


def test_a_resumed_run_keeps_what_it_has_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyzoo.training.setup.model_config", known_models)
    monkeypatch.setattr(defaults, "default_epochs", lambda images: 2)
    voc = write_voc(tmp_path / "voc")
    config = replace(tiny_run(voc, tmp_path / "run"), epochs=None, batch_size=None, size_px=None)
    train(config)
    written = json.loads((tmp_path / "run/train.json").read_text())
    assert (written["epochs"], written["batch_size"], written["size_px"]) == (2, 2, 192)
    monkeypatch.setattr(defaults, "free_bytes", lambda device: 0.0)  # would be another batch size now, or none
    resumed = Trainer(replace(config, resume=True))
    assert (resumed.config.batch_size, resumed.config.epochs, resumed.config.size_px) == (2, 2, 192)
