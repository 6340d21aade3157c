"""`dyzoo fetch`, `dyzoo cache`, and what `dyzoo list` says of what is here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dyzoo import environment
from tests.cli.cli_helpers import Cli, Outcome, write_picture
from tests.training.training_runs import write_voc
from tests.zoo.conftest import CONTENT, NAME, Publish
from tests.zoo.file_server import FileServer

FILE, OTHER = "/pub/weights.pth", "official_atss_r50.coco"


def line_of(outcome: Outcome, name: str) -> str:
    (line,) = (" ".join(line.split()) for line in outcome.out.splitlines() if line.split()[:1] == [name])
    return line


def test_a_bad_name_does_not_sink_the_good_ones(cli: Cli, publish: Publish, server: FileServer) -> None:
    publish(FILE)
    publish("/absent.pth", name=OTHER)
    server.files.pop("/absent.pth")
    outcome = cli("fetch", "mmdet_atss_r5O.coco", OTHER, NAME, NAME)
    assert outcome.code == 1
    bad, absent = (line for line in outcome.err.splitlines() if line.startswith("error: "))
    assert "did you mean mmdet_atss_r50.coco" in bad
    assert f"{OTHER} cannot be fetched: {server.url}/absent.pth answers 404" in absent
    assert outcome.out.startswith(f"{NAME}: ")
    assert outcome.out.count("\n") == 1
    assert cli("fetch", NAME).code == 0
    assert cli("fetch", "dyhead_atss_resnet10t").out.startswith("dyhead_atss_resnet10t.bccd: 12 MB -> ")


def test_list_says_what_is_here_and_how_large_the_rest_is(cli: Cli, publish: Publish) -> None:
    publish(FILE)
    assert line_of(cli("list"), NAME).endswith("AP 0.433 reported Apache-2.0 ~156 MB to fetch")
    publish(FILE, size=len(CONTENT))
    assert line_of(cli("list"), NAME).endswith("0.3 MB to fetch")
    assert cli("fetch", NAME).code == 0
    assert line_of(cli("list"), NAME).endswith("kept")
    assert line_of(cli("list"), "dyhead_atss_resnet10t.bccd").endswith("in the package")


def test_list_says_more_of_one(cli: Cli, publish: Publish, home: Path) -> None:
    entry = publish(FILE, unverified="a copy")
    out = cli("list", NAME).out
    for words in (entry.addresses[0], entry.sha256, "reported by: mmdetection", "mind: a copy", "licence is"):
        assert str(words) in out
    assert "kept in" not in out
    cli("fetch", NAME)
    assert f"kept in: {home}/checkpoints/{NAME}, fetched 20" in cli("list", NAME).out


def test_the_cache_is_shown_and_emptied(cli: Cli, publish: Publish, home: Path, server: FileServer) -> None:
    assert cli("cache").out == f"0.0 MB in {home}\n"
    publish(FILE)
    cli("fetch", NAME)
    unfinished = home / "unfinished" / OTHER / "x.part"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"x" * 2_000_000)
    shown = cli("cache")
    assert f"20 MB {line_of(shown, NAME).split('MB ')[1].split()[0]} {server.url}{FILE}" in line_of(shown, NAME)
    assert line_of(shown, OTHER) == f"{OTHER} 2.0 MB"
    assert shown.out.endswith(f"22 MB in {home}\n")
    outcome = cli("cache", "--remove", NAME, "--remove", "../outside", "--remove", "nothing")
    assert outcome.code == 1
    assert outcome.out == f"{NAME}: 20 MB freed\n"
    assert outcome.err.count("error: nothing is kept of ") == 2
    assert cli("cache", "--remove", "all").out == f"{OTHER}: 2.0 MB freed\n"
    assert cli("cache").out == f"0.0 MB in {home}\n"
    assert cli("cache", "--remove", "all").code == 0


def test_nothing_that_came_leaves_nothing(cli: Cli, publish: Publish, home: Path, server: FileServer) -> None:
    publish(FILE)
    server.files.clear()
    assert cli("fetch", NAME).code == 1
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_predict_and_train_take_a_published_name(
    cli: Cli, publish: Publish, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(FILE)
    picture = write_picture(tmp_path / "picture.png")
    outcome = cli("predict", picture, "--model", NAME, "--size", 64, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    server.files.clear()
    write_voc(tmp_path / "voc")
    options = ("--epochs", 1, "--batch-size", 2, "--size", 64, "--workers", 0, "--device", "cpu", "--out", "run")
    outcome = cli("train", "--data", "voc", "--weights", NAME, *options)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
    assert server.requests == [(FILE, 0)]


def test_a_mirror_folder_fills_an_empty_home(
    cli: Cli, publish: Publish, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(FILE)
    (tmp_path / "weights.pth").write_bytes(server.files.pop(FILE))
    monkeypatch.setenv(environment.MIRROR, str(tmp_path))
    assert cli("fetch", NAME).code == 0
    shutil.rmtree(tmp_path / "home")
    (tmp_path / "weights.pth").unlink()
    assert f"{tmp_path}/weights.pth: No such file" in cli("fetch", NAME).err
