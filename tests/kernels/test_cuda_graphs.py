"""The operators in CUDA graphs, PyTorch's own and those of its compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from dyhead_kernels import BlockParameters, Pyramid, dyhead_block, modulated_deform_conv2d
from dyhead_kernels.deform_conv.triton import _one_map
from dyhead_kernels.dyhead_block.tables import block_tables
from dyhead_kernels.launch.tables import MOST_LAYOUTS
from torch import Tensor

from tests.kernels.block_cases import random_parameters

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CHANNELS = 16
SIZES = (((9, 6), (5, 3), (3, 2)), ((8, 10), (4, 5), (2, 3)))


@pytest.fixture(autouse=True)
def _no_tables_yet() -> Iterator[None]:
    """Every test makes the tables of its sizes itself; nothing compiled for one is left to the next."""
    for function in (block_tables, _one_map):
        function._recent.clear()
        function._captured.clear()
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def block(device: torch.device) -> tuple[Callable[[Tensor, tuple[tuple[int, int], ...]], Tensor], list[Tensor]]:
    """Two blocks and a convolution between PyTorch's own operators, and their parameters."""
    parameters = BlockParameters(
        *(t.detach().float().to(device).requires_grad_() for t in vars(random_parameters(CHANNELS, CHANNELS)).values())
    )
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, device=device).mul_(0.1).requires_grad_()

    def network(values: Tensor, shapes: tuple[tuple[int, int], ...]) -> Tensor:
        pyramid = Pyramid(values * 2, shapes)
        for mode in ("flat", "resize"):
            pyramid = dyhead_block(pyramid, parameters, offset_mode=mode, norm_groups=4, backend="triton")
        (height, width), rows = shapes[0], pyramid.values
        finest = rows[:, : height * width].transpose(1, 2).unflatten(2, (height, width))
        offset = finest.mean(dim=1, keepdim=True).sin().expand(-1, 18, -1, -1)
        return modulated_deform_conv2d(finest, offset, weight, padding=1, backend="triton").sin()

    return network, [*vars(parameters).values(), weight]


def pyramid_values(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    return torch.randn(2, sum(height * width for height, width in shapes), CHANNELS, device=device)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_compiled_graphs_infer_from_the_first_call(mode: str) -> None:
    device = torch.device("cuda")
    network, _ = block(device)
    compiled = torch.compile(network, mode=mode, fullgraph=True, dynamic=False)
    for _ in range(3):  # the warm-up, the recording and a replay, of one size between those of the other
        for shapes in SIZES:
            values = pyramid_values(shapes, device)
            torch.compiler.cudagraph_mark_step_begin()
            with torch.no_grad():
                found = compiled(values, shapes).clone()
                torch.testing.assert_close(found, network(values, shapes), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_compiled_graphs_train_from_the_first_call(mode: str) -> None:
    device = torch.device("cuda")
    network, parameters = block(device)
    compiled = torch.compile(network, mode=mode, fullgraph=True, dynamic=False)
    for _ in range(3):
        for shapes in SIZES:
            values = pyramid_values(shapes, device).requires_grad_()
            leaves = [values, *parameters]
            torch.compiler.cudagraph_mark_step_begin()
            gradients = torch.autograd.grad(compiled(values, shapes).square().sum(), leaves)
            found = [gradient.clone() for gradient in gradients]
            expected = torch.autograd.grad(network(values, shapes).square().sum(), leaves)
            for actual, wanted in zip(found, expected, strict=True):
                torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_a_captured_graph_outlives_the_tables_of_many_other_sizes() -> None:
    device, shapes = torch.device("cuda"), SIZES[0]
    network, _ = block(device)
    values = pyramid_values(shapes, device)
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            expected = network(values, shapes)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = network(values, shapes)
        for width in range(1, MOST_LAYOUTS + 40):
            network(pyramid_values(((3, width),), device), ((3, width),))
        assert len(block_tables) <= MOST_LAYOUTS + 2  # those of the graph's two modes besides
        output.zero_()
        graph.replay()
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_a_first_call_inside_a_capture_says_what_to_do() -> None:
    device, shapes = torch.device("cuda"), SIZES[0]
    network, _ = block(device)
    values = pyramid_values(shapes, device)
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match="run the operator once before, forward and backward"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        network(values, shapes)
    torch.cuda.synchronize()
    with torch.no_grad():
        assert network(values, shapes).isfinite().all()


def test_tables_given_up_while_another_stream_still_reads_them() -> None:
    """Sizes follow each other faster than the GPU computes: a table's memory is not handed on too early."""
    device = torch.device("cuda")
    network, _ = block(device)
    sizes = [((3, width),) for width in range(1, 2 * MOST_LAYOUTS)]
    inputs = [pyramid_values(shapes, device) for shapes in sizes]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad():
        with torch.cuda.stream(side):
            found = [network(values, shapes) for values, shapes in zip(inputs, sizes, strict=True)]
        torch.cuda.synchronize()
        for values, shapes, actual in zip(inputs, sizes, found, strict=True):
            torch.testing.assert_close(actual, network(values, shapes), rtol=1e-5, atol=1e-5)


def test_the_device_asked_about_is_that_of_the_tensors() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    shapes, device = SIZES[0], torch.device("cuda", 1)
    network, _ = block(device)
    values = pyramid_values(shapes, device)
    with torch.no_grad():
        expected = network(values, shapes)  # cuda:0 is the current device
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph), torch.cuda.device(0):
            output = network(values, shapes)
        graph.replay()
        torch.cuda.synchronize(device)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
