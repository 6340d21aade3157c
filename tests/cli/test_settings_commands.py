"""Commands made from settings: a field is an option, and nothing else has to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from dyzoo.cli.settings import takes_settings
from dyzoo.config.settings import Setting
from dyzoo.config.training import TrainConfig, TransformConfig
from dyzoo.config.values import Range

Called = tuple[int, str, list[TrainConfig]]


@dataclass(frozen=True)
class LongerConfig(TrainConfig):
    """A run with two settings more."""

    label_noise: Annotated[float, Range(0, 1), Setting("Share of the labels that are wrong.", short="-l")] = 0.25
    shuffle: Annotated[bool, Setting("Draw images in another order each time.")] = True
    transform: TransformConfig = field(default_factory=lambda: TransformConfig(crop=0.125))


@pytest.fixture
def call() -> Callable[..., Called]:
    """`call("--lr", 1)` of a command that takes a `LongerConfig`; gives exit code, what it printed, the settings."""
    settings: list[TrainConfig] = []
    app = typer.Typer(rich_markup_mode=None, add_completion=False)

    @app.command()
    @takes_settings(LongerConfig)
    def learn(config: LongerConfig) -> None:
        """Learn."""
        settings.append(config)

    def call(*arguments: object) -> Called:
        result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "80"})
        return result.exit_code, result.output, settings

    return call


def test_a_new_field_is_an_option(call: Callable[..., Called]) -> None:
    code, text, _ = call("--help")
    assert code == 0
    words = " ".join(text.split())
    assert "-l, --label-noise 0..1 Share of the labels that are wrong. [default: 0.25]" in words
    assert "--shuffle / --no-shuffle Draw images in another order each time. [default: shuffle]" in words
    assert "--crop 0..1 How often images are cropped in training. [default: 0.125]" in words
    default = LongerConfig(Path("x"))
    code, _, settings = call("--data", "x")
    assert (code, settings) == (0, [default])
    call("--data", "x", "-l", 0.5, "--no-shuffle", "--crop", 1, "--size", 64)
    transform = replace(default.transform, crop=1.0)
    assert settings[-1] == replace(default, label_noise=0.5, shuffle=False, size_px=64, transform=transform)


def test_its_range_is_checked(call: Callable[..., Called]) -> None:
    code, text, settings = call("--data", "x", "--label-noise", 2)
    assert (code, settings) == (2, [])
    assert "label_noise is 2.0, expected 0 to 1" in " ".join(text.replace("│", " ").split())


def test_a_commands_own_option_takes_the_place_of_a_fields() -> None:
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    calls: list[tuple[TrainConfig, str, int]] = []

    @app.command()
    @takes_settings(TrainConfig, leave_out=["seed"])
    def learn(config: TrainConfig, times: int = 1, freeze: Annotated[str, typer.Option("--frozen")] = "none") -> None:
        calls.append((config, freeze, times))

    run = CliRunner().invoke(app, ["--data", "x", "--frozen", "all", "--times", "2", "--lr", "1"])
    assert (run.exit_code, calls) == (0, [(TrainConfig(Path("x"), lr=1.0), "all", 2)])
    for gone in ("--freeze", "--seed"):
        assert CliRunner().invoke(app, ["--data", "x", gone, "1"]).exit_code == 2


def test_a_field_without_text_is_refused() -> None:
    @dataclass(frozen=True)
    class Mute:
        loud: bool = False

    with pytest.raises(TypeError, match="loud has no Setting"):
        takes_settings(Mute)
