"""The examples of docs/neck.md train a step, in the libraries that they are for.

mmengine, Ultralytics and Lightning are no development dependencies: `pip install mmengine ultralytics lightning` lets
their tests run.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import dyzoo
from dyzoo.data import convert_dataset
from dyzoo.export.necks import exportable
from tests.golden.foreign import foreign_weights
from tests.training.training_runs import write_voc

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An example as a module; other parts of it find it by its name."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def assert_offsets_have_learnt(model: nn.Module) -> None:
    """They begin at zero."""
    necks = [module for module in model.modules() if isinstance(module, dyzoo.DyHead)]
    assert necks
    for neck in necks:
        for block in neck.blocks:
            assert block.offset_weight.any()  # type: ignore[union-attr,operator]
            assert torch.isfinite(block.offset_weight).all()  # type: ignore[arg-type]


def test_examples_are_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 150, path.name


@pytest.mark.parametrize("detector", ["fcos", "retinanet"])
def test_torchvisions_detectors_learn_with_it(detector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = example("torchvision_neck", monkeypatch)
    torch.manual_seed(0)
    model = module.build(detector, 2, channels=32, blocks=2, min_size=64, max_size=128)
    batches = module.made_up(1, size_px=64) * 8
    losses = module.train(model, batches, learning_rate=1e-3)
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    assert_offsets_have_learnt(model)
    with torch.no_grad():
        found = model.eval()(batches[0][0])
    assert [set(each) for each in found] == [{"boxes", "scores", "labels"}] * 2


@pytest.mark.slow  # torch's exporter takes its time
@pytest.mark.parametrize("detector", ["fcos", "retinanet"])
def test_torchvisions_detectors_are_exported_with_it(
    detector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime", minversion="1.25.1")
    module = example("torchvision_neck", monkeypatch)
    torch.manual_seed(0)
    model = module.build(detector, 2, channels=32, blocks=2, min_size=64, max_size=128)
    module.train(model, module.made_up(2, size_px=64), learning_rate=1e-3)
    assert module.export(model, tmp_path / "network.onnx", (64, 96)) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]


def test_mmdetection_builds_it_from_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = pytest.importorskip("mmengine.registry")
    with monkeypatch.context() as own:
        own.setitem(registry.MODELS._module_dict, "FusedDyHead", None)  # goes away at the end
        del registry.MODELS._module_dict["FusedDyHead"]
        module = example("mmdet_neck", monkeypatch)
        child = registry.Registry("model", parent=registry.MODELS, scope="some_detection")  # as mmdetection's is
        config = [{"type": "FusedDyHead", "channels": 32, "blocks": 1, "in_channels": (8, 16)}]
        config.append({"type": "FusedDyHead", "channels": 32, "blocks": 2, "offset_mode": "flat", "conv_bias": False})
        neck = child.build(config)
    neck.init_weights()
    levels = (torch.randn(2, 8, 9, 6), torch.randn(2, 16, 5, 3))
    optimizer = torch.optim.SGD(neck.parameters(), 0.1)
    outputs = neck(levels)
    assert type(outputs) is tuple
    assert [tuple(output.shape) for output in outputs] == [(2, 32, 9, 6), (2, 32, 5, 3)]
    sum(output.square().mean() for output in outputs).backward()
    optimizer.step()
    assert_offsets_have_learnt(neck)
    path = tmp_path / "atss_r50_fpn_dyhead.pth"
    weights = foreign_weights("mmdet_atss_r50")
    torch.save({"state_dict": weights}, path)
    published = module.published(path)
    assert (published.config.offset_mode, published.config.conv_bias) == ("flat", False)
    theirs = weights["neck.1.dyhead_blocks.5.spatial_conv_mid.conv.weight"]
    assert torch.equal(published.blocks[5].conv_weight[1], theirs)  # type: ignore[union-attr,index]


@pytest.mark.slow
def test_a_whole_detector_of_torchvisions_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    module = example("torchvision_neck", monkeypatch)
    torch.manual_seed(0)
    model = module.build("fcos", 2, channels=32, blocks=1, min_size=64, max_size=128, score_thresh=0.02)
    batches = module.made_up(2, size_px=64)
    module.train(model, batches, learning_rate=1e-3)
    model.eval()
    (image, other), _ = batches[0]
    path = tmp_path / "detector.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torchvision does with sizes while it is traced
        torch.onnx.export(exportable(model, "grid-sample"), ([image],), path, dynamo=False, opset_version=18)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        found = model([other])[0]
    assert len(found["boxes"]) > 10
    given = {session.get_inputs()[0].name: other.numpy()}
    answers = map(torch.from_numpy, session.run(None, given))
    rows = []
    for boxes, scores, labels in (answers, (found["boxes"], found["scores"], found["labels"])):
        rows.append(torch.cat([boxes, 100 * scores[:, None], 1000 * labels[:, None]], dim=1))
    assert rows[0].shape == rows[1].shape
    apart = torch.cdist(*rows, p=1)  # in any order: neighbours of nearly one score may swap places
    assert max(apart.min(dim=0).values.max(), apart.min(dim=1).values.max()) < 1e-2


ULTRALYTICS = """
import sys
import warnings
from pathlib import Path
import onnxruntime, torch
from ultralytics.nn.modules import Detect
from ultralytics.utils import ROOT, YAML

