"""The table of backbones that fit."""

from __future__ import annotations

import pytest

from dyzoo.model.backbones.families import families, family_of, is_known_to_fit
from dyzoo.model.backbones.trying import members, try_model

RENEW = "run python -m dyzoo.model.backbones"


def test_the_table_holds_every_family_that_timm_has() -> None:
    assert set(families()) >= set(members()), RENEW


@pytest.mark.slow
def test_a_family_of_every_module_of_timms_is_as_the_table_has_it() -> None:
    of_modules = {family.module: family for family in families().values()}
    differing = {
        family.example: refusal
        for family in of_modules.values()
        if bool(refusal := try_model(family.example)) != bool(family.refusal)
    }
    assert not differing, RENEW


@pytest.mark.parametrize(
    ("model", "refusal"),
    [("resnet10t", ""), ("vit_tiny_patch16_224", "has maps of strides"), ("pit_ti_224", "96 x 160")],
)
def test_a_model_is_tried(model: str, refusal: str) -> None:
    assert refusal in try_model(model)
    assert is_known_to_fit(model) == (refusal == "")


def test_a_tag_does_not_change_the_family() -> None:
    assert family_of("resnet50.a1_in1k") == family_of("resnet10t") == "resnet/resnet"
