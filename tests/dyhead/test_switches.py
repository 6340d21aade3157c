"""Attentions that are switched off: each block against one of plain convolutions, means and ReLUs."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from dyhead_kernels import Pyramid, dyhead_block
from dyhead_kernels.dyhead_block.attention.reference import relu_lines, scale_attention
from dyhead_kernels.dyhead_block.offsets.reference import high_branch_offsets, offsets
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from dyzoo.config import DetectorConfig, DyHeadConfig
from dyzoo.dyhead import DyHeadBlock, TensorDyHeadBlock
from dyzoo.errors import CheckpointError
from dyzoo.model.detector import Detector
from tests.model.narrow_detectors import narrow_detector

IN_CHANNELS, CHANNELS = 8, 32
SIZES = ((7, 10), (4, 5), (2, 3))
SWITCHES = [dict(zip(("scale", "spatial", "task"), on, strict=True)) for on in product((False, True), repeat=3)]
OF_ATTENTION = {
    "scale": {"scale_weight", "scale_bias"},
    "spatial": {"offset_weight", "offset_bias"},
    "task": {"relu_weight1", "relu_bias1", "relu_weight2", "relu_bias2"},
}
every_choice = pytest.mark.parametrize(
    "switches", SWITCHES, ids=lambda switches: "+".join(name for name, is_on in switches.items() if is_on) or "none"
)


def random_levels() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, IN_CHANNELS, *size) for size in SIZES]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def randomised(module: nn.Module) -> nn.Module:
    torch.manual_seed(2)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def branch(block: DyHeadBlock, index: int, stride: int, source: Tensor, taken: tuple[Tensor, Tensor] | None) -> Tensor:
    """A 3x3 convolution, deformable where offsets and masks are given, and its GroupNorm."""
    own = nn.Conv2d(IN_CHANNELS, CHANNELS, 3, stride, padding=1, dtype=torch.float64)
    del own.weight, own.bias
    own.weight, own.bias = block.conv_weight[index], block.conv_bias[index]  # type: ignore[index]
    if taken is None:
        convolved = own(source)
    else:
        convolved = deform_conv2d(source, taken[0], own.weight, own.bias, stride, padding=1, mask=taken[1])
    return F.group_norm(convolved, 16, block.norm_weight[index], block.norm_bias[index])


def plain_block(block: DyHeadBlock, levels: list[Tensor], scale: bool, spatial: bool, task: bool) -> list[Tensor]:
    """The block's chain with the parameters of the attentions that are on, and none of the others'."""
    outputs = []
    for index, level in enumerate(levels):
        own = offsets(level, block.stacked()) if spatial else None
        maps = [branch(block, 1, 1, level, own)]
        if index > 0:
            maps.append(branch(block, 2, 2, levels[index - 1], own))
        if index < len(levels) - 1:
            coarser = levels[index + 1]
            size = (coarser.shape[2], coarser.shape[3])
            moved = None if own is None else high_branch_offsets(*own, size, "resize")
            high = branch(block, 0, 1, coarser, moved)
            maps.append(F.interpolate(high, level.shape[2:], mode="bilinear", align_corners=True))
        if scale:
            logits = [each.mean(dim=(2, 3)) @ block.scale_weight + block.scale_bias for each in maps]
            maps = [
                F.hardsigmoid(F.relu(logit)).view(-1, 1, 1, 1) * each for logit, each in zip(logits, maps, strict=True)
            ]
        mixed = torch.stack(maps).mean(dim=0)
        if task:
            slopes, intercepts = relu_lines(mixed, block.stacked())
            outputs.append((slopes * mixed + intercepts).amax(dim=0))
        else:
            outputs.append(nn.ReLU()(mixed))
    return outputs


def assert_alike(got: list[Tensor], want: list[Tensor], inputs: list[Tensor]) -> None:
    """The same values, and the same gradients of every input, by a loss in which all values count differently."""
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs)
    losses = [
        sum((each * torch.arange(each.numel()).view_as(each).cos()).sum() for each in maps) for maps in (got, want)
    ]
    for ours, theirs in zip(*(torch.autograd.grad(loss, inputs) for loss in losses), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(ours, theirs)


@every_choice
def test_the_pyramid_form_is_a_block_of_plain_parts(switches: dict[str, bool]) -> None:
    block, levels = randomised(DyHeadBlock(IN_CHANNELS, CHANNELS, **switches)), random_levels()
    assert isinstance(block, DyHeadBlock)
    got = block(Pyramid.from_levels(levels)).levels()
    assert_alike(got, plain_block(block, levels, **switches), [*levels, *block.parameters()])


@every_choice
def test_the_tensor_form_leaves_the_attention_out_of_equation_2(switches: dict[str, bool]) -> None:
    block = randomised(TensorDyHeadBlock(IN_CHANNELS, CHANNELS, **switches))
    size, levels = (3, 4), 3
    tensor = torch.randn(2, levels, 12, IN_CHANNELS, dtype=torch.float64, requires_grad=True)
    want = block.scale(tensor) if switches["scale"] else tensor  # type: ignore[operator]
    maps = want.unflatten(2, size).flatten(0, 1).permute(0, 3, 1, 2)
    if switches["spatial"]:
        maps = block.spatial(want, size).unflatten(2, size).flatten(0, 1).permute(0, 3, 1, 2)  # type: ignore[operator]
    else:
        maps = F.conv2d(maps, block.projection.weight[:, :, None, None])  # type: ignore[union-attr, index]
    maps = block.norm(maps)  # type: ignore[operator]
    want = maps.flatten(2).transpose(1, 2).unflatten(0, (2, levels))
    want = block.task(want) if switches["task"] else want.clamp(min=0)  # type: ignore[operator]
    assert_alike([block(tensor, size)], [want], [tensor, *block.parameters()])


def test_the_tensor_form_projects_only_where_the_width_changes() -> None:
    block = TensorDyHeadBlock(CHANNELS, CHANNELS, None, scale=False, spatial=False, task=False)
    assert not list(block.parameters())
    tensor = torch.randn(1, 2, 12, CHANNELS)
    assert torch.equal(block(tensor, (3, 4)), tensor.relu())


@every_choice
def test_constants_are_no_parameters_and_in_no_state_dict(switches: dict[str, bool]) -> None:
    whole, block = DyHeadBlock(IN_CHANNELS, CHANNELS), DyHeadBlock(IN_CHANNELS, CHANNELS, **switches)
    off = set().union(*(names for attention, names in OF_ATTENTION.items() if not switches[attention]))
    assert set(dict(block.named_buffers())) == off
    assert not any(buffer.requires_grad for buffer in block.buffers())
    for names in (dict(block.named_parameters()), block.state_dict()):
        assert set(names) == set(dict(whole.named_parameters())) - off
    counts = [sum(each.numel() for each in module.parameters()) for module in (whole, block)]
    assert counts[0] - counts[1] == sum(getattr(whole, name).numel() for name in off)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_constants_are_exact_in_every_precision(dtype: torch.dtype) -> None:
    block = DyHeadBlock(IN_CHANNELS, CHANNELS, scale=False, spatial=False, task=False).to(dtype)
    parameters = block.stacked()
    features = torch.randn(2, CHANNELS, 5, 4).to(dtype)
    assert torch.equal(scale_attention(features, parameters), torch.ones(2, 1, 1, 1, dtype=dtype))
    offset, mask = offsets(features[:, :IN_CHANNELS], parameters)
    assert torch.equal(offset, torch.zeros_like(offset))
    assert torch.equal(mask, torch.ones_like(mask))
    slopes, intercepts = relu_lines(features, parameters)
    assert torch.equal(slopes, torch.stack([torch.ones_like(slopes[0]), torch.zeros_like(slopes[0])]))
    assert torch.equal(intercepts, torch.zeros_like(intercepts))


def test_what_is_left_begins_as_with_all_attentions() -> None:
    blocks = []
    for switches in SWITCHES:
        torch.manual_seed(3)
        block = DyHeadBlock(IN_CHANNELS, CHANNELS, **switches)
        blocks.append((block, torch.rand(1)))
    whole, next_number = blocks[-1]
    for block, number in blocks:
        assert number == next_number
        for name, parameter in block.named_parameters():
            assert torch.equal(parameter, getattr(whole, name)), name


def test_constants_come_back_with_the_initial_values() -> None:
    """As trainers do that make a model without memory first."""
    block = DyHeadBlock(IN_CHANNELS, CHANNELS, scale=False, spatial=False, task=False)
    before = {name: buffer.clone() for name, buffer in block.named_buffers()}
    block.to("meta").to_empty(device="cpu").reset_parameters()
    assert all(torch.equal(buffer, before[name]) for name, buffer in block.named_buffers())


def test_kernels_of_gpus_read_the_constants() -> None:
    """In Triton's interpreter, where there is no GPU."""
    block = DyHeadBlock(16, 16, scale=False, spatial=False, task=False)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    levels = [torch.randn(1, 16, *size) for size in ((4, 5), (2, 3))]
    pyramid = Pyramid.from_levels([level.to(device) for level in levels])
    got = dyhead_block(pyramid, block.to(device).stacked(), offset_mode="resize", backend="triton")
    want = dyhead_block(pyramid, block.stacked(), offset_mode="resize", backend="reference")
    torch.testing.assert_close(got.values, want.values, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", ["pyramid", "tensor"])
@every_choice
def test_a_detector_is_saved_and_loaded(form: str, switches: dict[str, bool], tmp_path: Path) -> None:
    dyhead = DyHeadConfig(channels=32, num_blocks=2, form=form, **switches)  # type: ignore[arg-type]
    model = narrow_detector((64, 128), labels=("red", "blue"), dyhead=dyhead)
    model.save_pretrained(tmp_path)
    loaded = Detector.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert DetectorConfig.from_json(model.config.to_json()).dyhead == dyhead
    batch = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(*(each.forward_features(batch) for each in (model, loaded)), strict=True):
            assert torch.equal(ours, theirs)


def test_the_card_says_what_is_missing() -> None:
    dyhead = DyHeadConfig(channels=32, num_blocks=1, scale=False, task=False)
    rows = [
        next(line for line in model.model_card("mine").splitlines() if line.startswith("| DyHead blocks"))
        for model in (narrow_detector(labels=("red",), dyhead=dyhead), narrow_detector(labels=("red",)))
    ]
    assert "without scale-aware and task-aware attention" in rows[0]
    assert "without" not in rows[1]


def test_a_switch_is_true_or_false() -> None:
    text = narrow_detector(labels=("red",)).config.to_json()
    with pytest.raises(CheckpointError, match=r"dyhead\.spatial is 1, expected bool"):
        DetectorConfig.from_json(text.replace('"spatial": true', '"spatial": 1'))
