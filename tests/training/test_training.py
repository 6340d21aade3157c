"""Training end to end on a handful of drawn pictures: one coloured class per shape."""

import csv
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

import dyzoo
from dyzoo.config import DyHeadConfig
from dyzoo.errors import DyzooError, TrainingError
from dyzoo.training import TrainConfig, train
from dyzoo.training.loop import Trainer
from dyzoo.training.optimizer import build_optimizer, lr_factor
from dyzoo.training.processes import precision_dtype
from dyzoo.zoo.creation import load_model
from tests.training.training_runs import known_models, tiny_run


@pytest.fixture
def config(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr("dyzoo.training.setup.model_config", known_models)
    return tiny_run(voc, tmp_path / "run", ema_decay=0.9, device=None)


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


def test_a_run_has_the_blocks_it_was_told(config: TrainConfig) -> None:
    config = replace(config, blocks=2, attentions="scale,task", form="tensor", epochs=1)
    trainer = Trainer(config)
    wanted = DyHeadConfig(channels=32, num_blocks=2, form="tensor", spatial=False)
    assert trainer.model.config.dyhead == wanted
    trainer.run()
    assert load_model(config.folder).config.dyhead == wanted
    with pytest.raises(TrainingError, match="of another model"):
        Trainer(replace(config, blocks=1, resume=True))


def test_constants_stay_what_they_are(config: TrainConfig) -> None:
    """In the model, its moving average and the mean of the last epochs; a run that goes on has them too."""
    config = replace(config, attentions="none", average_last=2)
    trainer = Trainer(config)
    before = dict(trainer.model.dyhead.blocks[0].named_buffers())
    before = {name: value.clone() for name, value in before.items()}
    trainer.run()
    trainer = Trainer(replace(config, resume=True))
    state = trainer.state
    assert state.ema is not None
    assert state.average is not None
    assert len(before) == 8
    for model in (trainer.model, state.ema.module, state.average.module, load_model(config.folder)):
        for name, value in model.dyhead.blocks[0].named_buffers():
            assert torch.equal(value, before[name]), name


def test_a_run_leaves_everything_it_promises(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = train(config)
    run = config.folder
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"lr", "loss", "loss_cls", "loss_box", "loss_centerness", "AP", "AP50", "data_wait"} <= set(rows[0])
    for name in (
        "curves.png",
        "train.json",
        "evaluation/metrics.json",
        "evaluation/pr_curve.png",
        "report.html",
        "thresholds.json",
    ):
        assert (run / name).stat().st_size > 0
    assert list((run / "tensorboard").iterdir())
    notes = json.loads((run / "evaluation/metrics.json").read_text())["notes"]
    assert notes == list(evaluation.notes)
    assert "the detector finds next to nothing" in notes[0], "it had two epochs"
    assert all(note in " ".join(capsys.readouterr().out.split()) for note in notes[:1])
    best = load_model(run)
    assert best.labels == ("blue", "red")
    assert best.config.preprocess.shortest_edge == 64
    assert dyzoo.evaluate(best, dyzoo.data.open_dataset(config.data, split="val")).metrics == evaluation.metrics


def test_a_loss_that_is_not_finite_stops_the_run(config: TrainConfig) -> None:
    with pytest.raises(TrainingError, match="no longer finite"):
        train(replace(config, lr=1e12, warmup_epochs=0.0, epochs=20))


def write_shapes(folder: Path) -> Path:
    """Eight pictures of four sizes with one or two of a rectangle, an ellipse and a triangle; train and val are one."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for number in range(8):
        width, height = ((96, 96), (128, 96), (96, 128), (112, 80))[number % 4]
        picture = Image.new("RGB", (width, height), (128, 128, 128))
        pen = ImageDraw.Draw(picture)
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        for place in range(1 + number % 2):
            label = (number // 2 + place) % 3
            x, y, w, h = 4 + 46 * place + number, 6 + 5 * number % 30, 32 - number, 30 + number
            right, bottom, fill = x + w - 1, y + h - 1, ((220, 30, 30), (30, 30, 220), (240, 220, 60))[label]
            if label == 0:
                pen.rectangle((x, y, right, bottom), fill=fill)
            elif label == 1:
                pen.ellipse((x, y, right, bottom), fill=fill)
            else:
                pen.polygon([(x, bottom), (right, bottom), ((x + right) // 2, y)], fill=fill)
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": label, "bbox": [x, y, w, h], "iscrowd": 0}
            )
        picture.save(folder / "images" / f"{number}.png")
    categories = [{"id": label, "name": name} for label, name in enumerate(("rectangle", "ellipse", "triangle"))]
    tables = {"images": images, "annotations": annotations, "categories": categories}
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(tables))
    return folder


@pytest.mark.slow
def test_a_handful_of_images_is_learnt(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the usual augmentation and from random weights; of the smallest architecture, with one block, as that is
    what takes the time."""
    known = known_models("dyhead_atss_resnet10t")
    small = replace(known, fpn=replace(known.fpn, channels=64), dyhead=DyHeadConfig(channels=64, num_blocks=1))
    monkeypatch.setattr("dyzoo.training.setup.model_config", lambda name: small)
    config = replace(config, data=write_shapes(tmp_path / "shapes"), size_px=96, batch_size=2, ema_decay=0.99)
    evaluation = dyzoo.train(replace(config, epochs=48, lr=8e-3, validate_every=16))
    assert (evaluation.metrics["AP50"] or 0) > 0.95


@pytest.mark.parametrize(
    "change",
    [
        *({"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"ema_decay": 1.0}, {"workers": -1}, {"clip_norm": -1.0}),
        *({"accumulate": 0}, {"keep": 0}, {"save_every": "10x"}, {"save_every": "0m"}, {"save_every": "1.5"}),
    ],
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
    optimizer = build_optimizer(model, replace(config, backbone_lr_factor=0.1), 16)
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


def test_accumulated_batches_are_one_step_with_their_mean_gradient(config: TrainConfig) -> None:
    """Three passes of one image; the objects of each are averaged over that image's own positive anchors."""
    whole = Trainer(replace(config, batch_size=1))
    accumulated = Trainer(replace(config, batch_size=1, accumulate=3))
    assert accumulated.state.joined_batch_size == 3
    assert accumulated.state.schedule.base_lrs == pytest.approx([3 * lr for lr in whole.state.schedule.base_lrs])
    assert accumulated.state.steps_per_epoch == 2
    for trainer in (whole, accumulated):
        trainer.model.train()
        trainer.loader.set_epoch(1)
    batches = list(whole.loader)[:3]
    gradients = []
    for batch in batches:
        whole.model.zero_grad()
        sum(whole.model(*batch).values(), torch.zeros(())).backward()
        gradients.append([p.grad.clone() for p in whole.model.parameters() if p.grad is not None])
    accumulated.state.clip_norm = 1e9
    outcome = accumulated.step(batches)
    found = [p.grad for p in accumulated.model.parameters() if p.grad is not None]
    for gradient, *each in zip(found, *gradients, strict=True):
        torch.testing.assert_close(gradient, sum(each) / 3)
    assert outcome.losses["loss"] == pytest.approx(sum(value for name, value in outcome.losses.items() if "_" in name))
    assert accumulated.state.schedule.last_epoch == 1


def test_an_epoch_ends_with_a_step_over_what_is_left(config: TrainConfig) -> None:
    trainer = Trainer(replace(config, batch_size=1, accumulate=4, epochs=1))
    trainer.run()
    assert trainer.progression.steps_done == 2 == trainer.state.schedule.last_epoch


def test_sync_bn_alone_changes_nothing(config: TrainConfig) -> None:
    trainer = Trainer(replace(config, model="dyhead_atss_resnet10t", sync_bn=True))
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in trainer.model.modules())


def test_a_device_for_all_processes_is_refused(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="each takes its own"):
        Trainer(replace(config, device="cuda:1"))


def test_the_launchers_precision_is_taken_for_auto(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert Trainer(replace(config, precision="auto")).state.precision == torch.float16
    assert Trainer(replace(config, precision="fp32")).state.precision == torch.float32
