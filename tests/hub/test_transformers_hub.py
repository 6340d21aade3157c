"""A pushed detector is one of transformers': from the loopback Hub, with and without trust in its code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dyzoo.config.transformers_keys import CODE_NAME, transformers_keys
from dyzoo.hub.remote_code import PROCESSOR_NAME
from dyzoo.model.detector import Detector
from tests.hub.hub_client import run_client
from tests.hub.hub_server import Hub
from tests.model.narrow_detectors import eager_detector

NAME = "org/cells"


def test_a_push_brings_what_transformers_needs(hub: Hub, cache: Path, detector: Detector) -> None:
    detector.push_to_hub(NAME)
    files = hub.files(NAME)
    config = json.loads(files["config.json"])
    assert transformers_keys(detector.labels).items() <= config.items()
    assert config["auto_map"]["AutoModelForObjectDetection"] == "modeling_dyzoo.DyzooForObjectDetection"
    assert {CODE_NAME, PROCESSOR_NAME} <= files.keys()
    card = files["README.md"].decode()
    assert f'pipeline("object-detection", model="{NAME}", trust_remote_code=True)' in card
    assert "- transformers" in card.split("---")[1]


def test_dyzoo_runs_nothing_of_a_repository(hub: Hub, cache: Path, files: dict[str, bytes]) -> None:
    hub.add(NAME, {**files, CODE_NAME: b"raise SystemExit('this must not run')", PROCESSOR_NAME: b"{"})
    assert Detector.from_pretrained(NAME).labels == ("cat", "dog")
    assert not any(CODE_NAME in request or PROCESSOR_NAME in request for request in hub.requests)


def test_without_dyzoo_one_line_says_what_to_install(files: dict[str, bytes], tmp_path: Path) -> None:
    code = files[CODE_NAME].decode()
    hidden = "import sys; sys.modules['dyzoo'] = None\n"
    (tmp_path / "code.py").write_text(hidden + code)
    process = subprocess.run([sys.executable, tmp_path / "code.py"], capture_output=True, text=True)
    last = process.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "pip install dyzoo" in last


CLIENT = """
import torch, transformers
transformers.utils.logging.disable_progress_bar()
from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection, pipeline
load = AutoModelForObjectDetection.from_pretrained
print(error_of(load, "org/cells", trust_remote_code=False) == "nothing went wrong")
model, info = load("org/cells", trust_remote_code=True, revision=REVISION, output_loading_info=True)
print(sorted(str(key) for keys in info.values() for key in keys))
processor = AutoImageProcessor.from_pretrained("org/cells", trust_remote_code=True)
detect = pipeline("object-detection", model="org/cells", trust_remote_code=True)
import dyzoo
from PIL import Image
picture = Image.radial_gradient("L").resize((90, 70))
(expected,) = dyzoo.load("org/cells").predict(picture, threshold=0.0)
found = detect(picture, threshold=0.0)
print(len(found) == len(expected) > 0)
edges = [[each["box"][edge] for edge in ("xmin", "ymin", "xmax", "ymax")] for each in found]
print(torch.equal(torch.tensor(edges), expected.boxes_xyxy))
model.push_to_hub("org/again")
processor.push_to_hub("org/again")
print(dyzoo.load("org/again").config == dyzoo.load("org/cells").config)
print(AutoConfig.from_pretrained("org/again", trust_remote_code=True).id2label)
"""


@pytest.mark.slow
def test_pipeline_model_and_processor_come_from_the_hub(hub: Hub, cache: Path) -> None:
    """In a process of its own, as transformers reads where the Hub is when it is imported."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    commit = eager_detector().push_to_hub(NAME)
    lines = run_client(f"REVISION = {commit.oid!r}\n{CLIENT}", hub, cache)
    assert lines == ["False", "[]", "True", "True", "True", "{0: 'red', 1: 'blue'}"]
    assert all(len(repo.branches["main"]) >= 2 for repo in hub.repos.values())
    again = hub.files("org/again")
    assert again[CODE_NAME] == hub.files(NAME)[CODE_NAME]
    assert again["config.json"] == hub.files(NAME)["config.json"]


def test_without_transformers_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['transformers'] = None; import dyzoo.hf_transformers"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = process.stderr.splitlines()[-1]
    assert last == "dyzoo.errors.DyzooError: transformers is not installed: pip install 'dyzoo[transformers]'"
