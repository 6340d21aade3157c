"""A check of a dataset folder finds what is wrong, and nothing where nothing is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dyzoo.data import DatasetReport, check_dataset
from dyzoo.data.tools.contact_sheet import NUM_TILES, choose_tiles
from dyzoo.errors import DatasetError
from tests.data.data_builders import CAT_LINE, coco_tables, cvat_coco, write_coco, write_lines, write_yolo

SIZE = (160, 120)


def write_noise(path: Path, seed: int, size: tuple[int, int] = SIZE) -> Path:
    """A picture like no other: coarse enough that it survives being resized."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(path)
    return path


def write_clean(folder: Path) -> Path:
    """YOLO, four images in train and two in val, a cat and a dog in each."""
    for number, split in enumerate(["train"] * 4 + ["val"] * 2):
        write_noise(folder / "images" / split / f"{number}.png", number)
        write_lines(folder / "labels" / split / f"{number}.txt", CAT_LINE, "1 0.5 0.5 0.5 0.25")
    write_lines(folder / "data.yaml", "train: images/train", "val: images/val", "names: [cat, dog]")
    return folder


def lines(report: DatasetReport) -> list[str]:
    return [str(finding) for finding in report.findings]


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    report = check_dataset(write_clean(tmp_path))
    assert lines(report) == []
    assert report.usable
    assert report.text().endswith("nothing suspicious")


def test_numbers(tmp_path: Path) -> None:
    folder = write_clean(tmp_path)
    write_noise(folder / "images" / "train" / "5.png", 9, (300, 400))
    write_lines(folder / "labels" / "train" / "5.txt", "0 0.5 0.5 0.02 0.02", "0 0.2 0.2 0.2 0.2")
    train, val = check_dataset(folder).statistics
    assert (train.num_images, train.num_boxes, train.boxes_of_class, train.images_of_class) == (5, 10, (6, 4), (5, 4))
    assert (val.num_images, val.num_boxes, val.boxes_of_class, val.images_of_class) == (2, 4, (2, 2), (2, 2))
    assert train.image_sizes == {SIZE: 4, (300, 400): 1}
    # cats of 40x80, dogs of 80x30, and the two of the large image, 6x8 and 60x80
    assert train.box_sizes == {"small": 1, "medium": 9, "large": 0}
    assert train.side_quantiles_px[0.5] == pytest.approx(
        np.median([48, 60 * 80, *[3200] * 4, *[2400] * 4]) ** 0.5, 0.01
    )
    text = check_dataset(folder).text()
    assert ["cat", "6", "5", "2", "2"] in [line.split() for line in text.splitlines()]
    assert "4 of 160x120, 1 of 300x400" in text
    assert "small (under 32²) 1 = 10.0%" in text


def copy_to_val(folder: Path) -> None:
    (folder / "images" / "val" / "copy.png").write_bytes((folder / "images" / "train" / "0.png").read_bytes())


def copy_within(folder: Path) -> None:
    (folder / "images" / "train" / "copy.png").write_bytes((folder / "images" / "train" / "0.png").read_bytes())
    write_lines(folder / "labels" / "train" / "copy.txt", CAT_LINE)


def resave_to_val(folder: Path) -> None:
    with Image.open(folder / "images" / "train" / "0.png") as image:
        image.resize((120, 90)).save(folder / "images" / "val" / "resaved.jpg", quality=40)
    write_lines(folder / "labels" / "val" / "resaved.txt", CAT_LINE)


def soften_within(folder: Path) -> None:
    with Image.open(folder / "images" / "train" / "0.png") as image:
        image.filter(ImageFilter.GaussianBlur(1)).save(folder / "images" / "train" / "soft.png")
    write_lines(folder / "labels" / "train" / "soft.txt", CAT_LINE)


def damage(folder: Path) -> None:
    path = folder / "images" / "train" / "0.png"
    path.write_bytes(path.read_bytes()[:-500])


def no_picture(folder: Path) -> None:
    (folder / "images" / "train" / "0.png").write_text("no picture")


def add_lines(*added: str, file: str = "train/0") -> Any:
    def change(folder: Path) -> None:
        path = folder / "labels" / f"{file}.txt"
        path.write_text(path.read_text() + "\n".join(added))

    return change


def no_dogs_in_val(folder: Path) -> None:
    for path in (folder / "labels" / "val").iterdir():
        path.write_text(CAT_LINE)


def more_names(folder: Path) -> None:
    write_lines(folder / "data.yaml", "train: images/train", "val: images/val", "names: [cat, dog, Cat, fish]")


def unlisted(folder: Path) -> None:
    write_noise(folder / "more" / "x.png", 99)


def no_val(folder: Path) -> None:
    write_lines(folder / "data.yaml", "train: [images/train, images/val]", "names: [cat, dog]")


