"""Packing a feature pyramid."""

from __future__ import annotations

import pytest
import torch
from dyhead_kernels import Pyramid


def test_levels_survive_a_round_trip_as_views() -> None:
    levels = [torch.randn(2, 3, 5, 4), torch.randn(2, 3, 3, 2), torch.randn(2, 3, 1, 1)]
    pyramid = Pyramid.from_levels(levels)
    assert pyramid.shapes == ((5, 4), (3, 2), (1, 1))
    assert pyramid.starts == (0, 20, 26, 27)
    for given, view in zip(levels, pyramid.levels(), strict=True):
        assert torch.equal(given, view)
        assert view.untyped_storage().data_ptr() == pyramid.values.untyped_storage().data_ptr()


def test_gradients_flow_back_to_each_level() -> None:
    levels = [torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 2, 2, requires_grad=True)]
    (Pyramid.from_levels(levels).level(1) * 2).sum().backward()
    assert not levels[0].grad.any()
    assert torch.equal(levels[1].grad, torch.full((2, 3, 2, 2), 2.0))


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"level 1 is \(2, 4, 2, 2\), expected \(2, 3, H, W\) like level 0"):
        Pyramid.from_levels([torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 2, 2)])
    with pytest.raises(ValueError, match="a pyramid needs at least one level"):
        Pyramid.from_levels([])
    with pytest.raises(ValueError, match=r"values is \(2, 19, 3\), expected \(N, 20, C\)"):
        Pyramid(torch.zeros(2, 19, 3), ((4, 4), (2, 2)))
