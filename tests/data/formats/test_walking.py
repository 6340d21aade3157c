"""Finding images through links, and not walking in circles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dyzoo.data.formats.walking import files_below, images_below
from dyzoo.data.records import Notes
from dyzoo.errors import DatasetError
from tests.data.data_builders import write_picture


def test_linked_folders_are_read_once_and_circles_are_cut(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "images"
    write_picture(folder / "b" / "2.jpg")
    write_picture(folder / "b" / "10.jpg")
    write_picture(tmp_path / "pool" / "c.jpg")
    for name, target in {
        "pool": "../../pool",
        "same pool": "../../pool",
        "a": "b",
        "whole disk": "/",
        "above": "..",
        "own": "../images",
        "b/self": "self",
        "gone": "nowhere",
    }.items():
        (folder / name).symlink_to(target)
    (tmp_path / "pool" / "back").symlink_to(folder)
    notes = Notes()
    found = images_below(folder, notes, [tmp_path / "set"])
    assert found == [folder / "b" / "2.jpg", folder / "b" / "10.jpg", folder / "pool" / "c.jpg"]
    kinds = {note.kind: note.count for note in notes.items()}
    assert kinds == {"folders linked from outside the dataset folder, read": 3}  # the whole disk is named, not walked
    assert images_below(folder) == found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="the system has no /proc")
def test_links_of_processes_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc/self/cwd leads to where this process is, as every other's to where that one is."""
    write_picture(tmp_path / "private" / "a.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "processes").symlink_to("/proc/self")
    monkeypatch.chdir(tmp_path / "private")
    notes = Notes()
    assert images_below(tmp_path / "set", notes, [tmp_path / "set"]) == []
    assert "folders that cannot be read, passed over: 1 (" in str(notes.lines())
    with pytest.raises(DatasetError, match="cannot be read: it is made up by the system"):
        images_below(tmp_path / "set" / "processes")


def test_only_regular_files_that_are_not_hidden(tmp_path: Path) -> None:
    pictures = [write_picture(tmp_path / name) for name in ("a.JPG", "sub.jpg/b.png")]
    write_picture(tmp_path / ".ipynb_checkpoints" / "a.jpg")
    write_picture(tmp_path / "._a.jpg")
    (tmp_path / "c.txt").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    assert images_below(tmp_path) == pictures
    assert list(files_below(tmp_path, (".txt",))) == [tmp_path / "c.txt"]


def test_links_of_images_that_lead_out_are_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "private.jpg")
    write_picture(tmp_path / "set" / "a.jpg")
    (tmp_path / "set" / "b.jpg").symlink_to(tmp_path / "private.jpg")
    (tmp_path / "set" / "c.jpg").symlink_to("a.jpg")
    notes = Notes()
    assert len(images_below(tmp_path / "set", notes, [tmp_path / "set"])) == 3
    assert [note.split(" -> ")[0] for note in notes.lines()] == [
        "files linked from outside the dataset folder, read: 1 (b.jpg"
    ]


def test_the_cache_of_the_hub_is_no_outside(tmp_path: Path) -> None:
    write_picture(tmp_path / "blobs" / "0123.jpg")
    folder = tmp_path / "snapshots" / "abcd" / "images"
    folder.mkdir(parents=True)
    (folder / "a.jpg").symlink_to("../../../blobs/0123.jpg")
    notes = Notes()
    assert images_below(folder, notes, [folder.parent]) == [folder / "a.jpg"]
    assert notes.lines() == []


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = write_picture(tmp_path / "a" / "a.jpg")
    write_picture(tmp_path / "b" / "b.jpg")
    scandir = os.scandir

    def refuse(path: Path):
        if path == tmp_path / "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    notes = Notes()
    assert images_below(tmp_path, notes, [tmp_path]) == [picture]
    assert notes.lines() == [f"folders that cannot be read, passed over: 1 ({tmp_path / 'b'}: Permission denied)"]
    with pytest.raises(DatasetError, match="b cannot be read: Permission denied"):
        images_below(tmp_path / "b")