def lost_val(folder: Path) -> None:
    write_lines(folder / "data.yaml", "train: [images/train, images/val]", "val: nowhere", "names: [cat, dog]")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            copy_to_val,
            "images of val that are also in train, byte for byte: 1 (images/val/copy.png = images/train/0.pn",
        ),
        (
            resave_to_val,
            "images of val that look almost like one of train: 1 (images/val/resaved.jpg = images/train/0.",
        ),
        (
            copy_within,
            "images of train that are there twice, byte for byte: 1 (images/train/copy.png = images/train/0.",
        ),
        (soften_within, "images of train that look almost like another: 1 (images/train/soft.png = images/train/0.png"),
        (damage, "images of train that cannot be read: 1 ("),
        (no_picture, "train: images that cannot be opened, dropped: 1 ("),
        (add_lines("0 0.5 0.5 0 0.1"), "train: boxes without area, dropped: 1 (0.png at 80 54 80 66)"),
        (
            add_lines("0 0.9 0.5 0.4 0.2"),
            "train: boxes reaching over the edge of their image, clipped: 1 (0.png at 112",
        ),
        (add_lines("0 5 5 1 1"), "train: label lines with numbers outside 0..1, dropped: 1 (0.txt:3: 0 5 5 1 1)"),
        (add_lines(CAT_LINE), "train: objects given twice, taken once: 1 (0.png at 4 7.99998 44 88)"),
        (
            add_lines("0 0.15 0.4 0.25 0.65"),
            "train: boxes of one class that almost coincide: 1 (cat in 0.png at 4 9 44",
        ),
        (
            add_lines("1 0.15 0.4 0.25 0.65"),
            "train: boxes of two classes that almost coincide: 1 (cat and dog in 0.png",
        ),
        (
            add_lines("0 0.5 0.9 0.005 0.1"),
            "train: boxes narrower than 8 px in training, at a shortest edge of 800 px: 1 (cat of 5.3x80.0 in 0.png)",
        ),
        (no_dogs_in_val, "val: classes that only other splits show: 1 (dog (4 elsewhere))"),
        (more_names, "classes without a box: 2 (Cat, fish)"),
        (more_names, "classes that differ in spelling alone: 1 (cat / Cat)"),
        (unlisted, "image files that belong to no split: 1 (more/x.png)"),
        (
            lambda folder: (folder / "labels/val/4.txt").unlink(),
            "val: images without a label file, taken as background:",
        ),
        (lambda folder: write_lines(folder / "labels/val/4.txt"), "val: images without objects: 1 (4.png)"),
        (
            lambda folder: (folder / "images/val/4.png").unlink(),
            "val: label files without an image, passed over: 1 (4.t",
        ),
        (no_val, "no split for validation: 1 (`dyzoo data convert "),
        (lost_val, "split val cannot be read: 1 ("),
        (
            add_lines(*(f"0 {x} {y} 0.08 0.08" for x in np.linspace(0.1, 0.9, 9) for y in np.linspace(0.1, 0.9, 9))),
            "classes with less than a tenth of the 87 boxes of cat: 1 (dog: 6)",
        ),
    ],
)
def test_what_is_suspicious_is_found(spoil: Any, words: str, tmp_path: Path) -> None:
    folder = write_clean(tmp_path / "set")
    spoil(folder)
    report = check_dataset(folder)
    found = [line for line in lines(report) if line.startswith(words)]
    assert len(found) == 1, lines(report)
    assert "\n" not in found[0]
    assert report.usable
    assert found[0] in report.text()


def test_one_split_alone(tmp_path: Path) -> None:
    folder = write_clean(tmp_path)
    copy_to_val(folder)
    report = check_dataset(folder, "valid")
    assert [each.name for each in report.statistics] == ["val"]
    assert not any("train" in line or "belong to no split" in line for line in lines(report))
    with pytest.raises(DatasetError, match="no split 'test'"):
        check_dataset(folder, "test")


def test_pictures_of_one_colour_are_not_alike(tmp_path: Path) -> None:
    """Nothing in them could tell; only their bytes can."""
    folder = write_clean(tmp_path)
    for number, grey in enumerate((0, 100, 255)):
        Image.new("L", SIZE, grey).save(folder / "images" / "train" / f"flat{number}.png")
        write_lines(folder / "labels" / "train" / f"flat{number}.txt", CAT_LINE)
    assert lines(check_dataset(folder)) == []


def test_tiny_depends_on_the_size_in_training(tmp_path: Path) -> None:
    folder = write_clean(tmp_path)
    write_lines(folder / "labels" / "train" / "0.txt", "0 0.5 0.5 0.1 0.1")  # 16x12 px
    assert lines(check_dataset(folder, size_px=(120, 200))) == []
    assert "cat of 8.0x6.0 in 0.png" in lines(check_dataset(folder, size_px=(60, 100)))[0]
    assert "cat of 8.0x6.0 in 0.png" in lines(check_dataset(folder, size_px=(120, 80)))[0]


