"""Runs that are cut off in every way, and go on as if they had not been."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dyzoo.errors import TrainingError
from dyzoo.training import TrainConfig, train
from dyzoo.training.checkpoint import FOLDER_NAME
from dyzoo.training.loop import Trainer
from tests.training.stopped_runs import checkpoints, interrupted_at, load, stopped_run
from tests.training.training_runs import known_models, tiny_run

EPOCHS, STEPS = 3, 9  # three steps an epoch

# Imports everything once and forks a process for each attempt: none of them knows anything of the others.
ATTEMPTS = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
import dyzoo.training.setup
from dyzoo.training import TrainConfig, train
from dyzoo.training.loop import Trainer
from tests.training.training_runs import known_models
import dyzoo.model.heads.atss, torch.utils.tensorboard

def noisy_losses(self, raw, targets, image_sizes=()):  # draws from PyTorch's generator, as Faster R-CNN does
    losses = plain_losses(self, raw, targets, image_sizes)
    return {**losses, "loss_box": losses["loss_box"] * (0.5 + torch.rand(()))}

plain_losses = dyzoo.model.heads.atss.ATSSHead.losses
dyzoo.model.heads.atss.ATSSHead.losses = noisy_losses
plain_step = Trainer.step
dyzoo.training.setup.model_config = known_models
voc, *plans = sys.argv[1:]
for number, plan in enumerate(plans):
    out, workers, *kills = plan.split(",")
    for kill in (*map(int, kills), 0):
        if (pid := os.fork()) == 0:
            steps = 0
            def step(self, *arguments, **settings):
                global steps
                steps += 1
                if steps == kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                return plain_step(self, *arguments, **settings)
            Trainer.step = step
            torch.manual_seed(100 * number + kill)  # the state of the process must not matter
            config = TrainConfig(
                data=Path(voc), out=Path(out), model="tiny", epochs=3, batch_size=2, size_px=64,
                pretrained_backbone=False, workers=int(workers), precision="fp32", ema_decay=0.9, device="cpu",
                save_every="1", keep=2, resume=(Path(out) / "checkpoints").is_dir(), validate_every=2,
            )
            train(config)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == (-signal.SIGKILL if kill else 0), status
"""


