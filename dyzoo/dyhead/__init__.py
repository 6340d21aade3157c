"""Dynamic Head (Dai et al., CVPR 2021): the attention blocks between the feature pyramid and the heads."""

from dyzoo.dyhead.block import DyHeadBlock
from dyzoo.dyhead.head import DyHead

__all__ = ["DyHead", "DyHeadBlock"]
