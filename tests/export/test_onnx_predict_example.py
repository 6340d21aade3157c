"""docs/examples/onnx_predict.py finds what the detector finds, without torch and without dyzoo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime", minversion="1.25.1")

import onnx
from PIL import Image

import dyzoo
from dyzoo.zoo.catalog import sample_image
from tests.export.exported import Exported

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "onnx_predict.py"
BLOCKED = ("torch", "torchvision", "timm", "dyzoo", "dyhead_kernels")
THRESHOLD, MOST_PX = 0.002, 0.5
TURNED = {0x0112: 6}  # EXIF: the top of the picture is at the right of the stored one


def run_example(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = (
        f"import runpy, sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"
        f"sys.argv = ['onnx_predict.py', *{words!r}]\nrunpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def turned_picture(path: Path) -> None:
    exif = Image.Exif()
    exif.update(TURNED)
    with Image.open(sample_image()) as picture:
        picture.crop((0, 0, 400, 220)).save(path, quality=95, exif=exif)


def test_boxes_are_those_of_the_detector(exported_atss: Exported, tmp_path: Path) -> None:
    model = exported_atss.report.path
    turned_picture(tmp_path / "turned.jpg")
    words = ("--threshold", str(THRESHOLD), "--json", "found.json", "--out", "found.png")
    done = run_example(tmp_path, str(model), "turned.jpg", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    wanted = dyzoo.load(model).predict(tmp_path / "turned.jpg", THRESHOLD)[0]
    assert wanted.image_size == (400, 220), "turned upright"
    assert len(wanted) > 100
    assert abs(len(found) - len(wanted)) <= 2, "but for scores at the threshold"
    missing = 0
    for want in wanted:
        boxes = np.array([each["box"] for each in found if each["label"] == want.name])
        apart = np.abs(boxes - np.array(want.box_xyxy)).max(axis=1)
        missing += int(apart.min() >= MOST_PX)
    assert missing <= 2, "likewise"
    assert done.stdout.splitlines()[-1] == f"{len(found)} objects"
    with Image.open(tmp_path / "found.png") as drawn:
        assert drawn.size == (220, 400)
        assert (255, 0, 0) in set(
            drawn.get_flattened_data() if hasattr(drawn, "get_flattened_data") else drawn.getdata()
        )


def test_files_that_are_something_else_are_one_line(exported_maps: Exported, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    mute = onnx.load(str(exported_maps.report.path))
    del mute.metadata_props[:]
    onnx.save(mute, str(tmp_path / "mute.onnx"))
    maps = str(exported_maps.report.path)
    turned_picture(tmp_path / "turned.jpg")
    for model, message in (
        ("text.onnx", "cannot be used"),
        ("mute.onnx", "its metadata lack head, input, labels, output, size, expected a file of `dyzoo export`"),
        (maps, "gives maps, expected"),
    ):
        done = run_example(tmp_path, model, "turned.jpg")
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
