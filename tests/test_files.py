import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dyzoo.files import open_regular, read_regular, replacing, write_text


def test_a_failed_write_leaves_the_old_content_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail_half_way() -> None:
        with replacing(path) as aside:
            aside.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_target_is_untouched_until_the_write_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with replacing(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_a_file_has_the_users_permissions_whoever_writes_it(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with replacing(tmp_path / "model.safetensors") as aside:
        save_file({"a": torch.zeros(1)}, aside)
        aside.chmod(0o600)
    assert (tmp_path / "model.safetensors").stat().st_mode == plain.stat().st_mode


# --- what is there already and is no plain file ----------------------------------------------------------------------


def make_device(path: Path, major: int, minor: int) -> Path:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        path.open("wb").close()
    except OSError:
        pytest.skip("this user may not make a device")
    return path


def make_fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def make_socket(path: Path) -> Path:
    socket.socket(socket.AF_UNIX).bind(str(path))
    return path


def test_a_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    null = make_device(tmp_path / "null", 1, 3)
    write_text(null, "gone")
    assert stat.S_ISCHR(null.stat().st_mode)
    assert list(tmp_path.iterdir()) == [null]


def test_a_full_device_is_one_error_that_names_it(tmp_path: Path) -> None:
    full = make_device(tmp_path / "full", 1, 7)
    with pytest.raises(OSError, match="No space left") as caught:
        write_text(full, "text")
    assert caught.value.filename == str(full)
    assert stat.S_ISCHR(full.stat().st_mode)


@pytest.mark.parametrize("linked", [False, True])
def test_a_fifo_gives_its_reader_all_and_stays_one(tmp_path: Path, linked: bool) -> None:
    fifo = make_fifo(tmp_path / "fifo")
    target = fifo
    if linked:
        target = tmp_path / "link"
        target.symlink_to("fifo")
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append(fifo.read_text()))
    reader.start()
    write_text(target, "text" * 50_000)
    reader.join(20)
    assert heard == ["text" * 50_000]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("through", ["file", "pipe"])
def test_the_standard_output_can_be_written_to_by_its_name(tmp_path: Path, through: str) -> None:
    code = (
        "from dyzoo.files import write_text\nprint('before', flush=True)\n"
        "write_text('/dev/stdout', 'text\\n')\nprint('after')"
    )
    with (tmp_path / "out").open("wb") as out:
        command = [sys.executable, "-c", code]
        process = subprocess.run(command, stdout=out if through == "file" else subprocess.PIPE, check=True)
    written = (tmp_path / "out").read_bytes() if through == "file" else process.stdout
    assert written == b"before\ntext\nafter\n"


@pytest.mark.parametrize("links", [["link"], ["second", "link"]])
def test_what_a_link_points_to_is_written_not_the_link(tmp_path: Path, links: list[str]) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "file.txt"
    target.write_text("old")
    path = target
    for name in links:
        (tmp_path / name).symlink_to(os.path.relpath(path, tmp_path))
        path = tmp_path / name
    with replacing(path) as aside:
        assert aside.parent.samefile(target.parent), "or it could not be renamed on another disk"
        aside.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert path.is_symlink()
    assert [each.name for each in target.parent.iterdir()] == ["file.txt"]


def test_a_link_to_a_file_that_is_not_there_yet_makes_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "new.txt")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "new.txt").read_text() == "text"


def loop(folder: Path) -> Path:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    return folder / "a"


def link_into_nowhere(folder: Path) -> Path:
    (folder / "a").symlink_to(folder / "absent" / "file")
    return folder / "a"


def folder_in_its_place(folder: Path) -> Path:
    (folder / "a").mkdir()
    return folder / "a"


def file_for_a_folder(folder: Path) -> Path:
    (folder / "a").touch()
    return folder / "a" / "b"


def name_too_long(folder: Path) -> Path:
    return folder / ("x" * 256)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (loop, "leads in a circle"),
        (link_into_nowhere, "whose folder does not exist"),
        (folder_in_its_place, "is a folder, expected a file"),
        (file_for_a_folder, "exists"),
        (name_too_long, "too long"),
        (make_socket, "No such device"),
    ],
)
def test_what_cannot_be_written_is_named_and_stays(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    path = make(tmp_path / "socket" if make is make_socket else tmp_path)
    before = {each.name: each.lstat().st_mode for each in tmp_path.iterdir()}
    with pytest.raises(OSError, match=words) as caught:
        write_text(path, "text")
    assert str(caught.value.filename) in (str(path), str(path.parent))
    assert {each.name: each.lstat().st_mode for each in tmp_path.iterdir()} == before


@pytest.mark.parametrize("length", [240, 251, 255])
def test_the_longest_names_can_be_written(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("ü" * (length // 2) + "x" * (length % 2))
    write_text(path, "text")
    assert path.read_text() == "text"
    assert list(tmp_path.iterdir()) == [path]


def test_half_a_surrogate_pair_is_written_as_json_spells_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", json.dumps("ü\udc80", ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == "ü\udc80"


@pytest.mark.parametrize("make", [make_fifo, make_socket, lambda path: make_device(path, 1, 5)])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_not_opened_for_reading(tmp_path: Path, make: Callable[[Path], Path], linked: bool) -> None:
    path = make(tmp_path / "odd")
    if linked:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    with pytest.raises(OSError, match="no regular file"):
        open_regular(path)


def test_a_file_is_opened_for_reading(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with open_regular(tmp_path / "a") as opened:
        assert opened.read() == b"content"
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_only_regular_files_are_read_and_no_more_than_may_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes, expected at most 4"):
        read_regular(path, 4)
    path.unlink()
    os.mkfifo(path)
    for other, fault in ((path, "no regular file"), (Path("/dev/zero"), "no regular file"), (tmp_path, "a folder")):
        with pytest.raises(OSError, match=fault):
            read_regular(other, 5)
    assert read_regular(Path("/proc/kmsg"), 5) == b"", "opening it would wait for the kernel"
