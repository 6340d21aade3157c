"""Accidents of a run from outside: workers that die, images that go, a second run, remains of a killed one."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dyzoo.cli import run
from dyzoo.data.dataset import DetectionDataset
from dyzoo.errors import DatasetError, TrainingError
from dyzoo.locks import LOCK_NAME
from dyzoo.training import TrainConfig, train
from dyzoo.training.checkpoint import Checkpoints
from dyzoo.training.loop import Trainer
from dyzoo.training.randomness import random_state
from dyzoo.training.validation import Validation
from tests.training.stopped_runs import checkpoints, interrupted_at, load, stopped_run
from tests.training.training_runs import known_models, tiny_run, write_voc


@pytest.fixture
def config(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr("dyzoo.training.setup.model_config", known_models)
    return tiny_run(voc, tmp_path / "run", epochs=1, batch_size=2, ema_decay=0.9, save_every="epoch")


def kill_the_workers() -> None:
    workers = multiprocessing.active_children()
    assert workers
    for worker in workers:
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join()


def test_a_killed_worker_is_one_line_and_no_step_is_lost(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system kills one when memory runs out. The run that goes on ends as one that was left alone."""
    config = replace(config, workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted_at(2, kill_the_workers))
        with pytest.raises(
            TrainingError, match=r"read images, was killed \(SIGKILL, .*--workers.*step_00000002.pt is kept, --resume"
        ) as caught:
            train(config)
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()
    monkeypatch.setattr(Validation, "evaluate_best", lambda self: None)
    whole = replace(config, out=config.folder.with_name("whole"))
    for settings in (replace(config, resume=True), whole):
        train(settings)
    states = [load(checkpoints(run)[-1]) for run in (whole.folder, config.folder)]
    expected, found = (state["parts"] for state in states)
    assert torch.equal(*(state["random"][0]["torch"] for state in states))
    for part in ("model", "ema"):
        assert all(torch.equal(value, found[part][name]) for name, value in expected[part].items())


def test_a_worker_that_dies_between_the_epochs_is_one_line(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Checkpoints.save

    def save(self: Checkpoints, *arguments: Any) -> None:
        plain(self, *arguments)
        kill_the_workers()

    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.raises(TrainingError, match=r"was killed \(SIGKILL.*step_00000003.pt is kept"):
        train(replace(config, workers=1, epochs=2, validate_every=2))


@pytest.mark.parametrize(("when", "workers"), [("in an epoch", 0), ("in an epoch", 1), ("before the evaluation", 0)])
def test_images_that_go_are_one_line_and_no_step_is_lost(
    tmp_path: Path,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    when: str,
    workers: int,
) -> None:
    data = write_voc(tmp_path / "voc", images=12)
    step = {"in an epoch": 2, "before the evaluation": 6}[when]
    monkeypatch.setattr(Trainer, "step", interrupted_at(step, lambda: shutil.rmtree(data / "JPEGImages")))
    arguments = f"--out {config.folder} --model tiny --batch-size 2 --size 64 --no-pretrained-backbone --device cpu"
    code = run(["train", "--data", str(data), *arguments.split(), "--epochs", "1", "--workers", str(workers)])
    assert code == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: none of the 12 images can be read: ")
    (newest,) = checkpoints(config.folder)
    assert f"{newest} is kept, --resume goes on from it" in error
    assert step <= load(newest)["progress"]["steps_done"] <= 6


def test_images_that_were_never_there_leave_nothing_to_resume(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: DetectionDataset, index: int) -> None:
        raise DatasetError("gone")

    monkeypatch.setattr(DetectionDataset, "load", fail)
    with pytest.raises(TrainingError, match="gone; nothing is saved yet"):
        train(config)
    assert not (config.folder / "checkpoints").exists()


# --- a second run -----------------------------------------------------------------------------------------------------


def test_a_second_run_is_refused_while_the_first_is_alive(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it would resume or not, and however little the first has written."""
    refusals = []

    def start_another() -> None:
        for resume in (False, True):
            with pytest.raises(TrainingError) as caught:
                train(replace(config, resume=resume))
            refusals.append(str(caught.value))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted_at(1, start_another))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    whose = f"is in use by another run (process {os.getpid()} on {socket.gethostname()})"
    assert all(whose in refusal and "\n" not in refusal for refusal in refusals)
    assert len(refusals) == 2
    assert not (config.folder / LOCK_NAME).exists()


def test_what_killed_saves_have_left_is_swept(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    again = stopped_run(replace(config, save_every="1"), monkeypatch, step=2)
    folder = config.folder
    remains = [
        folder / ".report.html.part",
        folder / "best" / ".model.safetensors.part",
        folder / "checkpoints" / ".step_00000099.pt.part",
        folder / "evaluation" / ".metrics.json.part",
        folder / "not_finite" / "step_1_process_0" / ".batch.json.part",
    ]
    mine = folder / "notes" / ".mine.part"
    for path in (*remains, mine):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    with pytest.raises(TrainingError, match="holds a run already"):
        train(replace(again, resume=False))
    assert [path for path in remains if path.exists()] == []
    assert mine.exists()


# --- random numbers, and where it goes on -----------------------------------------------------------------------------


def test_all_generators_start_at_the_seed(config: TrainConfig) -> None:
    states = []
    for number, seed in enumerate((1, 1, 2)):
        for generator in (torch.manual_seed, np.random.seed, random.seed):
            generator(number)  # the state of the process must not matter
        Trainer(replace(config, seed=seed))
        state = random_state()
        states.append((state["torch"].tolist(), state["python"], state["numpy"][1].tolist()))
    assert states[0] == states[1]
    assert all(one != other for one, other in zip(states[0], states[2], strict=True))


def test_resuming_says_where_it_goes_on(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again = stopped_run(replace(config, epochs=3, save_every="1"), monkeypatch, step=2)
    capsys.readouterr()
    trainer = Trainer(again)
    lines = capsys.readouterr().out.splitlines()
    assert "resuming from step_00000001.pt: after step 1, with batch 2 of 3 of epoch 1 of 3" in lines
    trainer.progression.epochs_done = 3
    assert trainer.progression.place(3, 3) == "after step 1, the last of 3 epochs"
