"""Launches of every kernel of a DyHead block, recorded on tensors without memory, and what Triton makes of them."""

from __future__ import annotations

from typing import Any

import torch
from dyhead_kernels import BlockParameters
from dyhead_kernels.dyhead_block import triton as form
from dyhead_kernels.dyhead_block.layout import BranchLayout
from dyhead_kernels.dyhead_block.parameters import parameter_shapes
from dyhead_kernels.launch.launching import Launch, recording

SIZES = ((9, 6), (5, 3), (3, 2))


def recorded_launches(sizes: tuple[tuple[int, int], ...] = SIZES, dtype: torch.dtype = torch.float32) -> list[Launch]:
    """Forward and backward of 16 channels, one image, offsets resized."""
    layout = BranchLayout(sizes)
    values = torch.empty(1, layout.starts[-1], 16, dtype=dtype, device="meta")
    shapes = parameter_shapes(16, 16, 4)
    parameters = BlockParameters(**{name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    with recording() as launches:
        output, state = form.forward(values, parameters, layout, "resize", 4)
        form.backward(output, values, parameters, layout, "resize", 4, state, (True, True))
    return launches


def check_specialisations() -> None:
    """Recorded launches are compiled as Triton itself would compile them.

    Fields of tuples keep the alignment of their pointers, without which loads are not vectors, and their ones, which
    are constants. For a process in which Triton does not interpret.

    Raises:
        AssertionError: some launch is compiled in another way.
    """
    from dyhead_kernels.static import job_of, source_of
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.compiler import ASTSource
    from triton.runtime.jit import create_function_from_signature

    def as_launched(each: Launch) -> Any:
        kernel, arguments, constants, _ = each
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, specialization, options = bind(*arguments, **constants)
        packed = kernel._pack_args(backend, dict(constants), bound, specialization, options)
        return ASTSource(kernel, *packed[1:])

    backend = CUDABackend(GPUTarget("cuda", 90, 32))
    constant_fields = 0
    for sizes in (((9, 6), (5, 3), (3, 2)), ((2, 3), (1, 1)), ((4, 4),)):  # with one coarse row, with one level
        for each in recorded_launches(sizes):
            expected, actual = as_launched(each), source_of(job_of(each, "float32", 16, "sm_90"))
            assert actual.signature == expected.signature, each.name
            assert actual.constants == expected.constants, each.name
            assert list(actual.attrs.items()) == list(expected.attrs.items()), each.name
            assert actual.hash() == expected.hash(), each.name
            for index, (name, kind) in enumerate(actual.signature.items()):
                for field, type_ in enumerate(kind if isinstance(kind, tuple) else ()):
                    if type_.startswith("*"):
                        assert actual.attrs[index, field] == [["tt.divisibility", 16]], f"{each.name}: {name}"
            constant_fields += any(len(place) == 2 for place in actual.constants)
    assert constant_fields  # else ones among fields were not tried
