"""Arguments that several kernels share, as named tuples: the launches fill them, the kernels read their fields.

Triton takes a tuple apart before it compiles, so types, alignment and ones of the fields count as those of single
arguments do. Fields whose name ends in `ptr` are tensors to the launch and pointers to the kernel.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Constants(NamedTuple):
    """Numbers that every kernel is compiled for.

    Attributes:
        group_in, group_out: input and output channels of a weight group.
        run: channels that share a weight group and an offset group.
    """

    in_channels: int
    out_channels: int
    groups: int
    group_in: int
    group_out: int
    offset_groups: int
    run: int
    taps: int
    kernel_width: int
    padding_y: int
    padding_x: int
    dilation_y: int
    dilation_x: int
    has_mask: bool


class Windows(NamedTuple):
    """Windows of the sampled maps, one around the samples of each tile of outputs, in which gradients are added up.

    Attributes:
        tile_height, tile_width: outputs of a tile.
        height, width: pixels of a window, powers of two; 0 where there are no windows.
    """

    tile_height: int
    tile_width: int
    height: int
    width: int


NO_WINDOWS = Windows(1, 1, 0, 0)


class Sampling(NamedTuple):
    """The maps that the kernels sample, and where they do it.

    Attributes:
        values_ptr: (N, S, C_in), packed maps.
        offset_ptr, mask_ptr: (N, ...), laid out as the segments say.
        tiles_ptr, segments_ptr: the tables of `launch/tables.py`.
        values_image, offset_image, mask_image: elements from one image to the next.
    """

    values_ptr: Any
    offset_ptr: Any
    mask_ptr: Any
    tiles_ptr: Any
    segments_ptr: Any
    values_image: Any
    offset_image: Any
    mask_image: Any


class Gradients(NamedTuple):
    """Gradients of what is sampled, for a kernel to write. Those not needed are any pointer and a step of 0.

    Attributes:
        values_ptr: (N, S, C_in), to be added to: float32, or int64 counting multiples of 1 / scale.
        offset_ptr, mask_ptr: (N, ...) float32, laid out as the segments say.
        scale_ptr: the scale, a float32.
        offset_image, mask_image: elements from one image to the next.
    """

    values_ptr: Any
    offset_ptr: Any
    mask_ptr: Any
    scale_ptr: Any
    offset_image: Any
    mask_image: Any
