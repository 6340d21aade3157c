"""README and docs/ do what they say: their commands and their Python run here, or are marked with the reason why not.

A block that cannot run has the line `<!-- not run: REASON -->` above it. Its `dyzoo` commands are still parsed, so that
an option that has gone is found.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from dyzoo._version import __version__
from dyzoo.cli import app, run
from dyzoo.model.detector import Detector
from tests.training.training_runs import tiny, write_voc

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A fenced block: its language, its text, and why it is not run, None if it is."""

    language: str
    text: str
    reason: str | None


def blocks(page: Path) -> Iterator[Block]:
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        yield Block(match["language"], match["text"], match["reason"])


def commands(block: Block) -> list[list[str]]:
    """The words of each line of a block of shell commands, comments left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def reader_folder(tmp_path: Path) -> Path:
    """A folder with all that the pages name: data, pictures, trained detectors."""
    folder = tmp_path
    write_voc(folder / "DIR")
    write_voc(folder / "EXPORT")
    shutil.rmtree(folder / "EXPORT" / "ImageSets")
    pictures = sorted((folder / "DIR" / "JPEGImages").iterdir())
    for name in ("photos/1.png", "photos/2.png", "more/3.jpg", "a.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        with Image.open(pictures[0]) as picture:
            picture.save(folder / name)
    torch.manual_seed(0)
    small = replace(tiny().preprocess, shortest_edge=64, longest_edge=128)
    for name in ("mine", "other"):
        detector = Detector(replace(tiny(), labels=("blue", "red"), preprocess=small))
        detector.save_pretrained(folder / "runs" / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_python_run(page: Path, reader_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader_folder)
    if page.stem == "transformers":
        pytest.importorskip("transformers", reason="transformers is not installed")
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(reader_folder / "modules"))
        monkeypatch.syspath_prepend(reader_folder / "modules")
    names: dict[str, Any] = {
        "pil_image": Image.new("RGB", (64, 48)),
        "array": np.zeros((48, 64, 3), np.uint8),
        "images": [torch.rand(3, 64, 64)],
        "batch": torch.rand(1, 3, 64, 64),
        "targets": [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([0])}],
    }
    for block in blocks(page):
        if block.reason is not None:
            continue
        if block.language == "python":
            exec(compile(block.text, page.name, "exec"), names)
        elif block.language == "sh":
            for program, *arguments in commands(block):
                assert program == "dyzoo", f"{page.name}: {program} is not run here: mark its block"
                assert run(arguments) == 0, f"{page.name}: {' '.join(arguments)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_commands_that_are_not_run_exist(page: Path) -> None:
    for block in blocks(page):
        for words in commands(block) if block.language == "sh" else ():
            if "dyzoo" in words:
                assert_parses(words[words.index("dyzoo") + 1 :])


def assert_parses(arguments: list[str]) -> None:
    """The command line takes these words; nothing runs."""
    command: Any = typer.main.get_command(app)
    name = "dyzoo"
    context = None
    while hasattr(command, "commands"):
        context = command.make_context(name, list(arguments), parent=context)
        name, command, arguments = command.resolve_command(context, arguments)
    command.make_context(name, list(arguments), parent=context)


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_changes_and_citation_are_of_this_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)$", changes, re.MULTILINE)[0] in (__version__, "Unreleased")
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
