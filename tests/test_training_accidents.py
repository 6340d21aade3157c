"""What happens to a run from outside: workers that die, images that go, a second run, remains of a killed one."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dyzoo.cli import run
from dyzoo.data.dataset import DetectionDataset
from dyzoo.errors import TrainingError
from dyzoo.training import TrainConfig, loop, train
from dyzoo.training.engine import Engine
from dyzoo.training.lock import LOCK_NAME, RunLock
from dyzoo.training.loop import Trainer
from dyzoo.training.randomness import random_state
from tests.test_training_resume import assert_same_run, checkpoints, interrupted_at, load, stopped_run
from tests.training_runs import known_models, tiny_run, write_voc


@pytest.fixture
def config(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr("dyzoo.training.setup.model_config", known_models)
    return tiny_run(voc, tmp_path / "run", epochs=3, batch_size=2, ema_decay=0.9, save_every="epoch")


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
        patch.setattr(Engine, "step", interrupted_at(5, kill_the_workers))
        with pytest.raises(
            TrainingError, match=r"read images, was killed \(SIGKILL, .*--workers.*step_00000005.pt is kept, --resume"
        ) as caught:
            train(config)
    assert "\n" not in str(caught.value)
    assert load(checkpoints(config.folder)[-1])["progress"]["steps_done"] == 5
    assert not multiprocessing.active_children()
    train(replace(config, resume=True))
    whole = replace(config, out=config.folder.with_name("whole"))
    train(whole)
    assert_same_run(whole.folder, config.folder)


def test_a_worker_that_dies_during_evaluation_is_one_line(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = loop.evaluate_together

    def evaluate(*arguments: object, **settings: object) -> object:
        kill_the_workers()
        return plain(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "evaluate_together", evaluate)
    with pytest.raises(TrainingError, match=r"was killed \(SIGKILL.*step_00000003.pt is kept"):
        train(replace(config, workers=1))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("when", ["in an epoch", "before the evaluation"])
def test_images_that_go_are_one_line_and_no_step_is_lost(
    tmp_path: Path,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    workers: int,
    when: str,
) -> None:
    data = write_voc(tmp_path / "voc", images=12)
    step = {"in an epoch": 2, "before the evaluation": 6}[when]
    monkeypatch.setattr(Engine, "step", interrupted_at(step, lambda: shutil.rmtree(data / "JPEGImages")))
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

    from dyzoo.errors import DatasetError

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

    monkeypatch.setattr(Engine, "step", interrupted_at(1, start_another))
    train(replace(config, epochs=1))
    whose = f"is in use by another run (process {os.getpid()} on {socket.gethostname()})"
    assert all(whose in refusal and "\n" not in refusal for refusal in refusals)
    assert len(refusals) == 2
    assert not (config.folder / LOCK_NAME).exists()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `tmp_path / "run"`, and has a child of its own."""
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom dyzoo.training.lock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1]))\nlock.take()\n"
        "if not os.fork():\n    time.sleep(60)\n    os._exit(0)\nprint('held', flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_dead_runs_lock_is_taken_over(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """At once, though a process that it had started, such as a worker, lives on."""
    folder = tmp_path / "run"
    with RunLock(folder) as lock, pytest.raises(TrainingError, match=rf"in use by another run \(process {holder.pid} "):
        lock.take()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (folder / LOCK_NAME).exists()
    with RunLock(folder) as lock:
        lock.take()
        assert f"process {os.getpid()} " in (folder / LOCK_NAME).read_text()
        with RunLock(folder) as other, pytest.raises(TrainingError, match="in use"):
            other.take()
        assert (folder / LOCK_NAME).exists()


def test_the_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    for place in (tmp_path / "some" / "run", tmp_path):
        with RunLock(place) as lock:
            lock.take()
            assert (place / LOCK_NAME).is_file()
        assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_does_not_keep_a_run_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with RunLock(tmp_path / "run") as lock:
        lock.take()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_saves_have_left_is_swept(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    again = stopped_run(config, monkeypatch)
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
    again = stopped_run(replace(config, save_every="1"), monkeypatch)
    capsys.readouterr()
    Trainer(again)
    assert (
        "resuming from step_00000004.pt: 4 steps are done, going on with epoch 2 of 3, batch 2 of 3"
        in capsys.readouterr().out.splitlines()
    )
    Trainer(replace(again, epochs=1))
    assert "resuming from step_00000004.pt: 4 steps are done, all 1 epochs" in capsys.readouterr().out
