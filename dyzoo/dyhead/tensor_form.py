"""Dynamic Head as its paper writes it: three attentions, one after the other, over one tensor of all levels.

Dai et al., CVPR 2021 (arXiv 2106.08322), section 3; `tensor` is the paper's F, see `median`. The published code and
weights compute the pyramid form instead, see `block`; weights of one form do not fit the other.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from dyhead_kernels import modulated_deform_conv2d
from dyhead_kernels.dyhead_block.parameters import OFFSETS, OFFSETS_AND_MASKS, TAPS
from torch import Tensor, nn

from dyzoo.dyhead.block import NORM_GROUPS, REDUCTION
from dyzoo.dyhead.median import Size, check_tensor, maps_of, median_level, rows_of


class ScaleAwareAttention(nn.Module):
    """pi_L, eq. 3: each level times kappa = sigma(f(its mean)), sigma(x) = max(0, min(1, (x + 1) / 2)).

    The paper takes the mean over positions and channels and gives f, which is linear, the form of a 1x1 convolution.
    Here mean over channels and f are one: a 1x1 convolution C -> 1 of the means over positions, as in the published
    code. Its weights start at 1 / C and its bias at 0, which is eq. 3 to the letter with f(x) = x; then they learn
    which channels tell a scale.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        nn.init.constant_(self.weight, 1 / len(self.weight))
        nn.init.zeros_(self.bias)

    def kappa(self, tensor: Tensor) -> Tensor:
        """The weight of each level, in 0..1: (N, L, S, C) -> (N, L, 1, 1)."""
        check_tensor(tensor, channels=len(self.weight))
        logits = F.linear(tensor.mean(dim=2), self.weight[None], self.bias)  # (N, L, 1)
        return ((logits + 1) / 2).clamp(0, 1).unsqueeze(3)

    def forward(self, tensor: Tensor) -> Tensor:
        """(N, L, S, C) -> the same shape."""
        return tensor * self.kappa(tensor)