def test_crowd_regions_are_no_boxes(tmp_path: Path) -> None:
    (train,) = check_dataset(write_coco(tmp_path)).statistics
    assert (train.num_boxes, train.num_crowd, train.boxes_of_class) == (2, 1, (1, 1))


@pytest.mark.parametrize("changes", [{"annotations": []}, {"images": []}, {"categories": []}])
def test_what_holds_no_object_is_not_usable(changes: dict[str, Any], tmp_path: Path) -> None:
    report = check_dataset(write_coco(tmp_path / "set", coco_tables(**changes)))
    assert not report.usable
    report.save(tmp_path / "report")
    assert json.loads((tmp_path / "report" / "check.json").read_text())["usable"] is False
    assert "suspicious" in report.text()


def test_the_report_as_files(tmp_path: Path) -> None:
    folder = write_clean(tmp_path / "set")
    damage(folder)
    no_dogs_in_val(folder)
    report = check_dataset(folder)
    report.save(tmp_path / "report")
    content = json.loads((tmp_path / "report" / "check.json").read_text())
    assert content["splits"]["val"]["classes"] == {"cat": {"boxes": 2, "images": 2}, "dog": {"boxes": 0, "images": 0}}
    damaged, lacking = content["findings"]
    assert (damaged["split"], damaged["images"], damaged["count"]) == (None, ["images/train/0.png"], 1)
    assert (lacking["split"], lacking["kind"]) == ("val", "classes that only other splits show")
    with Image.open(tmp_path / "report" / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 300


def test_the_sheet_shows_the_boxes(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set", "0 0.5 0.5 0.5 0.5")
    Image.new("RGB", (360, 270), "white").save(folder / "images" / "train" / "a.jpg", quality=100)
    check_dataset(folder).save(tmp_path)
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        orange = np.argwhere((np.asarray(sheet) == (230, 159, 0)).all(axis=2))
    top = orange[orange[:, 0] > 40]  # below the legend
    assert (top.max(axis=0) - top.min(axis=0)).tolist() == [134, 179]  # first to last pixel of 135 x 180


def test_names_with_line_breaks_and_long_ones(tmp_path: Path) -> None:
    folder = write_clean(tmp_path / "set")
    write_lines(folder / "data.yaml", "train: images/train", f'names: ["a\\nb\\e[2J", {"long " * 99}]')
    write_noise(folder / "images" / "train" / ("line\nbreak" * 20 + ".png"), 50)
    report = check_dataset(folder)
    report.save(tmp_path / "report")
    assert "\\x1b[2J" in report.text()
    assert "\x1b" not in report.text()


def test_suspicious_images_come_first_and_others_by_seed(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for number in range(60):
        write_noise(folder / "images" / "train" / f"{number}.png", number, (32, 24))
        write_lines(folder / "labels" / "train" / f"{number}.txt", CAT_LINE)
    write_lines(folder / "data.yaml", "train: images/train", "names: [cat]")
    source = check_dataset(folder).source
    paths = [sample.image_path for sample in source.splits[0].samples]
    reasons = {path: ["odd"] for path in paths[40:42]}
    shown = {seed: [tile.path for tile in choose_tiles(source, reasons, seed)] for seed in (0, 1)}
    assert len(set(shown[0])) == NUM_TILES
    assert shown[0][:2] == shown[1][:2] == paths[40:42]
    assert shown[0] != shown[1]
    assert shown[0] == [tile.path for tile in choose_tiles(source, reasons, 0)]
    many = choose_tiles(source, {path: ["odd"] for path in paths[:50]}, 0)
    assert [tile.path for tile in many[:14]] == paths[:14]
    assert len(many) == NUM_TILES


def test_progress_is_told(tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    def track(items: Any, description: str, total: int) -> Any:
        seen[description] = total
        return items

    check_dataset(cvat_coco(tmp_path), track=track)
    assert seen == {
        "reading labels": 1,
        "reading sizes of default": 2,
        "reading images": 2,
        "comparing images of default": 1,
    }


def test_blood_cells(bccd_folder: Path) -> None:
    report = check_dataset(bccd_folder)
    assert [(each.name, each.num_images, each.num_boxes) for each in report.statistics] == [
        ("train", 205, 2804),
        ("val", 87, 1137),
    ]
    assert report.source.left_out == ("trainval",)
    assert "BloodImage_00037.jpg = JPEGImages/BloodImage_00038.jpg" in lines(report)[0]
    assert len(lines(report)) == 6
