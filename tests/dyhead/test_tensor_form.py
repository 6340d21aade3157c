"""Dynamic Head's tensor form: every layer against its equation in plain loops, and the stack in the pyramid's place."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from dyhead_kernels.dyhead_block.parameters import OFFSETS, TAPS
from torch import Tensor, nn

from dyzoo.config import DyHeadConfig
from dyzoo.dyhead import (
    DyHead,
    DyHeadBlock,
    ScaleAwareAttention,
    SpatialAwareAttention,
    TaskAwareAttention,
    TensorDyHeadBlock,
    concat_to_median,
    split_from_median,
)
from dyzoo.dyhead.median import median_level

PYRAMIDS = {
    "one level": ((5, 4),),
    "one pixel": ((1, 1),),
    "two levels, odd": ((7, 5), (4, 3)),
    "three levels": ((9, 6), (5, 3), (3, 2)),
    "four levels, no halves": ((9, 8), (7, 7), (4, 2), (2, 2)),
    "five levels": ((12, 18), (6, 9), (3, 5), (2, 3), (1, 2)),
    "pixels beside maps": ((1, 1), (3, 4), (1, 1)),
    "growing": ((2, 3), (3, 2), (6, 5)),
}
Sizes = tuple[tuple[int, int], ...]
every_pyramid = pytest.mark.parametrize("sizes", PYRAMIDS.values(), ids=PYRAMIDS)

IN_CHANNELS, CHANNELS = 6, 8
TENSOR_CONFIG = DyHeadConfig(channels=32, num_blocks=2, form="tensor")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(5)


def random_levels(sizes: Sizes, channels: int = IN_CHANNELS) -> list[Tensor]:
    return [torch.randn(2, channels, *size, dtype=torch.float64) for size in sizes]


def float_levels(name: str = "three levels") -> list[Tensor]:
    return [level.float() for level in random_levels(PYRAMIDS[name])]


def random_tensor(levels: int, size: tuple[int, int], channels: int = IN_CHANNELS) -> Tensor:
    return torch.randn(2, levels, size[0] * size[1], channels, dtype=torch.float64)


def randomised(module: nn.Module, scale: float = 0.4) -> Any:
    """`module` in float64 with parameters that all matter: offsets of some pixels, attentions off their clamps."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=scale)
    return module.requires_grad_(False)


