"""Every published detector by its name, over a web server that gives real files, to the foreign code's answers."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dyzoo
from dyzoo.checkpoints import convert_checkpoint
from dyzoo.model.detector import Detector
from dyzoo.model.heads import FasterRCNNHead
from dyzoo.model.preprocess import batch_images
from tests.golden.agreement import MAP_TOLERANCE, MIN_AGREEMENT, agreement, deviation
from tests.golden.foreign import FOLDER, foreign_weights, golden_outputs
from tests.golden.glip_golden import CASE as GLIP
from tests.golden.glip_golden import NAMES, assert_detections, of_names, read_golden
from tests.golden.lost_layer import LOST, solve_lost_weights
from tests.hub.hub_client import set_offline
from tests.zoo.conftest import use_catalog
from tests.zoo.file_server import FileServer

Weights = dict[str, Tensor]

SLOW = dict.fromkeys(
    ("mmdet_atss_swin_l", "official_faster_rcnn_r50"), pytest.mark.slow
)  # 841 MB; a layer is solved for

# a file's name and its form: as a code base writes it
FORMS: dict[str, tuple[str, Callable[[Weights, Path], None]]] = {
    "mmdet_atss_r50": (
        "nested.pth",
        lambda weights, path: torch.save({"meta": {"epoch": 12}, "state_dict": weights}, path),
    ),
    "mmdet_atss_r50_caffe": (
        "before_zip.pth",
        lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False),
    ),
    "mmdet_atss_swin_l": ("swin.pth", lambda weights, path: torch.save({"state_dict": weights}, path)),
    "official_atss_r50": ("model.bin", lambda weights, path: torch.save({"model": weights, "iteration": 89999}, path)),
    "official_atss_swin_t": ("plain.bin", torch.save),
    "official_faster_rcnn_r50": (
        "arrays.pkl",
        lambda weights, path: path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in weights.items()}})),
    ),
    "official_retinanet_r50": ("model.pth", lambda weights, path: torch.save({"model": weights}, path)),
}


def obstruct(server: FileServer, case: str, path: str, content: bytes) -> list[str]:
    """Something that goes wrong on the way, another for each case; gives the paths in which to look for the file."""
    elsewhere, last = f"/first{path}", len(content) // 2
    if case == "mmdet_atss_r50":  # the connection breaks, twice
        server.drop_after = last
    elif case == "official_retinanet_r50":
        server.redirects[path] = f"{server.url}/moved{path}"
        server.files[f"/moved{path}"] = server.files.pop(path)
    elif case == "official_atss_swin_t":
        server.statuses[elsewhere] = 404
        return [elsewhere, path]
    elif case == "official_faster_rcnn_r50":  # another size
        server.files[elsewhere] = content + b" "
        return [elsewhere, path]
    elif case == "mmdet_atss_r50_caffe":  # another hash
        server.files[elsewhere] = content[:last] + bytes([content[last] ^ 1]) + content[last + 1 :]
        return [elsewhere, path]
    return [path]


def weights_of(case: str) -> Weights:
    """The foreign weights, with those of the lost layer of Faster R-CNN."""
    weights = foreign_weights(case)
    if case == "official_faster_rcnn_r50":
        detector, golden = (
            convert_checkpoint({**weights, **{k: torch.zeros_like(weights[k]) for k in LOST}}, case),
            None,
        )
        assert isinstance(detector.head, FasterRCNNHead)
        golden = golden_outputs(case)
        with torch.no_grad():
            batch, _ = batch_images([golden["image"]], detector.config.preprocess, detector.device)
            solve_lost_weights(detector.head, detector.forward_features(batch), golden)
        layer = detector.head.rpn.box
        weights |= dict(zip(LOST, (layer.weight.detach(), layer.bias.detach()), strict=True))
    return weights


def assert_golden(detector: Detector, case: str) -> None:
    """Maps, raw predictions and detections are those of the other code base."""
    golden = golden_outputs(case)
    finest = 2 if case == "official_faster_rcnn_r50" else 3
    with torch.no_grad():
        batch, image_sizes = batch_images([golden["image"]], detector.config.preprocess, detector.device)
        pyramid = detector.fpn(detector.backbone(batch))
        features = detector.dyhead(pyramid)
        raw = detector.forward_head(features)
        found = detector.head.decode(raw, image_sizes)[0]
    maps = {f"fpn.p{finest + level}": value for level, value in enumerate(pyramid)}
    maps |= {f"dyhead.p{finest + level}": value for level, value in enumerate(features)}
    part = "rpn" if case == "official_faster_rcnn_r50" else "head"
    maps |= {f"{part}.{kind}.{level}": value for kind in raw for level, value in enumerate(raw[kind])}
    stored = [name for name in golden if name.split(".")[0] in ("fpn", "dyhead", "head", "rpn")]
    assert len(stored) >= 14
    assert {name: error for name in stored if (error := deviation(maps[name], golden[name])) > MAP_TOLERANCE} == {}
    assert agreement(golden, found) >= MIN_AGREEMENT


def publish(server: FileServer, monkeypatch: pytest.MonkeyPatch, name: str, paths: list[str], content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    use_catalog(
        monkeypatch,
        name,
        addresses=[f"{server.url}{path}" for path in paths],
        **{"sha256": None, "sha256_prefix": digest[:8], "size": len(content), "unverified": None},
    )


def same(first: Detector, second: Detector) -> bool:
    own, other = first.state_dict(), second.state_dict()
    return first.config == second.config and all(torch.equal(value, other[name]) for name, value in own.items())


@pytest.mark.parametrize("case", [pytest.param(case, marks=SLOW.get(case, ())) for case in FORMS])
def test_by_name_to_the_golden_answers(
    case: str, server: FileServer, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_name, write = FORMS[case]
    weights = weights_of(case)
    write(weights, tmp_path / file_name)
    content = server.files[f"/{file_name}"] = (tmp_path / file_name).read_bytes()
    (tmp_path / file_name).unlink()
    paths = obstruct(server, case, f"/{file_name}", content)
    publish(server, monkeypatch, f"{case}.coco", paths, content)
    by_name = dyzoo.create_model(f"{case}.coco", pretrained=True)
    assert len(server.requests) >= (2 if len(paths) > 1 or server.redirects or server.drop_after else 1)
    assert same(by_name, convert_checkpoint(weights, case))
    if (FOLDER / f"{case}.safetensors").is_file():
        assert_golden(by_name, case)
    set_offline(monkeypatch)
    server.files.clear()
    assert same(dyzoo.load(f"{case}.coco"), by_name)


@pytest.mark.slow  # 606 MB, four fifths of them the text encoder; a smaller one has no golden answers
def test_words_by_name_to_the_golden_answers(
    server: FileServer, home: Path, tmp_path: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden, file = read_golden(shared_folder / "golden"), tmp_path / "glip.pth"
    torch.save(golden.weights, file)  # bare, as it is published
    content: Any = file.read_bytes()
    server.files["/glip.pth"] = content
    publish(server, monkeypatch, f"{GLIP}.zero_shot", ["/glip.pth"], content)
    by_name = dyzoo.create_model(f"{GLIP}.zero_shot", pretrained=True)
    assert same(by_name, convert_checkpoint(golden.weights, GLIP))
    detector = dyzoo.create_model(f"{GLIP}.zero_shot", pretrained=True, labels=NAMES)
    assert same(detector, dyzoo.load(file, labels=NAMES))  # known to the catalogue by its hash
    with torch.no_grad():
        batch, _ = batch_images([golden.outputs["image"]], detector.config.preprocess, detector.device)
        raw = detector.forward_head(detector.forward_features(batch))
        on_golden = detector.head([golden.outputs[f"dyhead.p{level}"] for level in range(3, 8)])
    for level in range(5):
        assert deviation(on_golden["cls"][level], golden.outputs[f"head.cls.{level}"][:, of_names(golden)]) < 1e-5
    assert_detections(golden, detector, raw)
