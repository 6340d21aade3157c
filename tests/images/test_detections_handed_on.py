"""Detections as rows, lines, dictionaries and files, and what is chosen of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dyzoo.images.crops import class_folders
from dyzoo.images.detections import Detections
from dyzoo.images.drawing import save_picture
from dyzoo.images.reading import Picture

NAMES = ("cat", "dog", "bird")
BOXES = [[10.0, 20.0, 110.0, 220.0], [0.0, 0.0, 5.0, 5.0], [300.4, 100.0, 400.0, 160.6]]


@pytest.fixture
def three() -> Detections:
    """A dog, a cat and another dog in an image of 400 x 600 (H x W)."""
    return Detections(torch.tensor(BOXES), torch.tensor([0.9, 0.5, 0.25]), torch.tensor([1, 0, 1]), NAMES, (400, 600))


@pytest.fixture
def tracked(three: Detections) -> Detections:
    """The same in a frame of a film, with numbers of tracks."""
    place = {"source": "film.mp4", "frame": 3, "time_s": 0.12, "notes": ("the cap is reached",)}
    return Detections(**{**vars(three), **place, "track_ids": torch.tensor([7, 8, 9])})


def image() -> Image.Image:
    return Image.fromarray(np.arange(400 * 600 * 3, dtype=np.uint32).reshape(400, 600, 3).astype(np.uint8))


def test_class_names_name_each_detection(three: Detections) -> None:
    assert three.class_names == ["dog", "cat", "dog"]
    assert three[:0].class_names == []


@pytest.mark.parametrize(
    ("threshold", "classes", "scores"),
    [
        (0.5, None, [0.9, 0.5]),
        (0.0, "dog", [0.9, 0.25]),
        (0.3, ("cat", "dog"), [0.9, 0.5]),
        ({"dog": 0.95}, None, [0.5]),
        ({"cat": 0.6}, ["dog", "bird"], [0.9, 0.25]),
        (0.0, [], []),
    ],
)
def test_filter_chooses_by_score_and_class(
    three: Detections, threshold: Any, classes: Any, scores: list[float]
) -> None:
    assert three.filter(threshold, classes).scores.tolist() == pytest.approx(scores)


@pytest.mark.parametrize(("threshold", "classes"), [(0.0, "horse"), ({"horse": 0.5}, None)], ids=["class", "threshold"])
def test_filter_refuses_a_class_that_there_is_not(three: Detections, threshold: Any, classes: Any) -> None:
    with pytest.raises(ValueError, match="no class is called 'horse', expected some of cat, dog, bird"):
        three.filter(threshold, classes)


def test_a_name_is_no_index(three: Detections) -> None:
    with pytest.raises(TypeError, match=r"filter\(classes"):
        three["dog"]  # type: ignore[call-overload]


def test_a_dictionary_comes_back_as_it_was(three: Detections, tracked: Detections) -> None:
    for found in (three, tracked, three[:0]):
        values = json.loads(found.to_json())
        again = Detections.from_dict(values, NAMES)
        assert again.to_dict() == found.to_dict() == values
        assert again.names == NAMES
    assert tracked.to_dict()["detections"][2]["track_id"] == 9
    assert tracked.to_dict()["notes"] == ["the cap is reached"]


@pytest.mark.parametrize(
    "change", [{"detections": 3}, {"detections": [{}]}, {"detections": [{"label": 9, "score": 1, "box_xyxy": [0] * 4}]}]
)
def test_a_dictionary_of_something_else_is_refused(three: Detections, change: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Detections.from_dict({**three.to_dict(), **change}, NAMES)


def test_yolo_lines_have_shares_of_the_image_and_scores(three: Detections) -> None:
    assert three.to_yolo()[:2] == ["1 0.1 0.3 0.166667 0.5 0.9", "0 0.00416667 0.00625 0.00833333 0.0125 0.5"]
    assert three.to_yolo(scores=False)[0] == "1 0.1 0.3 0.166667 0.5"
    assert three[:0].to_yolo() == []


def test_rows_have_one_column_for_each_edge(tracked: Detections) -> None:
    assert tracked.to_rows()[1] == {
        "source": "film.mp4", "frame": 3, "time_s": 0.12, "name": "cat", "label": 0, "score": 0.5,
        "x1": 0, "y1": 0, "x2": 5, "y2": 5, "track_id": 8,
    }  # fmt: skip


def test_a_data_frame_has_its_columns_even_where_nothing_was_found(
    three: Detections, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = ModuleType("pandas")
    pandas.DataFrame = lambda rows, columns: SimpleNamespace(rows=rows, columns=columns)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    assert three.to_dataframe().rows == three.to_rows()
    assert three[:0].to_dataframe().columns == list(three.to_rows()[0])


def test_a_data_frame_holds_every_object(three: Detections) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = three.to_dataframe()
    assert frame[frame["name"] == "dog"]["score"].tolist() == [0.9, 0.25]
    assert len(three[:0].to_dataframe().columns) == len(frame.columns)


def test_a_data_frame_without_pandas_is_one_line(three: Detections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        three.to_dataframe()


def test_supervision_gets_the_numbers_of_tracks(tracked: Detections) -> None:
    pytest.importorskip("supervision", reason="supervision is not installed")
    assert tracked.to_supervision().tracker_id.tolist() == [7, 8, 9]
    assert tracked[1:].to_supervision().tracker_id.tolist() == [8, 9]


def test_the_picture_that_was_kept_is_drawn_on_and_cut(three: Detections, tmp_path: Path) -> None:
    kept = Detections(**{**vars(three), "picture": Picture(image(), (400, 600)), "path": tmp_path / "gone.png"})
    assert kept.plot().tobytes() == three.plot(image()).tobytes()
    crops = kept.crops()
    assert [crop.size for crop in crops] == [(100, 200), (5, 5), (100, 61)], "all pixels that a box touches"
    assert crops[2].tobytes() == image().crop((300, 100, 400, 161)).tobytes()


def test_tracks_are_written_beside_the_names(tracked: Detections, three: Detections) -> None:
    assert tracked.plot(image()).tobytes() != three.plot(image()).tobytes()


def test_a_frame_is_not_read_from_its_film(tracked: Detections, tmp_path: Path) -> None:
    frame = Detections(**{**vars(tracked), "path": tmp_path / "film.mp4"})
    with pytest.raises(ValueError, match="those of one frame: give the image, or predict with keep_pictures=True"):
        frame.plot()


def test_boxes_outside_and_without_area_are_cut_to_a_pixel() -> None:
    boxes = torch.tensor([[-50.0, -50, 9000, 9000], [700, 500, 800, 600], [5, 5, 5, 5]])
    found = Detections(boxes, torch.ones(3), torch.zeros(3, dtype=torch.int64), NAMES, (400, 600))
    assert [crop.size for crop in found.crops(image())] == [(600, 400), (1, 1), (1, 1)]


def test_crops_of_a_reduced_picture_are_at_its_scale(three: Detections) -> None:
    half = Picture(image().resize((300, 200)), (400, 600))
    assert three.crops(half)[0].size == (50, 100)


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "PNG"), (".JPG", "JPEG"), (".webp", "WEBP")])
def test_save_goes_by_the_suffix(three: Detections, tmp_path: Path, suffix: str, kind: str) -> None:
    three.save(tmp_path / "new" / f"a{suffix}", image())
    with Image.open(tmp_path / "new" / f"a{suffix}") as written:
        assert (written.format, written.size) == (kind, (600, 400))
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize("name", ["a", "a.txt", "a.pngg"])
def test_a_suffix_of_no_picture_is_one_line(three: Detections, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"no format for pictures has the suffix .* expected \.png"):
        three.save(tmp_path / name, image())
    assert list(tmp_path.iterdir()) == []


def test_a_format_without_room_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"too (big|large)"):
        save_picture(Image.new("RGB", (70_000, 1)), tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_crops_are_saved_by_class(three: Detections, tmp_path: Path) -> None:
    paths = three.save_crops(tmp_path, image=image())
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "dog/image_1.png",
        "cat/image_2.png",
        "dog/image_3.png",
    ]
    with Image.open(paths[2]) as crop:
        assert crop.tobytes() == three.crops(image())[2].tobytes()
    assert three.save_crops(tmp_path, "cell", image())[0].name == "cell_1.png"


HOSTILE = (
    "../../up",
    "/abs",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "nul\0",
    "Cat",
    "cat",
    ".hid",
    "x" * 999,
    "ü" * 99,
    "a\nb",
    " ",
)


def test_no_class_leads_out_of_the_folder(tmp_path: Path) -> None:
    folders = class_folders(HOSTILE)
    assert len({folder.casefold() for folder in folders}) == len(HOSTILE)
    for folder in folders:
        assert (tmp_path / folder).resolve().parent == tmp_path.resolve()
        (tmp_path / folder).mkdir()
    assert class_folders(["red blood cell", "WBC", "Ähre"]) == ["red blood cell", "WBC", "Ähre"]


def test_crops_of_hostile_classes_stay_in_the_folder(tmp_path: Path) -> None:
    count = len(HOSTILE)
    boxes = torch.tensor([[0.0, 0, 9, 9]]).repeat(count, 1)
    found = Detections(boxes, torch.ones(count), torch.arange(count), HOSTILE, (400, 600))
    home = tmp_path / "crops"
    for path in found.save_crops(home, image=image()):
        assert path.resolve().parent.parent == home.resolve()
    assert list(tmp_path.iterdir()) == [home]
