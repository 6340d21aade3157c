"""A run shows its progress, and leaves files for the one who watches it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dyzoo.data import open_dataset
from dyzoo.errors import TrainingError
from dyzoo.training import TrainConfig, report, train
from dyzoo.training.display import clock
from dyzoo.training.failure import keep_batches
from dyzoo.training.loop import Trainer
from dyzoo.zoo.creation import load_model
from tests.training.training_runs import known_models, tiny_run


@pytest.fixture
def config(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr("dyzoo.training.setup.model_config", known_models)
    return tiny_run(voc, tmp_path / "run", ema_decay=0.9)


def test_every_epoch_is_a_line_of_one_table(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(config, validate_every=2))
    lines = capsys.readouterr().out.splitlines()
    header = next(number for number, line in enumerate(lines) if line.split()[:2] == ["epoch", "loss"])
    assert {"cls", "box", "centerness", "lr", "AP50", "images/s", "left"} <= set(lines[header].split())
    first, second = lines[header + 1 : header + 3]
    assert first.split()[0] == "1/2"
    assert first.split()[6:9] == ["-", "-", "-"]  # not evaluated yet
    assert second.split()[0] == "2/2"
    assert second.split()[-1] == "0:00:00"
    assert len(first) == len(second) == len(lines[header])
    assert clock(3723.4) == "1:02:03"


def test_a_batch_that_breaks_the_loss_is_kept(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Trainer.step
    seen: list[Any] = []

    def step(self: Trainer, batches: Any, *arguments: Any, **settings: Any) -> Any:
        seen.append(batches)
        if len(seen) == 3:
            with torch.no_grad():
                next(self.model.head.parameters()).fill_(float("nan"))
        return plain(self, batches, *arguments, **settings)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(TrainingError, match=r"no longer finite.*images of step 3 are in .*not_finite"):
        train(config)
    folder = config.folder / "not_finite/step_00000003_process_0"
    record = json.loads((folder / "batch.json").read_text())
    images, targets = seen[-1][0]
    assert record["step"] == 3
    assert "no longer finite" in record["reason"]
    paths = {sample.image_id: sample.image_path for sample in open_dataset(config.data, split="train").samples}
    assert [entry["image"] for entry in record["images"]] == [paths[target["image_id"]].name for target in targets]
    for entry, image, target in zip(record["images"], images, targets, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / entry["file"])), image.permute(1, 2, 0).numpy())
        np.testing.assert_allclose(entry["boxes_xyxy"], target["boxes"].numpy(), rtol=1e-6)
        assert Image.open(folder / entry["file"].replace(".png", "_boxes.png")).width >= image.shape[-1]
    assert list((config.folder / "checkpoints").iterdir()), "what was saved before stays"


def test_a_batch_that_cannot_be_kept_does_not_hide_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    batch: Any = ([torch.zeros(3, 8, 8, dtype=torch.uint8)], [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}])
    assert keep_batches(tmp_path / "file", [batch], {}, ["a"], "broken", step=1) is None


def test_the_mean_of_the_last_epochs_competes_for_the_best(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends: list[dict[str, torch.Tensor]] = []
    plain = Trainer._train_epoch

    def train_epoch(self: Trainer, epoch: int) -> None:
        plain(self, epoch)
        ends.append({name: value.clone() for name, value in self.model.state_dict().items()})

    aps = iter([0.3, 0.2, 0.1, 0.4])  # three epochs, then the mean
    monkeypatch.setattr(Trainer, "_train_epoch", train_epoch)
    evaluation = train(replace(config, epochs=1, out=config.folder.with_name("real")))
    ends.clear()
    monkeypatch.setattr(
        "dyzoo.training.validation.evaluate_together",
        lambda model, *rest, **settings: replace(evaluation, metrics={**evaluation.metrics, "AP": next(aps, 0.0)}),
    )
    trainer = Trainer(replace(config, epochs=3, average_last=2))
    trainer.run()
    assert "mean of the weights of the last 2 epochs: AP 0.4000, the best so far" in capsys.readouterr().out
    best = load_model(config.folder).state_dict()
    for name, value in best.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (ends[1][name] + ends[2][name]) / 2, rtol=1e-4, atol=1e-6)


def test_the_mean_goes_on_after_an_interruption(config: TrainConfig) -> None:
    whole = Trainer(replace(config, epochs=3, average_last=2, out=config.folder / "whole"))
    whole.run()
    parts = replace(config, epochs=3, average_last=2, out=config.folder / "parts")

    class Interrupted(Exception):
        pass

    first = Trainer(parts)
    plain, calls = first._run_epoch, []

    def run_epoch(epoch: int) -> None:
        plain(epoch)
        calls.append(epoch)
        if epoch == 2:
            raise Interrupted

    first._run_epoch = run_epoch  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        first.run()
    second = Trainer(replace(parts, resume=True))
    second.run()
    assert whole.state.average is not None
    assert second.state.average is not None
    assert int(second.state.average.n_averaged) == 2
    for one, other in zip(whole.state.average.parameters(), second.state.average.parameters(), strict=True):
        assert torch.equal(one, other)


class FakeRun:
    id = "abc123"

    def __init__(self) -> None:
        self.logged: list[tuple[int | None, dict[str, float]]] = []
        self.finished = False
        self.breaks_at: int | None = None

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        if step == self.breaks_at:
            raise RuntimeError("the service is gone")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A module in the place of W&B's, which need not be installed."""
    module: Any = ModuleType("wandb")
    module.run = FakeRun()
    module.calls = []

    def init(**settings: Any) -> FakeRun:
        module.calls.append(settings)
        return module.run

    module.init = init
    monkeypatch.setitem(__import__("sys").modules, "wandb", module)
    monkeypatch.setattr(report, "find_spec", lambda name: object())
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no netrc
    return module


def test_weights_and_biases_gets_the_rows_if_it_is_there(
    config: TrainConfig, wandb: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    assert [step for step, _ in wandb.run.logged] == [1, 2]
    assert {"loss", "AP", "lr"} <= set(wandb.run.logged[1][1])
    assert wandb.run.finished
    (settings,) = wandb.calls
    assert settings["mode"] == "offline"  # nobody is logged in, and nobody is asked
    assert settings["config"]["epochs"] == 2
    assert "offline" in capsys.readouterr().out
    train(replace(config, epochs=3, resume=True))
    assert wandb.calls[1]["id"] == "abc123", "a resumed run is the same run"


def test_weights_and_biases_that_fails_does_not_end_a_run(
    config: TrainConfig, wandb: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.run.breaks_at = 1
    train(config)
    assert "left out from here on: the service is gone" in capsys.readouterr().out
    assert wandb.run.logged == []


def test_a_login_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    assert report.wandb_mode() == "offline"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    os.chmod(tmp_path / ".netrc", 0o600)  # noqa: PTH101
    assert report.wandb_mode() is None
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert report.wandb_mode() == "offline"
