"""The custom ops with their Triton forms: what PyTorch's compiler asks of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from dyhead_kernels.launch import tuning

from tests.kernels.block_cases import random_parameters, random_pyramid, tiles
from tests.kernels.op_cases import OPS, block_arguments, conv_arguments, detached

pytest.importorskip("triton")


@pytest.fixture
def _few_tiles() -> Iterator[None]:
    """Interpreted programs are slow."""
    with tuning.overriding(tiles(128, 8)):
        yield


@pytest.mark.usefixtures("_few_tiles")
@pytest.mark.parametrize(("batch", "bias"), [(1, True), (0, False)])
def test_opcheck(batch: int, bias: bool, triton_device: torch.device) -> None:
    def moved(arguments: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(
            a.detach().to(triton_device).requires_grad_() if isinstance(a, torch.Tensor) else a for a in arguments
        )

    arguments = moved(conv_arguments(batch, torch.float32, bias, "triton"))
    torch.library.opcheck(OPS.deform_conv.default, arguments)
    output = OPS.deform_conv(*detached(arguments))
    needs = [a is not None for a in arguments[:5]]
    torch.library.opcheck(OPS.deform_conv_backward.default, (torch.ones_like(output), *detached(arguments), needs))

    arguments = moved(block_arguments(batch, torch.float32, bias, "triton", ((3, 2), (2, 1))))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(OPS.dyhead_block.default, arguments, test_utils=checks)
    output, *state = OPS.dyhead_block(*detached(arguments))
    for needs in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(
            OPS.dyhead_block_backward.default, (torch.ones_like(output), *detached(arguments), state, *needs)
        )


def test_compiles_into_one_graph(triton_device: torch.device) -> None:
    from dyhead_kernels import BlockParameters, Pyramid, dyhead_block

    parameters = BlockParameters(
        *(t.detach().float().to(triton_device).requires_grad_() for t in vars(random_parameters()).values())
    )
    values = random_pyramid(((4, 3), (2, 2)), batch=1).values.detach().float().to(triton_device).requires_grad_()

    def twice(values: torch.Tensor) -> torch.Tensor:
        pyramid = Pyramid(values * 2, ((4, 3), (2, 2)))
        return dyhead_block(pyramid, parameters, offset_mode="flat", norm_groups=4, backend="triton").values.sin()

    (eager,) = torch.autograd.grad(twice(values).sum(), values)
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(values).sum(), values)
    torch.testing.assert_close(found, eager, rtol=1e-5, atol=1e-6)
