"""Names of detectors: of architectures, and of checkpoints, `architecture.tag`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from dyzoo.config import DetectorConfig, GroundedATSSConfig
from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.errors import UnknownModelError
from dyzoo.zoo.catalog import Checkpoint, checkpoints

DEFAULT_MODEL = "dyhead_atss_resnet10t.bccd"


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names matching a wildcard pattern, sorted.

    Args:
        pattern: shell wildcards, e.g. "*swin*"; checkpoints are matched with their tag.
        pretrained: list checkpoints (`architecture.tag`) instead of architectures.
    """
    names: Iterable[str] = checkpoints() if pretrained else ARCHITECTURES
    return sorted(name for name in names if fnmatchcase(name, pattern))


def model_config(name: str) -> DetectorConfig:
    """The configuration that `name` stands for, a tag being ignored.

    Raises:
        UnknownModelError: no architecture has this name; the message suggests the nearest ones.
    """
    architecture = name.split(".")[0]
    if architecture not in ARCHITECTURES:
        raise unknown(name, ARCHITECTURES)
    return ARCHITECTURES[architecture]()


def find_checkpoint(name: str, otherwise: str = "") -> Checkpoint:
    """The entry of the catalogue that `name` stands for; without a tag, the first one of the architecture.

    Raises:
        UnknownModelError: there is none; the message names the nearest. `otherwise` ends it.
    """
    known = checkpoints()
    if name in known:
        return known[name]
    if tags := tags_of(name):
        return known[tags[0]]
    if name in ARCHITECTURES:
        near = f"the nearest that has some is {nearest_checkpoint(name)}" if known else "nothing here has some"
        raise UnknownModelError(f"{name} has no published weights, {near}: take that, or train {name}")
    raise unknown(name, known, otherwise)


def is_checkpoint(name: str) -> bool:
    """Whether `find_checkpoint` finds something."""
    return name in checkpoints() or bool(tags_of(name))


def tags_of(architecture: str) -> list[str]:
    """Names of an architecture's checkpoints, the one first that the architecture's name alone stands for."""
    return [name for name, entry in checkpoints().items() if entry.architecture == architecture]


def reads_words(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is a detector for any words: its text encoder comes with it."""
    return checkpoint.is_foreign and isinstance(model_config(checkpoint.name).head, GroundedATSSConfig)


def nearest_checkpoint(architecture: str) -> str:
    """The checkpoint whose detector is most like an architecture: of the same head, then of a similar backbone."""
    wanted = ARCHITECTURES[architecture]()

    def likeness(name: str) -> tuple[bool, float]:
        config = model_config(name)
        backbones = difflib.SequenceMatcher(None, wanted.backbone.name, config.backbone.name)
        return config.head.type == wanted.head.type, backbones.ratio()

    return max(checkpoints(), key=likeness)


def unknown(name: str, known: Iterable[str], otherwise: str = "") -> UnknownModelError:
    """The error about a name that is none of `known`, with the nearest of them; `otherwise` ends the question."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or sorted(names)[:3]
    return UnknownModelError(
        " ".join(filter(None, [f"no model is called {name!r}: did you mean {', '.join(near)}", otherwise])) + "?"
    )
