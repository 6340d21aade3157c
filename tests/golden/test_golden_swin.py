"""Converted Swins give the maps of the foreign ones, written out in `swins`, on the foreign state dicts."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from dyzoo.model.backbones import Backbone
from tests.golden import swins
from tests.golden.agreement import deviation
from tests.golden.foreign import converted
from tests.golden.swins import Keys, Weights, swin_maps

TOLERANCE = 1e-12  # of a map's largest value, in float64


@dataclass
class Swin:
    """A converted backbone in float64, and what the foreign one is made of."""

    backbone: Backbone
    weights: Weights
    keys: Keys
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int

    def deviation(self, size: tuple[int, int]) -> float:
        """Largest over the three maps of an image of that (H, W)."""
        image = torch.randn(3, *size, generator=torch.Generator().manual_seed(0)).double()
        with torch.inference_mode():
            found = self.backbone(image[None])
            expected = swin_maps(image, self.weights, self.keys, self.depths, self.heads, self.window)
        assert [tuple(level.shape[2:]) for level in found] == [(size[0] // s, size[1] // s) for s in (8, 16, 32)]
        return max(deviation(level[0], golden) for level, golden in zip(found, expected, strict=True))


class InFloat64(dict[str, Tensor]):
    """Converts a value when it is read: all of them at once would be gigabytes."""

    def __getitem__(self, key: str) -> Tensor:
        return super().__getitem__(key).double()


CASES = {
    "mmdet_atss_swin_l": (swins.MMDET, (2, 2, 18, 2), (6, 12, 24, 48), 12),
    "official_atss_swin_t": (swins.OFFICIAL, (2, 2, 6, 2), (3, 6, 12, 24), 7),
}


@pytest.fixture(scope="module", params=CASES)
def swin(request: pytest.FixtureRequest) -> Swin:
    foreign, conversion = converted(request.param)
    return Swin(copy.deepcopy(conversion.detector.backbone).double(), InFloat64(foreign), *CASES[request.param])


def test_maps_that_are_no_whole_windows_and_smaller_than_one(swin: Swin) -> None:
    """An image of 64 x 96 has 16 x 24 patches, then 8 x 12, 4 x 6 and 2 x 3; windows are of 7 and of 12."""
    assert swin.deviation((64, 96)) < TOLERANCE


@pytest.mark.parametrize("swin", ["official_atss_swin_t"], indirect=True)
def test_what_is_compared_decides(swin: Swin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other merging of patches would be noticed, and a last stage without shift, as timm has where it is small."""
    assert swin.deviation((256, 384)) < TOLERANCE  # 8 x 12 windows and more
    other = replace(swin, keys=replace(swin.keys, merge=swins.unfolded))
    assert other.deviation((64, 96)) > 0.1
    attention = swins.attention

    def unshifted(values: Tensor, weights: Weights, name: str, heads: int, window: int, shift: int) -> Tensor:
        return attention(values, weights, name, heads, window, 0 if ".layers.3." in name else shift)

    monkeypatch.setattr(swins, "attention", unshifted)
    assert swin.deviation((64, 96)) > 1e-3
