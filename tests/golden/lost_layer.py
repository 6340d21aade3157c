"""The layer of the golden Faster R-CNN whose values nobody kept, found from what it answered.

The outputs were made with the random initial values of its weight and bias. The deltas are linear in them and stored,
so some of the levels say what they were and the others put the answer to the test. P2 alone says too little: some
hidden channels are silent there and speak on coarser levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dyzoo.model.heads import FasterRCNNHead

LOST = ("proposal_generator.rpn_head.anchor_deltas.weight", "proposal_generator.rpn_head.anchor_deltas.bias")
SOLVED_ON, CHECKED_ON = (0, 2, 4), (1, 3)


def solve_lost_weights(head: FasterRCNNHead, features: list[Tensor], golden: dict[str, Tensor]) -> None:
    """Fill `head.rpn.box` with the least-squares answer to the golden deltas of the levels `SOLVED_ON`."""
    hidden = [head.rpn.conv(features[level]).relu() for level in SOLVED_ON]
    inputs = torch.cat([level[0].flatten(1) for level in hidden], dim=1).double().T
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)  # (positions, C + 1)
    outputs = torch.cat([golden[f"rpn.box.{level}"][0].flatten(1) for level in SOLVED_ON], dim=1).double().T
    # channels that are silent everywhere have no weight of their own: the driver must do without full rank
    answer = torch.linalg.lstsq(inputs, outputs, driver="gelsd").solution
    head.rpn.box.weight.copy_(answer[:-1].T[:, :, None, None])
    assert head.rpn.box.bias is not None
    head.rpn.box.bias.copy_(answer[-1])
