"""COCO JSON folders, clean and dirty."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask
from pycocotools.coco import COCO

from dyzoo.data import list_splits, open_dataset
from dyzoo.errors import DatasetError
from tests.data.data_builders import annotation, coco_tables, write_coco, write_picture

ANNOTATIONS = coco_tables()["annotations"]


def test_boxes_labels_and_ids(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path), "train")
    assert dataset.labels == ("cat", "dog")
    assert dataset.category_ids == (3, 18)
    assert dataset.notes == []
    a, b = dataset.samples
    assert (a.image_id, b.image_id) == (7, 9)
    assert a.boxes_xyxy.tolist() == [[1, 2, 11, 22]]
    assert b.boxes_xyxy.tolist() == [[5.5, 6.5, 9.5, 9.5], [20, 10, 35, 25]]
    assert (a.labels.tolist(), b.labels.tolist()) == ([1], [0, 0])
    assert b.crowd.tolist() == [False, True]
    assert dataset[1][1]["boxes"].tolist() == [[5.5, 6.5, 9.5, 9.5]]


def test_agrees_with_pycocotools(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path), "train")
    theirs = COCO(tmp_path / "annotations" / "instances_train.json")
    for sample in dataset.samples:
        expected = theirs.loadAnns(theirs.getAnnIds(sample.image_id))
        corners = sample.boxes_xyxy
        bboxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in corners.tolist()]
        assert bboxes == [each["bbox"] for each in expected]
        assert [dataset.category_ids[label] for label in sample.labels] == [each["category_id"] for each in expected]


@pytest.mark.parametrize(
    ("json_path", "image_folder", "split"),
    [
        ("annotations/instances_val2017.json", "val2017", "val"),
        ("annotations/instances_val.json", "images/val", "val"),
        ("annotations/val.json", "images/valid", "valid"),
        ("annotations/instances_default.json", "images", None),
        ("labels.json", "images", None),
        ("_annotations.coco.json", ".", None),
        ("valid/_annotations.coco.json", "valid", "val"),
    ],
)
def test_layouts(json_path: str, image_folder: str, split: str | None, tmp_path: Path) -> None:
    (tmp_path / json_path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / json_path).write_text(json.dumps(coco_tables()))
    for name in ("a.jpg", "b.jpg"):
        write_picture(tmp_path / image_folder / name)
    dataset = open_dataset(tmp_path, split)
    assert [sample.image_path for sample in dataset.samples] == [
        tmp_path / image_folder / n for n in ("a.jpg", "b.jpg")
    ]


def test_splits_do_not_mix_images_of_one_name(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_coco(tmp_path, split=split)
    write_picture(tmp_path / "a.jpg")
    write_picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "annotations" / "captions_val.json").write_text("{}")
    assert list_splits(tmp_path) == ("train", "val")
    for split in ("train", "val"):
        assert {sample.image_path.parent.name for sample in open_dataset(tmp_path, split).samples} == {split}


def test_two_years_of_one_split_have_to_be_named(tmp_path: Path) -> None:
    for split in ("train2014", "train2017"):
        write_coco(tmp_path, split=split)
    with pytest.raises(DatasetError, match="several splits 'train', available: train2014, train2017"):
        open_dataset(tmp_path, "train")
    assert len(open_dataset(tmp_path, "train2014")) == 2


def test_two_categories_of_one_name_are_one_class(tmp_path: Path) -> None:
    categories = [{"id": 18, "name": "cat"}, {"id": 3, "name": "cat "}]
    dataset = open_dataset(write_coco(tmp_path, coco_tables(categories=categories)))
    assert (dataset.labels, dataset.category_ids) == (("cat",), (3,))
    assert [sample.labels.tolist() for sample in dataset.samples] == [[0], [0, 0]]
    assert dataset.notes == ["category names with two ids, taken as one class: 1 (cat)"]


def test_project_name_of_roboflow_is_no_class(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 3, "name": "cat", "supercategory": "pets"},
        {"id": 18, "name": "dog", "supercategory": "pets"},
    ]
    dataset = open_dataset(write_coco(tmp_path, coco_tables(categories=categories)))
    assert dataset.labels == ("cat", "dog")
    assert dataset.notes == ["categories that only group others, dropped: 1 (pets)"]


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        (annotation(image_id=99), "annotations of unknown images, dropped: 1 (annotation 4, image_id 99)"),
        (annotation(image_id=None), "annotations of unknown images, dropped: 1 (annotation 4, image_id None)"),
        (annotation(category_id=1), "annotations of unknown categories, dropped: 1 (annotation 4, category_id 1)"),
        (annotation(bbox=[1, 2, 3]), "annotations without a bbox of four numbers, dropped: 1 (annotation 4)"),
        (annotation(bbox=None), "annotations without a bbox of four numbers, dropped: 1 (annotation 4)"),
        (annotation(bbox=[1, 2, 0, 3]), "boxes without area, dropped: 1 (a.jpg at 1 2 1 5)"),
        (annotation(bbox=[9, 9, -4, 3]), "boxes without area, dropped: 1 (a.jpg at 9 9 5 12)"),
        (
            annotation(bbox=[math.nan, 2, 5, 3]),
            "boxes with coordinates that are not finite, dropped: 1 (a.jpg at nan 2 nan 5)",
        ),
        (
            annotation(bbox=[1, 2, math.inf, 3]),
            "boxes with coordinates that are not finite, dropped: 1 (a.jpg at 1 2 inf 5)",
        ),
        (
            annotation(bbox=[10**400, 2, 3, 4]),
            "boxes with coordinates that are not finite, dropped: 1 (a.jpg at nan nan nan nan)",
        ),
        (annotation(bbox=[50, 2, 5, 5]), "boxes outside their image, dropped: 1 (a.jpg at 50 2 55 7)"),
        (ANNOTATIONS[0], "annotations listed twice, taken once: 1 (annotation 1)"),
        ({**ANNOTATIONS[0], "id": 4}, "objects given twice, taken once: 1 (a.jpg at 1 2 11 22)"),
        ("text", "annotations that are not objects, dropped: 1 (text)"),
    ],
)
def test_a_bad_annotation_is_noted_and_the_others_are_read(extra: Any, note: str, tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path, coco_tables(annotations=[*ANNOTATIONS, extra])))
    assert dataset.notes == [note]
    assert [len(sample.labels) for sample in dataset.samples] == [1, 2]


def test_boxes_over_the_edge_are_clipped(tmp_path: Path) -> None:
    extras = [annotation(id=4, bbox=[-5, 20, 15, 40]), annotation(id=5, bbox=[30, 10, 10.4, 5])]
    dataset = open_dataset(write_coco(tmp_path, coco_tables(annotations=[*ANNOTATIONS, *extras])))
    assert dataset.samples[0].boxes_xyxy[1:].tolist() == [[0, 20, 10, 30], [30, 10, 40, 15]]
    assert dataset.notes == ["boxes reaching over the edge of their image, clipped: 1 (a.jpg at -5 20 10 60)"]


def test_an_annotation_id_given_to_two_objects_loses_neither(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path, coco_tables(annotations=[*ANNOTATIONS, annotation(id=1)])))
    assert [len(sample.labels) for sample in dataset.samples] == [2, 2]
    assert dataset.notes == ["annotation ids given to different objects, all kept: 1 (annotation 1)"]


IMAGES = coco_tables()["images"]


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        (IMAGES[0], "images listed twice, taken once: 1 (7: a.jpg)"),
        ({"id": 7, "file_name": "b.jpg"}, "image ids given to another file, dropped: 1 (7: b.jpg)"),
        ({"id": 8, "file_name": "a.jpg"}, "files listed under two ids, taken as one image: 1 (a.jpg)"),
        ({"id": 8, "file_name": "gone.jpg"}, "images absent on disk, dropped: 1 (gone.jpg)"),
        ({"id": 8, "file_name": "../outside.jpg"}, "images outside the dataset folder, refused: 1 (../outside.jpg)"),
        (
            {"id": 8, "file_name": "x\\..\\..\\c.jpg"},
            "images outside the dataset folder, refused: 1 (x\\..\\..\\c.jpg)",
        ),
        ({"id": 8, "file_name": "C:\\c.jpg"}, "images outside the dataset folder, refused: 1 (C:\\c.jpg)"),
        ({"id": 8, "file_name": "/etc/passwd"}, "images outside the dataset folder, refused: 1 (/etc/passwd)"),
        (
            {"id": " ", "file_name": "c.jpg"},
            "images without an id or a file name, dropped: 1 ({'id': ' ', 'file_name': 'c.jpg'})",
        ),
        ({"id": 8}, "images without an id or a file name, dropped: 1 ({'id': 8})"),
    ],
)
def test_a_bad_image_entry_is_noted_and_the_others_are_read(extra: Any, note: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "outside.jpg")
    dataset = open_dataset(write_coco(tmp_path / "set", coco_tables(images=[*IMAGES, extra])))
    assert dataset.notes == [note]
    assert [(sample.image_id, len(sample.labels)) for sample in dataset.samples] == [(7, 1), (9, 2)]


def test_boxes_of_a_file_with_two_ids_come_together(tmp_path: Path) -> None:
    tables = coco_tables(
        images=[*IMAGES, {"id": 8, "file_name": "a.jpg"}], annotations=[*ANNOTATIONS, annotation(image_id=8)]
    )
    dataset = open_dataset(write_coco(tmp_path, tables))
    assert [len(sample.labels) for sample in dataset.samples] == [2, 2]


def test_ids_written_as_text_are_numbers(tmp_path: Path) -> None:
    tables = coco_tables(annotations=[annotation(image_id="7", category_id="18")])
    assert open_dataset(write_coco(tmp_path, tables)).samples[0].labels.tolist() == [1]


def test_the_size_in_the_image_wins(tmp_path: Path) -> None:
    images = [{**IMAGES[0], "width": 20, "height": 15}, IMAGES[1]]
    dataset = open_dataset(write_coco(tmp_path, coco_tables(images=images)))
    assert (dataset.samples[0].width_px, dataset.samples[0].height_px) == (40, 30)
    assert dataset.samples[0].boxes_xyxy.tolist() == [[1, 2, 11, 22]]
    assert dataset.notes == [
        "image sizes that differ from the label file's, the image's own taken: 1 (a.jpg: (40, 30), not (20, 15))"
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps(coco_tables())[:200], "is not JSON, or cut short"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (
            json.dumps({**coco_tables(), "images": [{"file_name": json.loads("[" * 600 + "]" * 600)}]}),
            "no usable object",
        ),
        ('{"images": [{"id": ' + "9" * 5000 + "}]}", "is not JSON"),
        (b"\xff\xfe\xfa", "is not JSON"),
        ("[]", "holds a list"),
        ('{"images": [], "annotations": []}', "no list of 'categories'"),
        ('{"images": {}, "annotations": [], "categories": []}', "no list of 'images'"),
        (json.dumps(coco_tables(annotations=[])), "no usable object: 2 images, not one box"),
        (json.dumps(coco_tables(images=[])), "no usable object: annotations of unknown images, dropped: 3"),
        (json.dumps(coco_tables(categories=[])), "no usable object: annotations of unknown categories, dropped: 3"),
        (json.dumps(coco_tables(categories=[{"id": [1], "name": {}}, None, 3])), "categories that are not objects"),
    ],
)
def test_a_useless_file_is_an_error_of_one_line(content: str | bytes, words: str, tmp_path: Path) -> None:
    write_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_train.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_on_a_disk_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    write_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_train.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DatasetError, match=r"instances_train\.json is no regular file"):
        open_dataset(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(DatasetError, match=r"instances_train\.json is no regular file"):
        open_dataset(tmp_path)
    path.unlink()
    path.symlink_to("gone")
    with pytest.raises(DatasetError, match=r"instances_train\.json leads nowhere"):
        open_dataset(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DatasetError, match=r"instances_train\.json is a folder"):
        open_dataset(tmp_path)


def test_a_name_that_no_file_can_hold_is_refused_in_printable_words(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_tables(categories=[{"id": 3, "name": "\ud800cat"}, {"id": 18, "name": "dog"}]))
    with pytest.raises(DatasetError, match=r"class name '\\ud800cat' has half a character") as caught:
        open_dataset(tmp_path)
    str(caught.value).encode()
    write_coco(tmp_path, coco_tables(categories=[{"id": 3, "name": "c" * 5_000_000}]))
    with pytest.raises(DatasetError, match="has 5000000 characters, expected at most 1000") as caught:
        open_dataset(tmp_path)
    assert len(str(caught.value)) < 400


def test_ids_that_are_no_whole_numbers_lead_to_their_images(tmp_path: Path) -> None:
    images = [{**IMAGES[0], "id": "abc-1"}, {**IMAGES[1], "id": 3.0}, {"id": 2.5, "file_name": "gone.jpg"}]
    categories = [{"id": "c7", "name": "dog"}, {"id": 2, "name": "cat"}]
    annotations = [
        annotation(id="x", image_id="abc-1", category_id="c7"),
        annotation(id="y", image_id=3, category_id=2.0),
        annotation(id="y", image_id=3, category_id=2.0),
        annotation(id="z", image_id="abc-2", category_id="c8"),
    ]
    dataset = open_dataset(
        write_coco(tmp_path, {"images": images, "annotations": annotations, "categories": categories})
    )
    assert (dataset.labels, dataset.category_ids) == (("dog", "cat"), (1, 2))
    assert [(each.image_path.name, each.image_id) for each in dataset.samples] == [("a.jpg", 1), ("b.jpg", 3)]
    assert [each.labels.tolist() for each in dataset.samples] == [[0], [1]]
    assert dataset.notes == [
        "image ids that are no whole numbers, numbered anew: 2 (abc-1: 1, 2.5: 2)",
        "images absent on disk, dropped: 1 (gone.jpg)",
        "annotations listed twice, taken once: 1 (annotation y)",
        "annotations of unknown images, dropped: 1 (annotation z, image_id abc-2)",
    ]


def test_boxes_are_taken_around_outlines_where_there_is_no_bbox(tmp_path: Path) -> None:
    polygons = [[2, 3, 12, 3, 12, 20], [14, 5.5, 13, 6, 15, 7]]
    runs = {"size": [30, 40], "counts": [30 * 4 + 2, 5, 25, 5, 30 * 34 + 23 - 10]}
    runs["counts"][-1] = 30 * 40 - sum(runs["counts"][:-1])
    compressed = mask.frPyObjects(runs, 30, 40)
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 3, "segmentation": polygons},
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [], "segmentation": runs},
        {
            "id": 3,
            "image_id": 9,
            "category_id": 3,
            "bbox": None,
            "segmentation": {**compressed, "counts": compressed["counts"].decode()},
        },
        {"id": 4, "image_id": 9, "category_id": 3, "bbox": [1, 1, 9, 9], "segmentation": polygons},
        {"id": 5, "image_id": 9, "category_id": 3, "segmentation": polygons[0]},
    ]
    dataset = open_dataset(write_coco(tmp_path, coco_tables(annotations=annotations)))
    assert dataset.samples[0].boxes_xyxy.tolist() == [[2, 3, 15, 20], [4, 2, 6, 7]]
    assert dataset.samples[1].boxes_xyxy.tolist() == [[4, 2, 6, 7], [1, 1, 10, 10], [2, 3, 12, 20]]
    assert dataset.notes == [
        "annotations without a bbox of four numbers, taken around their outline: 4 "
        "(annotation 1, annotation 2, annotation 3, ...)"
    ]


@pytest.mark.parametrize(
    "outline",
    [
        [],
        [[]],
        [[1, 2, 3, 4, 5]],
        [[1, 2, 3, "4", 5, 6]],
        {},
        {"size": [30, 40], "counts": None},
        {"size": [30, 40], "counts": [1200, 1]},
        {"size": [30, 40], "counts": [-5, 1205]},
        {"size": [30, 40], "counts": [[]]},
        {"size": [0, 0], "counts": []},
        {"size": [0, 40], "counts": "0"},
        {"size": [30, "x"], "counts": "0"},
        {"size": [2**40, 2**40], "counts": "a5"},
        {"size": [40, 30], "counts": [10, 1190]},
        {"size": [30, 40], "counts": "oooooooooooo0"},
        {"size": [30, 40], "counts": "0P"},
        {"size": [30, 40], "counts": "ü0"},
        {"size": [30, 40], "counts": ""},
        {"size": [30, 40], "counts": "0ooooo0"},
    ],
)
def test_outlines_that_make_no_sense_are_dropped_before_memory_is_taken(outline: Any, tmp_path: Path) -> None:
    extra = {"id": 4, "image_id": 7, "category_id": 3, "segmentation": outline}
    dataset = open_dataset(write_coco(tmp_path, coco_tables(annotations=[*ANNOTATIONS, extra])))
    assert dataset.notes == ["annotations without a bbox of four numbers, dropped: 1 (annotation 4)"]
    assert [len(sample.labels) for sample in dataset.samples] == [1, 2]


def test_areas_are_those_of_the_file(tmp_path: Path) -> None:
    areas = [{"area": 77.5}, {}, {"area": -1}, {"area": "wide"}, {"area": 10**400}, {"area": 0}]
    boxes = [annotation(id=n, bbox=[n, 1, 30.1, 20.3], **area) for n, area in enumerate(areas, start=1)]
    dataset = open_dataset(write_coco(tmp_path, coco_tables(annotations=boxes)))
    ours = dataset.samples[0].areas_px2
    assert ours[0] == 77.5
    assert ours[1:] == pytest.approx(30.1 * 20.3, rel=1e-14), "of the file's numbers, not of their float32"
    assert dataset.notes == [
        "areas that are no positive numbers, that of the box taken: 4 (-1 in a.jpg, nan in a.jpg, nan in a.jpg, ...)"
    ]


def _of_datumaro(folder: Path, *marks: int) -> Path:
    """Masks where `marks` is 1, polygons where it is 0."""
    blank = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
    outlines = ([[2, 2, 7, 2, 7, 7]], {"size": [30, 40], "counts": [62, 5, 25, 5, 1103]})
    annotations = [
        annotation(id=n, bbox=[n, 2, 5, 5], segmentation=outlines[mark], iscrowd=mark) for n, mark in enumerate(marks)
    ]
    return write_coco(folder, coco_tables(images=[{**row, **blank} for row in IMAGES], annotations=annotations))


def test_masks_that_datumaro_marks_as_crowds_are_objects_where_most_are_marked(tmp_path: Path) -> None:
    masks = open_dataset(_of_datumaro(tmp_path / "masks", 1, 1, 0))
    assert masks.samples[0].crowd.tolist() == [False, False, False]
    assert masks.notes == [
        "masks, which datumaro and CVAT mark as crowds, taken as single objects: 2 (annotation 0, annotation 1)"
    ]
    mixed = open_dataset(_of_datumaro(tmp_path / "mixed", 0, 0, 1))
    assert mixed.samples[0].crowd.tolist() == [False, False, True]
    assert mixed.notes == [
        "masks, which datumaro and CVAT mark as crowds, left out of training as crowds: 1 (annotation 2)"
    ]


def test_crowds_of_another_tool_stay_crowds(tmp_path: Path) -> None:
    crowds = [annotation(id=n, bbox=[n, 2, 5, 5], iscrowd=mark) for n, mark in enumerate((1, "1", 0, "0", None))]
    dataset = open_dataset(write_coco(tmp_path, coco_tables(annotations=crowds)))
    assert dataset.samples[0].crowd.tolist() == [True, True, False, False, False]
    assert dataset.notes == []
