"""Zip archives: their pictures in order, and archives that are no good, among them those that are meant to harm."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyzoo.errors import ImageError
from dyzoo.images.reading import Picture
from dyzoo.images.sources import archive
from dyzoo.images.sources.archive import ZipArchive
from dyzoo.images.sources.base import Reading


def png(level: int = 100, size: tuple[int, int] = (7, 5)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (level, level, level)).save(content, "PNG")
    return content.getvalue()


def read(path: Path, max_pixels: int | None = None) -> list[Picture | str]:
    found: list[Picture | str] = []
    for pending in ZipArchive.at(path).open(Reading(max_pixels=max_pixels)):
        try:
            made = pending()
            assert isinstance(made, Picture)
            found.append(made)
        except ImageError as error:
            found.append(str(error))
    return found


def lines(path: Path) -> list[str]:
    return [each for each in read(path) if isinstance(each, str)]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_images_come_in_natural_order_with_printable_unique_names(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for level, name in ((10, "10.png"), (2, "2.PNG"), (1, "b/1.png"), (3, "../up\x1b.png"), (9, "2.PNG")):
            made.writestr(name, png(level))
        for name in ("note.txt", "inner.zip", "__MACOSX/2.png", ".hidden.png", "folder.png/"):
            made.writestr(name, b"x")
    found = read(path)
    names = [picture.source for picture in found if isinstance(picture, Picture)]
    expected = ["2.PNG", "2.PNG (2)", "10.png", "../up\\x1b.png", "b/1.png"]
    assert names == [f"{path}/{name}" for name in expected]
    levels = [int(np.asarray(picture.image)[0, 0, 0]) for picture in found if isinstance(picture, Picture)]
    assert levels == [2, 9, 10, 3, 1]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.zip"]


def test_a_bad_member_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("1.png", png())
        made.writestr("2.png", b"no picture")
        made.writestr("3.png", png(200), zipfile.ZIP_BZIP2)
        made.writestr("4.png", png(150))
        made.writestr("5.png", png(50, (100, 100)))
    content = bytearray(path.read_bytes())
    place = content.index(png(150))
    content[place + 20] ^= 255
    path.write_bytes(content)
    found = read(path, max_pixels=1000)
    assert isinstance(found[0], Picture)
    for line, said in zip(found[1:], ("known format", "method 12", "damaged", "max_pixels"), strict=True):
        assert said in str(line)
        assert str(line).startswith(f"{path}/")


def test_a_password_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("1.png", png())
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)
    assert lines(path) == [f"{path}/1.png is encrypted: unpack the archive with its password"]


def test_a_member_larger_than_allowed_or_than_it_claims_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("1.png", bytes(100_000))
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 50_000)
    assert lines(path) == [f"{path}/1.png has 100000 bytes, expected at most 50000: unpack it"]
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        start = content.index(mark) + place
        content[start : start + 4] = struct.pack("<I", 40_000)
    path.write_bytes(content)
    (line,) = lines(path)
    assert "damaged" in line or "known format" in line, "what comes out is at most what it claims"


def test_an_archive_that_unpacks_out_of_all_proportion_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of bombs whose members overlap: each is small, all together fill any disk."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for number in range(5):
            made.writestr(f"{number}.png", bytes(1_000_000))
    monkeypatch.setattr(archive, "_FREE_BYTES", 0)
    (line,) = lines(path)
    assert f"would unpack from {path.stat().st_size} to 5000000 bytes" in line


def test_a_list_of_members_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        for number in range(100):
            made.writestr(f"{number}.png", b"")
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 1000)
    (line,) = lines(path)
    assert line.startswith(f"{path} is too large: its list of members has ")


def test_what_is_no_archive_is_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as made:
        made.writestr("note.txt", "x")
    (tmp_path / "text.zip").write_text("no archive")
    (tmp_path / "empty.zip").touch()
    (tmp_path / "folder.zip").mkdir()
    os.mkfifo(tmp_path / "fifo.zip")
    good = tmp_path / "good.zip"
    with zipfile.ZipFile(good, "w") as made:
        made.writestr("1.png", png())
    (tmp_path / "cut.zip").write_bytes(good.read_bytes()[:-10])
    for name, said in (
        ("none", "holds no image"), ("text", "is no zip archive"), ("empty", "is no zip archive"),
        ("folder", "cannot be opened"), ("fifo", "no regular file"), ("absent", "no such file"), ("cut", "no zip"),
    ):  # fmt: skip
        (line,) = lines(tmp_path / f"{name}.zip")
        assert said in line
        assert line.startswith(str(tmp_path / f"{name}.zip"))
