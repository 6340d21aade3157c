"""The fused attention chain of Dynamic Head (Dai et al., CVPR 2021): operators over packed feature pyramids."""

from .deform_conv.op import modulated_deform_conv2d
from .dyhead_block.op import dyhead_block
from .dyhead_block.parameters import BlockParameters, OffsetMode
from .pyramid import Pyramid

from . import flops as flops  # isort: skip  # costs of the operators; those must be there first

__all__ = ["BlockParameters", "OffsetMode", "Pyramid", "dyhead_block", "modulated_deform_conv2d"]
