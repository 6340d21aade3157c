"""Measurements of a card: added, renewed, and told from what others report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.hub.cards import CardDetails, adapt_card, is_hand_written, write_card
from dyzoo.hub.measurements import Measurement

NAME = "org/pets"
METRICS = {"AP": 0.5, "AP50": 0.75, "AP75": None, "AR100": 0.6}
PETS = Measurement("pets", "val", METRICS, {"cat": {"AP": 0.5, "boxes": 12.0}}, 34)
FARM = replace(PETS, dataset="farm", metrics={**METRICS, "AP": 0.25}, num_images=7)


def card_of(*measurements: Measurement) -> str:
    details = CardDetails(measurements, license="mit", training="From scratch.")
    return write_card(ARCHITECTURES["dyhead_atss_resnet10t"](), NAME, 6_000_000, details)


def added(card: str, *measurements: Measurement) -> str:
    """The card with each of the measurements added, one after the other."""
    for measured in measurements:
        card = adapt_card(card, NAME, CardDetails(measurements=[measured]))
    return card


def index_of(card: str) -> dict[str, dict[str, float]]:
    """Data set -> metrics in the card's model index."""
    (index,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    return {r["dataset"]["name"]: {m["type"]: m["value"] for m in r["metrics"]} for r in index["results"]}


def test_an_added_measurement_is_as_if_it_had_been_there() -> None:
    assert added(card_of(), PETS) == card_of(PETS)
    assert added(card_of(), PETS, FARM) == added(card_of(PETS), FARM) == card_of(PETS, FARM)
    assert not is_hand_written(added(card_of(), PETS, FARM))


def test_a_newer_one_takes_the_place_of_that_on_the_same_images() -> None:
    newer = replace(PETS, metrics={"AP": 0.625})
    card = added(card_of(PETS, FARM), newer)
    assert card == card_of(FARM, newer)
    assert index_of(card) == {"farm": {"map": 0.25, "map_50": 0.75, "mar_100": 0.6}, "pets": {"map": 0.625}}
    assert added(card_of(PETS), replace(PETS, split="test")) == card_of(PETS, replace(PETS, split="test"))


def test_the_reported_stands_beside_and_not_in_the_index() -> None:
    card = card_of(replace(PETS, reported={"AP": 0.433}, reported_by="somebody, COCO val"))
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert rows[rows.index("| **all** |  | 0.500 | 0.750 | - |") :] == [
        "| **all** |  | 0.500 | 0.750 | - |",
        "| reported: somebody, COCO val |  | 0.433 | - | - |",
        "| difference |  | +0.067 | - | - |",
    ]
    assert "a difference says something on the same images only." in card
    assert index_of(card) == index_of(card_of(PETS))


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        ({"size": None, "flips": [], "scorer": "pycocotools", "batch_size": 8}, "\n"),
        ({"size": 640, "flips": ["horizontal"]}, " --size 640 --flip horizontal\n"),
        (
            {"size": "native", "scorer": "faster-coco-eval"},
            " --size native --scorer faster-coco-eval\n",
        ),
    ],
)
def test_the_command_gives_the_numbers_again(settings: dict[str, Any], command: str) -> None:
    card = card_of(replace(PETS, settings=settings, made="2031-05-06 with dyzoo 9 and torch 8"))
    assert f"dyzoo evaluate --data pets --split val --model org/pets{command}" in card
    assert f"COCO metrics by {settings.get('scorer', 'pycocotools')}:" in card
    assert "Measured on 2031-05-06 with dyzoo 9 and torch 8." in card


def test_rounded_weights_are_not_those_that_were_measured() -> None:
    card = adapt_card(card_of(PETS, FARM), NAME, rounded_to="float16")
    assert card.count("by pycocotools, before the weights were rounded to float16:") == 2
    again = added(adapt_card(card, NAME, rounded_to="float16"), PETS)
    assert again.count("before the weights were rounded to float16:") == 1
    assert adapt_card(card_of(), NAME, rounded_to="float16") == card_of()


@pytest.mark.parametrize("name", ["## What it reaches\n\nx", "a split of b, ", "\\1 $(rm)", "On the val split of a, "])
def test_names_of_data_from_strangers_end_nothing(name: str) -> None:
    odd = replace(PETS, dataset=name, per_class={name: {"AP": 0.5, "boxes": 1.0}})
    card = added(card_of(), odd, FARM, odd, FARM)
    assert card == card_of(odd, FARM)
    assert card.count("\n## What it reaches\n") == card.count("\n## Training\n") == 1
