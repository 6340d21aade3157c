"""Optimised detectors beside those that they are made of."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dyzoo.config import BackboneConfig
from dyzoo.errors import SettingError
from dyzoo.model.detector import Detector
from dyzoo.model.heads.base import Raw
from dyzoo.model.network import Network
from dyzoo.model.optimization import OptimizedDetector
from dyzoo.model.optimization import detector as module
from dyzoo.model.optimization.packing import can_pack
from dyzoo.zoo.catalog import sample_image
from dyzoo.zoo.creation import load_checkpoint
from dyzoo.zoo.names import DEFAULT_MODEL
from tests.model.narrow_detectors import HEADS, detector_with_head, eager_detector, narrow_detector

pytestmark = pytest.mark.filterwarnings("ignore::dyzoo.model.missed.MissedWarning")

FOLDED = {
    "resnet": BackboneConfig("resnet10t"),
    "frozen norms": BackboneConfig("resnet10t", norm="frozen"),
    "efficientnet": BackboneConfig("efficientnet_lite0"),
    "frozen norms with activations": BackboneConfig("efficientnet_lite0", norm="frozen"),
    "mobilenet": BackboneConfig("mobilenetv3_small_050"),
    "regnet": BackboneConfig("regnetx_002"),
}
OTHERS = {
    "convnext": BackboneConfig("test_convnext"),
    "swin": BackboneConfig("swin_tiny_patch4_window7_224", output_norm=True),
}


@torch.no_grad()
def raw_maps(network: Network, *size: int) -> Raw:
    batch = torch.randn(size, generator=torch.Generator().manual_seed(1))
    return network.forward_head(network.forward_features(batch.contiguous(memory_format=torch.channels_last)))


def agree(found: Raw, expected: Raw, share: float = 1e-4) -> None:
    assert found.keys() == expected.keys()
    for kind, levels in expected.items():
        for level, wanted in zip(found[kind], levels, strict=True):
            torch.testing.assert_close(level, wanted, rtol=0, atol=share * float(wanted.abs().max()))


def stirred(detector: Detector) -> Detector:
    """Norms as training leaves them."""
    generator = torch.Generator().manual_seed(2)
    for part in detector.backbone.modules():
        if isinstance(getattr(part, "running_var", None), Tensor):
            for name, low in (("running_mean", -0.2), ("running_var", 0.5), ("weight", 0.7), ("bias", -0.2)):
                getattr(part, name).data.uniform_(low, low + 0.5, generator=generator)
    return detector


def layers(network: nn.Module) -> set[str]:
    return {type(part).__name__ for part in network.modules()}


@pytest.mark.parametrize("name", [*FOLDED, *OTHERS])
def test_every_kind_of_backbone_gives_the_same_maps(name: str) -> None:
    detector = stirred(narrow_detector(backbone={**FOLDED, **OTHERS}[name]))
    optimised = detector.optimize()
    for size in ((1, 3, 32, 32), (2, 3, 64, 160), (1, 3, 224, 96)):
        agree(raw_maps(optimised, *size), raw_maps(detector, *size))
    called = layers(optimised.backbone)
    assert called.isdisjoint({"BatchNorm2d", "FrozenBatchNorm2d"}) or name not in FOLDED
    assert ("GraphModule" in called) == (name != "swin")
    assert ("Conv2d" in called) == (not can_pack())


@pytest.mark.parametrize("form", ["pyramid", "tensor"])
@pytest.mark.parametrize("kind", HEADS)
def test_every_head_detects_the_same(kind: str, form: str) -> None:
    detector = detector_with_head(kind, form)
    optimised = detector.optimize()
    agree(raw_maps(optimised, 2, 3, 96, 128), raw_maps(detector, 2, 3, 96, 128))
    picture = np.random.default_rng(0).integers(0, 256, (90, 117, 3), dtype=np.uint8)
    (expected,), (found,) = detector.predict(picture, 0.0), optimised.predict(picture, 0.0)
    assert len(found) == len(expected)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-4)


def test_a_trained_detector_finds_the_same() -> None:
    detector = load_checkpoint(DEFAULT_MODEL)
    optimised = detector.optimize()
    for settings in ({}, {"tiles": 2, "flips": ["horizontal"]}, {"size": 200, "batch_size": 2}):
        (expected,), (found,) = (each.predict(sample_image(), 0.3, **settings) for each in (detector, optimised))
        assert len(expected) > 3
        assert torch.equal(found.labels, expected.labels)
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-2, rtol=0)
    assert (optimised.device, optimised.dtype) == (detector.device, detector.dtype)
    assert optimised.labels == detector.labels


@pytest.mark.parametrize("count", [2, 3])
def test_a_pass_on_several_threads_gives_the_same_maps(count: int) -> None:
    detector, before = stirred(eager_detector()), torch.get_num_threads()
    expected = raw_maps(detector, 1, 3, 64, 96)
    torch.set_num_threads(count)
    try:
        agree(raw_maps(detector.optimize(), 1, 3, 64, 96), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_finds_what_it_finds_in_the_plain_detector(precision: Any) -> None:
    detector = eager_detector()
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    (expected,) = detector.predict(picture, 0.0, precision=precision)
    (found,) = detector.optimize().predict(picture, 0.0, precision=precision)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_the_detector_stays_as_it_is_and_the_optimised_one_has_weights_of_its_own(mode: bool) -> None:
    detector = stirred(eager_detector()).train(mode)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    modes = [(name, part.training) for name, part in detector.named_modules()]
    optimised = detector.optimize()
    assert [(name, part.training) for name, part in detector.named_modules()] == modes
    assert not any(part.training for part in optimised.modules())
    assert all(weight.requires_grad for weight in detector.parameters())
    for name, value in detector.state_dict().items():
        assert torch.equal(value, before[name]), name
    expected = raw_maps(optimised, 1, 3, 64, 64)
    with torch.no_grad():
        for weight in detector.parameters():
            weight.zero_()
    agree(raw_maps(optimised, 1, 3, 64, 64), expected, 0)


def test_threads_predict_at_once() -> None:
    optimised = eager_detector().optimize()
    pictures = [np.random.default_rng(n).integers(0, 256, (64, 64 + 16 * n, 3), dtype=np.uint8) for n in range(4)]
    expected = [optimised.predict(picture, 0.0)[0].scores for picture in pictures]
    fresh, found, together = eager_detector().optimize(), dict[int, Tensor](), threading.Barrier(4)

    def work(number: int) -> None:
        together.wait(60)
        found[number] = fresh.predict(pictures[number], 0.0)[0].scores

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, wanted in enumerate(expected):
        torch.testing.assert_close(found[number], wanted)


def broken(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step after which something else comes out."""

    def work(*given: Any) -> Any:
        result = step(*given)
        for weight in given[0].parameters():
            weight.data = weight.data + weight.data
        return result

    return work


