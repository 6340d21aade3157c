"""transformers' auto classes take a saved detector for one of its models, and save it so that dyzoo reads it again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dyzoo
from dyzoo.config import BackboneConfig, GroundedATSSConfig
from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.errors import CheckpointError, DyzooWarning
from dyzoo.model.detector import Detector
from tests.model.narrow_detectors import SAVED_FILES, narrow_config

pytest.importorskip("transformers", reason="transformers is not installed")

import transformers

from dyzoo.hf_transformers import (
    DyzooConfig,
    DyzooForObjectDetection,
    DyzooImageProcessor,
    DyzooObjectDetectionPipeline,
)


def load_model(folder: Path, **options: Any) -> Any:
    return transformers.AutoModelForObjectDetection.from_pretrained(folder, trust_remote_code=True, **options)


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def change(path: Path, action: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    action(values)
    path.write_text(json.dumps(values))


def test_a_folder_is_a_model_of_transformers(folder: Path, detector: Detector) -> None:
    assert {path.name for path in folder.iterdir()} == SAVED_FILES
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert isinstance(config, DyzooConfig)
    assert config.id2label == {0: "red", 1: "blue"}
    assert config.detector == detector.config
    model, info = load_model(folder, output_loading_info=True)
    assert isinstance(model, DyzooForObjectDetection)
    assert not any(info[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert same_weights(model, detector)
    assert not model.training
    processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert isinstance(processor, DyzooImageProcessor)
    assert processor.config == detector.config.preprocess


def test_once_imported_no_code_of_the_folder_is_needed(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    (copy / "modeling_dyzoo.py").write_text("raise SystemExit('this must not run')")
    for auto in ("AutoConfig", "AutoModelForObjectDetection", "AutoImageProcessor"):
        loaded = getattr(transformers, auto).from_pretrained(copy, trust_remote_code=False)
        assert type(loaded).__module__.startswith("dyzoo.")
    assert dyzoo.load(copy).labels == ("red", "blue")


def test_what_it_saves_dyzoo_loads(folder: Path, detector: Detector, tmp_path: Path) -> None:
    load_model(folder).save_pretrained(tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == SAVED_FILES - {"README.md"}
    for name in SAVED_FILES - {"README.md", "model.safetensors"}:
        assert (tmp_path / "again" / name).read_text() == (folder / name).read_text(), name
    loaded = dyzoo.load(tmp_path / "again")
    assert loaded.config == detector.config
    assert same_weights(loaded, detector)
    assert same_weights(load_model(tmp_path / "again"), detector)


def test_a_folder_from_before_is_read_without_what_is_said_to_transformers(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    config = dyzoo.load(copy).config
    (copy / "config.json").write_text(config.to_json())
    assert "model_type" not in (copy / "config.json").read_text()
    assert dyzoo.load(copy).config == config
    assert DyzooForObjectDetection.from_pretrained(copy).config.detector == config


def test_a_detector_and_its_model_share_their_weights(detector: Detector) -> None:
    ours = Detector(detector.config)
    model = DyzooForObjectDetection.from_detector(ours)
    assert model.training
    assert all(a is b for a, b in zip(model.parameters(), ours.parameters(), strict=True))
    with torch.no_grad():
        next(model.parameters()).fill_(7)
    assert next(model.detector.parameters()).unique().tolist() == [7]
    assert model.detector.config == ours.config


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_a_device(detector: Detector, tmp_path: Path, dtype: torch.dtype) -> None:
    detector.save_pretrained(tmp_path, dtype)
    loaded = load_model(tmp_path, dtype=torch.float32, device_map="cpu")
    assert same_weights(loaded, Detector.from_pretrained(tmp_path))
    halved = load_model(tmp_path, dtype=dtype, device_map={"": "cpu"})
    assert {value.dtype for value in halved.state_dict().values() if value.is_floating_point()} == {dtype}
    with torch.inference_mode():
        outputs = halved(torch.randn(1, 3, 64, 96))
    assert outputs.logits.dtype == torch.float32
    assert outputs.logits.isfinite().all()


def test_values_that_are_computed_and_not_stored_are_there(tmp_path: Path) -> None:
    """Swin's masks and indices: transformers leaves what no file holds unset."""
    config = narrow_config(labels=("a",), backbone=BackboneConfig("swin_s3_tiny_224", output_norm=True))
    ours = Detector(config).eval()
    assert {name for name, _ in ours.named_buffers()} - ours.state_dict().keys()
    ours.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    batch = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected, found = (m.forward_head(m.forward_features(batch))["cls"] for m in (ours, model))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_other_classes_begin_as_dyzoos_layers_do(folder: Path, detector: Detector) -> None:
    names = {0: "one", 1: "two", 2: "three"}
    model = load_model(folder, id2label=names, label2id={v: k for k, v in names.items()}, ignore_mismatched_sizes=True)
    assert model.config.detector.labels == ("one", "two", "three")
    prior = Detector(replace(detector.config, labels=("one", "two", "three"))).head.cls
    assert torch.equal(model.head.cls.bias, prior.bias)
    assert 0.5 < float((model.head.cls.weight.std() / prior.weight.std()).detach()) < 2
    assert torch.equal(model.head.box.weight, detector.head.box.weight)
    with pytest.raises((RuntimeError, ValueError), match="mismatch"):
        load_model(folder, num_labels=3)


