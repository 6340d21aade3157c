"""`dyzoo.DyHead` between any pyramid and its heads: what goes in, what comes out, and the numbers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dyzoo
from dyzoo.config import DyHeadConfig
from dyzoo.errors import SettingError
from tests.kernels.oracles import ModuleBlock
from tests.kernels.tolerances import assert_near
from tests.model.narrow_detectors import narrow_detector

PYRAMIDS = {
    "one level": ((5, 4),),
    "odd": ((13, 7), (7, 4), (4, 2)),
    "down to a pixel": ((5, 9), (3, 5), (2, 3), (1, 2), (1, 1), (1, 1)),
    "halves": ((8, 4), (4, 2)),
}
Sizes = tuple[tuple[int, int], ...]


def levels_of(sizes: Sizes, channels: int | tuple[int, ...] = 16, images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    widths = channels if isinstance(channels, tuple) else (channels,) * len(sizes)
    return [torch.randn(images, width, *size, generator=generator) for width, size in zip(widths, sizes, strict=True)]


def neck_of(*args: Any, **settings: Any) -> dyzoo.DyHead:
    """A neck whose every parameter matters: offsets of a pixel or so, attentions off their clamps."""
    torch.manual_seed(5)
    neck = dyzoo.DyHead(*args, **settings)
    with torch.no_grad():
        for parameter in neck.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return neck


@pytest.mark.parametrize("offset_mode", ["flat", "crop", "resize"])
@pytest.mark.parametrize("sizes", PYRAMIDS.values(), ids=PYRAMIDS)
def test_it_is_the_block_step_by_step(sizes: Sizes, offset_mode: Any) -> None:
    neck = neck_of(32, 2, 16, offset_mode=offset_mode, conv_bias=offset_mode != "crop").double()
    levels = [level.double().requires_grad_() for level in levels_of(sizes)]
    expected: list[Tensor] = levels
    for block in neck.blocks:
        expected = ModuleBlock(block.stacked(), offset_mode, 16)(expected)  # type: ignore[operator]
    outputs = neck(levels)
    weights = [torch.randn_like(output) for output in outputs]
    grads = []
    for maps in (outputs, expected):
        total = sum((weight * level).sum() for weight, level in zip(weights, maps, strict=True))
        grads.append(torch.autograd.grad(total, [*levels, neck.blocks[0].offset_weight]))  # type: ignore[arg-type,list-item]
    for got, want in zip(outputs, expected, strict=True):
        assert_near(got, want, torch.float64, "forward")
    for got, want in zip(*grads, strict=True):
        assert_near(got, want, torch.float64, "block gradient")


@pytest.mark.parametrize("form", ["pyramid", "tensor"])
def test_it_is_the_one_inside_a_detector_bit_for_bit(form: Any) -> None:
    model = narrow_detector(dyhead=DyHeadConfig(channels=32, num_blocks=2, form=form))
    neck = dyzoo.DyHead(32, 2, form=form)
    neck.load_state_dict(model.dyhead.state_dict())
    batch = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        names = ("p3", "p4", "p5", "p6", "p7")
        outputs = neck(OrderedDict(zip(names, model.fpn(model.backbone(batch)), strict=True)))
        for want, got in zip(model.forward_features(batch), outputs.values(), strict=True):
            assert torch.equal(want, got)


def test_weights_keep_their_names() -> None:
    published = dyzoo.load("dyhead_atss_resnet10t.bccd").dyhead.state_dict()
    assert "blocks.1.offset_weight" in published
    dyzoo.DyHead(96, 2).load_state_dict(published)
    with_projections = set(dyzoo.DyHead(96, 2, [8, 16]).state_dict())
    projections = {f"projections.{level}.{kind}" for level in range(2) for kind in ("weight", "bias")}
    assert with_projections == {*published, *projections}


def test_what_comes_out_is_of_the_kind_that_went_in() -> None:
    neck, levels = neck_of(16, 1), levels_of(PYRAMIDS["odd"])
    names = ("0", "1", "pool")
    expected = neck(levels)
    kinds: list[Any] = [levels, tuple(levels), dict(zip(names, levels, strict=True))]
    for given in (*kinds, OrderedDict(kinds[2])):
        found = neck(given)
        assert type(found) is type(given)
        if isinstance(found, Mapping):
            assert tuple(found) == names
            found = found.values()
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("form", ["pyramid", "tensor"])
@pytest.mark.parametrize("count", range(1, 7))
def test_any_number_of_levels(count: int, form: str) -> None:
    sizes = tuple((-(-20 // 2**level), -(-33 // 2**level)) for level in range(count))
    outputs = dyzoo.DyHead(16, 1, 8, form=form)(levels_of(sizes, 8))
    assert [tuple(output.shape) for output in outputs] == [(2, 16, *size) for size in sizes]
    assert all(torch.isfinite(output).all() for output in outputs)


def test_the_tensor_form_takes_levels_that_do_not_halve() -> None:
    sizes = ((9, 8), (7, 7), (7, 7), (2, 3))
    outputs = dyzoo.DyHead(16, 1, form="tensor")(levels_of(sizes))
    assert [tuple(output.shape[2:]) for output in outputs] == list(sizes)


@pytest.mark.parametrize("blocks", [0, 2])
def test_levels_of_different_widths_are_projected(blocks: int) -> None:
    widths, sizes = (24, 3, 48), PYRAMIDS["odd"]
    neck, levels = neck_of(16, blocks, widths), levels_of(sizes, widths)
    plain = dyzoo.DyHead(16, blocks)
    plain.load_state_dict({name: value for name, value in neck.state_dict().items() if name.startswith("blocks")})
    assert neck.projections is not None
    projected = [projection(level) for projection, level in zip(neck.projections, levels, strict=True)]
    assert (neck.in_channels, neck.out_channels) == (widths, 16)
    for want, got in zip(plain(projected), neck(levels), strict=True):
        assert torch.equal(want, got)


def test_widths_that_go_in_and_come_out() -> None:
    assert (dyzoo.DyHead().in_channels, dyzoo.DyHead().out_channels) == (256, 256)
    assert len(dyzoo.DyHead().blocks) == 6
    assert (neck := dyzoo.DyHead(32, 1, 8)).out_channels == 32
    assert neck.projections is None
    assert dyzoo.DyHead(32, 0, 8).out_channels == 8


def test_gradients_reach_every_parameter_and_every_level() -> None:
    neck, levels = dyzoo.DyHead(32, 2, (8, 16, 4)), levels_of(PYRAMIDS["odd"], (8, 16, 4))
    for level in levels:
        level.requires_grad_()
    sum((output * torch.randn_like(output)).sum() for output in neck(levels)).backward()
    for name, tensor in (*neck.named_parameters(), *((f"level {i}", level) for i, level in enumerate(levels))):
        assert tensor.grad is not None, name
        assert torch.isfinite(tensor.grad).all(), name
        assert tensor.grad.any(), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_and_autocast_stay_near(dtype: torch.dtype) -> None:
    neck, levels = neck_of(32, 1, (8, 16, 4)), levels_of(PYRAMIDS["odd"], (8, 16, 4))
    expected = neck(levels)
    with torch.autocast("cpu", dtype):
        under_autocast = neck(levels)
    converted = copy.deepcopy(neck).to(dtype)([level.to(dtype) for level in levels])
    for want, *found in zip(expected, under_autocast, converted, strict=True):
        assert all(output.dtype == dtype for output in found)
        assert all((output.float() - want).abs().max() < 0.05 * want.abs().max() for output in found)


def test_memory_order_and_company_change_nothing() -> None:
    neck, levels = neck_of(16, 2), levels_of(PYRAMIDS["odd"])
    expected = neck(levels)
    channels_last = [level.to(memory_format=torch.channels_last) for level in levels]
    alone = neck([level[1:] for level in levels])
    for want, other, single in zip(expected, neck(channels_last), alone, strict=True):
        assert torch.equal(other, want)
        torch.testing.assert_close(single, want[1:], rtol=1e-5, atol=1e-5)


class Model(nn.Module):
    """A foreign detector's middle: names and maps in, predictions out."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = neck_of(16, 2, (8, 16, 4))
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, levels: Any) -> list[Tensor]:
        named = OrderedDict((f"p{index}", level) for index, level in enumerate(levels))
        return [self.head(level) for level in self.neck(named).values()]


