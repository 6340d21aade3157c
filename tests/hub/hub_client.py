"""Running code as a user of the loopback Hub would: a process whose environment names the Hub and a cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download

from tests.hub.hub_server import Hub

PREAMBLE = """
import time
from huggingface_hub import file_download
file_download.time.sleep = lambda seconds: None  # between attempts

def error_of(action, *arguments, **options):
    \"\"\"What went wrong, as `Type: message`; a message of several lines would be a mistake of its own.\"\"\"
    try:
        action(*arguments, **options)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return text if "\\n" not in text else f"SEVERAL LINES: {text!r}"
    return "nothing went wrong"
"""


def environment(hub: Hub, home: Path, **changes: str | None) -> dict[str, str]:
    """Environment of a process that meets `hub` as its owner, with its cache in `home`; None removes a variable."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    settings: dict[str, str | None] = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": hub.token,
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        **changes,
    }
    return {**known, **{name: value for name, value in settings.items() if value is not None}}


def run_client(code: str, hub: Hub, home: Path, **changes: str | None) -> list[str]:
    """Run Python code in a process of its own; gives the lines it printed.

    `error_of(action, ...)` is at the code's hand.
    """
    process = subprocess.run(
        [sys.executable, "-c", PREAMBLE + dedent(code)],
        env=environment(hub, home, **changes),
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def use_hub(monkeypatch: pytest.MonkeyPatch, hub: Hub, cache: Path, token: str | None = None) -> None:
    """Let this process meet `hub`, as its owner unless another token is named, with an empty cache.

    huggingface_hub reads its environment when it is imported, and these constants whenever it needs them.
    """
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    for module in (constants, file_download):  # before version 1 each has its own
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no token"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(cache / "none"), raising=False)
    set_offline(monkeypatch, False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)  # between attempts
    monkeypatch.setenv("HF_TOKEN", token or hub.token)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def set_offline(monkeypatch: pytest.MonkeyPatch, offline: bool = True) -> None:
    """Let huggingface_hub in this process keep off the network, or not."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    # Before version 1 a session stays what it was made for.
    getattr(huggingface_hub.utils, "reset_sessions", lambda: None)()
