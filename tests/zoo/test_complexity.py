"""The table of `dyzoo list` is what is measured."""

from __future__ import annotations

import pytest

from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.zoo.complexity import complexities, measure


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_table_is_what_is_measured(name: str) -> None:
    assert complexities()[name] == measure(ARCHITECTURES[name]()), "run python -m dyzoo.zoo.complexity"


def test_the_table_holds_no_others() -> None:
    assert set(complexities()) == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("official_atss_r50", 38.85),
        ("official_retinanet_r50", 45.29),
        ("official_faster_rcnn_r50", 53.20),
        ("official_atss_swin_t", 42.34),
        ("mmdet_atss_r50", 39.07),
        ("mmdet_atss_r50_caffe", 38.90),
        ("mmdet_atss_swin_l", 210.36),
        ("mmdet_glip_t_a", 42.34),  # as official_atss_swin_t; without the language model
    ],
)
def test_parameters_agree_with_the_foreign_models(name: str, millions: float) -> None:
    assert round(complexities()[name].parameters / 1e6, 2) == millions
