"""`dyzoo predict` keeps its results through stops, full disks, and odd images and pictures."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dyzoo.images.sources import single
from tests.cli.cli_helpers import Cli, write_picture

JSONL, JSON = Path("predictions/detections.jsonl"), Path("predictions/detections.json")


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in JSONL.read_text().splitlines()]


def names_in_json(path: Path = JSON) -> list[str]:
    return [Path(image["path"]).name for image in json.loads(path.read_text())["images"]]


def stop_at(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Let reading that picture end the command."""
    read = single.read_picture

    def stopping(path: Path, *arguments: Any) -> Any:
        if Path(path).name == name:
            raise error
        return read(path, *arguments)

    monkeypatch.setattr(single, "read_picture", stopping)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in "abcd":
        write_picture(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def test_each_line_stands_alone_and_the_json_is_made_of_them(cli: Cli, tiny_model: Path, photos: Path) -> None:
    assert cli("predict", photos, "-m", tiny_model, "-t", 0.01).code == 0
    whole = json.loads(JSON.read_text())
    assert JSON.read_text() == json.dumps(whole, indent=2) + "\n"
    settings = {name: whole[name] for name in ("model", "threshold", "flips", "size")}
    pictures = [f"{name}.png" for name in "abcd"]
    assert rows() == [
        {**settings, **image, "stem": Path(picture).stem, "picture": picture}
        for image, picture in zip(whole["images"], pictures, strict=True)
    ]
    assert whole["images"][0]["detections"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error", "disk")])
def test_a_stopped_run_keeps_what_is_done_and_resumes_to_the_same_answers(
    cli: Cli, tiny_model: Path, photos: Path, error: BaseException
) -> None:
    assert cli("predict", photos, "-m", tiny_model, "--out", "whole").code == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "c.png", error)
        outcome = cli("predict", photos, "-m", tiny_model)
    assert outcome.code in (1, 130)
    assert "2 of 4 images are in predictions/detections.jsonl: --resume goes on" in outcome.err
    assert len(rows()) == 2
    assert not JSON.exists()
    before = (Path("predictions") / "a.png").stat().st_mtime_ns
    JSONL.write_bytes(JSONL.read_bytes() + b'{"model": "tin')  # of a line that a killed process did not finish
    outcome = cli("predict", photos, "-m", tiny_model, "--resume")
    assert (outcome.code, outcome.err) == (0, "note: 2 of 4 images are in predictions/detections.jsonl already\n")
    assert JSON.read_bytes() == Path("whole/detections.json").read_bytes()
    assert (Path("predictions") / "a.png").stat().st_mtime_ns == before
    assert sorted(path.name for path in Path("predictions").glob("*.png")) == ["a.png", "b.png", "c.png", "d.png"]


def test_a_killed_process_leaves_what_is_done(tmp_path: Path, tiny_model: Path, photos: Path) -> None:
    code = (
        "import os, signal, dyzoo.cli\nfrom PIL import Image\nsave = Image.Image.save\n"
        "def kill(image, path, **options):\n"
        "    if 'c.png' in str(path):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    save(image, path, **options)\n"
        "Image.Image.save = kill\n"
        f"dyzoo.cli.run(['predict', 'photos', '--model', {str(tiny_model)!r}])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    lines = (tmp_path / JSONL).read_text().splitlines()
    assert [Path(json.loads(line)["path"]).name for line in lines] == ["a.png", "b.png"]


def test_resuming_goes_into_a_folder_that_has_grown(cli: Cli, tiny_model: Path, photos: Path) -> None:
    assert cli("predict", photos, "-m", tiny_model, "--resume").code == 0, "also from nothing"
    write_picture(photos / "sub" / "A.jpg")
    (photos / "b.png").unlink()
    assert cli("predict", photos, photos / "sub", "-m", tiny_model, "--resume").code == 0
    assert names_in_json() == ["a.png", "b.png", "c.png", "d.png", "A.jpg"]
    assert rows()[-1]["picture"] == "A_2.png", "a.png is that of an image done before"


def test_resuming_with_other_settings_is_refused_and_a_new_run_begins_anew(
    cli: Cli, tiny_model: Path, photos: Path
) -> None:
    assert cli("predict", photos, "-m", tiny_model).code == 0
    before = JSONL.read_bytes()
    outcome = cli("predict", photos, "-m", tiny_model, "--resume", "--threshold", 0.5)
    assert outcome.code == 1
    assert outcome.err.startswith("error: predictions/detections.jsonl was made with threshold 0.3, not 0.5: ")
    assert JSONL.read_bytes() == before
    assert cli("predict", photos / "a.png", "-m", tiny_model, "--threshold", 0.5).code == 0
    assert [row["threshold"] for row in rows()] == [0.5]


def test_a_full_disk_ends_the_run_in_one_line(
    cli: Cli, tiny_model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Image.Image.save

    def full(image: Image.Image, path: Path, **options: Any) -> None:
        if "c.png" in Path(path).name:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    outcome = cli("predict", photos, "-m", tiny_model)
    assert outcome.code == 1
    note, error = outcome.err.splitlines()
    assert note == "note: 2 of 4 images are in predictions/detections.jsonl: --resume goes on"
    assert error == "error: predictions/c.png: No space left on device"
    assert [Path(row["path"]).name for row in rows()] == ["a.png", "b.png"]


def test_a_picture_that_cannot_be_written_costs_no_detections(cli: Cli, tiny_model: Path, photos: Path) -> None:
    (Path("predictions") / "b.png").mkdir(parents=True)
    outcome = cli("predict", photos, "-m", tiny_model)
    assert outcome.code == 1
    assert outcome.err == "error: predictions/b.png cannot be written: is a folder, expected a file to write to\n"
    assert names_in_json() == ["a.png", "b.png", "c.png", "d.png"]
    assert [row["picture"] for row in rows()] == ["a.png", None, "c.png", "d.png"]


# --- one bad input among many -----------------------------------------------------------------------------------------


def fifo(path: Path) -> str:
    os.mkfifo(path)
    return "no regular file"


def socket_file(path: Path) -> str:
    socket.socket(socket.AF_UNIX).bind(str(path))
    return "no regular file"


def circle(path: Path) -> str:
    path.symlink_to(path.name)
    return "symbolic links"


def into_nowhere(path: Path) -> str:
    path.symlink_to("absent")
    return "no such file"


ODD: dict[str, Callable[[Path], str]] = {
    "fifo.png": fifo,
    "socket.png": socket_file,
    "circle.png": circle,
    "nowhere.png": into_nowhere,
    "n" * 300 + ".png": lambda path: "too long",
    "5" * 5000: lambda path: "too long",
    "~nobody-of-that-name/a.png": lambda path: "no such file",
}


def test_odd_inputs_do_not_end_the_batch(cli: Cli, tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    reasons = [make(tmp_path / name) for name, make in ODD.items()]
    outcome = cli("predict", *ODD, photos, "-m", tiny_model)
    assert outcome.code == 1
    lines = outcome.err.splitlines()
    assert len(lines) == len(ODD)
    for name, reason in zip(ODD, reasons, strict=True):
        assert any(name in line and reason in line for line in lines), (name, lines)
    assert names_in_json() == ["a.png", "b.png", "c.png", "d.png"]


def test_a_glob_passes_over_what_is_no_file(cli: Cli, tiny_model: Path, photos: Path) -> None:
    for name in ("fifo.png", "circle.png", "nowhere.png", "socket.png"):
        ODD[name](photos / name)
    outcome = cli("predict", f"{photos}/*.png", "-m", tiny_model)
    assert (outcome.code, outcome.err) == (0, "")
    assert len(rows()) == 4


STRANGE_NAMES = [
    "n" * 247 + ".png",
    "x" * 254,
    "ü" * 125 + ".png",
    os.fsdecode(b"latin-\xfc.png"),
    "line\nfeed.png",
    "bell\x07\x1b[31m.png",
    "right\u202eto left.png",
    "[red]x[bold]:tm:.png",
    "-dash.png",
]


@pytest.mark.parametrize("name", STRANGE_NAMES, ids=range(len(STRANGE_NAMES)))
def test_strange_names_are_read_written_and_spelt_out(cli: Cli, tiny_model: Path, tmp_path: Path, name: str) -> None:
    content = write_picture(tmp_path / "good.png").read_bytes()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / name).write_bytes(content)
    outcome = cli("predict", *([f"odd/{name}"] if "." not in name else ["odd"]), "-m", tiny_model, "-t", 0.01)
    assert (outcome.code, outcome.err) == (0, "")
    assert json.loads(JSON.read_text())["images"][0]["path"] == f"odd/{name}"
    assert len(list(Path("predictions").glob("*.png"))) == 1
    assert all(letter.isprintable() for line in outcome.out.split("\n") for letter in line)
    assert outcome.out.count("\n") == len(outcome.out.splitlines())
    if "red" in name:
        assert outcome.out.count("[red]x[bold]:tm:") >= 3, "in the line and over the table"


def test_a_terminal_of_ascii_ends_nothing(tmp_path: Path, tiny_model: Path) -> None:
    for name in ("ü.png", "a.png"):
        write_picture(tmp_path / name)
    process = subprocess.run(
        [sys.executable, "-m", "dyzoo", "predict", "ü.png", "a.png", "-m", str(tiny_model)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, b"")
    assert rb"\xfc.png" in process.stdout
    assert (tmp_path / "predictions" / "ü.png").is_file()


def test_json_goes_into_a_device_and_through_a_link(cli: Cli, tiny_model: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    assert cli("predict", picture, "-m", tiny_model, "--json", "link.json").code == 0
    assert Path("link.json").is_symlink()
    assert names_in_json(tmp_path / "real.json") == ["good.png"]
    try:
        os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        Path("null").open("wb").close()
    except OSError:
        pytest.skip("this user may not make a device")
    assert cli("predict", picture, "-m", tiny_model, "--json", "null").code == 0
    assert stat.S_ISCHR(Path("null").stat().st_mode)


@pytest.mark.parametrize(("path", "code", "words"), [("folder", 1, "is a folder"), (str(JSONL), 2, "line by line")])
def test_a_json_path_of_no_use_is_said_before_the_work(
    cli: Cli, tiny_model: Path, picture: Path, path: str, code: int, words: str
) -> None:
    Path("folder").mkdir()
    outcome = cli("predict", picture, "-m", tiny_model, "--json", path)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (code, "", 1)
    assert words in outcome.err


@pytest.mark.parametrize("size", ["16385", "100000", "9" * 5000])
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_size_out_of_proportion_is_one_line(cli: Cli, tiny_model: Path, voc: Path, command: str, size: str) -> None:
    arguments = [voc / "JPEGImages"] if command == "predict" else ["--data", voc]
    outcome = cli(command, *arguments, "-m", tiny_model, "--size", size)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "is too large, expected at most 16384 pixels" in outcome.err


def test_an_image_above_the_limit_is_named_and_an_option_lifts_it(
    cli: Cli, tiny_model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
    monkeypatch.setattr("dyzoo.images.reading.MAX_PIXELS", 5_000)
    outcome = cli("predict", photos / "a.png", "-m", tiny_model)
    assert outcome.code == 1
    assert "photos/a.png has 96 x 64 pixels" in outcome.err
    assert "--max-pixels" in outcome.err
    assert cli("predict", photos / "a.png", "-m", tiny_model, "--max-pixels", 10_000).code == 0
