"""docs/examples/ray_predict.py finds what the detector finds, on Ray's local mode.

Ray is no development dependency, as it brings 300 MB: `pip install 'ray[data]'` lets this run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import dyzoo

pytest.importorskip("ray")
parquet = pytest.importorskip("pyarrow.parquet")

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "ray_predict.py"


def run_example(folder: Path, *words: str) -> list[dict[str, object]]:
    """The rows that it writes, by picture."""
    command = [sys.executable, str(EXAMPLE), "--out", "found", "--size", "96", "--threshold", "0.1", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = parquet.read_table(folder / "found").to_pylist()
    return sorted(rows, key=lambda row: (row["path"], -(row["score"] or 0)))


@pytest.mark.slow  # Ray and its workers start, and each imports torch
@pytest.mark.parametrize("kind", ["folders", "parquet"])
def test_ray_finds_what_the_detector_finds(tmp_path: Path, kind: str) -> None:
    with Image.open(ROOT / "docs" / "images" / "cells.jpg") as cells:
        for number in range(3):
            path = tmp_path / f"photos{number % 2}" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            cells.crop((40 * number, 0, 40 * number + 240, 160)).save(path)
    (tmp_path / "photos0" / "broken.png").write_text("no picture")
    paths = sorted(tmp_path.glob("photos*/*.png"))
    if kind == "folders":
        rows = run_example(tmp_path, "photos0", "photos1")
    else:
        images = [{"bytes": path.read_bytes(), "path": str(path)} for path in paths]
        import pyarrow

        parquet.write_table(pyarrow.table({"image": images}), tmp_path / "x.parquet")
        rows = run_example(tmp_path, "--column", "image", "x.parquet")
    detector = dyzoo.load("dyhead_atss_resnet10t.bccd")
    assert {Path(str(row["path"])).name for row in rows} == {path.name for path in paths}
    for path in paths:
        found = [row for row in rows if Path(str(row["path"])) == path]
        if path.name == "broken.png":
            assert ["is not an image" in str(row["error"]) for row in found] == [True]
            continue
        (expected,) = detector.predict(path, 0.1, size=96)
        assert len(expected)
        assert [(row["label"], row["name"]) for row in found] == [(each.label, each.name) for each in expected]
        for row, each in zip(found, expected, strict=True):
            assert [row["score"], row["x1"], row["y1"], row["x2"], row["y2"]] == pytest.approx(
                [each.score, *each.box_xyxy], abs=1e-3
            )
