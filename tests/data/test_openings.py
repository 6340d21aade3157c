"""Every file is opened once on its way from a folder to a sample, whatever the format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dyzoo import files
from dyzoo.data import check_dataset, convert_dataset, list_splits, open_dataset
from dyzoo.images import reading
from tests.data.data_builders import EXPORTS, cvat_coco, cvat_voc, cvat_yolo, roboflow_yolo, write_lines

Build = Callable[[Path], Path]


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each picture was opened since; whoever passes `dyzoo.images.reading` by fails the test."""
    counts: Counter[Path] = Counter()
    open_regular, identify = reading.open_regular, Image.open

    def counted(path: Path):
        counts[Path(path)] += 1
        return open_regular(path)

    def counted_by_pillow(file, *arguments, **settings):
        assert not isinstance(file, str | Path), f"{file} is opened past dyzoo.images.reading"
        return identify(file, *arguments, **settings)

    monkeypatch.setattr(reading, "open_regular", counted)
    monkeypatch.setattr(Image, "open", counted_by_pillow)
    return counts


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file that is no picture was read since."""
    counts: Counter[Path] = Counter()
    read_regular = files.read_regular

    def counted(path: Path, most_bytes: int) -> bytes:
        counts[Path(path)] += 1
        return read_regular(path, most_bytes)

    monkeypatch.setattr(files, "read_regular", counted)
    return counts


def pictures(folder: Path) -> set[Path]:
    return {path.resolve() for path in folder.rglob("*.jpg")}


def resolved(counts: Counter[Path]) -> dict[Path, int]:
    total: Counter[Path] = Counter()
    for path, count in counts.items():
        total[path.resolve()] += count
    return dict(total)


@pytest.mark.parametrize("build", EXPORTS)
def test_opening_a_dataset(build: Build, openings: Counter[Path], tmp_path: Path) -> None:
    folder = build(tmp_path / "export")
    splits = list_splits(folder)
    assert not openings
    read = {sample.image_path.resolve() for split in splits for sample in open_dataset(folder, split).samples}
    assert resolved(openings) == dict.fromkeys(read, 1)
    assert read <= pictures(folder)


@pytest.mark.parametrize("build", EXPORTS)
def test_opening_a_split_reads_a_label_file_once(build: Build, readings: Counter[Path], tmp_path: Path) -> None:
    folder = build(tmp_path / "export")
    open_dataset(folder, EXPORTS[build][0])
    described = [path for path in folder.rglob("*") if path.name in ("data.yaml", "obj.data", "train.txt")]
    assert set(described) <= set(readings)
    assert resolved(readings) == dict.fromkeys((path.resolve() for path in readings), 1)


def test_all_splits_of_a_folder_share_one_reading_of_what_describes_it(readings: Counter[Path], tmp_path: Path) -> None:
    folder = roboflow_yolo(tmp_path / "export")
    write_lines(folder / "data.yaml", "train: away/train/images", "val: valid/images", "names: [cat, dog]")
    splits = check_dataset(folder).source.splits
    assert [split.name for split in splits] == ["train", "val"]
    assert [[str(note) for note in split.notes.items()] for split in splits] == [
        ["images not where the label file says, found by name: 1 (away/train/images)"]
    ] * 2
    assert set(readings.values()) == {1}


@pytest.mark.parametrize("build", EXPORTS)
def test_checking_opens_a_picture_for_its_size_and_once_more_as_a_whole(
    build: Build, openings: Counter[Path], tmp_path: Path
) -> None:
    report = check_dataset(build(tmp_path / "export"))
    read = {sample.image_path.resolve() for split in report.source.splits for sample in split.samples}
    assert len(read) >= 2
    assert resolved(openings) == dict.fromkeys(read, 2)


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("build", EXPORTS)
def test_converting_opens_each_picture_and_each_copy(
    build: Build, to: str, openings: Counter[Path], tmp_path: Path
) -> None:
    conversion = convert_dataset(build(tmp_path / "export"), tmp_path / "new", to)
    assert len(openings) == 2 * sum(conversion.images.values())
    assert set(openings.values()) == {1}


@pytest.mark.parametrize("build", [cvat_coco, cvat_voc, cvat_yolo])
def test_a_damaged_picture_is_dropped_at_its_one_opening(build: Build, openings: Counter[Path], tmp_path: Path) -> None:
    folder = build(tmp_path / "export")
    (damaged,) = folder.rglob("b.jpg")
    damaged.write_text("no picture")
    dataset = open_dataset(folder)
    assert [sample.image_path.name for sample in dataset.samples] == ["a.jpg"]
    (note,) = dataset.notes
    assert note.startswith(f"images that cannot be opened, dropped: 1 ({damaged} is not an image"[:100])
    assert set(openings.values()) == {1}