example = sys.argv.pop(1)
sys.path.insert(0, str(Path(example).parent))
import ultralytics_neck
from ultralytics_neck import YOLO, DyHeadDetect, tasks

ultralytics_neck.main()
best = "run/train/weights/best.pt"
trained = YOLO(best)
head = trained.model.model[-1]
assert type(head) is DyHeadDetect, type(head)
assert all(block.offset_weight.any() for block in head.dyhead.blocks)
assert len(trained("one.png", imgsz=64, verbose=False)) == 1

images = torch.rand(1, 3, 64, 64)
with torch.no_grad():
    wanted = trained.model.float().eval()(images)[0]
session = onnxruntime.InferenceSession(Path(best).with_suffix(".onnx"))
answer = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
assert (answer - wanted).abs().max() < 1e-4 * wanted.abs().max()

for name in ("v8/yolov8", "11/yolo11", "26/yolo26"):
    path = ROOT / "cfg" / "models" / f"{name}.yaml"
    if path.exists():  # those that this version has
        own = YAML.load(path)
        *_, (levels, number, _, _) = own["head"]
        own["head"][-1] = [levels, number, "DyHeadDetect", ["nc", 64, 1]]
        model = tasks.DetectionModel({**own, "scale": "n"}, nc=2, verbose=False)
        assert type(model.model[-1]) is DyHeadDetect
        assert model.stride.tolist() == [8, 16, 32], name
        assert type(tasks.DetectionModel({**YAML.load(path), "scale": "n"}, verbose=False).model[-1]) is Detect
print("all is well")
"""


@pytest.mark.slow  # a whole run of Ultralytics', with its pictures, in a process of its own
def test_ultralytics_trains_and_exports_with_it(tmp_path: Path) -> None:
    for name in ("ultralytics", "onnxruntime"):
        pytest.importorskip(name)
    voc = write_voc(tmp_path / "voc")
    convert_dataset(voc, tmp_path / "yolo", to="yolo")
    shutil.copyfile(voc / "JPEGImages" / "0.png", tmp_path / "one.png")
    words = f"--data yolo/data.yaml --epochs 1 --imgsz 64 --batch 3 --device cpu --onnx --project {tmp_path / 'run'}"
    command = [sys.executable, "-c", ULTRALYTICS, str(EXAMPLES / "ultralytics_neck.py"), *words.split()]
    settings = {"YOLO_CONFIG_DIR": str(tmp_path), "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
    path = os.pathsep.join(filter(None, (str(EXAMPLES.parents[1]), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, **settings, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "all is well"


def test_lightning_trains_a_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning")
    module = example("lightning_train", monkeypatch)
    write_voc(tmp_path / "voc")
    monkeypatch.chdir(tmp_path)
    words = "voc --model dyhead_atss_resnet10t --size 64 --epochs 1 --batch-size 3 --accelerator cpu --out run"
    monkeypatch.setattr(sys, "argv", ["lightning_train.py", *words.split()])
    module.main()
    trained = dyzoo.load("run")
    assert trained.labels == ("blue", "red")
    assert_offsets_have_learnt(trained)
