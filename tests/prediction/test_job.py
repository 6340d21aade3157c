"""A job writes all that is found, goes on where it stopped, and one bad picture costs no other."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from dyzoo.errors import DyzooError
from dyzoo.prediction import FORMATS, Job, predict_to_folder
from dyzoo.prediction.outputs import Found
from tests.prediction.stub_model import StubModel, write_pictures


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_all_formats_hold_all_that_was_found(tmp_path: Path, out: Path) -> None:
    paths = write_pictures(tmp_path, "a/1.jpg", "b/1.jpg")
    written = predict_to_folder(StubModel(), paths, out, formats=FORMATS)
    assert (written.images, written.failures, sorted(written.files)) == (2, [], sorted(FORMATS))
    assert files(out) == [
        "1.png", "1_2.png", "classes.txt", "coco_images.json", "coco_results.json", "detections.csv",
        "detections.json", "detections.jsonl", "labels/1.txt", "labels/1_2.txt",
    ]  # fmt: skip
    assert [image["path"] for image in json.loads((out / "detections.json").read_text())["images"]] == [
        *map(str, paths)
    ]
    assert (out / "labels" / "1.txt").read_text() == "0 0.1 0.175 0.166667 0.25 0.9\n1 0.502083 0.5 0.329167 0.5 0.5\n"
    assert (out / "classes.txt").read_text() == "cat\n../dog\n"
    with (out / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["name"], row["x1"]) for row in rows] == [
        (str(path), name, x) for path in paths for name, x in (("cat", "1.0"), ("../dog", "20.25"))
    ]


def test_pycocotools_reads_the_coco_files(tmp_path: Path, out: Path) -> None:
    paths = write_pictures(tmp_path, "a.png", "b.png")
    predict_to_folder(StubModel(), paths, out, formats=["coco"], pictures=False)
    images = COCO(out / "coco_images.json")
    results = images.loadRes(str(out / "coco_results.json"))
    assert [image["file_name"] for image in images.loadImgs(images.getImgIds())] == [*map(str, paths)]
    (dog,) = results.loadAnns(results.getAnnIds(imgIds=[2], catIds=[2]))
    assert (dog["bbox"], dog["score"]) == ([20.25, 10, 19.75, 20], 0.5)


def test_crops_go_to_the_folder_of_their_class_and_no_other(tmp_path: Path, out: Path) -> None:
    (path,) = write_pictures(tmp_path, "a.png")
    predict_to_folder(StubModel(), path, out, crops=True, pictures=False, formats=[])
    assert files(out) == ["crops/_._dog/a_2.png", "crops/cat/a_1.png", "detections.jsonl"]
    with Image.open(out / "crops/cat/a_1.png") as crop:
        assert crop.size == (10, 10)


def test_frames_of_a_film_lie_in_its_folder(tmp_path: Path, out: Path) -> None:
    extras = {"formats": ["yolo", "coco"], "crops": True, "frames": True}
    written = predict_to_folder(StubModel(), [tmp_path / "x.film"], out, **extras)
    assert written.images == 3
    assert [name for name in files(out) if name.endswith(("2.png", "2.txt"))] == [
        "crops/_._dog/x/000000_2.png", "crops/_._dog/x/000001_2.png", "crops/_._dog/x/000002_2.png",
        "labels/x/000002.txt", "x/000002.png",
    ]  # fmt: skip
    assert json.loads((out / "coco_images.json").read_text())["images"][2]["time_s"] == 0.2


def test_settings_reach_the_model_and_the_journal(tmp_path: Path, out: Path) -> None:
    (path,) = write_pictures(tmp_path, "a.png")
    settings = {"threshold": {"cat": 0.2}, "iou": 0.4, "tiles": "auto", "batch_size": 4, "classes": ("cat",)}
    model = StubModel()
    predict_to_folder(model, path, out, model_name="mine", **settings)
    assert model.asked == [{**settings, "keep_pictures": True, "on_error": "return", "stream": True}]
    whole = json.loads((out / "detections.json").read_text())
    del whole["images"]
    assert whole == {
        "model": "mine", "threshold": {"cat": 0.2}, "flips": [], "size": None, "classes": ["cat"], "iou": 0.4,
        "tiles": "auto",
    }  # fmt: skip
    with pytest.raises(DyzooError, match=r"was made with iou 0\.4, not None"):
        predict_to_folder(model, path, out, model_name="mine", resume=True, **{**settings, "iou": None})


def test_pictures_are_not_kept_where_nobody_wants_them(tmp_path: Path, out: Path) -> None:
    model = StubModel()
    predict_to_folder(model, write_pictures(tmp_path, "a.png"), out, pictures=False)
    assert "keep_pictures" not in model.asked[0]


def stopping_after(count: int) -> Any:
    """An output that ends the run with the result behind so many."""

    class Stopping:
        def __init__(self) -> None:
            self.left, self.closed = count, 0

        def add(self, found: Found) -> None:
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device", "x")

        def close(self) -> None:
            self.closed += 1

    return Stopping()


def test_a_stopped_job_resumes_to_the_same_files(tmp_path: Path, out: Path) -> None:
    films = pytest.importorskip("tests.images.sources.films", reason="PyAV is not installed")
    film = films.write_film(tmp_path / "b.mp4", 3)
    sources = [*write_pictures(tmp_path, "a.png", "sub/a.png"), film, *write_pictures(tmp_path, "c.png")]
    whole = tmp_path / "whole"
    predict_to_folder(StubModel(), sources, whole, formats=FORMATS, crops=True)
    for count in (1, 3, 4):
        output = stopping_after(count)
        with pytest.raises(OSError, match="No space left"):
            predict_to_folder(StubModel(), sources, out, formats=FORMATS, crops=True, outputs=[output])
        assert (output.closed, (out / "detections.json").exists()) == (1, False)
        written = predict_to_folder(StubModel(), sources, out, formats=FORMATS, crops=True, resume=True)
        assert (written.images, files(out)) == (6, files(whole))
        assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in files(whole))
        for name in FORMATS:
            (out / f"detections.{name}").unlink(missing_ok=True)


def test_a_resumed_job_knows_how_much_is_done(tmp_path: Path, out: Path) -> None:
    paths = write_pictures(tmp_path, "a.png", "b.png", "c.png")
    predict_to_folder(StubModel(), paths[:2], out)
    with Job(StubModel(), paths, out, resume=True) as job:
        assert (job.done, job.total) == (2, 1)
        assert [result.source for result in job.run()] == [str(paths[2])]


def test_images_in_memory_have_numbers_for_names(tmp_path: Path, out: Path) -> None:
    (path,) = write_pictures(tmp_path, "a.png")
    images = [np.zeros((40, 60, 3), np.uint8), path, Image.new("RGB", (60, 40)), np.zeros(3)]
    written = predict_to_folder(StubModel(), images, out)
    assert (written.images, len(written.failures)) == (3, 1)
    assert [name for name in files(out) if name.endswith("png")] == ["a.png", "image_1.png", "image_3.png"]
    model = StubModel()
    written = predict_to_folder(model, iter(images), out, resume=True)
    assert written.images == 3, "those of an iterator, too, are known by their places"


def test_what_cannot_be_written_is_a_line_and_the_rest_comes_out(tmp_path: Path, out: Path) -> None:
    paths = write_pictures(tmp_path, "a.png", "b.png")
    (out / "a.png").mkdir(parents=True)
    (out / "crops").write_text("a file in the place of a folder")
    written = predict_to_folder(StubModel(), [*paths, tmp_path / "gone.png"], out, crops=True)
    assert written.images == 2
    assert written.failures[0] == f"{out}/a.png cannot be written: is a folder, expected a file to write to"
    assert all("crops" in line and "cannot be written" in line for line in written.failures[1:3])
    assert "gone.png: no such file" in written.failures[3]
    assert (out / "b.png").is_file()


def test_nothing_read_leaves_nothing(tmp_path: Path, out: Path) -> None:
    written = predict_to_folder(StubModel(), tmp_path / "gone.png", out, formats=FORMATS)
    assert (written.images, written.files, len(written.failures), files(out)) == (0, {}, 1, [])


def test_formats_of_nothing_found_are_whole(tmp_path: Path, out: Path) -> None:
    class Blind(StubModel):
        def _found(self, picture: Any, settings: dict[str, Any]) -> Any:
            return super()._found(picture, settings)[:0]

    predict_to_folder(Blind(), write_pictures(tmp_path, "a.png"), out, formats=FORMATS)
    assert json.loads((out / "coco_results.json").read_text()) == []
    assert (out / "labels" / "a.txt").read_text() == ""
    assert len((out / "detections.csv").read_text().splitlines()) == 1


def test_a_class_of_several_lines_keeps_its_line_in_classes_txt(tmp_path: Path, out: Path) -> None:
    class Odd(StubModel):
        labels = ("cat\nor dog", "bird")

    predict_to_folder(Odd(), write_pictures(tmp_path, "a.png"), out, formats=["yolo"])
    assert (out / "classes.txt").read_text() == "cat or dog\nbird\n"
