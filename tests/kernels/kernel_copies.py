"""For processes of their own: load a copy of the kernels under another name, and run what it has."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def load(folder: str, name: str) -> Any:
    """The package in a folder, imported as `name`, in the way of Hugging Face's `kernels`."""
    spec = spec_from_file_location(name, Path(folder) / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module: Any, device: str = "cpu", **options: Any) -> list[Tensor]:
    """Outputs and gradients of both operators on small fixed inputs."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) * 0.3).to(device).requires_grad_()

    maps, weight, offset, mask = draw(1, 16, 4, 5), draw(16, 16, 3, 3), draw(1, 18, 4, 5), draw(1, 9, 4, 5)
    convolved = module.modulated_deform_conv2d(maps, offset, weight, padding=1, mask=mask, **options)
    shapes = [(27, 16, 3, 3), (27,), (3, 16, 16, 3, 3), *[(3, 16)] * 3, (16,), (1,), (4, 16), (4,), (64, 4), (64,)]
    parameters = module.BlockParameters(*(draw(*shape) for shape in shapes))
    pyramid = module.Pyramid(draw(1, 8, 16), ((2, 3), (1, 2)))
    attended = module.dyhead_block(pyramid, parameters, offset_mode="resize", **options).values
    (convolved.square().sum() + attended.square().sum()).backward()
    leaves = [maps, weight, offset, mask, pyramid.values, *vars(parameters).values()]
    return [convolved.detach(), attended.detach(), *(leaf.grad for leaf in leaves)]


def same(actual: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether tensors are equal to the last bit."""
    return all(torch.equal(x, y) for x, y in zip(actual, expected, strict=True))
