"""Whole ways through the Hub as users go them: processes of their own, configured by the environment alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dyzoo.model.detector import Detector
from dyzoo.zoo.catalog import sample_image
from tests.hub.hub_client import environment, run_client
from tests.hub.hub_server import Hub

LOAD = """
    import torch
    from dyzoo import Detector

    def answer(model):
        torch.manual_seed(0)
        return model.forward_features(torch.rand(1, 3, 64, 96))

    expected = answer(Detector.from_pretrained("local"))
    def agrees(name, **options):
        found = answer(Detector.from_pretrained(name, **options))
        return all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
"""
NOWHERE = "http://127.0.0.1:9"  # the port of the discard service: nobody listens


@pytest.mark.slow
def test_pushed_and_loaded_then_without_network(hub: Hub, detector: Detector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "local")
    home = tmp_path / "home"
    push = """
    Detector.from_pretrained("local").push_to_hub("org/cells", private=True)
    print(agrees("org/cells"), agrees("org/cells", revision="main", token=None))
    print(error_of(Detector.from_pretrained, "org/cells", token=False, cache_dir="other"))
    """
    lines = run_client(LOAD + push, hub, home)
    assert lines[0] == "True True"
    assert lines[1].startswith(f"HubError: {hub.url} has no repository 'org/cells', or it is private")
    again = """
    print(agrees("org/cells"), agrees("org/cells@main"), agrees("org/cells", local_files_only=True))
    print(error_of(Detector.from_pretrained, "org/other"))
    print(error_of(Detector.from_pretrained, "org/cells", force_download=True))
    """
    asked = len(hub.requests)
    offline = run_client(LOAD + again, hub, home, HF_HUB_OFFLINE="1")
    assert offline[0] == "True True True"
    assert "config.json of org/other is not in the cache" in offline[1]
    assert "HF_HUB_OFFLINE is set, and force_download=True needs" in offline[2]
    unreachable = run_client(LOAD + again, hub, home, HF_ENDPOINT=NOWHERE)
    assert unreachable[0] == "True True True"
    assert unreachable[1].startswith(f"HubError: {NOWHERE} cannot be reached for org/other")
    assert unreachable[2].startswith(f"HubError: {NOWHERE} cannot be reached for org/cells")
    assert len(hub.requests) == asked


@pytest.mark.slow
def test_the_command_line_pushes_and_predicts(hub: Hub, detector: Detector, tmp_path: Path) -> None:
    detector.save_pretrained(tmp_path / "local")

    def dyzoo(*arguments: object, **changes: str | None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dyzoo", *map(str, arguments)]
        settings = environment(hub, tmp_path / "home", **changes)
        return subprocess.run(command, env=settings, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    pushed = dyzoo("push", "local", "org/cells")
    assert (pushed.returncode, pushed.stdout) == (0, f"{hub.url}/org/cells/commit/{hub.repo('org/cells').at().sha}\n")
    assert 'dyzoo.load("org/cells")' in hub.files("org/cells")["README.md"].decode()
    predicted = dyzoo("predict", sample_image(), "--model", "org/cells", "--threshold", "0")
    assert predicted.returncode == 0, predicted.stderr
    assert (tmp_path / "predictions" / "detections.json").is_file()
    refused = dyzoo("predict", sample_image(), "--model", "org/cell")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: {hub.url} has no repository 'org/cell'")
    assert refused.stderr.count("\n") == 1
