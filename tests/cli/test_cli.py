import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

import dyzoo
import dyzoo.errors
from dyzoo.cli import main, run
from dyzoo.config.training import TrainConfig, TransformConfig
from dyzoo.data import open_dataset
from dyzoo.zoo.creation import load_model
from dyzoo.zoo.names import DEFAULT_MODEL, list_models
from tests.cli.cli_helpers import Cli, write_picture

COMMANDS = ("predict", "train", "evaluate", "list", "fetch", "cache", "convert", "push", "bench")


def test_predict_writes_pictures_and_json_and_says_what_was_found(cli: Cli, tiny_model: Path, picture: Path) -> None:
    outcome = cli("predict", picture, "--model", tiny_model, "--threshold", "0.01")
    assert (outcome.code, outcome.err) == (0, "")
    report = json.loads(Path("predictions/detections.json").read_text())
    assert (report["model"], report["threshold"]) == (str(tiny_model), 0.01)
    (image,) = report["images"]
    assert (image["path"], image["width_px"], image["height_px"]) == (str(picture), 96, 64)
    (expected,) = load_model(tiny_model).predict(picture, threshold=0.01)
    assert len(expected) > 5
    assert image["detections"] == expected.to_dict()["detections"]
    first_line = outcome.out.splitlines()[0]
    counts = ", ".join(f"{number} {name}" for name, number in expected.counts().items())
    assert first_line == f"{picture}: {counts} -> predictions/good.png"
    assert outcome.out.count("0.") >= 5, "a table of the scores"
    with Image.open("predictions/good.png") as annotated:
        assert annotated.convert("RGB").tobytes() == expected.plot().tobytes()


def test_predict_runs_the_embedded_detector_on_the_sample_image(cli: Cli) -> None:
    outcome = cli("predict")
    assert (outcome.code, outcome.err) == (0, "")
    report = json.loads(Path("predictions/detections.json").read_text())
    assert report["model"] == DEFAULT_MODEL
    assert len(report["images"][0]["detections"]) > 3