def failing(*given: Any) -> Any:
    raise RuntimeError("no")


@pytest.mark.parametrize("wrong", [broken(module.fold_norms), failing], ids=["other answers", "an error"])
def test_a_backbone_that_cannot_be_fused_is_packed_alone(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = eager_detector()
    monkeypatch.setattr(module, "fold_norms", wrong)
    optimised = detector.optimize()
    assert "BatchNorm2d" in layers(optimised.backbone)
    assert ("Conv2d" in layers(optimised.backbone)) == (not can_pack())
    agree(raw_maps(optimised, 1, 3, 64, 64), raw_maps(detector, 1, 3, 64, 64))


def test_a_detector_that_cannot_be_packed_is_a_plain_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = eager_detector()
    monkeypatch.setattr(module, "can_pack", lambda: True)
    monkeypatch.setattr(module, "pack_layers", failing)
    optimised = detector.optimize()
    assert layers(optimised.backbone) == layers(detector.backbone)
    agree(raw_maps(optimised, 1, 3, 64, 64), raw_maps(detector, 1, 3, 64, 64), 0)


def test_norms_are_folded_where_nothing_can_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = stirred(eager_detector())
    monkeypatch.setattr(module, "can_pack", lambda: False)
    optimised = detector.optimize()
    assert "BatchNorm2d" not in layers(optimised.backbone)
    assert layers(optimised.fpn) == layers(detector.fpn)
    agree(raw_maps(optimised, 1, 3, 64, 64), raw_maps(detector, 1, 3, 64, 64))


def test_a_detector_that_is_more_than_its_layers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = eager_detector()
    monkeypatch.setattr(detector, "forward_features", lambda batch: Network.forward_features(detector, batch + 1))
    with pytest.raises(SettingError, match="does not do what the detector does: other raw maps come out"):
        detector.optimize()


def test_weights_elsewhere_and_of_other_types_are_refused() -> None:
    for detector in (eager_detector().to("meta"), eager_detector().half(), eager_detector().double()):
        with pytest.raises(SettingError, match=r"^the weights are .*, expected torch.float32 on the CPU"):
            detector.optimize()


@pytest.fixture(scope="module")
def optimised() -> OptimizedDetector:
    return eager_detector().optimize()


@pytest.mark.parametrize(
    "use",
    [
        lambda model, folder: model.train(),
        lambda model, folder: model([torch.zeros(3, 32, 32)], [{}]),
        lambda model, folder: model.save_pretrained(folder / "saved"),
        lambda model, folder: model.push_to_hub("somebody/something"),
        lambda model, folder: model.state_dict(),
        lambda model, folder: model.load_state_dict({}),
        lambda model, folder: model.load_weights({}, "weights"),
        lambda model, folder: model.export(folder / "model.onnx"),
        lambda model, folder: model.explain(sample_image()),
        lambda model, folder: model.optimize(),
        lambda model, folder: model.half(),
        lambda model, folder: model.to("meta"),
        lambda model, folder: copy.deepcopy(model),
        lambda model, folder: pickle.dumps(model),
        lambda model, folder: torch.save(model, folder / "model.pt"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(optimised: OptimizedDetector, use: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^an optimised detector does no more than detect: .*the one that it was"):
        use(optimised, tmp_path)
    assert not list(tmp_path.glob("saved/*"))
