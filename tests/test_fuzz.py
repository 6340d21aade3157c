"""Mutated pictures, labels, configurations and weights come through every door of the command line.

Each ends in an answer or in lines that say what is wrong, soon, and leaves alone what lies outside the folders that
were named. The seed is fixed; a failure names the mutation, so that it can be made again.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dyzoo.cli import run
from dyzoo.model.detector import Detector
from tests.training.training_runs import tiny, write_voc

pytestmark = pytest.mark.slow

MOST_SECONDS = 20  # of one command; the ones that end do so in well under one
VICTIM = "outside/victim.txt"
TEXTS = [
    *(
        f"../{VICTIM}",
        "../../outside",
        "/",
        "/etc/passwd",
        "/proc/self/mem",
        "..",
        ".",
        "",
        "a/../b",
        "C:\\victim",
        "~",
    ),
    *("x" * 300, "9" * 400, "-1", "0", "1e999", "nan", "inf", "null", "true", "[]", "{}", "[[[[[[[["),
    *(
        "&a [*a, *a]",
        "*a",
        "!!python/object/apply:os.system ['touch victim']",
        "file:///etc/passwd",
        "${HOME}",
        "%s%s%n",
    ),
    *("\x00", "\x1b[31m", "\u202eevil", "\ud800"),
]
NUMBERS = [True, -1, 0, 2**70, 1e308, float("nan"), float("inf")]
VALUES: list[Any] = [*TEXTS, *NUMBERS, None, [], {}, [[]], [0] * 1000, {"a": {}}]


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """A few bytes changed, left out, doubled, or the end cut off."""
    mutated = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(mutated) or 1)
        end = min(len(mutated), start + rng.randint(1, 64))
        action = rng.randrange(4)
        if action == 0:
            mutated[start : start + 1] = bytes([rng.randrange(256)])
        elif action == 1:
            del mutated[start:end]
        elif action == 2:
            mutated[start:start] = mutated[start:end]
        else:
            del mutated[max(1, start) :]
    return bytes(mutated)


def mutated_text(rng: random.Random, content: bytes) -> bytes:
    """A word of the text replaced by a hostile one, or its bytes mutated."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, content)
    text = content.decode()
    words = [index for index, letter in enumerate(text) if letter in " :<>\n\"'="] or [0]
    start = rng.choice(words) + 1
    end = next((index for index in words if index >= start), len(text))
    return (text[:start] + rng.choice(TEXTS) + text[end:]).encode("utf-8", "surrogatepass")


def mutated_json(rng: random.Random, content: bytes) -> bytes:
    """A value anywhere in the document replaced, taken out, or put under a hostile key."""
    if rng.random() < 0.2:
        return mutated_text(rng, content)
    document = json.loads(content)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            walk(value[key])

    walk(document)
    parent, key = rng.choice(places)
    if isinstance(parent, dict) and rng.random() < 0.3:
        parent[rng.choice(TEXTS)] = parent.pop(key)
    elif rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = rng.choice(VALUES)
    return json.dumps(document).encode()


def mutated_safetensors(rng: random.Random, content: bytes) -> bytes:
    """The header's JSON mutated and its length kept true, or any bytes."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, content)
    length = int.from_bytes(content[:8], "little")
    header = mutated_json(rng, content[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


@contextmanager
def time_limit() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise AssertionError(f"took more than {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Mode and content of all that lies below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = bytes(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        digest = hashlib.sha256(content).hexdigest()
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, digest)
    return found


class Doors:
    """A folder to let mutated files loose in, beside one that nothing may touch."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capfd, self.outside = folder, capfd, folder / "outside"
        (self.outside / "labels").mkdir(parents=True)
        (folder / VICTIM).write_text("0 0.5 0.5 0.2 0.2\nprecious\n")
        (self.outside / "labels" / "victim.txt").write_text("precious\n")
        Image.new("RGB", (8, 8)).save(self.outside / "victim.png")
        self.before = snapshot(self.outside)

    def knock(self, what: object, *arguments: object) -> None:
        """Run the command line; it answers or says in lines what is wrong, and touches nothing outside."""
        self.capfd.readouterr()
        with time_limit():
            code = run([str(argument) for argument in arguments])
        output = "".join(self.capfd.readouterr())
        assert code in (0, 1, 2), (what, code, output)
        assert "Traceback" not in output, (what, output)
        assert "precious" not in output, (what, output)
        assert not {"\x1b", "\u202e", "\x00"} & set(output), (what, output)
        assert code == 0 or "error: " in output, (what, code, output)
        assert snapshot(self.outside) == self.before, what