def test_tokens_of_words_stay_with_their_classes() -> None:
    ours = narrow_config(labels=("cat", "two words"), head=GroundedATSSConfig(tokens_per_class=(1, 2)))
    config = DyzooConfig(**ours.to_dict(), id2label=None)
    config.id2label = {0: "two words", 1: "dog"}
    assert config.detector.head.tokens_per_class == (2, 1)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_how_boxes_end_is_known_without_the_head(name: str) -> None:
    config = ARCHITECTURES[name]()
    with torch.device("meta"):
        head = Detector(replace(config, labels=config.labels or ("a",))).head
    assert config.inclusive_corners == head.inclusive_corners


ABSURD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a size of terabytes": (lambda config: config["fpn"].update(channels=1 << 40), "fpn.channels is 1099511627776"),
    "an unknown setting": (lambda config: config.update(hidden_size=768), "unknown setting 'hidden_size'"),
    "other code": (
        lambda config: config["auto_map"].update(AutoModel="modeling_dyzoo.DyzooForObjectDetection"),
        "auto_map is {",
    ),
    "other classes for transformers": (lambda config: config["id2label"].update({"0": "bus"}), "id2label names other"),
    "far more layers than weights": (
        lambda config: config.update(dyhead={**config["dyhead"], "num_blocks": 64, "channels": 4096}),
        "far more parameters than the weights",
    ),
    "other layers than the weights": (lambda config: config["dyhead"].update(num_blocks=2), "lacks 'dyhead."),
    "fewer layers than the weights": (lambda config: config["dyhead"].update(num_blocks=0), "unknown 'dyhead."),
}


@pytest.mark.parametrize("case", ABSURD)
def test_an_absurd_configuration_is_refused(folder: Path, tmp_path: Path, case: str) -> None:
    action, message = ABSURD[case]
    copy = copied(folder, tmp_path)
    change(copy / "config.json", action)
    with pytest.raises(CheckpointError) as caught:
        load_model(copy)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


ABSURD_PROCESSORS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a size of terabytes": (lambda values: values.update(shortest_edge=1 << 40), "shortest_edge is 1099511627776"),
    "a divisor of nothing": (lambda values: values.update(size_divisor=0), "size_divisor is 0, expected 1 to 512"),
    "no number": (lambda values: values.update(mean=[float("nan")] * 3), "mean is nan"),
    "an unknown setting": (lambda values: values.update(do_resize=False), "unknown setting 'do_resize'"),
    "other code": (lambda values: values.update(auto_map={"AutoImageProcessor": "x.Y"}), "auto_map"),
    "no truth": (lambda values: values.update(inclusive_corners=3), "inclusive_corners is 3"),
}


@pytest.mark.parametrize("case", ABSURD_PROCESSORS)
def test_an_absurd_processor_is_refused(folder: Path, tmp_path: Path, case: str) -> None:
    action, message = ABSURD_PROCESSORS[case]
    copy = copied(folder, tmp_path)
    change(copy / "preprocessor_config.json", action)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json") as caught:
        DyzooImageProcessor.from_pretrained(copy)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_model(copy)


def test_what_the_processor_is_set_to_reaches_dyzoo(folder: Path, detector: Detector, tmp_path: Path) -> None:
    """A checkpoint of a `Trainer` is a model, and then its processor; dyzoo reads the model's settings alone."""
    processor = DyzooImageProcessor.from_pretrained(folder, shortest_edge=96)
    model = load_model(folder)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert dyzoo.load(tmp_path).config.preprocess == replace(detector.config.preprocess, shortest_edge=96)
    assert DyzooImageProcessor.from_pretrained(tmp_path).shortest_edge == 96
    with pytest.raises(CheckpointError, match="longest_edge is 0, expected 1 to 16384"):
        DyzooImageProcessor.from_pretrained(folder, longest_edge=0)
    with pytest.warns(DyzooWarning, match="save the image processor behind the model"):
        model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "detr"}')
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "detr"}'


def test_a_pipeline_without_trust(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    (copy / "modeling_dyzoo.py").write_text("raise SystemExit('this must not run')")
    detect = transformers.pipeline("object-detection", str(copy), pipeline_class=DyzooObjectDetectionPipeline)
    assert len(detect(Image.new("RGB", (90, 70)), threshold=0.0)) == 5


@pytest.mark.parametrize("option", [{"max_shard_size": "1MB"}, {"variant": "fp16"}, {"safe_serialization": False}])
def test_weights_that_dyzoo_does_not_read_are_not_written(option: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the weights of a detector are one model\.safetensors, leave it out"):
        load_model(folder).save_pretrained(tmp_path / "model", **option)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("names", "message"), [({1: "a"}, r"keys \[1\], expected 0 to 0"), ({"x": "a"}, r"keys \['x'\], expected numbers")]
)
def test_classes_are_counted_from_0(names: dict[Any, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        DyzooConfig(id2label=names)
