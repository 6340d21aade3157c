"""transformers' `Trainer` trains a detector, evaluates it as dyzoo does, and saves what dyzoo loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dyzoo
from dyzoo.data import DetectionDataset, Sample, open_dataset
from dyzoo.data.records import areas_of
from dyzoo.model.detector import Detector
from dyzoo.zoo.catalog import weights_folder
from tests.model.narrow_detectors import narrow_config

pytest.importorskip("transformers", reason="transformers is not installed")

import transformers

from dyzoo.hf_transformers import DetectionMetrics, DyzooForObjectDetection, Examples, collate
from tests.hf_transformers.pictures import processor_of


@pytest.fixture(scope="module")
def val(voc: Path) -> DetectionDataset:
    """Six drawn pictures."""
    return open_dataset(voc, "val")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, DetectionDataset]:
    """The embedded detector, and cells that it finds almost: some have moved, some are crowd regions or in outlines."""
    detector = dyzoo.load("dyhead_atss_resnet10t.bccd")
    folder = tmp_path_factory.mktemp("cells")
    with Image.open(weights_folder() / "sample.jpg") as whole:
        pictures = [whole.convert("RGB"), whole.convert("RGB").crop((30, 20, 330, 310)), Image.new("RGB", (90, 70))]
    samples = []
    for number, picture in enumerate(pictures):
        picture.save(path := folder / f"{number}.png")
        boxes = detector.predict(path, threshold=0.4)[0].boxes_xyxy.numpy()[1:]
        labels = detector.predict(path, threshold=0.4)[0].labels.numpy()[1:]
        place = np.arange(len(boxes))
        moved = boxes + (place % 5)[:, None] * np.float32([1.3, 0.7, 1.3, 0.7])
        areas = np.where(place % 3, areas_of(moved), 1024.0)
        crowd = place % 7 == 3
        samples.append(Sample(path, picture.width, picture.height, moved, labels, crowd, 7, areas))
    return detector, DetectionDataset([replace(s, image_id=i) for i, s in enumerate(samples)], detector.labels)


def small_detector(labels: tuple[str, ...], **changes: Any) -> Detector:
    torch.manual_seed(0)
    return Detector(narrow_config((64, 128), labels=labels, **changes)).eval()


def trainer(detector: Detector, data: DetectionDataset, out: Path, **settings: Any) -> Any:
    processor = processor_of(detector)
    arguments = transformers.TrainingArguments(
        str(out),
        **{
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 1,
            "remove_unused_columns": False,
            "eval_do_concat_batches": False,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_num_workers": 0,
            **settings,
        },
    )
    examples = Examples(data, processor, detector.labels)
    return transformers.Trainer(
        DyzooForObjectDetection.from_detector(detector),
        arguments,
        data_collator=collate,
        train_dataset=examples,
        eval_dataset=examples,
        processing_class=processor,
        compute_metrics=DetectionMetrics(processor, detector.labels),
    )


def test_the_metrics_are_those_of_dyzoo(cells: tuple[Detector, DetectionDataset], tmp_path: Path) -> None:
    detector, data = cells
    expected = dyzoo.evaluate(detector, data, progress=False).metrics
    assert 0.3 < (expected["AP"] or 0) < 0.95
    found = trainer(detector, data, tmp_path).evaluate()
    assert found["eval_loss"] > 0
    for name, value in expected.items():
        if value is None:
            assert f"eval_{name}" not in found
        else:
            assert found[f"eval_{name}"] == pytest.approx(value, abs=1e-9), name


def test_it_trains_saves_and_goes_on(val: DetectionDataset, tmp_path: Path) -> None:
    detector = small_detector(val.labels)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    running = trainer(detector, val, tmp_path, save_steps=3, lr_scheduler_type="constant")
    running.train()
    saved = dyzoo.load(tmp_path / "checkpoint-3")
    after = detector.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in saved.state_dict().items())
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert saved.config == detector.config
    detect = transformers.pipeline("object-detection", str(tmp_path / "checkpoint-3"), trust_remote_code=True)
    assert isinstance(detect(str(val.samples[0].image_path), threshold=0.0), list)

    again = small_detector(val.labels)
    resumed = trainer(again, val, tmp_path, max_steps=4, save_steps=3, lr_scheduler_type="constant")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    whole = small_detector(val.labels)
    trainer(whole, val, tmp_path / "whole", max_steps=4, save_steps=3, lr_scheduler_type="constant").train()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in whole.state_dict().items())


def test_the_best_model_comes_back_in_the_end(val: DetectionDataset, tmp_path: Path) -> None:
    detector = small_detector(val.labels)
    running = trainer(
        detector,
        val,
        tmp_path,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,
        learning_rate=1e-3,
    )
    running.train()
    best = dyzoo.load(running.state.best_model_checkpoint)
    assert all(torch.equal(value, best.state_dict()[name]) for name, value in running.model.state_dict().items())


def test_batches_that_were_put_together_are_refused(detector: Detector) -> None:
    metrics = DetectionMetrics(processor_of(detector), detector.labels)
    with pytest.raises(ValueError, match="eval_do_concat_batches=False"):
        metrics(SimpleNamespace(predictions=(np.zeros(3),), label_ids=np.zeros(3)))


def test_classes_are_numbered_as_the_models(val: DetectionDataset, detector: Detector) -> None:
    assert val.labels == ("blue", "red")
    example = Examples(val, processor_of(detector), ("red", "green", "blue"))[0]
    assert example["labels"]["class_labels"].tolist() == [0 if val.samples[0].labels[0] == 1 else 2]
    with pytest.raises(ValueError, match="'red', which is none of the model's 1"):
        Examples(val, processor_of(detector), ("blue",))


def test_pictures_of_different_sizes_make_a_batch() -> None:
    examples = [
        {"pixel_values": torch.ones(3, 4, 8)},
        {"pixel_values": torch.ones(3, 6, 2), "pixel_mask": torch.ones(6, 2)},
    ]
    batch = collate(examples)
    assert batch["pixel_values"].shape == (2, 3, 6, 8)
    assert batch["pixel_mask"].sum((1, 2)).tolist() == [32, 12]
    assert "labels" not in batch
