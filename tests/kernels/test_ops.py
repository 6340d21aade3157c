"""The custom ops: what PyTorch's compiler, exporter, checkpointing, autocast and data parallelism ask of them."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dyhead_kernels import BlockParameters, Pyramid, dyhead_block, modulated_deform_conv2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.kernels.op_cases import (
    OPS,
    SHAPES,
    Block,
    Convolution,
    block_arguments,
    conv_arguments,
    detached,
    random_levels,
)

# `import dyhead_kernels.dyhead_block.op as ...` would find the function of that name.
block_op = importlib.import_module("dyhead_kernels.dyhead_block.op")
conv_op = importlib.import_module("dyhead_kernels.deform_conv.op")
block_form = importlib.import_module("dyhead_kernels.dyhead_block.torch")

every_module = pytest.mark.parametrize("make", [Block, Convolution])
Make = Callable[[], nn.Module]


def outputs_and_gradients(module: nn.Module, call: Callable[..., list[Tensor]], levels: list[Tensor]) -> list[Tensor]:
    """The outputs of `call` for the levels, and the gradients of levels and parameters for a fixed gradient of it."""
    outputs = call(*levels)
    generator = torch.Generator().manual_seed(3)
    grads = [torch.randn(output.shape, generator=generator).to(output.dtype) for output in outputs]
    leaves = [*levels, *module.parameters()]
    return [*(output.detach() for output in outputs), *torch.autograd.grad(outputs, leaves, grads)]


def assert_same(actual: list[Tensor], expected: list[Tensor], tolerance: float = 0.0) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("batch", [2, 0])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_of_the_block(batch: int, bias: bool, dtype: torch.dtype) -> None:
    arguments = block_arguments(batch, dtype, bias)
    torch.library.opcheck(OPS.dyhead_block.default, arguments)
    arguments = detached(arguments)
    output, *state = OPS.dyhead_block(*arguments)
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(OPS.dyhead_block_backward.default, (torch.randn_like(output), *arguments, state, *needs))


@pytest.mark.parametrize("batch", [2, 0])
@pytest.mark.parametrize("bias", [True, False], ids=["bias and mask", "no bias, no mask"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_of_the_convolution(batch: int, bias: bool, dtype: torch.dtype) -> None:
    arguments = conv_arguments(batch, dtype, bias)
    torch.library.opcheck(OPS.deform_conv.default, arguments)
    arguments = detached(arguments)
    grad_output = torch.randn_like(OPS.deform_conv(*arguments))
    for needs in (
        [True, True, True, bias, bias],
        [False, True, False, False, False],
        [True, False, False, bias, False],
    ):
        torch.library.opcheck(OPS.deform_conv_backward.default, (grad_output, *arguments, needs))


@every_module
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_compiles_into_one_graph(make: Make, autocast: bool) -> None:
    module, levels = make(), random_levels()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    # Without autocast's cache of weights, which eager mode has alone: it changes where gradients are rounded.
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
        expected = outputs_and_gradients(module, module, levels)
        actual = outputs_and_gradients(module, compiled, levels)
    assert_same(actual, expected, tolerance=1e-5)


@every_module
def test_compiles_once_for_many_sizes(make: Make) -> None:
    module, graphs = make(), []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(module, fullgraph=True, backend=backend, dynamic=True)
    for batch, shapes in ((2, SHAPES), (3, ((9, 12), (5, 6), (3, 3))), (2, ((16, 10), (8, 5), (4, 3)))):
        levels = random_levels(batch, shapes)
        assert_same(outputs_and_gradients(module, compiled, levels), outputs_and_gradients(module, module, levels))
    assert len(graphs) < 3


@pytest.mark.slow
@every_module
def test_inductor_computes_the_same(make: Make) -> None:
    module, levels = make(), random_levels()
    expected = outputs_and_gradients(module, module, levels)
    actual = outputs_and_gradients(module, torch.compile(module, fullgraph=True), levels)
    assert_same(actual, expected, tolerance=1e-4)


@every_module
@pytest.mark.parametrize("strict", [False, True])
def test_exports(make: Make, strict: bool) -> None:
    module, levels = make().eval(), [level.detach() for level in random_levels()]
    program = torch.export.export(module, tuple(levels), strict=strict)
    names = [str(node.target) for node in program.graph.nodes]
    assert any(name.startswith("dyhead_kernels.") for name in names)
    assert_same(list(program.module()(*levels)), module(*levels))


@every_module
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_recomputes_the_same(make: Make, use_reentrant: bool) -> None:
    module, levels = make(), random_levels()

    def checkpointed(*levels: Tensor) -> list[Tensor]:
        return list(checkpoint(lambda *args: tuple(module(*args)), *levels, use_reentrant=use_reentrant))

    assert_same(
        outputs_and_gradients_by_backward(module, checkpointed, levels),
        outputs_and_gradients_by_backward(module, module, levels),
    )


def outputs_and_gradients_by_backward(
    module: nn.Module, call: Callable[..., list[Tensor]], levels: list[Tensor]
) -> list[Tensor]:
    """Outputs and gradients by `backward`, since reentrant checkpointing refuses `torch.autograd.grad`."""
    leaves = [*levels, *module.parameters()]
    for leaf in leaves:
        leaf.grad = None
    outputs = call(*levels)
    torch.stack([(output * output).sum() for output in outputs]).sum().backward()
    return [*(output.detach() for output in outputs), *(leaf.grad for leaf in leaves)]


@every_module
def test_functional_call_takes_other_parameters(make: Make) -> None:
    module, other, levels = make(), make(), random_levels()
    names = dict(other.named_parameters())
    actual = outputs_and_gradients(other, lambda *x: torch.func.functional_call(module, names, x), levels)
    assert_same(actual, outputs_and_gradients(other, other, levels))


def test_backward_does_not_care_about_autocast_around_it() -> None:
    module, levels = Block(), random_levels()
    expected = outputs_and_gradients(module, module, levels)[len(levels) :]
    outputs = module(*levels)
    generator = torch.Generator().manual_seed(3)
    grads = [torch.randn(output.shape, generator=generator) for output in outputs]
    with torch.autocast("cpu", torch.bfloat16):
        actual = torch.autograd.grad(outputs, [*levels, *module.parameters()], grads)
    assert_same(list(actual), expected)


@every_module
def test_second_derivatives_are_refused_by_name(make: Make) -> None:
    module, levels = make(), random_levels()
    (grad,) = torch.autograd.grad(sum((x * x).sum() for x in module(*levels)), levels[0], create_graph=True)
    with pytest.raises(RuntimeError, match='has no second derivative in this form: pass backend="reference"'):
        grad.sum().backward()


def test_the_reference_has_second_derivatives() -> None:
    block, level = Block(), random_levels(shapes=((3, 3),))[0]
    options: dict[str, Any] = {"offset_mode": "crop", "norm_groups": 4, "backend": "reference"}
    output = dyhead_block(Pyramid.from_levels([level]), block.block_parameters, **options).values
    (grad,) = torch.autograd.grad(output.square().sum(), level, create_graph=True)
    grad.sum().backward()
    assert level.grad is not None
    assert level.grad.abs().sum() > 0


@pytest.mark.parametrize("wanted", [False, True], ids=["inference", "training"])
def test_inference_keeps_nothing_for_a_backward_pass(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[weakref.ref[Tensor]] = []

    def forward(*arguments: Any) -> tuple[Tensor, list[Tensor]]:
        output, state = original(*arguments)
        states.extend(weakref.ref(tensor.untyped_storage()) for tensor in state)
        return output, state

    original = block_form.forward
    monkeypatch.setattr(block_form, "forward", forward)
    module = Block()
    with torch.set_grad_enabled(wanted):
        output = dyhead_block(
            Pyramid.from_levels(random_levels()), module.block_parameters, offset_mode="crop", norm_groups=4,
            backend="torch",
        )  # fmt: skip
    assert torch.isfinite(output.values).all()
    assert len(states) == len(block_form.State._fields)
    assert all((state() is not None) == wanted for state in states)


def test_frozen_parameters_cost_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def backward(*arguments: Any) -> Any:
        asked.append(arguments[-1])
        return original(*arguments)

    original = block_form.backward
    monkeypatch.setattr(block_form, "backward", backward)
    module, levels = Block().requires_grad_(False), random_levels()
    torch.stack([x.sum() for x in module(*levels)]).sum().backward()
    module, levels = Block(), [level.detach() for level in levels]
    torch.stack([x.sum() for x in module(*levels)]).sum().backward()
    # Two blocks, the later one first; the earlier one's input needs no gradient in the second step.
    assert asked == [(True, False), (True, False), (True, True), (False, True)]


@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_a_triton_form_is_given(input_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps and weights of the product in its dtype, the rest as it is; gradients back in the tensors' own."""
    given: dict[str, Any] = {}

    def conv_forward(input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, *_: Any) -> Tensor:
        given["conv"] = [t.dtype for t in (input, offset, weight, bias, mask)]
        return weight.new_zeros(offset.shape[0], *offset.shape[2:], len(weight)).permute(0, 3, 1, 2)

    def block_forward(values: Tensor, parameters: BlockParameters, *rest: Any) -> tuple[Tensor, list[Tensor]]:
        given["block"] = {"values": values.dtype, **{n: p.dtype for n, p in vars(parameters).items()}}
        output, *state = block_form.state_like(values, parameters, *rest)
        return output.zero_(), state

    forms = {"deform_conv": conv_forward, "dyhead_block": block_forward}
    for module in (block_op, conv_op):
        monkeypatch.setattr(module, "check_triton", lambda device, dtype: given.setdefault("checked", []).append(dtype))
        monkeypatch.setattr(module, "form_of", lambda operator, backend: SimpleNamespace(forward=forms[operator]))
    pyramid = Pyramid.from_levels([level.to(input_dtype) for level in random_levels()])
    input, offset, weight, bias, mask, *_ = conv_arguments(2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = dyhead_block(
            pyramid, Block().block_parameters, offset_mode="crop", norm_groups=4, backend="triton"
        ).values
        convolved = modulated_deform_conv2d(
            input.to(input_dtype), offset, weight, bias, 2, 1, 1, mask, backend="triton"
        )
    low, full = torch.bfloat16, torch.float32
    assert output.dtype == convolved.dtype == low
    assert given["checked"] == [low, low]
    assert given["conv"] == [low, full, low, low, full]
    assert {name for name, dtype in given["block"].items() if dtype == low} == {"values", "conv_weight"}


def _train_one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    module = Block()
    module.load_state_dict(torch.load(f"{folder}/module.pt"))
    parallel = nn.parallel.DistributedDataParallel(module)
    levels = [level.chunk(2)[rank] for level in torch.load(f"{folder}/levels.pt")]
    sum((x * x).sum() for x in parallel(*levels)).backward()
    torch.save([p.grad for p in module.parameters()], f"{folder}/grads{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_data_parallel_processes_average_their_gradients(tmp_path: Path) -> None:
    module, levels = Block(), random_levels(batch=2)
    torch.save(module.state_dict(), tmp_path / "module.pt")
    torch.save([level.detach() for level in levels], tmp_path / "levels.pt")
    torch.multiprocessing.spawn(_train_one_of_two, (str(tmp_path),), nprocs=2)
    sum((x * x).sum() for x in module(*levels)).backward()
    expected = [p.grad / 2 for p in module.parameters()]
    for rank in range(2):
        assert_same(torch.load(tmp_path / f"grads{rank}.pt"), expected, tolerance=1e-4)
