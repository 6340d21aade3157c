"""A settings dataclass: its ranges are checked and its docstring is written by its fields."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import pytest

from dyzoo.config.settings import Setting, check_ranges, documented, setting_fields
from dyzoo.config.training import ResolvedConfig, TrainConfig, TransformConfig
from dyzoo.config.values import Range


@documented
@dataclass(frozen=True)
class Oven:
    """An oven."""

    celsius: Annotated[int | None, Range(above=0, highest=300), Setting("Heat.", "Of the air.", left_open="200")] = None
    share: Annotated[float, Range(0, below=1), Setting("Share of the racks.")] = 0.5

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class HotOven(Oven):
    celsius: int = 250
    racks: Annotated[int, Range(1, 4), Setting("Number of racks.")] = 2


@pytest.mark.parametrize(
    ("limit", "inside", "outside", "words"),
    [
        (Range(0, 1), (0, 0.5, 1), (-0.1, 1.1, float("nan")), "0 to 1"),
        (Range(1), (1, 10**400, float("inf")), (0, float("nan")), "at least 1"),
        (Range(above=0), (1e-300, float("inf")), (0, -1), "more than 0"),
        (Range(0, below=1), (0, 0.999), (1, -0.1), "at least 0 and less than 1"),
        (Range(above=0, highest=1), (0.1, 1), (0, 1.1), "more than 0 and at most 1"),
    ],
    ids=str,
)
def test_a_range_says_which_of_its_ends_belong_to_it(
    limit: Range, inside: tuple[float, ...], outside: tuple[float, ...], words: str
) -> None:
    assert all(number in limit for number in inside)
    assert not any(number in limit for number in outside)
    assert str(limit) == words


def test_the_docstring_has_the_texts_of_the_fields() -> None:
    assert (Oven.__doc__ or "").splitlines() == [
        "An oven.",
        "",
        "Attributes:",
        "    celsius: Heat. Of the air. None: 200.",
        "    share: Share of the racks.",
    ]


def test_a_subclass_keeps_what_it_does_not_say_anew() -> None:
    celsius, share, racks = setting_fields(HotOven)
    assert (celsius.type, celsius.default, celsius.limit) == (int, 250, Range(above=0, highest=300))
    assert (share, racks.name) == (setting_fields(Oven)[1], "racks")
    for wrong, words in (({"celsius": 301}, "celsius is 301, expected more than 0"), ({"racks": 0}, "racks is 0")):
        with pytest.raises(ValueError, match=words):
            HotOven(**wrong)


@pytest.mark.parametrize("config_type", [TrainConfig, TransformConfig])
def test_every_setting_of_a_run_says_what_it_is(config_type: type) -> None:
    for field in fields(config_type):
        assert f"\n    {field.name}: " in (config_type.__doc__ or "")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lr": -1}, "lr is -1, expected more than 0"),
        ({"lr": float("nan")}, "lr is nan, expected more than 0"),
        ({"layer_decay": 1.1}, "layer_decay is 1.1, expected more than 0 and at most 1"),
        ({"seed": -1}, "seed is -1, expected at least 0"),
        ({"patience": 0}, "patience is 0, expected at least 1"),
    ],
)
def test_a_setting_out_of_its_range_is_one_line(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}$"):
        TrainConfig(Path(), **setting)  # type: ignore[arg-type]


def test_nothing_is_left_open_in_a_resolved_run() -> None:
    with pytest.raises(ValueError, match="epochs is 0, expected at least 1"):
        ResolvedConfig(data=Path())
