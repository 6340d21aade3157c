"""The Dockerfile copies what is there and what a wheel is made of, and starts the server as a user without rights."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from dyzoo.cli import app

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """Words and arguments of the Dockerfile, in order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def arguments(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def copied() -> set[str]:
    return {source.rstrip("/") for rest in arguments("COPY") for source in shlex.split(rest)[:-1]}


def test_all_that_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied()
    for name in copied():
        assert (ROOT / name).exists(), name


def test_all_that_a_wheel_is_made_of_is_copied() -> None:
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = settings["project"]
    needed = [*wheel["only-include"], *wheel["force-include"], *project["license-files"], project["readme"]]
    assert {name.split("/")[0] for name in needed} | {"pyproject.toml"} == copied()
    (extras,) = re.findall(r"\.\[([\w,]+)\]", " ".join(arguments("RUN")))
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_the_server_starts_as_a_user_without_rights() -> None:
    words = [word for word, _ in instructions()]
    assert words.index("USER") < words.index("ENTRYPOINT")
    (user,) = arguments("USER")
    assert int(user.split(":")[0]) > 0
    (start,) = arguments("ENTRYPOINT")
    program, *options = json.loads(start)
    assert program == "dyzoo"
    command = typer.main.get_command(app)
    context = command.make_context("dyzoo", list(options))
    name, serve, rest = command.resolve_command(context, options)  # type: ignore[attr-defined]
    assert name == "serve"
    assert serve.make_context("serve", rest, parent=context).params["host"] == "0.0.0.0"


def test_the_health_check_asks_the_port_that_is_exposed() -> None:
    (port,) = arguments("EXPOSE")
    (check,) = arguments("HEALTHCHECK")
    assert f"127.0.0.1:{port}/healthz" in check
