"""Layers that stand in for timm's."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from dyzoo.model.backbones.layers import slice_for_few_channels

TRAINS_A_STEP = """
import torch
from dyzoo.model.backbones import Backbone
from dyzoo.config import BackboneConfig
torch.set_num_threads(1)
backbone = Backbone(BackboneConfig("mobileone_s0")).to(memory_format=torch.channels_last).train()
for _ in range(3):  # memory that is written to by mistake shows when it is used again
    batch = torch.randn(2, 3, 64, 96).to(memory_format=torch.channels_last)
    sum(level.square().mean() for level in backbone(batch)).backward()
print("trained")
"""


def test_training_survives_a_strided_1x1_convolution_of_a_picture() -> None:
    """In a process of its own, which oneDNN would end without a word."""
    done = subprocess.run([sys.executable, "-c", TRAINS_A_STEP], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


@pytest.mark.parametrize("stride", [2, (1, 3)])
def test_a_sliced_convolution_is_the_strided_one(stride: int | tuple[int, int]) -> None:
    strided = nn.Conv2d(3, 8, 1, stride=stride)
    model = nn.Sequential(strided, nn.Conv2d(8, 8, 1))
    images = torch.randn(2, 3, 9, 14)
    expected = model(images)
    names = list(model.state_dict())
    slice_for_few_channels(model)
    torch.testing.assert_close(model(images), expected)
    assert list(model.state_dict()) == names
    assert type(model[0]) is not nn.Conv2d
    assert type(model[1]) is nn.Conv2d
