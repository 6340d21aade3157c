"""Models of other packages with a `DyHead` inside, in operators that every exporter takes."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, TypeVar, cast, get_args

from torch import Tensor, nn

from dyzoo.dyhead import DyHead, SpatialAwareAttention
from dyzoo.dyhead.levelwise import LevelwiseDyHead, LevelwiseParameters
from dyzoo.errors import ExportError
from dyzoo.export.options import DeformConv
from dyzoo.export.plain import Convolve, block_of_levels, convolution

Model = TypeVar("Model", bound=nn.Module)


class PlainDyHead(DyHead):
    """A `DyHead` of the pyramid form in steps of PyTorch's and torchvision's, for inference.

    Args:
        dyhead: its projections are shared, the blocks' weights are copied.
        convolve: the deformable convolution, see `dyzoo.export.plain.convolution`.
    """

    def __init__(self, dyhead: DyHead, convolve: Convolve) -> None:
        super().__init__(dyhead.config.channels, 0, dyhead.in_channels)
        levelwise = LevelwiseDyHead(dyhead)
        self.config, self.out_channels, self.projections = dyhead.config, dyhead.out_channels, dyhead.projections
        self.blocks, self.offset_modes, self.convolve = levelwise.blocks, levelwise.offset_modes, convolve
        self.train(dyhead.training)

    def attend(self, maps: list[Tensor]) -> list[Tensor]:
        """The blocks, on maps that `project` gave."""
        for parameters, mode in zip(self.blocks, self.offset_modes, strict=True):
            own = LevelwiseParameters.from_list(list(cast(nn.ParameterList, parameters)))
            maps = block_of_levels(self.convolve, maps, own, mode)
        return maps


def exportable(model: Model, deform_conv: DeformConv = "node") -> Model:
    """A copy of a model whose `DyHead`s compute in operators of PyTorch's and torchvision's alone.

    `torch.export`, `torch.onnx.export` and `torch.jit.trace` take them, and what these write needs no dyzoo. The copy
    answers as the model does, to rounding, and is for inference: its blocks do not learn. See docs/neck.md.

    Args:
        model: any module with a `dyzoo.DyHead` in it, or one; it stays as it is.
        deform_conv: "node" for torchvision's `deform_conv2d`, ONNX's `DeformConv`; "grid-sample" for samples taken by
            `grid_sample`, for runtimes without that. See `ExportOptions`.

    Raises:
        ExportError: there is no such form, or no `DyHead` in the model.
    """
    if deform_conv not in get_args(DeformConv):
        raise ExportError(f"deform_conv is {deform_conv!r}, expected {' or '.join(map(repr, get_args(DeformConv)))}")
    if not isinstance(model, nn.Module) or not any(isinstance(module, DyHead) for module in model.modules()):
        raise ExportError(f"{type(model).__name__} has no DyHead in it, expected a module with one: export it as it is")
    convolve = convolution(deform_conv)
    root = nn.ModuleDict({"model": copy.deepcopy(model)})
    plain: dict[nn.Module, nn.Module] = {}  # a neck that is there twice stays one
    for module in list(root.modules()):
        for name, child in module._modules.items():
            if isinstance(child, DyHead):
                module._modules[name] = plain.setdefault(child, _plain(child, convolve))
    return cast(Model, root["model"])


def _plain(dyhead: DyHead, convolve: Convolve) -> DyHead:
    if dyhead.config.form == "pyramid":
        return dyhead if isinstance(dyhead, PlainDyHead) else PlainDyHead(dyhead, convolve)
    for module in dyhead.modules():
        if isinstance(module, SpatialAwareAttention):
            attention: Any = module
            attention.convolve = partial(_convolve_of_spatial_attention, convolve)
    return dyhead


def _convolve_of_spatial_attention(
    convolve: Convolve, input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor
) -> Tensor:
    return convolve(input, offset, mask, weight, None, 1)
