"""Finding image files: folders, globs, their order."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dyzoo.errors import ImageError
from dyzoo.images.finding import list_images
from dyzoo.images.reading import read_image


def test_list_images_is_natural_and_without_repetition(tmp_path: Path) -> None:
    names = ["10.jpg", "2.PNG", "1.jpg", "sub/3.jpg", "note.txt", ".hidden.jpg", "odd.dat"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "folder.jpg").mkdir()
    for name in names:
        (tmp_path / name).touch()

    def listed(*patterns: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in list_images([tmp_path / each for each in patterns])]

    assert listed(".") == ["1.jpg", "2.PNG", "10.jpg"]
    assert listed("*") == ["1.jpg", "2.PNG", "10.jpg"]
    assert listed("**/*.jpg") == ["1.jpg", "10.jpg", "sub/3.jpg"]
    assert listed("10.jpg", "1*", ".") == ["1.jpg", "2.PNG", "10.jpg"]
    assert listed("odd.dat") == ["odd.dat"]


def test_list_images_takes_names_with_glob_characters_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a[1].jpg").touch()
    assert list_images(tmp_path / "a[1].jpg") == [tmp_path / "a[1].jpg"]


def test_what_matches_nothing_stays_to_be_reported(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").touch()
    (tmp_path / "none").mkdir()
    patterns = [tmp_path / "absent.jpg", tmp_path / "good.jpg", tmp_path / "no*.png", tmp_path / "none"]
    assert list_images(patterns) == patterns


def test_a_folder_that_may_not_be_read_is_said_and_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (7, 5)).save(tmp_path / name / "a.png")
    iterdir = Path.iterdir

    def refuse(path: Path) -> object:  # root may read everything
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert list_images([tmp_path / "closed", tmp_path / "open"]) == [tmp_path / "closed", tmp_path / "open" / "a.png"]
    with pytest.raises(ImageError, match=r"closed is a folder, which cannot be read: Permission denied"):
        read_image(tmp_path / "closed")


def test_two_stars_go_through_links_to_folders_but_never_in_circles(tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "linked").mkdir()
    for name in ("in/1.png", "in/sub/2.png", "linked/3.png"):
        Image.new("RGB", (7, 5)).save(tmp_path / name)
    (tmp_path / "in" / "away").symlink_to(tmp_path / "linked")
    for name in ("x", "y", "sub/z"):  # ways round that double with each turn
        (tmp_path / "in" / name).symlink_to(tmp_path / "in")
    for pattern in ("in/**/*.png", "in/**", "**/in/**/*.png"):
        found = [path.resolve().name for path in list_images(tmp_path / pattern)]
        assert found == ["1.png", "3.png", "2.png"], pattern


def test_numbers_of_any_length_are_sorted() -> None:
    names = ["9" * 5000, "1", "01", "10", "9", "a2", "a10"]
    assert list_images(names) == [Path(name) for name in ("01", "1", "9", "10", "9" * 5000, "a2", "a10")]


def test_a_tilde_of_nobody_is_a_name() -> None:
    assert list_images("~nobody-of-that-name/a.png") == [Path("~nobody-of-that-name/a.png")]
    with pytest.raises(ImageError, match="no such file"):
        read_image("~nobody-of-that-name/a.png")