def test_a_model_with_it_compiles_into_one_graph_and_learns_in_it() -> None:
    model, levels = Model(), levels_of(PYRAMIDS["odd"], (8, 16, 4))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    grads = []
    for each in (model, compiled):
        outputs = each(levels)
        sum(output.square().sum() for output in outputs).backward()
        grads.append(model.neck.blocks[0].offset_weight.grad.clone())  # type: ignore[union-attr]
        model.zero_grad()
    for eager, traced in zip(model(levels), compiled(levels), strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_a_model_with_it_is_exported_with_our_operators() -> None:
    model, levels = Model().eval(), levels_of(PYRAMIDS["odd"], (8, 16, 4))
    program = torch.export.export(model, (levels,))
    assert any("dyhead_block" in str(node.target) for node in program.graph.nodes)
    for want, got in zip(model(levels), program.module()(levels), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


SMALL = torch.zeros(2, 16, 4, 4), torch.zeros(2, 16, 2, 2)
MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "no levels": (lambda neck: neck([]), ValueError, r"levels is empty, expected one map \(N, C, H, W\) or more"),
    "no names": (lambda neck: neck({}), ValueError, r"levels is empty"),
    "a tensor": (lambda neck: neck(SMALL[0]), TypeError, r"levels is a tensor \(2, 16, 4, 4\), expected a list, tuple"),
    "a generator": (lambda neck: neck(iter(SMALL)), TypeError, r"levels is tuple_iterator, expected a list, tuple"),
    "no map": (lambda neck: neck([SMALL[0], None]), TypeError, r"level 1 is NoneType, expected a map \(N, 16, H, W\)"),
    "dimensions": (lambda neck: neck([SMALL[0][0]]), ValueError, r"level 0 is \(16, 4, 4\), expected \(N, 16, H, W\)"),
    "channels": (
        lambda neck: neck({"p3": SMALL[0], "p4": torch.zeros(2, 8, 2, 2)}),
        ValueError,
        r"level p4 is \(2, 8, 2, 2\), expected \(2, 16, H, W\) of one pixel or more: in_channels is 16",
    ),
    "images": (
        lambda neck: neck([SMALL[0], SMALL[1][:1]]),
        ValueError,
        r"level 1 is \(1, 16, 2, 2\), expected \(2, 16,",
    ),
    "no pixels": (lambda neck: neck([SMALL[0], SMALL[1][:, :, :0]]), ValueError, r"expected .* of one pixel or more"),
    "coarsest first": (
        lambda neck: neck(SMALL[::-1]),
        ValueError,
        r"level 1 of the pyramid is \(4, 4\), expected \(1, 1\): half of \(2, 2\), the level before it, rounded up",
    ),
    "integers": (lambda neck: neck([SMALL[0].long()]), TypeError, "expected a floating-point tensor"),
    "elsewhere": (lambda neck: neck([SMALL[0].to("meta")]), TypeError, "is on cpu, expected meta like the input"),
    "number of levels": (
        lambda neck: dyzoo.DyHead(16, 1, (16, 16, 16))(SMALL),
        ValueError,
        r"levels has 2 maps, expected 3: in_channels is \(16, 16, 16\)",
    ),
    "groups": (lambda neck: dyzoo.DyHead(100), SettingError, "channels is 100, expected a multiple of 16"),
    "groups of the tensor form": (lambda neck: dyzoo.DyHead(8, form="tensor"), SettingError, "a multiple of 16"),
    "type": (lambda neck: dyzoo.DyHead("256"), SettingError, "DyHead: channels is '256', expected int"),
    "blocks": (lambda neck: dyzoo.DyHead(16, -1), SettingError, "DyHead: blocks is -1, expected 0 to 64"),
    "form": (
        lambda neck: dyzoo.DyHead(form="paper"),
        SettingError,
        "form is 'paper', expected one of 'pyramid', 'tensor'",
    ),
    "unknown": (
        lambda neck: dyzoo.DyHead(offsets="flat"),
        SettingError,
        "DyHead: unknown setting 'offsets', expected some of channels, conv_bias, form, blocks",
    ),
    "in_channels": (lambda neck: dyzoo.DyHead(16, 1, 0), SettingError, "in_channels is 0, expected a positive number"),
    "no in_channels": (lambda neck: dyzoo.DyHead(16, 1, []), SettingError, r"in_channels is \[\], expected a positive"),
    "mixed": (lambda neck: dyzoo.DyHead(16, 1, [8, "8"]), SettingError, r"in_channels is \[8, '8'\], expected"),
}


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named_on_one_line(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        call(dyzoo.DyHead(16, 1))
    assert "\n" not in str(raised.value)
