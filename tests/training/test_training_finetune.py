"""Starting from what is there: trained detectors with other classes, frozen stages, and knowing when to stop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dyzoo.config import (
    BackboneConfig,
    FasterRCNNConfig,
    FCOSConfig,
    FPNConfig,
    GroundedATSSConfig,
    HeadConfig,
    RetinaNetConfig,
)
from dyzoo.data import open_dataset
from dyzoo.errors import TrainingError
from dyzoo.model.backbones import Backbone
from dyzoo.model.detector import Detector
from dyzoo.model.transfer import start_from
from dyzoo.training import TrainConfig, train
from dyzoo.training.loop import Trainer
from dyzoo.training.optimizer import FrozenStages, build_optimizer, parameter_stages, stage_count
from dyzoo.training.record import fingerprint
from tests.training.training_runs import known_models, tiny, tiny_run, write_voc

HEADS: dict[str, HeadConfig] = {
    "atss": tiny().head,
    "fcos": FCOSConfig(num_convs=1),
    "retinanet": RetinaNetConfig(num_convs=1),
    "faster_rcnn": FasterRCNNConfig(hidden_features=16),
}


@pytest.fixture
def config(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr("dyzoo.training.setup.model_config", known_models)
    return tiny_run(voc, tmp_path / "run")


def detector(kind: str, labels: tuple[str, ...], seed: int) -> Detector:
    torch.manual_seed(seed)
    fpn = FPNConfig(channels=32, finest_stride=4, top="pool") if kind == "faster_rcnn" else FPNConfig(channels=32)
    model = Detector(replace(tiny(), labels=labels, head=HEADS[kind], fpn=fpn)).eval()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.normal_(std=0.1)
    return model


def class_scores(model: Detector, label: str, batch: torch.Tensor) -> torch.Tensor:
    """Scores of one class, before anything is chosen; for Faster R-CNN of fixed boxes, and their boxes."""
    index = model.labels.index(label)
    raw = model.forward_head(model.forward_features(batch))
    if "cls" in raw:
        anchors = raw["cls"][0].shape[1] // len(model.labels)
        return torch.cat([level.unflatten(1, (anchors, -1))[:, :, index].flatten() for level in raw["cls"]])
    logits, deltas = model.head.roi(raw["features"], [torch.tensor([[4.0, 4, 50, 40], [0, 0, 30, 60]])])
    return torch.cat([logits[:, index], logits[:, -1], deltas[:, index].flatten()])


@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_classes_of_the_same_name_answer_as_before(kind: str) -> None:
    source = detector(kind, ("dog", "cat", "bird"), seed=1)
    model = detector(kind, ("fox", "bird", "owl", "dog"), seed=2)
    batch = torch.randn(1, 3, 64, 64)
    fresh = class_scores(model, "fox", batch)
    assert start_from(model, source) == (("bird", "dog"), ("fox", "owl"))
    for label in ("bird", "dog"):
        torch.testing.assert_close(class_scores(model, label, batch), class_scores(source, label, batch))
    assert not torch.allclose(class_scores(model, "fox", batch), fresh), "the rest of the network is not the source's"
    assert not torch.allclose(class_scores(model, "fox", batch), class_scores(model, "owl", batch))


@torch.no_grad()
def test_classes_with_several_outputs_keep_them() -> None:
    torch.manual_seed(0)
    head = GroundedATSSConfig(tokens_per_class=(2, 1, 3))
    source = Detector(replace(tiny(), labels=("dog", "cat", "bird"), head=head))
    model = Detector(source.config.with_labels(("fox", "bird", "dog")))
    assert start_from(model, source) == (("bird", "dog"), ("fox",))
    batch = torch.randn(1, 3, 64, 64)
    found, expected = (
        each.head.class_probabilities(each.forward_head(each.eval().forward_features(batch)))
        for each in (model, source)
    )
    torch.testing.assert_close(found[..., 1:], expected[..., [2, 0]])
    assert not torch.allclose(found[..., 0], expected[..., 1])


def test_another_architecture_cannot_be_started_from() -> None:
    with pytest.raises(TrainingError, match="are of another architecture"):
        start_from(detector("fcos", ("a",), 0), detector("atss", ("a",), 0))


def test_a_run_starts_from_a_folder_and_takes_its_architecture(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = detector("fcos", ("red", "green"), seed=3)
    source.save_pretrained(tmp_path / "source")
    again = replace(config, weights=str(tmp_path / "source"), model=TrainConfig.model, out=tmp_path / "run")
    trainer = Trainer(again)
    assert isinstance(trainer.model.config.head, FCOSConfig)
    assert trainer.model.labels == ("blue", "red")
    assert torch.equal(trainer.model.head.cls.weight[1], source.head.cls.weight[0])
    assert torch.equal(trainer.model.fpn.lateral_convs[0].weight, source.fpn.lateral_convs[0].weight)
    assert "classes it knows red; new blue" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(TrainingError, match="leave out --model, or --weights"):
        Trainer(replace(again, model="dyhead_fcos_resnet50"))


@pytest.mark.parametrize(
    ("name", "stages", "examples"),
    [
        ("resnet18", 5, {"model.conv1.weight": 0, "model.layer1.0.conv1.weight": 1, "model.layer4.1.bn2.bias": 4}),
        ("convnext_atto", 4, {"model.stem_0.weight": 0, "model.stages_1.downsample.1.weight": 1}),
        (
            "swin_tiny_patch4_window7_224",
            4,
            {"model.patch_embed.proj.weight": 0, "model.layers_3.blocks.1.norm1.bias": 3},
        ),
        ("efficientnet_b0", 5, {"model.conv_stem.weight": 0, "model.blocks.6.0.conv_pw.weight": 4}),
    ],
)
def test_stages_go_from_the_stem_to_the_last_map(name: str, stages: int, examples: dict[str, int]) -> None:
    backbone = Backbone(BackboneConfig(name))
    assert stage_count(backbone) == stages
    found = parameter_stages(backbone)
    assert found.keys() == dict(backbone.named_parameters()).keys()
    assert {key: found[key] for key in examples} == examples
    assert list(found.values()) == sorted(found.values())
    assert set(found.values()) == set(range(stages))


def test_frozen_stages_do_not_change(config: TrainConfig) -> None:
    config = replace(config, model="dyhead_atss_resnet10t", freeze="2", epochs=1, weight_decay=0.5)
    trainer = Trainer(config)
    before = {name: value.clone() for name, value in trainer.model.backbone.state_dict().items()}
    trainer.run()
    after = trainer.model.backbone.state_dict()
    changed = {name.split(".")[1] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"layer2", "layer3", "layer4"}


def test_the_whole_backbone_can_be_frozen_and_no_more(config: TrainConfig) -> None:
    backbone = Trainer(replace(config, freeze="backbone")).model.backbone
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    with pytest.raises(TrainingError, match="6 stages are to be frozen, resnet10t"):
        FrozenStages(Backbone(BackboneConfig("resnet10t.c3_in1k")), "6")


def test_layers_nearer_to_the_stem_learn_slower(config: TrainConfig) -> None:
    model = Detector(replace(tiny(), labels=("a",)))
    optimizer = build_optimizer(model, replace(config, lr=1.0, layer_decay=0.5, backbone_lr_factor=0.1), 16)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == {id(p) for p in model.parameters()}
    for name, stage in parameter_stages(model.backbone).items():
        assert rates[id(model.backbone.get_parameter(name))] == pytest.approx(0.1 * 0.5 ** (4 - stage))
    assert rates[id(model.head.cls.weight)] == 1.0


def test_a_run_that_no_longer_improves_stops(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dyzoo.training import validation

    plain, found = validation.evaluate_together, iter([0.2, 0.5, 0.4, 0.5, 0.9])

    def scripted(*arguments: Any, **settings: Any) -> Any:
        evaluation = plain(*arguments, **settings)
        assert evaluation is not None
        return replace(evaluation, metrics={**evaluation.metrics, "AP": next(found)})

    monkeypatch.setattr(validation, "evaluate_together", scripted)
    trainer = Trainer(replace(config, epochs=9, patience=2))
    trainer.run()
    assert trainer.progression.epochs_done == 4
    assert (trainer.progression.best_epoch, trainer.progression.best_ap) == (2, 0.5)
    assert "no better AP in 2 evaluations" in " ".join(capsys.readouterr().out.split())


def test_the_record_of_a_run_tells_what_is_needed_to_repeat_it(config: TrainConfig, voc: Path, tmp_path: Path) -> None:
    train(replace(config, epochs=1))
    record = json.loads((config.folder / "run.json").read_text())
    assert record["config"]["seed"] == 0
    assert record["versions"]["torch"] == torch.__version__
    assert (record["processes"], record["images_per_step"], record["precision"]) == (1, 3, "float32")
    train_set = open_dataset(voc, "train")
    assert record["data"]["train"] == {"images": 6, "labels": ["blue", "red"], "sha256": fingerprint(train_set)}
    copy = open_dataset(write_voc(tmp_path / "elsewhere"), "train")
    assert fingerprint(copy) == fingerprint(train_set)
    copy.samples[0].boxes_xyxy[0, 0] += 1
    assert fingerprint(copy) != fingerprint(train_set)


@pytest.mark.parametrize(
    "change",
    [{"patience": 0}, {"layer_decay": 0.0}, {"layer_decay": 1.1}, {"freeze": "all"}, {"weights": "x", "backbone": "y"}],
)
def test_settings_out_of_range_are_refused(config: TrainConfig, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(config, **change)