@pytest.fixture
def doors(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doors:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "200")
    return Doors(tmp_path, capfd)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector's folder, as small as they come."""
    torch.manual_seed(0)
    config = replace(tiny(), labels=("red", "blue"))
    config = replace(config, preprocess=replace(config.preprocess, shortest_edge=32, longest_edge=64))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    Detector(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tiff", "webp", "ppm", "jp2"])
def test_pictures(doors: Doors, model: Path, suffix: str) -> None:
    rng = random.Random(suffix)
    folder = doors.folder / "work" / "pictures"
    folder.mkdir()
    good = folder / f"good.{suffix}"
    Image.effect_noise((24, 16), 60).convert("RGB").save(good)
    content = good.read_bytes()
    for number in range(12):
        (folder / f"{number}.{suffix}").write_bytes(mutated_bytes(rng, content))
    doors.knock(suffix, "predict", folder, "--model", model, "--out", "seen")
    assert (doors.folder / "work" / "seen" / "good.png").is_file()


def _coco(folder: Path) -> list[str]:
    from dyzoo.data.tools.convert import convert_dataset

    convert_dataset(folder / "voc", folder / "data", "coco")
    return ["annotations/instances_train.json"]


def _yolo(folder: Path) -> list[str]:
    from dyzoo.data.tools.convert import convert_dataset

    convert_dataset(folder / "voc", folder / "data", "yolo")
    return ["data.yaml", "labels/train/0.txt"]


def _darknet(folder: Path) -> list[str]:
    _yolo(folder)
    data = folder / "data"
    (data / "data.yaml").unlink()
    (data / "obj.names").write_text("red\nblue\n")
    (data / "obj.data").write_text("classes = 2\nnames = obj.names\ntrain = train.txt\nvalid = val.txt\n")
    for split in ("train", "val"):
        (data / f"{split}.txt").write_text("".join(f"images/{split}/{index}.png\n" for index in range(2)))
    return ["obj.data", "obj.names", "train.txt"]


def _voc(folder: Path) -> list[str]:
    shutil.copytree(folder / "voc", folder / "data")
    return ["Annotations/0.xml", "ImageSets/Main/train.txt"]


@pytest.mark.parametrize("make", [_coco, _yolo, _darknet, _voc])
def test_labels(doors: Doors, make: Callable[[Path], list[str]]) -> None:
    rng = random.Random(make.__name__)
    work = doors.folder / "work"
    write_voc(work / "voc", images=2)
    names = make(work)
    originals = {name: (work / "data" / name).read_bytes() for name in names}
    for number in range(60):
        name = rng.choice(names)
        mutate = mutated_json if name.endswith(".json") else mutated_text
        mutation = mutate(rng, originals[name])
        (work / "data" / name).write_bytes(mutation)
        to = rng.choice(["coco", "voc", "yolo"])
        doors.knock((name, mutation), "data", "convert", "data", f"out{number}", "--to", to)
        shutil.rmtree(work / f"out{number}", ignore_errors=True)
        assert {path.name for path in work.iterdir()} <= {"voc", "data"}, mutation
        (work / "data" / name).write_bytes(originals[name])


def with_model_and_picture(doors: Doors, model: Path) -> Path:
    """The folder that commands work in, with a copy of the model and a picture that can be read."""
    work = doors.folder / "work"
    shutil.copytree(model, work / "model")
    Image.effect_noise((24, 16), 60).convert("RGB").save(work / "good.png")
    return work


def test_configurations(doors: Doors, model: Path) -> None:
    rng = random.Random("configurations")
    work = with_model_and_picture(doors, model)
    content = (model / "config.json").read_bytes()
    for _ in range(60):
        mutation = mutated_json(rng, content)
        (work / "model" / "config.json").write_bytes(mutation)
        doors.knock(mutation, "predict", "good.png", "--model", "model", "--out", "seen")


def test_weights(doors: Doors, model: Path) -> None:
    rng = random.Random("weights")
    work = with_model_and_picture(doors, model)
    content = (model / "model.safetensors").read_bytes()
    for number in range(40):
        (work / "model" / "model.safetensors").write_bytes(mutated_safetensors(rng, content))
        doors.knock(number, "predict", "good.png", "--model", "model", "--out", "seen")


def test_foreign_checkpoints(doors: Doors) -> None:
    rng = random.Random("checkpoints")
    work = doors.folder / "work"
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}}, work / "good.pth")
    content = (work / "good.pth").read_bytes()
    for number in range(40):
        (work / "bad.pth").write_bytes(mutated_bytes(rng, content))
        doors.knock(number, "convert", "bad.pth", "--from", "mmdet_atss_r50", "--out", "converted")
        assert not (work / "converted").exists()
