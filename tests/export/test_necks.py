"""Models of other packages with a `DyHead` inside, without our operators, and in ONNX."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime", minversion="1.25.1")

import dyzoo
from dyzoo.errors import ExportError
from dyzoo.export.necks import exportable
from tests.export.graphs import onnx_answers

TOLERANCE = 2e-5


def rough(**settings: Any) -> dyzoo.DyHead:
    torch.manual_seed(0)
    neck = dyzoo.DyHead(16, 2, (8, 16, 4), **settings).eval()
    with torch.no_grad():
        for parameter in neck.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return neck


class Model(nn.Module):
    """A foreign detector's middle: pictures in, predictions by level out."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        steps = ((3, 8, 4), (8, 16, 2), (16, 4, 2))
        self.backbone = nn.ModuleList(nn.Conv2d(*widths, 3, stride, padding=1) for *widths, stride in steps)
        self.neck = rough(**settings)
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for index, conv in enumerate(self.backbone):
            images = maps[f"p{index + 2}"] = conv(images).tanh()
        return [self.head(level) for level in self.neck(maps).values()]


FORMS = {
    **{mode: {"offset_mode": mode} for mode in ("flat", "crop", "resize")},
    "no bias": {"conv_bias": False},
    "tensor": {"form": "tensor"},
}
every_form = pytest.mark.parametrize("settings", FORMS.values(), ids=FORMS)


def pictures(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


@every_form
@pytest.mark.parametrize("deform_conv", ["node", "grid-sample"])
def test_a_copy_answers_the_same_without_our_operators(settings: dict[str, Any], deform_conv: Any) -> None:
    model, images = Model(**settings).eval(), pictures(2, 3, 45, 70)
    plain = exportable(model, deform_conv)
    assert type(plain) is Model
    with torch.no_grad():
        program = torch.export.export(plain, (images,))
        operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert not any("dyhead" in name for name in operators)
        assert any("deform_conv2d" in name for name in operators) == (deform_conv == "node")
        for want, got in zip(model(images), program.module()(images), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE * float(want.abs().max()))


@pytest.mark.parametrize("settings", [FORMS["resize"], FORMS["flat"]], ids=["resize", "flat"])
def test_onnx_takes_it_at_sizes_that_are_not_known(settings: dict[str, Any], tmp_path: Path) -> None:
    model = Model(**settings).eval()
    number, height, width = Dim("n", max=64), Dim("h", max=64), Dim("w", max=64)
    shapes = ({0: number, 2: 16 * height, 3: 16 * width},)
    given = pictures(3, 3, 32, 80)
    answers = onnx_answers(exportable(model), (pictures(2, 3, 64, 48),), shapes, {}, tmp_path / "model.onnx", [given])
    with torch.no_grad():
        for want, got in zip(model(given), answers, strict=True):
            torch.testing.assert_close(torch.from_numpy(got), want, rtol=0, atol=TOLERANCE * float(want.abs().max()))


def test_onnx_of_the_tensor_form(tmp_path: Path) -> None:
    model, images = Model(form="tensor").eval(), pictures(2, 3, 45, 70)
    answers = onnx_answers(exportable(model, "grid-sample"), (images,), None, {}, tmp_path / "model.onnx")
    with torch.no_grad():
        for want, got in zip(model(images), answers, strict=True):
            torch.testing.assert_close(torch.from_numpy(got), want, rtol=0, atol=TOLERANCE * float(want.abs().max()))


@pytest.mark.parametrize("form", ["pyramid", "tensor"])
def test_it_is_traced(form: str) -> None:
    model, images = Model(form=form).eval(), pictures(2, 3, 45, 70)
    traced = torch.jit.trace(exportable(model), images)
    operators = {node.kind() for node in traced.inlined_graph.nodes()}
    assert not any(name.startswith(("dyzoo", "dyhead")) for name in operators)
    assert "torchvision::deform_conv2d" in operators
    with torch.no_grad():
        for want, got in zip(model(images), traced(images), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE * float(want.abs().max()))


def test_the_model_stays_and_a_neck_that_is_there_twice_is_one() -> None:
    model = Model()
    model.again = model.neck
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = exportable(model)
    assert plain.again is plain.neck
    assert plain.neck is not model.neck
    assert type(model.neck) is dyzoo.DyHead
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert exportable(plain).neck.out_channels == 16, "once more changes nothing"


def test_a_neck_alone_and_one_without_blocks() -> None:
    levels = [torch.randn(1, 16, 4, 4), torch.randn(1, 16, 2, 2)]
    with torch.no_grad():
        for neck in (dyzoo.DyHead(16, 1), dyzoo.DyHead(16, 0)):
            for want, got in zip(neck(levels), exportable(neck)(levels), strict=True):
                torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Conv2d(1, 1, 1), {}, "Conv2d has no DyHead in it, expected a module with one"),
        ("model.pt", {}, "str has no DyHead in it"),
        (dyzoo.DyHead(16, 1), {"deform_conv": "nodes"}, "deform_conv is 'nodes', expected 'node' or 'grid-sample'"),
    ],
    ids=["none", "no module", "form"],
)
def test_mistakes_are_named(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        exportable(model, **options)
