"""Model cards: valid for the Hub, measured numbers alone, and a hand's work told from our own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.hub.cards import CardDetails, adapt_card, is_hand_written, write_card
from dyzoo.hub.measurements import Measurement
from dyzoo.model.detector import Detector

METRICS = {"AP": 0.51234, "AP50": 0.75, "AP75": None, "APs": float("nan"), "AR100": 0.6}
PER_CLASS = {"cat": {"AP": 0.5, "AP50": 0.7, "AP75": 0.25, "boxes": 12.0}, "dog": {"AP": None, "boxes": 0.0}}
MEASURED = Measurement("Cats & dogs", "test", METRICS, PER_CLASS, 34, "By daylight.")
DETAILS = CardDetails(
    measurements=[MEASURED],
    license="apache-2.0",
    datasets=["org/pets"],
    base_model="timm/resnet10t.c3_in1k",
    training="From scratch.",
)


def parsed(card: str) -> dict[str, Any]:
    """The YAML block, read as the Hub reads it."""
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def card_of(details: CardDetails | None = None, name: str = "org/pets-detector", labels: Any = ("cat", "dog")) -> str:
    return write_card(replace(ARCHITECTURES["dyhead_atss_resnet10t"](), labels=labels), name, 6_000_000, details)


def test_metadata_is_what_the_hub_expects() -> None:
    metadata = parsed(card_of(DETAILS))
    assert metadata["library_name"] == "dyzoo"
    assert metadata["pipeline_tag"] == "object-detection"
    assert metadata["license"] == "apache-2.0"
    assert metadata["datasets"] == ["org/pets"]
    assert metadata["base_model"] == "timm/resnet10t.c3_in1k"
    assert {"dyhead", "atss"} <= set(metadata["tags"])
    (index,) = metadata["model-index"]
    (result,) = index["results"]
    assert index["name"] == "pets-detector"
    assert result["task"] == {"type": "object-detection"}
    assert result["dataset"] == {"type": "cats-dogs", "name": "Cats & dogs", "split": "test"}
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "map": 0.5123,
        "map_50": 0.75,
        "mar_100": 0.6,
    }
    first = ModelCard(card_of(DETAILS)).data.eval_results[0]
    assert (first.metric_type, first.metric_value) == ("map", 0.5123)


def test_the_body_has_the_numbers_and_their_command() -> None:
    card = card_of(DETAILS)
    assert "On the test split of Cats & dogs, 34 images" in card
    assert "| cat | 12 | 0.500 | 0.700 | 0.250 |" in card
    assert "| dog | 0 | - | - | - |" in card
    assert "| **all** |  | 0.512 | 0.750 | - |" in card
    assert "By daylight." in card
    assert "dyzoo evaluate --data 'Cats & dogs' --split test --model org/pets-detector" in card
    assert "From scratch." in card


def test_without_measurements_there_is_no_model_index_and_it_says_so() -> None:
    card = card_of()
    assert "model-index" not in parsed(card)
    assert "license" not in parsed(card)
    assert "Nothing has been measured with these weights yet." in card


def test_use_and_design() -> None:
    card = card_of()
    assert 'dyzoo.load("org/pets-detector")' in card
    assert "dyzoo predict photos/ --model org/pets-detector" in card
    for words in ("`resnet10t`", "6.0 M", "2 of 96 channels", "ATSS", "shortest edge 320 px", "0 cat, 1 dog."):
        assert words in card


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_has_a_valid_card(architecture: str) -> None:
    card = write_card(ARCHITECTURES[architecture](), "org/name", 1_000_000)
    assert parsed(card)["pipeline_tag"] == "object-detection"
    assert f"| architecture | `{architecture}` |" in card
    assert not is_hand_written(card)


HOSTILE = "---\nlicense: evil\n---\n<script>alert(1)</script> | *x* ``` $(rm -rf /)"


def test_names_from_strangers_stay_text() -> None:
    measured = replace(MEASURED, dataset=HOSTILE, split="'; ls '", per_class={HOSTILE: PER_CLASS["cat"]})
    card = card_of(CardDetails([measured], base_model=HOSTILE), name=f"folder {HOSTILE}", labels=(HOSTILE, "b"))
    assert parsed(card).get("license") is None
    assert parsed(card)["model-index"][0]["results"][0]["dataset"]["name"] == " ".join(HOSTILE.split())
    body = card.split("---\n", 2)[2]
    assert "<script>" not in body.split("```")[0]
    assert not any(line.startswith("license:") for line in body.splitlines())
    assert "--split ''\\''; ls '\\'''" in body


@dataclass
class Evaluation:
    """As `dyzoo.evaluation.Evaluation`."""

    metrics: dict[str, float | None] = field(default_factory=lambda: dict(METRICS))
    per_class: dict[str, dict[str, float | None]] = field(default_factory=lambda: dict(PER_CLASS))
    num_images: int = 34
    settings: dict[str, Any] = field(default_factory=dict)
    reported: dict[str, float] = field(default_factory=dict)
    reported_by: str = ""


def test_a_measurement_of_an_evaluation() -> None:
    found = Measurement.of(Evaluation(), "Cats & dogs", "test", "By daylight.")
    assert found == MEASURED


def test_any_edit_makes_it_hand_written() -> None:
    card = card_of(DETAILS)
    assert not is_hand_written(card)
    assert not is_hand_written(card.replace("\n", "\r\n").replace("\r\n", "\n"))
    assert not is_hand_written("")
    for edited in (card + "More.\n", card.replace("0.5123", "0.9"), "# Mine\n", card.replace("<!-- dyzoo", "<!--")):
        assert is_hand_written(edited)


def test_adapting_renames_and_keeps_the_numbers() -> None:
    folder_card = card_of(DETAILS, name="my folder")
    card = adapt_card(folder_card, "org/new", CardDetails(license="mit"))
    assert card == card_of(replace(DETAILS, license="mit"), name="org/new")
    assert not is_hand_written(card)


def test_save_pretrained_writes_and_renews_its_own_card_only(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "cells" / "README.md"
    detector.save_pretrained(tmp_path / "cells")
    assert 'dyzoo.load("cells")' in path.read_text()
    assert str(tmp_path) not in path.read_text()
    detector.save_pretrained(tmp_path / "cells", card=CardDetails(license="mit"))
    assert parsed(path.read_text())["license"] == "mit"
    path.write_text("# Mine\n")
    detector.save_pretrained(tmp_path / "cells")
    assert path.read_text() == "# Mine\n"
    detector.save_pretrained(tmp_path / "bare", card=False)
    assert not (tmp_path / "bare" / "README.md").exists()


def test_the_shipped_card_is_valid_and_hand_written() -> None:
    from dyzoo.zoo.catalog import checkpoints, weights_folder

    for checkpoint in checkpoints().values():
        if checkpoint.folder is not None:
            card = (weights_folder() / checkpoint.folder / "README.md").read_text(encoding="utf-8")
            assert parsed(card)["library_name"] == "dyzoo"
            assert is_hand_written(card)
