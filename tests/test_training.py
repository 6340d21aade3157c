"""Training end to end on a handful of drawn pictures: one coloured class per shape."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

import dyzoo
from dyzoo.errors import DyzooError, TrainingError
from dyzoo.training import TrainConfig, train
from dyzoo.training.checkpoint import STATE_NAME
from dyzoo.training.loop import Trainer, precision_dtype
from dyzoo.training.schedule import build_optimizer, lr_factor
from dyzoo.zoo import load_model


def write_voc(folder: Path, images: int = 6) -> Path:
    """A VOC folder of grey pictures with one red or blue rectangle each; train and val are the same pictures."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for index in range(images):
        label, colour = (("red", (220, 30, 30)), ("blue", (30, 30, 220)))[index % 2]
        x, y = 8 + 9 * index, 50 - 6 * index
        picture = Image.new("RGB", (96, 96), (128, 128, 128))
        ImageDraw.Draw(picture).rectangle((x, y, x + 30, y + 30), fill=colour)
        picture.save(folder / "JPEGImages" / f"{index}.png")
        (folder / "Annotations" / f"{index}.xml").write_text(
            f"<annotation><filename>{index}.png</filename><object><name>{label}</name><bndbox><xmin>{x}</xmin>"
            f"<ymin>{y}</ymin><xmax>{x + 31}</xmax><ymax>{y + 31}</ymax></bndbox></object></annotation>"
        )
    names = "\n".join(map(str, range(images)))
    for split in ("train", "val"):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
    return folder


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("data") / "voc")


@pytest.fixture
def config(voc: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        data=voc,
        out=tmp_path / "run",
        epochs=2,
        batch_size=3,
        size_px=64,
        pretrained_backbone=False,
        workers=0,
        precision="fp32",
        ema_decay=0.9,
    )


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / STATE_NAME, weights_only=True)["parts"]["model"]


def test_the_backbone_starts_from_a_local_file(config: TrainConfig, tmp_path: Path) -> None:
    path = tmp_path / "atto.safetensors"
    save_file(timm.create_model("convnext_atto").state_dict(), path)
    config = replace(config, backbone="convnext_atto", backbone_weights=path)
    started = Trainer(config).model.backbone.model.state_dict()
    published = load_file(path)
    assert all(
        torch.equal(value, published[name.replace("stages_", "stages.").replace("stem_", "stem.")])
        for name, value in started.items()
    )
    with pytest.raises(DyzooError, match="are no file"):
        Trainer(replace(config, backbone_weights=tmp_path / "absent.pth"))


def test_a_run_leaves_everything_it_promises(config: TrainConfig) -> None:
    evaluation = train(config)
    run = config.folder
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"lr", "loss", "loss_cls", "loss_box", "loss_centerness", "AP", "AP50", "data_wait"} <= set(rows[0])
    for name in ("curves.png", "train.json", "evaluation/metrics.json", "evaluation/pr_curve.png"):
        assert (run / name).stat().st_size > 0
    assert list((run / "tensorboard").iterdir())
    best = load_model(run)
    assert best.labels == ("blue", "red")
    assert best.config.preprocess.shortest_edge == 64
    assert dyzoo.evaluate(best, dyzoo.data.open_dataset(config.data, split="val")).metrics == evaluation.metrics


