"""The card of a converted detector has the number of the checkpoint that the file is, or none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dyzoo.checkpoints.provenance import card_details
from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.zoo.catalog import reported_of

GLIP = "mmdet_glip_t_a"


@pytest.mark.parametrize(
    ("architecture", "digits", "ap"),
    [
        (GLIP, "b3654169", "43.0"),
        (GLIP, "e6addd96", "53.3"),
        ("mmdet_atss_r50", "eaa620c6", "43.3"),
        ("official_atss_r50", "00000000", "42.4"),  # nobody says what its hash is
    ],
)
def test_a_published_file_is_known_by_its_hash(architecture: str, digits: str, ap: str) -> None:
    digest = digits.ljust(64, "0")
    details = card_details(ARCHITECTURES[architecture](), "a.pth", digest, reported_of(digest, architecture))
    assert f"A COCO box AP of {ap} is reported" in details.training
    assert f"Its file `a.pth` has the sha256 `{digest}`" in details.training


def test_a_file_that_is_none_of_several_has_no_number() -> None:
    for digest in ("0" * 64, "eaa620c6".ljust(64, "0")):  # that of another architecture
        details = card_details(ARCHITECTURES[GLIP](), "a.pth", digest, reported_of(digest, GLIP))
        assert "No number is known that was reported of this very file" in details.training
        assert "AP of" not in details.training


def test_classes_of_its_own_have_no_number() -> None:
    config = replace(ARCHITECTURES[GLIP](), labels=("cell",))
    details = card_details(config, "a.pth", "0" * 64, reported_of("b3654169".ljust(64, "0"), GLIP))
    assert "no published number is about it" in details.training
    assert "43.0" not in details.training