def test_predict_takes_files_folders_and_globs(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    write_picture(tmp_path / "photos" / "10.png")
    write_picture(tmp_path / "photos" / "2.jpg")
    write_picture(tmp_path / "more" / "deep" / "x.png")
    write_picture(tmp_path / "single.png")
    sources = ("photos", "more/**/*.png", "single.png")
    outcome = cli("predict", *sources, "-m", tiny_model, "--out", "seen/new", "--json", "a/b.json")
    assert outcome.code == 0
    assert sorted(path.name for path in Path("seen/new").glob("*.png")) == ["10.png", "2.png", "single.png", "x.png"]
    names = [Path(image["path"]).name for image in json.loads(Path("a/b.json").read_text())["images"]]
    assert names == ["2.jpg", "10.png", "x.png", "single.png"]


def test_predict_threshold_and_size_reach_the_detector(cli: Cli, tiny_model: Path, picture: Path) -> None:
    def scores(*options: object) -> list[float]:
        assert cli("predict", picture, "-m", tiny_model, *options).code == 0
        (image,) = json.loads(Path("predictions/detections.json").read_text())["images"]
        return [found["score"] for found in image["detections"]]

    detector = load_model(tiny_model)
    everything = scores("-t", "0")
    assert everything == pytest.approx(detector.predict(picture, threshold=0)[0].scores.tolist(), abs=1e-4)
    high, low = max(pairwise(everything), key=lambda pair: pair[0] - pair[1])  # no score is near the one between
    middle = (high + low) / 2
    assert scores("-t", middle) == [score for score in everything if score >= middle]
    for size, argument in ((128, "128"), ("native", "native")):
        expected = detector.predict(picture, threshold=0, size=size)[0].scores.tolist()  # type: ignore[arg-type]
        assert scores("-t", "0", "--size", argument) == pytest.approx(expected, abs=1e-4)


def test_images_of_one_name_do_not_overwrite_each_other(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    for name in ("a/cell.png", "b/cell.jpg", "b/CELL.png", "b/cell_2.png"):
        write_picture(tmp_path / name)
    assert cli("predict", "a", "b", "-m", tiny_model).code == 0
    assert len(list(Path("predictions").glob("*.png"))) == 4


def test_an_image_is_never_overwritten_by_its_annotated_copy(cli: Cli, tiny_model: Path, picture: Path) -> None:
    before = picture.read_bytes()
    assert cli("predict", picture, "-m", tiny_model, "--out", picture.parent).code == 0
    assert picture.read_bytes() == before
    assert (picture.parent / "good_2.png").is_file()


def test_train_then_evaluate_then_predict(cli: Cli, voc: Path, picture: Path) -> None:
    options = ("--data", voc, "--out", "run", "--size", 64, "--batch-size", 2, "--workers", 0, "--device", "cpu")
    outcome = cli("train", *options, "--no-pretrained-backbone", "--epochs", 1, "--precision", "fp32")
    assert outcome.code == 0, outcome.err
    assert "AP50" in outcome.out
    settings = json.loads(Path("run/train.json").read_text())
    assert (settings["epochs"], settings["size_px"], settings["lr"]) == (1, 64, TrainConfig(voc).lr)
    assert cli("train", *options, "--epochs", 1).err.startswith("error: run holds a run already: go on with --resume")

    outcome = cli("evaluate", "--data", voc, "--model", "run", "--out", "report", "--json", "metrics.json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[0].split() == ["class", "boxes", "AP", "AP50", "AP75"]
    assert json.loads(Path("metrics.json").read_text()) == json.loads(Path("report/metrics.json").read_text())
    expected = dyzoo.evaluate(load_model("run"), open_dataset(voc, "val"))
    assert json.loads(Path("metrics.json").read_text())["metrics"] == expected.metrics

    assert cli("predict", picture, "--model", "run").code == 0


def test_evaluate_notes_what_was_dropped_on_stderr(cli: Cli, tiny_model: Path, voc: Path) -> None:
    label_file = voc / "Annotations" / "a.xml"
    label_file.write_text(label_file.read_text().replace("<xmax>40<", "<xmax>11<").replace("red", "green", 1))
    outcome = cli("evaluate", "--data", voc, "--model", tiny_model)
    assert outcome.code == 0
    assert all(line.startswith("note: ") for line in outcome.err.splitlines())
    assert "note: boxes without area" in outcome.err
    assert "green" not in outcome.out or "does not know green" in outcome.err


def test_list_cuts_no_name_on_a_narrow_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    printed = cli("list", "mmdet_glip_t_a*").out
    assert "Objects365" in printed
    assert "…" not in printed


def test_list_names_every_model_and_filters(cli: Cli) -> None:
    everything = cli("list").out
    for name in (*list_models(), *list_models(pretrained=True)):
        assert re.search(rf"^ *{re.escape(name)} ", everything, re.MULTILINE), name
    swins = cli("list", "*swin*").out
    assert "dyhead_atss_swin_tiny" in swins
    assert "resnet" not in swins
    outcome = cli("list", "nothing*")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "error: no model is called 'nothing*': `dyzoo list` shows all of them\n"


def test_list_says_which_backbones_fit(cli: Cli) -> None:
    everything = " ".join(cli("list", "--backbones").out.split())
    assert "resnet resnet10t yes" in everything
    assert "vit vit_tiny_patch16_224 no: has maps of strides [16, 16, 16]" in everything
    assert "resnet50d yes" in " ".join(cli("list", "--backbones", "resnet5*").out.split())
    outcome = cli("list", "--backbones", "nothing*")
    assert outcome.code == 1
    assert outcome.err == "error: no backbone is called 'nothing*': `dyzoo list --backbones` shows their families\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(cli: Cli, command: str) -> None:
    outcome = cli(command, "--help")
    assert outcome.code == 0
    assert re.search(rf"Examples:\n +dyzoo {command}", outcome.out)
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_help_names_the_commands_and_version_the_version(cli: Cli) -> None:
    outcome = cli("--help")
    assert all(re.search(rf"^ +{command} +[A-Z]", outcome.out, re.MULTILINE) for command in COMMANDS)
    assert cli() == outcome, "without a command"
    assert cli("--version") == (0, f"dyzoo {dyzoo.__version__}\n", "")


def test_train_offers_every_setting_and_keeps_its_default(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[TrainConfig] = []

    def remember(config: TrainConfig) -> None:
        started.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("dyzoo.training.train", remember)
    assert cli("train", "--data", tmp_path, "--device", "cpu").code == 130
    assert started[0] == TrainConfig(data=tmp_path, device="cpu")
    changes = {"epochs": 3, "lr": 0.5, "backbone_lr_factor": 0.1, "precision": "fp16", "out": Path("x"), "seed": 7}
    augmentation = {"scale_range": (0.5, 2.0), "vertical_flip": 0.25, "crop": 0.0}
    options = [
        word
        for name, value in {**changes, **augmentation}.items()
        for word in (f"--{name.replace('_', '-')}", *(value if isinstance(value, tuple) else [value]))
    ]
    assert cli("train", "--data", tmp_path, "--device", "cpu", "--size", 99, "--resume", *options).code == 130
    assert started[1] == TrainConfig(
        data=tmp_path, device="cpu", size_px=99, resume=True, transform=TransformConfig(**augmentation), **changes
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--bogus"], "No such option: --bogus"),
        (["bogus"], "No such command 'bogus'"),
        (["evaluate"], "Missing option '--data'"),
        (["predict", "--threshold", "7"], "--threshold"),
        (["predict", "--size", "0"], "'0' is neither a number of pixels nor 'native'"),
        (["predict", "--size", "huge"], "'huge' is neither a number of pixels nor 'native'"),
        (["data", "convert", ".", "x", "--to", "kitti"], ": 'kitti' is not one of 'coco', 'voc', 'yolo' (see "),
        (["train", "--data", ".", "--epochs", "0"], "epochs is 0, expected at least 1"),
        (["train", "--data", ".", "--rotate90", "2"], "rotate90 is 2.0, expected 0 to 1"),
        (["train", "--data", ".", "--device", "gpu"], "'gpu' cannot be used"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(cli: Cli, arguments: list[str], message: str) -> None:
    outcome = cli(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert "--help)" in outcome.err


def test_ctrl_c_leaves_quietly_with_130(
    cli: Cli, tiny_model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dyzoo.images.sources.single.read_picture", interrupt)
    assert cli("predict", picture, "-m", tiny_model) == (130, "", "")


def test_a_full_gpu_is_one_line(cli: Cli, tiny_model: Path, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("dyzoo.model.detector.batch_images", overflow)
    outcome = cli("predict", picture, "-m", tiny_model)
    assert (outcome.code, outcome.err) == (1, "error: the GPU's memory is full: lower --size or --batch-size\n")


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DYZOO_DEBUG", "1")
    with pytest.raises(dyzoo.errors.DatasetError):
        run(["evaluate", "--data", str(tmp_path / "absent")])


def test_main_leaves_with_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(SystemExit) as leaving:
        main(["predict", "--bogus"])
    assert leaving.value.code == 2


@pytest.mark.parametrize("chosen", [None, "0"])
def test_large_pages_are_asked_for_before_pytorch_is_there(chosen: str | None) -> None:
    environment = {**os.environ, **({} if chosen is None else {"THP_MEM_ALLOC_ENABLE": chosen})}
    code = (
        "import os, sys, atexit; from dyzoo.cli import main\n"
        "atexit.register(lambda: print(os.environ['THP_MEM_ALLOC_ENABLE'], 'torch' in sys.modules))\n"
        "main(['--version'])"
    )
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == f"{chosen or '1'} False"


def test_a_closed_pipe_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        command = [sys.executable, "-m", "dyzoo", "--help"]
        process = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert process.stderr == ""