class SpatialAwareAttention(nn.Module):
    """pi_S, eq. 4: 1/L sum_l sum_k w_{l,k} F(l; p + p_k + dp_k) dm_k, a deformable convolution summed over all levels.

    Offsets dp_k (pixels of the median level) and importances dm_k in 0..1 come from one 3x3 convolution of the median
    level and serve every level alike, so that levels are aggregated at the same places.

    Eq. 4 as printed has no level on its left: it sums the levels away, and read to the letter every level of the output
    is that one sum. Then all levels would be alike from the first block on, and the next pi_L had nothing to choose
    from. Here the output keeps its levels: w_{l,k} depends on where l stands to the level that it goes to, finer, the
    same or coarser. These three kernels, in this order in `weight`, are like the three that the published code has for
    a level and its neighbours. Where they are equal this is eq. 4 to the letter; and they serve any number of levels.
    As in any convolution, w_{l,k} is a C x C_in matrix.

    Initialisation: as `DyHeadBlock`'s; offsets start at zero and importances at one half.

    Args:
        in_channels, channels: C_in of the input and C of the output.
        backend: form of the operator, see `dyhead_kernels.modulated_deform_conv2d`.
    """

    def __init__(self, in_channels: int, channels: int, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend
        self.offset_weight = nn.Parameter(torch.empty(OFFSETS_AND_MASKS, in_channels, 3, 3))
        self.offset_bias = nn.Parameter(torch.empty(OFFSETS_AND_MASKS))
        self.weight = nn.Parameter(torch.empty(3, channels, in_channels, 3, 3))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        nn.init.zeros_(self.offset_weight)
        nn.init.zeros_(self.offset_bias)
        bound = 1 / math.sqrt(TAPS * self.weight.shape[2])
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, tensor: Tensor, size: Size) -> Tensor:
        """(N, L, S, C_in), (H, W) -> (N, L, S, C)."""
        check_tensor(tensor, channels=self.weight.shape[2], size=size)
        levels = tensor.shape[1]
        offset, mask = (part.repeat_interleave(levels, dim=0) for part in self.offsets_and_masks(tensor, size))
        # Sampling is linear and the same for all levels, so a kernel's levels are added up before, not after it.
        stacked = torch.cat([_sum_before(tensor), tensor, _sum_before(tensor.flip(1)).flip(1)], dim=3)
        weight = self.weight.transpose(0, 1).flatten(1, 2)  # (C, 3 * C_in, 3, 3)
        output = self.convolve(maps_of(stacked, size).flatten(0, 1), offset, mask, weight)
        return rows_of(output / levels, levels)

    def convolve(self, input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        """The 3x3 deformable convolution with a padding of one; see `dyhead_kernels.modulated_deform_conv2d`."""
        return modulated_deform_conv2d(input, offset, weight, padding=1, mask=mask, backend=self.backend)

    def offsets_and_masks(self, tensor: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Offsets (N, 18, H, W), pairs (dy, dx), and masks dm (N, 9, H, W); in float32 or wider, being positions."""
        middle = maps_of(tensor, size)[:, median_level(tensor.shape[1])]
        dtype = torch.promote_types(middle.dtype, torch.float32)
        with torch.autocast(middle.device.type, enabled=False):
            weight, bias = self.offset_weight.to(dtype), self.offset_bias.to(dtype)
            offset_mask = F.conv2d(middle.to(dtype), weight, bias, padding=1)
            return offset_mask[:, :OFFSETS], offset_mask[:, OFFSETS:].sigmoid()


class TaskAwareAttention(nn.Module):
    """pi_C, eq. 5: max(alpha1 F_c + beta1, alpha2 F_c + beta2), two lines per channel and image, for all levels.

    theta = 2 sigmoid(fc(relu(fc(mean over L x S)))) - 1 lies in -1..1. With the initial values and ranges of dynamic
    ReLU (Chen et al., arXiv 2003.10027) alpha1 = 1 + theta1, alpha2 = theta2, beta1 = theta3 / 2, beta2 = theta4 / 2:
    a ReLU where theta is zero. The paper names a normalisation layer before the shifted sigmoid; dynamic ReLU, which it
    follows, calls the shifted sigmoid itself so, and the published code has no other.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // REDUCTION, 1)
        self.squeeze = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, 4 * channels)

    def lines(self, tensor: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(alpha1, beta1) and (alpha2, beta2), each (N, 1, 1, C), for (N, L, S, C)."""
        check_tensor(tensor, channels=self.squeeze.in_features)
        hidden = F.relu(self.squeeze(tensor.mean(dim=(1, 2))))
        theta = 2 * self.expand(hidden).sigmoid() - 1
        theta1, theta2, theta3, theta4 = theta[:, None, None].chunk(4, dim=3)
        return (1 + theta1, theta3 / 2), (theta2, theta4 / 2)

    def forward(self, tensor: Tensor) -> Tensor:
        """(N, L, S, C) -> the same shape."""
        (alpha1, beta1), (alpha2, beta2) = self.lines(tensor)
        return torch.maximum(alpha1 * tensor + beta1, alpha2 * tensor + beta2)


class TensorDyHeadBlock(nn.Module):
    """pi_C(pi_S(pi_L(F) F) F) F, eq. 2: scale, then spatial, then task attention.

    Between the last two stands the GroupNorm that the published code has after its deformable convolutions and the
    paper does not mention: kappa and dm_k, both one half at first, would shrink the maps block after block. Statistics
    are of each image and level.

    An attention that is left out is the identity in eq. 2; where C_in is not C, a 1x1 projection takes the place of the
    spatial-aware one. In the place of the task-aware one stands a ReLU, to which that reduces where theta is zero and
    which the published code has there: with no activation left, a stack of blocks would be close to one linear layer,
    and an ablation would measure that.

    Args:
        in_channels, channels: C_in of the input and C of the output.
        norm_groups: groups of the GroupNorm, a divisor of C; None leaves it out, which is eq. 2 to the letter.
        backend: see `SpatialAwareAttention`.
        scale, spatial, task: which attentions there are.

    Raises:
        ValueError: norm_groups does not divide C.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        norm_groups: int | None = NORM_GROUPS,
        backend: str = "auto",
        *,
        scale: bool = True,
        spatial: bool = True,
        task: bool = True,
    ) -> None:
        super().__init__()
        if norm_groups is not None and (norm_groups < 1 or channels % norm_groups):
            raise ValueError(f"norm_groups is {norm_groups}, expected a divisor of the {channels} channels, or None")
        self.scale = ScaleAwareAttention(in_channels) if scale else None
        self.spatial = SpatialAwareAttention(in_channels, channels, backend) if spatial else None
        is_projected = not spatial and in_channels != channels
        self.projection = nn.Linear(in_channels, channels, bias=False) if is_projected else None
        self.norm = None if norm_groups is None else nn.GroupNorm(norm_groups, channels)
        self.task = TaskAwareAttention(channels) if task else nn.ReLU()

    def forward(self, tensor: Tensor, size: Size) -> Tensor:
        """(N, L, S, C_in), (H, W) -> (N, L, S, C)."""
        return self.task(self.aggregated(self.weighed(tensor), size))  # type: ignore[no-any-return]

    def weighed(self, tensor: Tensor) -> Tensor:
        """The tensor after scale-aware attention, if there is one: (N, L, S, C_in) -> the same shape."""
        return tensor if self.scale is None else self.scale(tensor)  # type: ignore[no-any-return]

    def aggregated(self, tensor: Tensor, size: Size) -> Tensor:
        """The tensor after spatial-aware attention, or what takes its place, and the GroupNorm.

        (N, L, S, C_in), (H, W) -> (N, L, S, C).
        """
        output = tensor
        if self.spatial is not None:
            output = self.spatial(output, size)
        elif self.projection is not None:
            output = self.projection(output)
        if self.norm is not None:
            output = rows_of(self.norm(maps_of(output, size).flatten(0, 1)), output.shape[1])
        return output


def _sum_before(tensor: Tensor) -> Tensor:
    """For each level the sum of the levels before it."""
    return F.pad(tensor, (0, 0, 0, 0, 1, 0))[:, :-1].cumsum(dim=1)
