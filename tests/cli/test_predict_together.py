"""`dyzoo predict` in several processes, as a launcher starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.cli_helpers import Cli, Outcome, assert_one_error, write_picture

TIMEOUT_S = 120
OPTIONS = ("--size", 96, "--threshold", 0.01, "--save", "json,coco,yolo,csv", "--device", "cpu", "--tiles", "off")
KILLED_AT = """\
import os, signal, sys, dyzoo.cli, dyzoo.images.reading
read = dyzoo.images.reading.read_picture
def kill(path, *rest):
    if path.name == {name!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path, *rest)
dyzoo.images.reading.read_picture = kill
dyzoo.cli.main(sys.argv[1:])
"""


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def launch(count: int, folder: Path, *arguments: object, program: Sequence[str] = ("-m", "dyzoo")) -> list[Outcome]:
    """Run the command in processes of one group, none of which anybody ends but itself."""
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = [
        subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            cwd=folder,
            env={**os.environ, **{name: str(v) for name, v in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        said = [process.communicate(timeout=TIMEOUT_S) for process in started]
    finally:
        for process in started:
            process.kill()
    return [Outcome(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(4):
        write_picture(tmp_path / "photos" / f"{number}.png", (96 + number, 64))
    write_picture(tmp_path / "photos" / "more" / "1.png")
    (tmp_path / "photos" / "broken.png").write_text("no picture")
    return tmp_path / "photos"


@pytest.mark.slow  # three starts of Python with torch, by torchrun, which is what users type
def test_torchrun_gives_what_one_process_gives(cli: Cli, photos: Path, tmp_path: Path) -> None:
    """The embedded detector; a broken picture in the share of the second process is the exit code of the whole."""
    assert cli("predict", photos, "photos/more", *OPTIONS, "--out", "one").code == 1
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    words = ["predict", photos, "photos/more", *OPTIONS, "--out", "two"]
    done = subprocess.run(
        [*command, "-m", "dyzoo", *map(str, words)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert done.stdout.count("all detections: two/detections.json\n") == 1, "one process prints"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: process ")
    assert "broken.png is not an image" in line


@pytest.mark.parametrize("again", [1, 2], ids="resumed by {}".format)
@pytest.mark.slow  # two starts of Python with torch, at once, and two more where two processes resume
def test_a_killed_process_keeps_nobody_waiting_and_its_shard_is_taken_up(
    cli: Cli, tiny_model: Path, photos: Path, tmp_path: Path, again: int
) -> None:
    (photos / "broken.png").unlink()
    words = ("predict", photos, "photos/more", "--model", tiny_model, *OPTIONS)
    assert cli(*words, "--out", "one").code == 0
    first, killed = launch(
        2, tmp_path, *words, "--out", "two", "--workers", 0, program=["-c", KILLED_AT.format(name="3.png")]
    )
    assert killed.code == -9
    assert first.code == 1
    errors = [line for line in first.err.splitlines() if line.startswith("error: ")]
    assert errors == ["error: process 0: another process has ended before its work was done: --resume goes on"]
    left = {name for name in contents(tmp_path / "two") if name.startswith("detections")}
    assert left == {"detections.0of2.jsonl", "detections.1of2.jsonl"}
    before = (tmp_path / "two" / "1.png").stat().st_mtime_ns
    if again == 1:
        assert cli(*words, "--out", "two", "--resume").code == 0
    else:
        assert [outcome.code for outcome in launch(2, tmp_path, *words, "--out", "two", "--resume")] == [0, 0]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert (tmp_path / "two" / "1.png").stat().st_mtime_ns == before, "what the killed one had done is not done again"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the second of two, before they look for each other."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)


@pytest.mark.usefixtures("launched")
def test_a_window_for_several_processes_is_refused(cli: Cli, picture: Path) -> None:
    outcome = cli("predict", picture, "--show")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith("error: process 1: Invalid value for --show: 2 processes have no window in common")


@pytest.mark.usefixtures("launched")
def test_processes_that_do_not_find_each_other_say_so(cli: Cli, picture: Path, tiny_model: Path) -> None:
    outcome = cli("predict", picture, "--model", tiny_model, "--device", "cpu")
    assert_one_error(outcome, "process 1: launched as 2 processes, which do not find each other: ", "MASTER_ADDR")


@pytest.mark.slow  # two starts of Python with torch
def test_what_the_main_process_cannot_do_is_said_once(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    """An earlier run had other settings, which the main process alone looks at."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "detections.0of3.jsonl").write_text("no journal\n")
    outcomes = launch(2, tmp_path, "predict", photos, "-m", tiny_model, "--device", "cpu", "-o", "out", "--resume")
    assert_one_error(outcomes[0], "process 0: out/detections.0of3.jsonl line 1 is not of `dyzoo predict`")
    assert outcomes[1] == Outcome(1, "", "")
    assert (tmp_path / "out" / "detections.0of3.jsonl").read_text() == "no journal\n"