@pytest.fixture
def config(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr("dyzoo.training.setup.model_config", known_models)
    return tiny_run(voc, tmp_path / "run", epochs=EPOCHS, batch_size=2, ema_decay=0.9, save_every="1", keep=2)


def assert_same_run(one: Path, other: Path) -> None:
    """Weights and optimizer bit for bit, and the same rows in every file."""
    expected, found = (load(checkpoints(run)[-1]) for run in (one, other))
    for part in ("model", "ema"):
        assert all(torch.equal(value, found["parts"][part][name]) for name, value in expected["parts"][part].items())
    moments = [state["parts"]["optimizer"]["state"] for state in (expected, found)]
    assert all(torch.equal(moments[0][key]["exp_avg"], moments[1][key]["exp_avg"]) for key in moments[0])
    assert torch.equal(expected["random"][0]["torch"], found["random"][0]["torch"])
    timed = {"images_per_s", "data_wait"}
    tables = []
    for run in (one, other):
        with (run / "metrics.csv").open() as file:
            tables.append([{k: v for k, v in row.items() if k not in timed} for row in csv.DictReader(file)])
        events = EventAccumulator(str(run / "tensorboard")).Reload().Scalars("loss")
        assert [event.step for event in events] == list(range(1, EPOCHS + 1))
        assert [event.value for event in events] == pytest.approx([float(row["loss"]) for row in tables[-1]], rel=1e-4)
    assert tables[0] == tables[1]
    assert [row["epoch"] for row in tables[0]] == [str(epoch) for epoch in range(1, EPOCHS + 1)]


@pytest.fixture(scope="module")
def killed_runs(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was left alone and one that was killed three times, without and with a worker."""
    folder, draw = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    plans = []
    for workers in (0, 1):
        kills = draw.integers(2, 4, size=3)  # steps into each part; its first is always finished
        plans += [
            f"{folder}/whole_{workers},{workers}",
            f"{folder}/killed_{workers},{workers},{','.join(map(str, kills))}",
        ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    command = [sys.executable, "-c", ATTEMPTS, str(voc), *plans]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_killed_several_times_over_the_end_is_the_same(killed_runs: Path, workers: int) -> None:
    whole, killed = killed_runs / f"whole_{workers}", killed_runs / f"killed_{workers}"
    assert load(checkpoints(killed)[-1])["progress"]["steps_done"] == STEPS
    assert_same_run(whole, killed)


@pytest.mark.parametrize(("number", "left"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_finishes_the_step_and_saves(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, left: type[BaseException]
) -> None:
    config = replace(config, save_every="epoch")
    handler = signal.getsignal(number)
    monkeypatch.setattr(Trainer, "step", interrupted_at(5, lambda: os.kill(os.getpid(), number)))
    with pytest.raises(left) as caught:
        train(config)
    if left is SystemExit:
        assert caught.value.code == 143
    assert signal.getsignal(number) is handler
    progress = load(checkpoints(config.folder)[-1])["progress"]
    assert (progress["epochs_done"], progress["batches_done"], progress["steps_done"]) in {(1, 2, 5), (1, 3, 6)}
    assert not list(config.folder.rglob("*.part"))


def test_a_signal_that_reaches_the_workers_too_finishes_the_step(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun, a terminal and a scheduler send it."""

    def tell_all() -> None:
        workers = multiprocessing.active_children()
        assert workers
        for number in (signal.SIGINT, signal.SIGTERM):
            for worker in workers:
                os.kill(worker.pid or 0, number)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)

    monkeypatch.setattr(Trainer, "step", interrupted_at(2, tell_all))
    with pytest.raises(SystemExit):
        train(replace(config, workers=1))
    assert load(checkpoints(config.folder)[-1])["progress"]["steps_done"] in (2, 3)


def test_a_signal_during_evaluation_keeps_the_epoch(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from dyzoo.training import validation

    plain = validation.evaluate_together
    monkeypatch.setattr(validation, "evaluate_together", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        train(replace(config, save_every="epoch"))
    progress = load(checkpoints(config.folder)[-1])["progress"]
    assert (progress["epochs_done"], progress["batches_done"]) == (0, 3)
    monkeypatch.setattr(validation, "evaluate_together", plain)
    monkeypatch.setattr(Trainer, "step", interrupted_at(1, lambda: pytest.fail("the epoch is trained again")))
    train(replace(config, epochs=1, resume=True))
    assert load(checkpoints(config.folder)[-1])["progress"]["epochs_done"] == 1


@pytest.mark.parametrize("damage", ["emptied", "cut", "a bit turned", "other things"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    again = stopped_run(config, monkeypatch)
    before, newest = checkpoints(config.folder)
    content = bytearray(newest.read_bytes())
    if damage == "a bit turned":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"emptied": b"", "cut": bytes(content[:-100]), "a bit turned": bytes(content)}.get(damage, b""))
    if damage == "other things":
        torch.save({"weights": torch.zeros(3)}, newest)
    assert Trainer(again).progression.steps_done == load(before)["progress"]["steps_done"] == 3
    note = " ".join(capsys.readouterr().out.split())
    assert f"{newest.name} is damaged" in note
    before.write_bytes(b"")
    with pytest.raises(TrainingError, match="is damaged") as caught:
        Trainer(again)
    assert "\n" not in str(caught.value)


def test_only_the_newest_are_kept(config: TrainConfig) -> None:
    train(replace(config, keep=2, epochs=1))
    assert [path.name for path in checkpoints(config.folder)] == ["step_00000002.pt", "step_00000003.pt"]


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def fill() -> None:
        monkeypatch.setattr(torch, "save", lambda state, path: save(state, "/dev/full"))

    monkeypatch.setattr(Trainer, "step", interrupted_at(3, fill))
    with pytest.raises(TrainingError, match=r"cannot be written to .*step_00000002.pt is kept") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert load(checkpoints(config.folder)[-1])["progress"]["steps_done"] == 2
    assert not list(config.folder.rglob("*.part"))


def test_a_folder_that_cannot_be_written_to_is_one_line(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="cannot be written to") as caught:
        train(replace(config, out=tmp_path / "file" / "run"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"batch_size": 3}, {"seed": 4}, {"accumulate": 2}])
def test_settings_that_move_the_position_are_refused(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, change: dict[str, int]
) -> None:
    again = stopped_run(config, monkeypatch)
    with pytest.raises(TrainingError, match="resume with the run's own settings"):
        Trainer(replace(again, **change))  # type: ignore[arg-type]


def test_another_model_is_refused(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    again = stopped_run(config, monkeypatch, step=2)
    with pytest.raises(TrainingError, match="of another model"):
        Trainer(replace(again, model="dyhead_atss_resnet10t"))
    with pytest.raises(TrainingError, match="this run has model, optimizer"):
        Trainer(replace(again, ema_decay=0.0))


def test_an_existing_run_is_not_overwritten(config: TrainConfig) -> None:
    precious = config.folder / FOLDER_NAME / "step_00000007.pt"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"precious")
    with pytest.raises(TrainingError, match="--resume"):
        train(config)
    assert precious.read_bytes() == b"precious"


def test_resuming_nothing_or_an_old_run_is_one_line(config: TrainConfig) -> None:
    for problem in ("has no checkpoints to resume from", "earlier dyzoo"):
        with pytest.raises(TrainingError, match=problem) as caught:
            train(replace(config, resume=True))
        assert "\n" not in str(caught.value)
        config.folder.mkdir(exist_ok=True)
        (config.folder / "last.pt").write_bytes(b"")


def test_a_state_with_pickled_code_is_refused_unexecuted(config: TrainConfig, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    path = config.folder / FOLDER_NAME / "step_00000001.pt"
    path.parent.mkdir(parents=True)
    torch.save({"parts": Payload()}, path)
    with pytest.raises(TrainingError, match="is damaged or no checkpoint"):
        train(replace(config, resume=True))
    assert not (tmp_path / "executed").exists()