def test_interrupted_and_resumed_equals_uninterrupted(config: TrainConfig, tmp_path: Path) -> None:
    whole = replace(config, out=tmp_path / "whole", epochs=3)
    train(whole)

    broken = replace(config, out=tmp_path / "broken", epochs=3)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_epoch(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    torch.manual_seed(99)  # the resumed run must not depend on the state of this process
    train(replace(broken, resume=True))

    expected, found = weights_of(whole.folder), weights_of(broken.folder)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    lines = [(c.folder / "metrics.csv").read_text().splitlines() for c in (whole, broken)]
    assert [len(each) for each in lines] == [4, 4]


def stop_in_epoch(patch: pytest.MonkeyPatch, epoch: int) -> None:
    """Raise Ctrl-C's exception at the second batch of an epoch."""
    from dyzoo.training.loop import Trainer

    train_step = Trainer._train_step

    def interrupted(self: Trainer, *batch: object) -> dict[str, float]:
        if self.progression.epochs_done == epoch - 1 and self.schedule.last_epoch % len(self.loader) == 1:
            raise KeyboardInterrupt
        return train_step(self, *batch)  # type: ignore[arg-type]

    patch.setattr(Trainer, "_train_step", interrupted)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_keeps_its_epochs_and_goes_on(voc: Path, tmp_path: Path, kill: signal.Signals) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "dyzoo", "train", "--data", str(voc), "--model", "dyhead_atss_resnet10t"]
    command += ["--out", str(run), "--size", "64", "--batch-size", "3", "--no-pretrained-backbone", "--workers", "0"]
    process = subprocess.Popen(
        [*command, "--epochs", "1000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores Ctrl-C
    )
    try:
        deadline = time.monotonic() + 120
        while not (run / STATE_NAME).exists() and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read().decode()  # type: ignore[union-attr]
            time.sleep(0.1)
        time.sleep(0.3)  # somewhere inside a later epoch
        os.kill(process.pid, kill)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (130 if kill == signal.SIGINT else -kill)
    assert b"Traceback" not in errors
    done = torch.load(run / STATE_NAME, weights_only=True)["progress"]["epochs_done"]
    load_model(run)
    again = subprocess.run([*command, "--epochs", str(done + 1), "--resume"], capture_output=True, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert torch.load(run / STATE_NAME, weights_only=True)["progress"]["epochs_done"] == done + 1


def test_an_existing_run_is_not_overwritten(config: TrainConfig) -> None:
    config.folder.mkdir()
    (config.folder / STATE_NAME).write_bytes(b"precious")
    with pytest.raises(TrainingError, match="--resume"):
        train(config)
    assert (config.folder / STATE_NAME).read_bytes() == b"precious"


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint", b"PK\x03\x04 truncated"])
def test_resuming_from_nothing_or_rubbish_is_one_line(config: TrainConfig, content: bytes | None) -> None:
    config.folder.mkdir()
    if content is not None:
        (config.folder / STATE_NAME).write_bytes(content)
    with pytest.raises(TrainingError, match=STATE_NAME) as caught:
        train(replace(config, resume=True))
    assert "\n" not in str(caught.value)


def test_a_state_with_pickled_code_is_refused_unexecuted(config: TrainConfig, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    config.folder.mkdir()
    torch.save({"parts": Payload()}, config.folder / STATE_NAME)
    with pytest.raises(TrainingError, match=STATE_NAME):
        train(replace(config, resume=True))
    assert not (tmp_path / "executed").exists()


def test_a_loss_that_is_not_finite_stops_the_run(config: TrainConfig) -> None:
    with pytest.raises(TrainingError, match="no longer finite"):
        train(replace(config, lr=1e12, warmup_epochs=0.0, epochs=20))


@pytest.mark.slow
def test_a_handful_of_images_is_learnt(config: TrainConfig) -> None:
    evaluation = train(replace(config, epochs=30, lr=5e-3, validate_every=30))
    assert (evaluation.metrics["AP50"] or 0) > 0.9


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"ema_decay": 1.0}, {"workers": -1}, {"clip_norm": -1.0}]
)
def test_settings_out_of_range_are_refused(config: TrainConfig, change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(config, **change)  # type: ignore[arg-type]


def test_unknown_models_and_splits_are_refused_before_anything_is_written(config: TrainConfig) -> None:
    for change in ({"model": "dyhead_atss_resnet11"}, {"val_split": "absent"}):
        with pytest.raises(DyzooError):
            train(replace(config, **change))  # type: ignore[arg-type]
        assert not config.folder.exists()


def test_schedule_warms_up_and_ends_at_the_final_factor() -> None:
    factors = [lr_factor(step, 100, 10, 0.01) for step in range(101)]
    assert factors[:2] == [0.1, 0.2]
    assert max(factors) == 1.0
    assert factors[10] == 1.0
    assert factors[100] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))


def test_every_parameter_is_optimised_once_and_vectors_do_not_decay(config: TrainConfig) -> None:
    model = dyzoo.create_model("dyhead_atss_resnet10t", labels=["a"])
    optimizer = build_optimizer(model, replace(config, backbone_lr_factor=0.1))
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}
    assert len(grouped) == len(set(map(id, grouped)))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert all(decay[id(p)] == 0 for name, p in model.named_parameters() if p.ndim == 1 or "norm" in name)
    assert decay[id(model.dyhead.blocks[0].conv_weight)] > 0
    assert {round(group["lr"] / optimizer.param_groups[-1]["lr"], 6) for group in optimizer.param_groups} == {0.1, 1.0}


def test_auto_precision_is_a_type_the_device_has() -> None:
    assert precision_dtype("auto", torch.device("cpu")) in (torch.bfloat16, torch.float32)
    assert precision_dtype("fp32", torch.device("cpu")) == torch.float32
