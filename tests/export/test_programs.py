"""Programs of torch.export: their answers without dyzoo, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import dyzoo
from dyzoo.cli import run
from dyzoo.errors import CheckpointError, ExportError
from dyzoo.export import ExportOptions
from tests.export.detectors import small_detector

ALONE = """
import sys
for name in ("dyzoo", "dyhead_kernels", "timm"): sys.modules[name] = None
import torch, torchvision
facts = {"dyzoo.json": ""}
detect = torch.export.load(sys.argv[1], extra_files=facts).module()
generator = torch.Generator().manual_seed(0)
picture = torch.randint(0, 256, (1, 3, 90, 131), dtype=torch.uint8, generator=generator)
with torch.no_grad():
    torch.save({**detect(picture), "facts": facts["dyzoo.json"]}, sys.argv[2])
"""


@pytest.mark.slow  # a minute of tracing
@pytest.mark.parametrize(
    ("head", "settings", "options"),
    [
        ("atss", {"offset_mode": "resize"}, {}),
        ("faster_rcnn", {"offset_mode": "crop"}, {"deform_conv": "grid-sample"}),
        ("grounded_atss", {"form": "tensor", "channel_order": "BGR"}, {}),
    ],
    ids=["atss", "faster_rcnn", "grounded_atss"],
)
def test_a_program_finds_the_same_objects_without_dyzoo(head: str, settings: Any, options: Any, tmp_path: Path) -> None:
    model = small_detector(head, **settings)
    report = model.export(tmp_path / "small.pt2", to="torch-export", **options)
    assert report.detections >= 100
    command = [sys.executable, "-c", ALONE, str(report.path), str(tmp_path / "found")]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=300)
    found = torch.load(tmp_path / "found")
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, 90, 131), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        want = model([picture])[0]
    count = int(found["counts"][0])
    assert count == len(want["scores"]) > 0
    torch.testing.assert_close(found["scores"][0, :count], want["scores"], rtol=0, atol=1e-4)
    assert json.loads(json.loads(found["facts"])["labels"]) == ["a", "b"]


def test_a_program_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stranger.pt2"
    path.write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=r"could do anything once it is loaded: .* torch\.export\.load"):
        dyzoo.load(path)
    assert run(["predict", "--model", str(path), "--out", str(tmp_path / "seen")]) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("to", "name", "suffix"),
    [
        ("onnx", "a.xml", ".onnx"),
        ("openvino", "a.onnx", ".xml"),
        ("torch-export", "a", ".pt2"),
    ],
)
def test_a_suffix_of_another_format_is_said_before_the_work(to: Any, name: str, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"does not end in \{suffix}, expected so of the format {to}"):
        small_detector("atss").export(tmp_path / name, to=to)


def test_forms_and_formats_that_do_not_go_together_are_said() -> None:
    with pytest.raises(ExportError, match="OpenVINO reads no DeformConv"):
        ExportOptions(to="openvino", deform_conv="node")
    assert ExportOptions(to="openvino").deform_conv == "grid-sample"
    assert ExportOptions().deform_conv == "node"
