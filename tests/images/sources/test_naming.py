"""Names lead to sources: kinds of files, lists, addresses, cameras; names that are unique and printable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from dyzoo.errors import ImageError
from dyzoo.images.sources import naming
from dyzoo.images.sources.archive import ZipArchive
from dyzoo.images.sources.base import Reading, Source
from dyzoo.images.sources.film import Camera, Film, Stream
from dyzoo.images.sources.naming import is_image_source, list_sources, named_sources
from dyzoo.images.sources.single import ImageFile, Unusable
from dyzoo.images.sources.web import WebAddress


def said(source: Source) -> str:
    (pending,) = source.open(Reading())
    with pytest.raises(ImageError) as caught:
        pending()
    return str(caught.value)


def names(folder: Path, sources: list[Source]) -> list[str]:
    return [str(source.source).removeprefix(f"{folder}/") for source in sources]


def test_folders_and_globs_hold_images_and_films_in_natural_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("10.jpg", "2.mp4", "1.PNG", "sub/3.mkv", "note.txt", "a.zip", ".hidden.jpg"):
        (tmp_path / name).touch()
    assert names(tmp_path, list_sources(tmp_path)) == ["1.PNG", "2.mp4", "10.jpg"]
    assert names(tmp_path, list_sources(tmp_path / "**" / "*")) == ["1.PNG", "2.mp4", "10.jpg", "sub/3.mkv"]
    kinds = [type(source) for source in list_sources([tmp_path, tmp_path / "a.zip"])]
    assert kinds == [ImageFile, Film, ImageFile, ZipArchive]


def test_sources_keep_the_order_given_and_come_once(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / name).touch()
    patterns = [tmp_path / "b.jpg", "https://x.org/1.jpg", tmp_path, tmp_path / "absent.jpg", "https://x.org/1.jpg"]
    assert names(tmp_path, list_sources(patterns)) == ["b.jpg", "https://x.org/1.jpg", "a.jpg", "absent.jpg"]
    assert list_sources([]) == []


def test_names_are_printable_and_unique(tmp_path: Path) -> None:
    for name in ("a\x1b.png", "a\\x1b.png"):
        (tmp_path / name).touch()
    assert sorted(names(tmp_path, list_sources(tmp_path))) == ["a\\x1b.png", "a\\x1b.png (2)"]
    streams = list_sources(["rtsp://me:one@x/1", "rtsp://me:two@x/1"])
    assert names(tmp_path, streams) == ["rtsp://me:***@x/1", "rtsp://me:***@x/1 (2)"]
    assert [source.address for source in streams if isinstance(source, Stream)] == [
        "rtsp://me:one@x/1", "rtsp://me:two@x/1",
    ]  # fmt: skip


def test_a_picture_has_the_name_of_its_source(tmp_path: Path) -> None:
    Image.new("RGB", (7, 5)).save(tmp_path / "a.png")
    (source,) = list_sources(tmp_path)
    (pending,) = source.open(Reading())
    picture = pending()
    assert picture.source == source.source == str(tmp_path / "a.png")


def test_a_number_is_a_camera_on_the_command_line_unless_there_is_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").touch()
    assert list_sources(["0", "7"]) == [Camera(0, "camera 0"), ImageFile(Path("7"), "7")]
    assert list(named_sources("0")) == [ImageFile(Path("0"), "0")], "in Python, a text is a path"


def test_it_is_known_before_reading_whether_there_are_many_pictures() -> None:
    many = {"a.jpg": False, "a.mp4": True, "a.zip": True, "3": True, "rtsp://x/a": True, "http://x/a.jpg": False,
            "http://x/a.jpg?b=c.mp4": False, "http://x/a.mp4": True, "http://x/a": True}  # fmt: skip
    assert {str(name): source.is_many for name, source in zip(many, list_sources(many), strict=True)} == many


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://x.org/a.jpg", WebAddress), ("HTTP://x.org", WebAddress), ("rtsps://u:p@x:554/a", Stream),
        ("file:///etc/passwd", Unusable), ("ftp://x.org/a.jpg", Unusable), ("http:///a.jpg", Unusable),
        ("http://[::1/a.jpg", Unusable), ("http://x.org/\r\nHost: y", Unusable), ("concat://a|b", Unusable),
        ("javascript://x", Unusable), ("c:/a.jpg", ImageFile),
    ],
)  # fmt: skip
def test_addresses_are_of_the_network_and_whole(address: str, expected: type[Source]) -> None:
    (source,) = named_sources(address)
    assert type(source) is expected
    if expected is Unusable:
        assert "\n" not in said(source)
        assert "expected" in said(source)


# --- lists ------------------------------------------------------------------------------------------------------------


def test_a_list_names_files_beside_it_and_addresses(tmp_path: Path) -> None:
    path = tmp_path / "in" / "list.txt"
    path.parent.mkdir()
    lines = ["\ufeffa.jpg", "# remark", "", "  ../b c.mp4 ", "/abs/c.png", "http://x/d.jpg", "e*.jpg", "more.txt", "0"]
    path.write_text("\r\n".join(lines), encoding="utf-8")
    sources = list(named_sources(path))
    folder = path.parent
    assert [source.source for source in sources] == [
        f"{folder}/a.jpg", f"{folder}/../b c.mp4", "/abs/c.png", "http://x/d.jpg", f"{folder}/e*.jpg",
        f"{folder}/more.txt", f"{folder}/0",
    ]  # fmt: skip
    assert "is a list itself" in said(sources[5])
    assert isinstance(sources[1], Film)


def test_a_table_lists_files_in_its_first_column(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text('"a, b.jpg",cat\nc.jpg\n#x,y\n,empty\n')
    assert names(tmp_path, list(named_sources(path))) == ["a, b.jpg", "c.jpg"]


def test_names_of_a_list_may_be_of_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    Image.new("RGB", (7, 5)).save(tmp_path / name)
    (tmp_path / "list.txt").write_bytes(b"\xff.png\n")
    (source,) = list_sources(tmp_path / "list.txt")
    (pending,) = source.open(Reading())
    assert pending().source == f"{tmp_path}/\\udcff.png"


def test_a_list_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    os.mkfifo(tmp_path / "fifo.txt")
    (tmp_path / "long.txt").write_text("a.jpg\n" * 100)
    monkeypatch.setattr(naming, "MAX_LIST_BYTES", 500)
    for name, expected in (
        ("empty", "lists nothing"), ("fifo", "no regular file"), ("long", "600 bytes"), ("absent", "no such file"),
    ):  # fmt: skip
        (source,) = list_sources(tmp_path / f"{name}.txt")
        assert expected in said(source)
        assert said(source).startswith(str(tmp_path))


def test_one_image_is_told_from_several(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.mp4", "a.zip"):
        (tmp_path / name).touch()
    (tmp_path / "one.txt").write_text("a.jpg\n")
    one = {name: is_image_source(tmp_path / name) for name in ("a.jpg", "absent.jpg", "a.mp4", "a.zip", "one.txt", "*")}
    assert one == {"a.jpg": True, "absent.jpg": True, "a.mp4": False, "a.zip": False, "one.txt": False, "*": False}
