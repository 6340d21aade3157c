"""A lock on a folder that nobody has to clean up after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dyzoo.errors import TrainingError
from dyzoo.locks import LOCK_NAME, RunLock


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `tmp_path / "run"`, and has a child of its own that is under way."""
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom dyzoo.locks import RunLock\n"
        "lock = RunLock(Path(sys.argv[1]))\nlock.take()\n"
        "if not os.fork():\n    print('held', flush=True)\n    time.sleep(60)\n    os._exit(0)\ntime.sleep(60)\n"
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
    """It is taken at once, though a process that the dead run had started, such as a worker, lives on."""
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
