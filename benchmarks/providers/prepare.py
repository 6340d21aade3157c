"""From a case and a provider to a function that runs one pass and can be timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from ..cases import Case
from ..cases.detector import RawDetector
from . import COMPILED, WITH_GRAPHS, Provider, Unavailable

Results = dict[str, Tensor]
Run = Callable[[], Results]
"""A function that runs one pass and gives its outputs, in a training step also the gradients, by name."""

WARM_UP = 3  # runs before a capture; also what compiled CUDA graphs take to warm up, record and replay


def prepare(case: Case, provider: Provider, pass_: str, compile_: bool) -> Run:
    """Make what a provider is timed by, wrapped and warmed up.

    A forward pass has input and parameters in the case's dtype, as in a network converted for inference. A training
    step has float32 parameters and runs under autocast, as mixed-precision training does.

    Args:
        compile_: whether providers under `torch.compile` take part.

    Raises:
        Unavailable: the provider cannot run this case here.
    """
    device = case.setup.device
    if provider.wrap == "graph" and device.type != "cuda":
        raise Unavailable("CUDA graphs need a GPU")
    is_detector = isinstance(case.network, RawDetector)
    if provider.wrap == "optimized" and not (is_detector and device.type == "cpu" and pass_ == "forward"):
        raise Unavailable("what is optimised is the forward pass of a detector on a CPU")
    if provider.wrap == "graph" and pass_ != "forward" and case.losses is not None:
        raise Unavailable("the losses choose shapes by their data, which a CUDA graph cannot hold")
    if provider.wrap in COMPILED and not compile_:
        raise Unavailable("torch.compile takes part on a CPU only with --compile")
    dtype = torch.float32 if provider.in_float32 else case.setup.precision.dtype
    run = eager(case, provider, pass_, dtype)
    if provider.wrap == "graph":
        return _captured(run)
    if provider.wrap not in ("eager", "optimized"):
        for _ in range(WARM_UP):
            run()
    return run


def eager(case: Case, provider: Provider, pass_: str, dtype: torch.dtype) -> Run:
    """One pass in `dtype` as PyTorch runs it, the network compiled if the provider says so."""
    training = pass_ != "forward"
    activations = {
        name: tensor.to(dtype, memory_format=_memory_format(tensor, provider))
        for name, tensor in case.activations.items()
    }
    held = dtype.itemsize == 2 and training  # parameters stay in float32, autocast makes copies
    module = case.network_with(provider.operators(dtype), torch.float32 if held else dtype, training)
    if provider.wrap == "optimized":
        assert isinstance(module, RawDetector)
        module.detector = module.detector.optimize()
    network: Callable[..., Sequence[Tensor]] = module
    if provider.wrap in COMPILED:
        mode = None if provider.wrap == "compile" else provider.wrap
        network = torch.compile(module, dynamic=False, mode=mode)
    mark_step = torch.compiler.cudagraph_mark_step_begin if provider.wrap in WITH_GRAPHS else nullcontext

    if not training:

        def forward() -> Results:
            mark_step()
            with torch.no_grad():
                return _outputs(network(**activations))

        return forward

    leaves: dict[str, Tensor] = {
        name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    if case.input_gradients:
        for tensor in activations.values():
            tensor.requires_grad_()
        leaves = {**activations, **leaves}
    unused = not provider.exact
    seeds: list[Tensor] = []

    def training_step() -> Results:
        mark_step()
        with torch.autocast(case.setup.device.type, dtype) if held else nullcontext():
            outputs = network(**activations)
        if case.losses is not None:
            losses = dict(case.losses(outputs))
            total = torch.stack(list(losses.values())).sum()
            gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=unused)
            results = {name: loss.detach() for name, loss in losses.items()}
        else:
            if not seeds:
                seeds.extend(_seed(output) for output in outputs)
            gradients = torch.autograd.grad(outputs, list(leaves.values()), seeds, allow_unused=unused)
            results = _outputs(outputs)
        found = zip(leaves, gradients, strict=True)
        return results | {
            f"gradient of {name}": gradient
            for name, gradient in found
            if gradient is not None and (name in activations or case.is_compared(name))
        }

    return training_step


def _memory_format(tensor: Tensor, provider: Provider) -> torch.memory_format:
    if tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
        return torch.channels_last  # the case has chosen
    return torch.channels_last if provider.channels_last else torch.contiguous_format


def _outputs(outputs: Sequence[Tensor]) -> Results:
    return {f"output {index}": output.detach() for index, output in enumerate(outputs)}


def _seed(output: Tensor) -> Tensor:
    """A gradient of the output: the same numbers for every provider, neither smooth nor random."""
    count = torch.arange(output.numel(), device=output.device, dtype=torch.float64)
    values = torch.sin(count * count).view(output.shape)
    return torch.empty_like(output).copy_(values)


def _captured(run: Run) -> Run:
    """Record a pass as a CUDA graph; the results are the graph's own tensors, written anew by every replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()

    def replay() -> Results:
        graph.replay()
        return results

    return replay