def naive_resize(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W) -> `size`, a triangle as wide as the step where it shrinks, else one pixel wide."""
    for axis, length in enumerate(size):
        old = plane.shape[axis]
        step = old / length
        if old == length:
            continue
        matrix = torch.zeros(length, old, dtype=torch.float64)
        for to, source in product(range(length), range(old)):
            distance = abs(source + 0.5 - (to + 0.5) * step)
            matrix[to, source] = max(0.0, 1 - distance / max(step, 1.0))
        matrix /= matrix.sum(dim=1, keepdim=True)
        plane = matrix @ plane if axis == 0 else plane @ matrix.T
    return plane


def naive_sample(plane: Tensor, y: float, x: float) -> float:
    """Bilinear; corners outside the plane count as zero."""
    total, top, left = 0.0, math.floor(y), math.floor(x)
    for row, column in product((top, top + 1), (left, left + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            total += float(plane[row, column]) * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def naive_sampled_sums(layer: SpatialAwareAttention, tensor: Tensor, size: tuple[int, int], kernels: Tensor) -> Tensor:
    """Eq. 4 without its sum over levels: (N, L from, L to, S, C) for `kernels` (L from, L to, C, C_in, 3, 3)."""
    batch, levels, positions, channels = tensor.shape
    height, width = size
    maps = tensor.unflatten(2, size).permute(0, 1, 4, 2, 3)
    padded = nn.functional.pad(maps[:, (levels - 1) // 2], (1, 1, 1, 1))
    sums = torch.zeros(batch, levels, levels, positions, kernels.shape[2], dtype=torch.float64)
    for image, row, column in product(range(batch), range(height), range(width)):
        window = padded[image, :, row : row + 3, column : column + 3]
        offset_mask = [float((weight * window).sum()) for weight in layer.offset_weight]
        offset_mask = [value + float(bias) for value, bias in zip(offset_mask, layer.offset_bias, strict=True)]
        for tap, source in product(range(TAPS), range(levels)):
            y, x = row + tap // 3 - 1 + offset_mask[2 * tap], column + tap % 3 - 1 + offset_mask[2 * tap + 1]
            mask = 1 / (1 + math.exp(-offset_mask[OFFSETS + tap]))
            sampled = [naive_sample(maps[image, source, channel], y, x) * mask for channel in range(channels)]
            products = kernels[source, :, :, :, tap // 3, tap % 3] @ torch.tensor(sampled, dtype=torch.float64)
            sums[image, source, :, row * width + column] += products
    return sums


@pytest.mark.parametrize(("levels", "median"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2)])
def test_the_median_of_an_even_number_is_the_finer_of_two(levels: int, median: int) -> None:
    assert median_level(levels) == median


@every_pyramid
def test_levels_are_resized_to_the_median_one(sizes: Sizes) -> None:
    levels = random_levels(sizes)
    tensor, size = concat_to_median(levels)
    assert size == sizes[(len(sizes) - 1) // 2]
    assert tensor.shape == (2, len(sizes), size[0] * size[1], IN_CHANNELS)
    for index, image, channel in product(range(len(sizes)), range(2), range(IN_CHANNELS)):
        expected = naive_resize(levels[index][image, channel], size).flatten()
        torch.testing.assert_close(tensor[image, index, :, channel], expected)


@every_pyramid
def test_the_way_back_gives_each_level_its_own_size(sizes: Sizes) -> None:
    tensor, size = concat_to_median(random_levels(sizes))
    levels = split_from_median(tensor, size, sizes)
    assert [tuple(level.shape) for level in levels] == [(2, IN_CHANNELS, *own) for own in sizes]
    for index, level in enumerate(levels):
        plane = tensor[1, index, :, 2].unflatten(0, size)
        torch.testing.assert_close(level[1, 2], naive_resize(plane, sizes[index]))


def test_levels_of_one_size_come_back_unchanged() -> None:
    levels = random_levels(((4, 5),) * 3)
    tensor, size = concat_to_median(levels)
    for before, after in zip(levels, split_from_median(tensor, size, [size] * 3), strict=True):
        assert torch.equal(before, after)


def test_every_pixel_of_a_finer_level_counts() -> None:
    level = torch.ones(1, 1, 21, 13, requires_grad=True)
    tensor, _ = concat_to_median([level, *(torch.zeros(1, 1, *size) for size in ((3, 2), (2, 1)))])
    tensor.sum().backward()
    assert level.grad is not None
    assert level.grad.min() > 0


def test_scale_aware_attention_is_its_equation() -> None:
    layer, tensor = randomised(ScaleAwareAttention(IN_CHANNELS), scale=1.5), random_tensor(4, (3, 5)) + 1
    output = layer(tensor)
    kappas = []
    for image, level in product(range(2), range(4)):
        x = float(layer.bias)
        for channel in range(IN_CHANNELS):
            mean = sum(map(float, tensor[image, level, :, channel])) / 15
            x += float(layer.weight[channel]) * mean
        kappas.append(max(0.0, min(1.0, (x + 1) / 2)))
        torch.testing.assert_close(output[image, level], tensor[image, level] * kappas[-1])
    assert len({0.0, 1.0} & set(kappas)) > 0, "no clamp was tried"
    assert any(0 < kappa < 1 for kappa in kappas)


def test_scale_aware_attention_starts_as_the_printed_equation() -> None:
    layer, tensor = ScaleAwareAttention(IN_CHANNELS).double(), random_tensor(3, (2, 4))
    kappa = ((tensor.mean(dim=(2, 3), keepdim=True) + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(layer(tensor), kappa * tensor)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(("levels", "size"), [(1, (3, 4)), (2, (1, 1)), (3, (3, 2)), (4, (2, 3)), (5, (1, 3))])
def test_spatial_aware_attention_is_its_equation(levels: int, size: tuple[int, int], backend: str) -> None:
    layer = randomised(SpatialAwareAttention(IN_CHANNELS, CHANNELS, backend), scale=0.2)
    tensor = random_tensor(levels, size)
    finer, own, coarser = layer.weight
    rows = [[own if a == b else finer if a < b else coarser for b in range(levels)] for a in range(levels)]
    kernels = torch.stack([torch.stack(row) for row in rows])
    expected = naive_sampled_sums(layer, tensor, size, kernels).sum(dim=1) / levels
    torch.testing.assert_close(layer(tensor, size), expected)


def test_with_equal_kernels_every_level_is_the_printed_sum() -> None:
    layer, tensor = randomised(SpatialAwareAttention(IN_CHANNELS, CHANNELS), scale=0.2), random_tensor(3, (2, 3))
    layer.weight.copy_(layer.weight[0].clone())
    kernels = layer.weight[0].expand(3, 1, -1, -1, -1, -1)
    expected = naive_sampled_sums(layer, tensor, (2, 3), kernels).sum(dim=1) / 3
    torch.testing.assert_close(layer(tensor, (2, 3)), expected.expand(-1, 3, -1, -1))


def test_fresh_spatial_attention_halves_a_plain_convolution() -> None:
    layer, level = SpatialAwareAttention(IN_CHANNELS, CHANNELS), torch.randn(2, IN_CHANNELS, 5, 4)
    tensor, size = concat_to_median([level])
    output = split_from_median(layer(tensor, size), size, [size])[0]
    torch.testing.assert_close(output, nn.functional.conv2d(level, layer.weight[1], padding=1) / 2)


def test_task_aware_attention_is_its_equation() -> None:
    layer, tensor = randomised(TaskAwareAttention(CHANNELS), scale=0.8), random_tensor(3, (2, 4), CHANNELS)
    output = layer(tensor)
    for image in range(2):
        pooled = [float(tensor[image, :, :, channel].sum()) / (3 * 8) for channel in range(CHANNELS)]
        hidden = []
        for weights, bias in zip(layer.squeeze.weight, layer.squeeze.bias, strict=True):
            hidden.append(max(0.0, sum(float(w) * x for w, x in zip(weights, pooled, strict=True)) + float(bias)))
        theta = []
        for weights, bias in zip(layer.expand.weight, layer.expand.bias, strict=True):
            logit = sum(float(w) * x for w, x in zip(weights, hidden, strict=True)) + float(bias)
            theta.append(2 / (1 + math.exp(-logit)) - 1)
        for channel in range(CHANNELS):
            theta1, theta2, theta3, theta4 = theta[channel::CHANNELS]
            x = tensor[image, :, :, channel]
            expected = torch.maximum((1 + theta1) * x + theta3 / 2, theta2 * x + theta4 / 2)
            torch.testing.assert_close(output[image, :, :, channel], expected)


def test_task_aware_attention_with_theta_zero_is_a_relu() -> None:
    layer, tensor = TaskAwareAttention(CHANNELS).double(), random_tensor(2, (3, 3), CHANNELS)
    nn.init.zeros_(layer.expand.weight)
    nn.init.zeros_(layer.expand.bias)
    torch.testing.assert_close(layer(tensor), tensor.relu())


@pytest.mark.parametrize("norm_groups", [None, 4])
def test_a_block_is_its_layers_nested(norm_groups: int | None) -> None:
    size = (4, 3)
    block, tensor = randomised(TensorDyHeadBlock(IN_CHANNELS, CHANNELS, norm_groups)), random_tensor(3, size)
    inner = block.spatial(block.scale(tensor), size)
    if norm_groups:
        grouped = inner.unflatten(3, (norm_groups, -1))
        mean = grouped.mean(dim=(2, 4), keepdim=True)
        variance = grouped.var(dim=(2, 4), keepdim=True, correction=0)
        inner = ((grouped - mean) / (variance + 1e-5).sqrt()).flatten(3) * block.norm.weight + block.norm.bias
    torch.testing.assert_close(block(tensor, size), block.task(inner))


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("norm_groups", [None, 2])
def test_gradients_agree_with_finite_differences(norm_groups: int | None, backend: str) -> None:
    block = randomised(TensorDyHeadBlock(2, 4, norm_groups, backend), scale=0.3)
    nn.init.uniform_(block.spatial.offset_bias, 0.2, 0.4)  # off the corners between pixels
    nn.init.normal_(block.spatial.offset_weight, std=0.02)
    block.requires_grad_()
    names = [name for name, _ in block.named_parameters()]
    tensor = (0.3 * torch.randn(1, 3, 6, 2, dtype=torch.float64)).requires_grad_()

    def function(tensor: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), (tensor, (3, 2)))

    assert torch.autograd.gradcheck(function, [tensor, *block.parameters()], fast_mode=True)


@every_pyramid
def test_the_stack_keeps_sizes_and_is_finite(sizes: Sizes) -> None:
    head = DyHead.from_config(TENSOR_CONFIG, IN_CHANNELS)
    outputs = head([level.float() for level in random_levels(sizes)])
    assert [tuple(output.shape) for output in outputs] == [(2, 32, *size) for size in sizes]
    assert all(torch.isfinite(output).all() for output in outputs)


def test_gradients_reach_every_parameter_and_every_level() -> None:
    head, levels = (
        DyHead.from_config(TENSOR_CONFIG, IN_CHANNELS),
        float_levels(),
    )
    for level in levels:
        level.requires_grad_()
    outputs = head(levels)
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    for name, tensor in (*head.named_parameters(), *((f"level {i}", level) for i, level in enumerate(levels))):
        assert tensor.grad is not None, name
        assert torch.isfinite(tensor.grad).all(), name
        assert tensor.grad.abs().sum() > 0, name
    assert all(head.get_parameter(f"blocks.{i}.spatial.weight").grad.flatten(1).any(dim=1).all() for i in range(2))  # type: ignore[union-attr]


def test_six_fresh_blocks_neither_shrink_nor_blow_up() -> None:
    outputs = DyHead.from_config(replace(TENSOR_CONFIG, num_blocks=6), IN_CHANNELS)(float_levels("five levels"))
    spread = torch.cat([output.flatten() for output in outputs]).std()
    assert 0.1 < spread < 3


def test_levels_stay_different() -> None:
    tensor, size = concat_to_median(float_levels())
    for block in DyHead.from_config(TENSOR_CONFIG, IN_CHANNELS).blocks:
        tensor = block(tensor, size)
    assert (tensor[:, 0] - tensor[:, 1]).abs().mean() > 0.05
    assert (tensor[:, 1] - tensor[:, 2]).abs().mean() > 0.05


def test_the_configuration_chooses_the_form() -> None:
    for form, kind in (("tensor", TensorDyHeadBlock), ("pyramid", DyHeadBlock)):
        blocks = DyHead.from_config(replace(TENSOR_CONFIG, form=form), IN_CHANNELS).blocks  # type: ignore[arg-type]
        assert [type(block) for block in blocks] == [kind, kind]


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_either_form_gives_the_same_shapes(blocks: int) -> None:
    levels = [torch.randn(2, 16, *size) for size in ((8, 6), (4, 3), (2, 2))]
    config = replace(TENSOR_CONFIG, num_blocks=blocks)
    tensor_form, pyramid_form = (
        DyHead.from_config(replace(config, form=form), 16)(levels) for form in ("tensor", "pyramid")
    )
    assert [output.shape for output in tensor_form] == [output.shape for output in pyramid_form]


def test_without_blocks_levels_pass_unchanged() -> None:
    levels = random_levels(PYRAMIDS["three levels"])
    for before, after in zip(levels, DyHead.from_config(replace(TENSOR_CONFIG, num_blocks=0), 6)(levels), strict=True):
        assert torch.equal(before, after)


def test_weights_come_back_from_a_state_dict() -> None:
    head, levels = DyHead.from_config(TENSOR_CONFIG, IN_CHANNELS), float_levels("five levels")
    other = DyHead.from_config(TENSOR_CONFIG, IN_CHANNELS)
    assert not torch.equal(head(levels)[0], other(levels)[0])
    other.load_state_dict(copy.deepcopy(head.state_dict()))
    for before, after in zip(head(levels), other(levels), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_near(dtype: torch.dtype) -> None:
    head, levels = (
        DyHead.from_config(TENSOR_CONFIG, IN_CHANNELS),
        float_levels(),
    )
    expected = head(levels)
    with torch.autocast("cpu", dtype):
        under_autocast = head(levels)
    converted = copy.deepcopy(head).to(dtype)([level.to(dtype) for level in levels])
    for want, *found in zip(expected, under_autocast, converted, strict=True):
        assert all(output.dtype == dtype for output in found)
        assert all((output.float() - want).abs().max() < 0.05 * want.abs().max() for output in found)


def test_an_empty_batch_gives_empty_maps() -> None:
    outputs = DyHead.from_config(TENSOR_CONFIG, IN_CHANNELS)(
        [torch.zeros(0, IN_CHANNELS, 4, 4), torch.zeros(0, 6, 2, 2)]
    )
    assert [tuple(output.shape) for output in outputs] == [(0, 32, 4, 4), (0, 32, 2, 2)]


def test_the_stack_compiles_into_one_graph() -> None:
    head, levels = (
        DyHead.from_config(TENSOR_CONFIG, IN_CHANNELS),
        float_levels(),
    )
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    for eager, traced in zip(head(levels), compiled(levels), strict=True):
        torch.testing.assert_close(traced, eager, atol=1e-5, rtol=1e-5)


MISTAKES = {
    "no levels": (lambda: concat_to_median([]), r"levels is empty, expected one map \(N, C, H, W\) or more"),
    "dimensions": (lambda: concat_to_median([torch.zeros(2, 3)]), r"level 0 is \(2, 3\), expected \(N, C, H, W\)"),
    "channels differ": (
        lambda: concat_to_median([torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 2, 2)]),
        r"level 1 is \(2, 4, 2, 2\), expected \(2, 3, H, W\) like level 0, of one pixel or more",
    ),
    "no pixels": (
        lambda: concat_to_median([torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 0, 2)]),
        r"level 1 is \(2, 3, 0, 2\), expected .* of one pixel or more",
    ),
    "positions": (
        lambda: split_from_median(torch.zeros(2, 3, 7, 4), (2, 3), [(2, 3)] * 3),
        r"tensor is \(2, 3, 7, 4\), expected \(N, L, 6, C\): S = H \* W of \(2, 3\)",
    ),
    "sizes": (
        lambda: split_from_median(torch.zeros(2, 3, 6, 4), (2, 3), [(2, 3)] * 2),
        r"sizes has 2 entries, expected 3: one for each level of the tensor",
    ),
    "scale": (lambda: ScaleAwareAttention(4)(torch.zeros(1, 2, 6, 5)), r"expected \(N, L, S, 4\)"),
    "spatial": (
        lambda: SpatialAwareAttention(4, 8)(torch.zeros(1, 2, 6, 5), (2, 3)),
        r"tensor is \(1, 2, 6, 5\), expected \(N, L, 6, 4\)",
    ),
    "task": (lambda: TaskAwareAttention(4)(torch.zeros(6, 4)), r"tensor is \(6, 4\), expected \(N, L, S, 4\)"),
    "norm groups": (lambda: TensorDyHeadBlock(4, 6, 4), r"norm_groups is 4, expected a divisor of the 6 channels"),
    "stack": (
        lambda: DyHead.from_config(TENSOR_CONFIG, 6)([torch.zeros(1, 5, 2, 2)]),
        r"level 0 is \(1, 5, 2, 2\), expected \(N, 6, H, W\) of one pixel or more: in_channels is 6",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
