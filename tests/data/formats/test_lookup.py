"""Finding and reading the files that a stranger's label files speak of."""

from __future__ import annotations

import os
import socket
import unicodedata
from pathlib import Path

import pytest

from dyzoo.data import open_dataset
from dyzoo.data.formats.lookup import (
    find_by_tail,
    find_file,
    is_folder,
    is_regular,
    leads_outside,
    lies_below,
    read_own_text,
    read_regular,
    read_text_file,
    resolves_below,
)
from dyzoo.errors import DatasetError
from tests.data.data_builders import coco_tables, write_coco, write_lines


def test_text_of_a_file_and_through_a_link(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfgr\xc3\xbc\xc3\x9fe")
    (tmp_path / "link.txt").symlink_to(path)
    assert read_text_file(path) == read_text_file(tmp_path / "link.txt") == "grüße"
    assert read_regular(path, most_bytes=10)[:3] == b"\xef\xbb\xbf"
    with pytest.raises(DatasetError, match=r"a\.txt is too large: 10 bytes, expected at most 9"):
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


def test_a_link_to_the_file_of_somebody_else_is_not_read(tmp_path: Path) -> None:
    write_lines(tmp_path / "private", "secret")
    folder = tmp_path / "set"
    own = write_lines(folder / "deep" / "names.txt", "cat")
    (folder / "own.txt").symlink_to(own)
    (folder / "other.txt").symlink_to(tmp_path / "private")
    (folder / "through").symlink_to(tmp_path)
    assert read_own_text(folder / "own.txt", [folder]) == "cat\n"
    for name in ("other.txt", "through/private"):
        with pytest.raises(DatasetError, match=r"is a link out of .*set: put a copy of the file in its place"):
            read_own_text(folder / name, [folder])
    with pytest.raises(FileNotFoundError):
        read_own_text(folder / "gone.txt", [folder])


def test_the_cache_of_the_hub_links_to_files_of_its_own(tmp_path: Path) -> None:
    blob = write_lines(tmp_path / "blobs" / "0123", "cat")
    folder = tmp_path / "snapshots" / "abcd"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "names.txt").symlink_to(blob)
    for home in (folder, folder / "sub"):
        assert read_own_text(folder / "sub" / "names.txt", [home]) == "cat\n"
    assert not resolves_below(tmp_path / "else", [folder])


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("a/b.jpg", False),
        ("a/../b", True),
        ("..\\b", True),
        ("/a", True),
        ("C:b", True),
        ("\\\\h\\s", True),
        ("..a", False),
    ],
)
def test_names_that_lead_outside(name: str, outside: bool) -> None:
    assert leads_outside(name) == outside


def test_below_is_said_of_whole_names(tmp_path: Path) -> None:
    assert lies_below(tmp_path / "set" / ".." / "set" / "a", [tmp_path / "set"])
    assert lies_below(tmp_path, [Path("/")])
    assert not lies_below(tmp_path / "set2" / "a", [tmp_path / "set"])
    assert not lies_below(tmp_path / "set" / ".." / "a", [tmp_path / "set"])


@pytest.mark.parametrize(("on_disk", "wanted"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_found_in_either_spelling(on_disk: str, wanted: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / unicodedata.normalize(on_disk, "Größe/é.jpg"))
    name = unicodedata.normalize(wanted, "Größe/é.jpg")
    assert find_file(name, [tmp_path]) == find_by_tail(f"/home/somebody/{name}", [tmp_path]) == path
    mixed = unicodedata.normalize(on_disk, "Größe") + unicodedata.normalize(wanted, "/é.jpg")
    assert find_file(mixed, [tmp_path]) == path
    assert find_file(unicodedata.normalize(wanted, "Größe"), [tmp_path], is_folder) == path.parent
    assert find_file(unicodedata.normalize(wanted, "ö.jpg"), [tmp_path]) is None


def test_a_json_of_another_system_finds_the_files_of_a_mac(tmp_path: Path) -> None:
    tables = coco_tables()
    tables["images"][0]["file_name"] = unicodedata.normalize("NFC", "Größe.jpg")
    write_coco(tmp_path, tables)
    image = tmp_path / "train" / unicodedata.normalize("NFD", "Größe.jpg")
    (tmp_path / "train" / "a.jpg").rename(image)
    dataset = open_dataset(tmp_path)
    assert dataset.samples[0].image_path == image
    assert dataset.notes == []
