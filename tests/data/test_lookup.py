"""Finding and reading the files that a stranger's label files speak of."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dyzoo.data.lookup import is_regular, read_regular, read_text_file
from dyzoo.errors import DatasetError


def test_text_of_a_file_and_through_a_link(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfgr\xc3\xbc\xc3\x9fe")
    (tmp_path / "link.txt").symlink_to(path)
    assert read_text_file(path) == read_text_file(tmp_path / "link.txt") == "grüße"
    assert read_regular(path, most_bytes=10)[:3] == b"\xef\xbb\xbf"
    with pytest.raises(DatasetError, match=r"a\.txt has 10 bytes, expected at most 9"):
        read_text_file(path, most_bytes=9)
    path.write_bytes(b"\xff")
    with pytest.raises(DatasetError, match=r"a\.txt is not a text file"):
        read_text_file(path)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    names = ("fifo", "link", "socket", ".", "loop", "/dev/null", "/dev/zero")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lambda *arguments: pytest.fail(f"opened {arguments[0]}"))
        for name in names:
            assert not is_regular(Path(name))
            with pytest.raises(DatasetError):
                read_text_file(Path(name))
    listener.close()


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="the system has no /proc")
def test_files_that_the_system_makes_up_are_empty() -> None:
    """They claim no bytes, and some never end."""
    assert read_regular(Path("/proc/version")) == b""


@pytest.mark.parametrize("name", ["gone.txt", "a.txt/b.txt"])
def test_an_absent_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(FileNotFoundError):
        read_text_file(tmp_path / name)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "\ud800"])
def test_names_that_no_file_system_takes(name: str, tmp_path: Path) -> None:
    assert not is_regular(tmp_path / name)
    with pytest.raises((DatasetError, FileNotFoundError)):
        read_text_file(tmp_path / name)
