"""Packages of AOTInductor: their answers without dyzoo, and what is refused before the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config as inductor_config
from torch import Tensor

from dyzoo.cli import run
from dyzoo.config import DetectorConfig
from dyzoo.errors import ExportError, ImageError
from dyzoo.export import ExportOptions, programs
from dyzoo.model.sizes import MAX_BATCH_PIXELS
from tests.export.detectors import small_detector

ALONE = """
import sys
for name in ("dyzoo", "dyhead_kernels", "timm"): sys.modules[name] = None
import torch, torchvision
detect = torch._inductor.aoti_load_package(sys.argv[1])
generator = torch.Generator().manual_seed(0)
pictures = torch.randint(0, 256, (3, 3, 90, 131), dtype=torch.uint8, generator=generator)
with torch.no_grad():
    found = {"three": detect(pictures), "one": detect(pictures[:1]), "facts": detect.get_metadata()}
for wrong in (pictures[:, :, :64], pictures.float(), pictures.transpose(2, 3).contiguous().transpose(2, 3)):
    try:
        detect(wrong)
    except RuntimeError as error:
        found.setdefault("refused", []).append(str(error))
torch.save(found, sys.argv[2])
"""


@pytest.mark.slow  # a minute of tracing and compiling
def test_a_package_finds_the_same_objects_without_dyzoo(tmp_path: Path) -> None:
    model = small_detector("atss", offset_mode="resize", channel_order="BGR")
    report = model.export(tmp_path / "small.pt2", to="aoti", size=(90, 131))
    assert report.detections >= 100
    assert report.runtime == "AOTInductor"
    command = [sys.executable, "-c", ALONE, str(report.path), str(tmp_path / "found")]
    looking = {**os.environ, "AOTI_RUNTIME_CHECK_INPUTS": "1"}
    subprocess.run(command, check=True, cwd=tmp_path, timeout=300, env=looking)
    given = torch.load(tmp_path / "found")
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (3, 3, 90, 131), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        wanted = model(list(pictures))
    for name in ("one", "three"):
        found = given[name]
        assert len(found["counts"]) == {"one": 1, "three": 3}[name]
        for index, count in enumerate(found["counts"].tolist()):
            want = wanted[index]["scores"]
            assert count == len(want) > 0
            torch.testing.assert_close(found["scores"][index, :count], want, rtol=0, atol=1e-4)
    assert len(given["refused"]) == 3, "another size, another type, not contiguous"
    facts = given["facts"]
    assert json.loads(facts["picture_size"]) == [90, 131]
    assert json.loads(facts["labels"]) == ["a", "b"]
    assert DetectorConfig.from_json(facts["config"]) == model.config


def test_a_package_that_answers_otherwise_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nothing_found(images: Tensor) -> dict[str, Tensor]:
        number = len(images)
        shapes = {"boxes": (number, 300, 4), "scores": (number, 300), "labels": (number, 300), "counts": (number,)}
        return {name: torch.zeros(shape, dtype=torch.int64) for name, shape in shapes.items()}

    monkeypatch.setattr(programs, "_program", lambda *_: None)
    monkeypatch.setattr(programs, "compile_package", lambda *_: None)
    monkeypatch.setattr(programs, "open_package", lambda *_: nothing_found)
    with pytest.raises(ExportError, match=r"0\.0% of \d+ detections are the same as the detector's"):
        small_detector("atss").export(tmp_path / "other.pt2", to="aoti", size=(64, 96))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_compiled_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("C++ compile error\nand a page of it")

    monkeypatch.setattr(programs, "_program", lambda *_: None)
    monkeypatch.setattr(programs, "compile_package", fail)
    with pytest.raises(ExportError, match=r"cannot be compiled for 64 x 96 pixels: C\+\+ compile error$"):
        small_detector("atss").export(tmp_path / "other.pt2", to="aoti", size=(64, 96))
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_is_not_there_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(tmp_path / "no-model"), "--to", "aoti", "--size", "64x96", "--out", str(tmp_path / "a.pt2")]
    with inductor_config.patch({"cpp.cxx": (None, str(tmp_path / "no-compiler"))}):
        assert run(words) == 1
    assert "no C++ compiler found, aoti needs one: install g++" in capsys.readouterr().err


def test_a_size_is_for_packages_and_they_need_one() -> None:
    with pytest.raises(ExportError, match=r"aoti compiles for one size, expected the height and width .* --size HxW"):
        ExportOptions(to="aoti")
    with pytest.raises(ExportError, match="size is for aoti, and torch-export takes pictures of every size"):
        ExportOptions(to="torch-export", size=(64, 96))
    assert ExportOptions(to="aoti", size=[64, 96]).size == (64, 96)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [64, (64,), (64, 0), (64, 1.5), (True, 64), (64, 10**9), "64x96"])
def test_sizes_that_are_none_are_said(size: Any) -> None:
    with pytest.raises(ExportError, match=r"expected \(H, W\), each from 1 to 16384 pixels"):
        ExportOptions(to="aoti", size=size)


@pytest.mark.parametrize("size", ["64", "64x", "64x96x3", "-64x96", "64x1e3", "6" * 5000 + "x1", "٦x٦"])
def test_sizes_of_the_command_are_read_with_care(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "--to", "aoti", "--size", size]) == 2
    assert "is no height and width, such as 320x416" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_batch_has_a_size_that_is_padded_already(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"size is 90 x 128 \(H x W\), expected multiples of 32 .* 96 x 128 is the"):
        small_detector("atss").export(tmp_path / "a.pt2", to="aoti", preprocess=False, size=(90, 128))


def test_a_size_of_more_memory_than_a_batch_has_is_refused(tmp_path: Path) -> None:
    side = int(MAX_BATCH_PIXELS**0.5)
    with pytest.raises(ImageError, match="choose a smaller size"):
        small_detector("atss").export(tmp_path / "a.pt2", to="aoti", size=(side, side))
