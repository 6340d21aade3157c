"""Two processes that train together do what one does with both their batches."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dyzoo.training.setup
from dyzoo.config.training import TransformConfig
from dyzoo.data import DetectionDataset
from dyzoo.distributed import process_index
from dyzoo.errors import DatasetError, TrainingError
from dyzoo.model.detector import Detector
from dyzoo.training import TrainConfig, train
from dyzoo.training.checkpoint import FOLDER_NAME
from dyzoo.training.loop import Trainer
from dyzoo.training.processes import Processes, has_unused_parameters
from tests.process_groups import run_together
from tests.training.training_runs import known_models, tiny_run


def settings(voc: Path, out: Path, **changes: Any) -> TrainConfig:
    one_size = TransformConfig(scale_range=(1.0, 1.0), crop=0.0)  # padding would differ with the batch
    config = tiny_run(voc, out, batch_size=1, ema_decay=0.9, save_every="epoch", transform=one_size)
    return replace(config, **changes)


def train_quietly(config: TrainConfig) -> dict[str, Any]:
    """The trained weights, the metrics and what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        trainer = Trainer(config)
        begun = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        evaluation = trainer.run()
    return {
        "begun": begun,
        "weights": trainer.model.state_dict(),
        "metrics": evaluation.metrics,
        "printed": printed.getvalue(),
    }


def stop_in_step(number: int, process: int, config: TrainConfig) -> int | str | None:
    """Send SIGTERM to one process in a step; what every process leaves with."""
    plain, count = Trainer.step, 0

    def step(self: Trainer, *arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        if count == number and self.processes.index == process:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, *arguments, **keywords)

    Trainer.step = step  # type: ignore[method-assign]
    try:
        train(config)
    except SystemExit as left:
        return left.code
    finally:
        Trainer.step = plain  # type: ignore[method-assign]
    return None


def error_of(config: TrainConfig) -> str:
    try:
        train(config)
    except TrainingError as error:
        return str(error)
    return ""


def lose_images(process: int, config: TrainConfig) -> str:
    """Let one process find no image for its second step; the error that every process leaves with."""
    plain, count = DetectionDataset.load, 0

    def load(self: DetectionDataset, index: int) -> Any:
        nonlocal count
        count += process_index() == process
        if count > 1:
            raise DatasetError("the images are gone")
        return plain(self, index)

    DetectionDataset.load = load  # type: ignore[method-assign]
    try:
        return error_of(config)
    finally:
        DetectionDataset.load = plain  # type: ignore[method-assign]


def two_trainings(voc: Path, folder: Path) -> dict[str, Any]:
    dyzoo.training.setup.model_config = known_models  # type: ignore[assignment]
    broken = settings(voc, folder / "broken")
    return {
        "whole": train_quietly(settings(voc, folder / "whole")),
        "left": stop_in_step(5, 1, broken),
        "resumed": train_quietly(replace(broken, resume=True)),
        "accumulated": train_quietly(settings(voc, folder / "accumulated", accumulate=2)),
        "lost": lose_images(1, settings(voc, folder / "lost")),
        "taken": error_of(settings(voc, folder / "whole")),
        "sync_bn": error_of(settings(voc, folder / "sync", sync_bn=True)),
        "draws": torch.rand(()).item(),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def together(voc: Path, folder: Path) -> list[dict[str, Any]]:
    return run_together(folder, 2, two_trainings, voc, folder)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_two_processes_train_as_one_with_both_batches(
    together: list[dict[str, Any]], voc: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dyzoo.training.setup.model_config", known_models)
    alone = train_quietly(settings(voc, folder / "alone", batch_size=2))
    for name in ("loss", "loss_cls", "loss_box", "loss_centerness", "lr", "AP"):
        expected, found = ([float(row[name]) for row in rows(folder / run)] for run in ("alone", "whole"))
        assert found == pytest.approx(expected, rel=1e-3), name
    # AdamW turns a rounding error in a gradient near zero into a whole step: the weights agree as one vector.
    ends = [
        torch.cat([value.flatten().double() for value in weights.values()])
        for weights in (alone["begun"], alone["weights"], together[0]["whole"]["weights"])
    ]
    assert (ends[2] - ends[1]).norm() < 1e-3 * (ends[1] - ends[0]).norm()


def test_all_processes_have_the_same_weights_and_metrics(together: list[dict[str, Any]]) -> None:
    first, second = together
    for run in ("whole", "resumed", "accumulated"):
        for name, value in first[run]["weights"].items():
            assert torch.equal(value, second[run]["weights"][name]), name
        assert first[run]["metrics"] == second[run]["metrics"]


def test_only_the_main_process_prints(together: list[dict[str, Any]]) -> None:
    first, second = together
    assert first["whole"]["printed"].count("/2  ") == 2
    assert second["whole"]["printed"] == ""


def test_a_signal_to_one_stops_all_and_they_resume_exactly(together: list[dict[str, Any]], folder: Path) -> None:
    assert [process["left"] for process in together] == [143, 143]
    for process in together:
        for name, value in process["whole"]["weights"].items():
            assert torch.equal(value, process["resumed"]["weights"][name]), name
    untimed = [
        [{**row, "images_per_s": "", "data_wait": ""} for row in rows(folder / run)] for run in ("whole", "broken")
    ]
    assert untimed[0] == untimed[1]


def test_what_one_cannot_read_ends_all_and_no_step_is_lost(together: list[dict[str, Any]], folder: Path) -> None:
    kept = folder / "lost" / FOLDER_NAME / "step_00000001.pt"
    assert [process["lost"] for process in together] == [
        f"the images are gone; {kept} is kept, --resume goes on from it"
    ] * 2
    assert kept.is_file()


def test_an_error_reaches_all(together: list[dict[str, Any]]) -> None:
    assert all("holds a run already" in process["taken"] for process in together)
    assert all("needs GPUs" in process["sync_bn"] for process in together)


def test_resuming_with_other_processes_keeps_the_batches(
    together: list[dict[str, Any]], voc: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dyzoo.training.setup.model_config", known_models)
    state = torch.load(max((folder / "whole" / FOLDER_NAME).iterdir()), weights_only=True)
    assert len(state["random"]) == 2
    train_quietly(settings(voc, folder / "whole", batch_size=2, epochs=3, resume=True))
    assert [row["epoch"] for row in rows(folder / "whole")] == ["1", "2", "3"]


def test_layers_without_a_part_in_the_losses_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Detector(replace(known_models("tiny"), labels=("a",)))
    state = torch.get_rng_state()
    assert not has_unused_parameters(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    model.dyhead.register_module("spare", torch.nn.Linear(2, 2))
    assert has_unused_parameters(model)


def test_launched_processes_that_do_not_meet_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("dyzoo.training.processes.Accelerator", lonely_accelerator)
    with pytest.raises(TrainingError, match="launched as 2 processes that train on their own"):
        Processes("cpu")


def lonely_accelerator(**_: Any) -> Any:
    from accelerate import Accelerator

    return Accelerator(cpu=False)
