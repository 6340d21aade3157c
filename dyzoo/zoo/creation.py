"""The model zoo: detectors by the name of an architecture, a checkpoint, a folder, a repository or a file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

from dyzoo import hub
from dyzoo.checkpoints import glip
from dyzoo.checkpoints.conversion import candidates
from dyzoo.config import GroundedATSSConfig
from dyzoo.config.detector import MAX_LABELS
from dyzoo.errors import CheckpointError, DyzooWarning
from dyzoo.files import sha256
from dyzoo.hub import Token
from dyzoo.hub.cards import CARD_NAME
from dyzoo.hub.ids import CONFIG_NAME, WEIGHTS_NAME
from dyzoo.hub.run_card import BEST_NAME
from dyzoo.model.detector import Detector
from dyzoo.model.transfer import start_from
from dyzoo.runtime.loading import SUFFIXES, load_exported
from dyzoo.zoo.catalog import Checkpoint, entries_of, weights_folder
from dyzoo.zoo.fetching import fetch_foreign
from dyzoo.zoo.names import find_checkpoint, is_checkpoint, model_config, reads_words
from dyzoo.zoo.origins import convert_file
from dyzoo.zoo.store import Provenance, check_hash, kept, mend_hint
from dyzoo.zoo.words import for_words

_OTHER_PLACES = f"or a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, or org/name on the Hugging Face Hub"


class NewClassesWarning(DyzooWarning):
    """Some classes of a pretrained detector have no trained weights."""


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    labels: Sequence[str] | None = None,
    num_classes: int | None = None,
    backbone: str | None = None,
    pretrained_backbone: bool | str | Path = False,
) -> Detector:
    """Build a detector by name, in evaluation mode: call `train()` on it for losses.

    Args:
        name: an architecture, or with `pretrained` a checkpoint `architecture.tag`; without a tag, the
            architecture's first in the catalogue, which `dyzoo list` marks.
        pretrained: load the checkpoint's weights. Those that another code base has published are fetched and converted
            the first time, and kept.
        labels: class names of a new detector, default COCO's 80; with `pretrained` those of the checkpoint. Other ones
            keep what the checkpoint knows of a class of the same name; the rest begin anew, with a warning. Where
            classes are words (`mmdet_glip_t_a`), any names are read, and nothing begins anew.
        num_classes: in place of `labels`, as timm has it: classes called class_0, class_1, ...
        backbone: any other timm backbone with maps of strides 8, 16 and 32, and 4 for Faster R-CNN.
        pretrained_backbone: start from timm's published backbone weights, or from a local file of them.

    Raises:
        UnknownModelError: no such architecture, checkpoint or backbone; the message suggests the nearest names.
        CheckpointError: the weights are missing or not those of the catalogue.
        HubError: they are to be fetched, and neither where they are nor what is kept here has them to give.
        LabelError: classes are words, and a name cannot be read.
        ValueError: `pretrained` together with `backbone`, which belongs to a new detector; `num_classes` together with
            `labels`, out of its range, or where classes are words.
    """
    if num_classes is not None:
        if pretrained and reads_words(find_checkpoint(name)):
            raise ValueError(f"the classes of {name} are words: name them with labels= in place of num_classes")
        labels = _numbered(num_classes, labels)
    if pretrained:
        if backbone is not None:
            raise ValueError("the backbone comes with a pretrained detector: leave it out, or pretrained=False")
        return with_labels(load_checkpoint(name, labels), labels)
    config = model_config(name)
    if labels is not None:
        config = config.with_labels(labels)
    if backbone is not None:
        config = replace(config, backbone=replace(config.backbone, name=backbone))
    if isinstance(pretrained_backbone, str):
        pretrained_backbone = Path(pretrained_backbone)
    return Detector(config, pretrained_backbone).eval()


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    labels: Sequence[str] | None = None,
    architecture: str | None = None,
    revision: str | None = None,
    token: Token = None,
) -> Detector:
    """A trained detector from wherever it is, in evaluation mode.

    Args:
        source: a checkpoint's name (`dyzoo list`), a folder that `save_pretrained` wrote, the folder of a training run,
            a repository of the Hugging Face Hub (`org/name`, `org/name@revision`, `hf-hub:org/name`), a file of
            another code base, which is converted, or an ONNX or OpenVINO (.xml) file that `export` wrote: what comes
            then is a `dyzoo.runtime.exported_detector.ExportedDetector`, which predicts and is evaluated on the CPU.
            A folder or file is preferred to a repository of the same name; a name that ends in .onnx, .xml or .pt2 is
            that of a file, unless it begins with `hf-hub:`.
        device: device of the model.
        labels: class names. Of a file: those of its outputs, where it does not name them. Of a file or a checkpoint
            whose classes are words: any. Otherwise others than the detector's begin anew, with a warning, and those of
            the same name keep what they have learnt.
        architecture: what a file is of, one of `dyzoo convert`'s names; a file that the catalogue knows by its hash
            needs none.
        revision: branch, tag or commit of a repository.
        token: for a private repository.

    Raises:
        UnknownModelError: it is none of these; the message suggests the nearest names.
        CheckpointError: its files are missing or damaged, or a file is of no architecture that is given or known.
        OSError: an exported detector's file cannot be read, or is no regular one.
        HubError: it is to be fetched, and neither where it is nor what is kept here has it to give.
        LabelError: classes are words, and a name cannot be read.
        ValueError: `architecture`, `revision` or `token` for something else than what they are for.
    """
    text = str(source)
    path = Path(text).expanduser()
    is_exported = is_exported_file(text)
    is_repository = not path.exists() and hub.is_hub_id(text) and not is_exported
    is_foreign = path.is_file() and not _is_own(path) and not is_exported
    for name, value, fits in (
        ("architecture", architecture, is_foreign),
        ("revision", revision, is_repository),
        ("token", token, is_repository),
    ):
        if value is not None and not fits:
            kind = "a file of another code base" if name == "architecture" else "a repository, org/name"
            raise ValueError(f"{name} is for {kind}, and {text!r} is none: leave it out")
    if is_exported:
        return _load_exported(path, torch.device(device), labels)
    if is_repository:
        detector = Detector.from_pretrained(text, device, revision=revision, token=token)
    elif is_foreign:
        return convert_file(path, architecture or _architecture(path), labels).detector.to(device)
    elif path.is_dir():
        best = path / BEST_NAME
        detector = Detector.from_pretrained(best if best.is_dir() else path, device)
    elif path.is_file():
        detector = Detector.from_pretrained(path.parent, device)
    else:
        detector = load_checkpoint(text, labels, _OTHER_PLACES)
    return with_labels(detector, labels).to(device)


def load_model(
    name_or_folder: str | Path, device: str | torch.device = "cpu", words: Sequence[str] | None = None
) -> Detector:
    """`load` as the command line's `--model` does it: `words` are the classes of a detector that takes any, and nothing
    to another."""
    labels = words if words is not None and takes_words(name_or_folder) else None
    return load(name_or_folder, device=device, labels=labels)


def takes_words(source: str | Path) -> bool:
    """Whether `load(source, labels=...)` makes a detector for any words of it; nothing is fetched.

    Raises:
        CheckpointError: it is a file of another code base that the catalogue does not know by its hash.
    """
    path = Path(source).expanduser()
    if path.is_file() and not _is_own(path):
        return not is_exported_file(path) and _architecture(path) in glip.KEY_RULES
    return not path.exists() and is_checkpoint(str(source)) and reads_words(find_checkpoint(str(source)))


def is_exported_file(source: str | Path) -> bool:
    """Whether it is the file of an exported detector, there or not, by its name."""
    path = Path(source).expanduser()
    return path.suffix.lower() in SUFFIXES and not path.is_dir() and not hub.has_prefix(str(source))


def _load_exported(path: Path, device: torch.device, labels: Sequence[str] | None) -> Detector:
    if device.type != "cpu":
        raise CheckpointError(f"device is {device}, expected cpu: that is where {path} is run")
    if not path.exists():
        raise CheckpointError(
            f"{path} is not there, expected a file of `dyzoo export`; a repository is called hf-hub:{path}"
        )
    detector = load_exported(path)
    if labels is not None and tuple(labels) != detector.labels:
        raise CheckpointError(f"labels are other ones than those of {path}, which cannot learn any: leave them out")
    return detector  # type: ignore[return-value] # which it is to those who predict


def _numbered(num_classes: int, labels: Sequence[str] | None) -> list[str]:
    if labels is not None:
        raise ValueError("num_classes and labels are both given: leave num_classes out, the labels say how many")
    if not 1 <= num_classes <= MAX_LABELS:
        raise ValueError(f"num_classes is {num_classes}, expected 1 to {MAX_LABELS}")
    return [f"class_{index}" for index in range(num_classes)]


def _is_own(path: Path) -> bool:
    """Whether a file is the weights of a detector whose configuration lies beside."""
    return path.name == WEIGHTS_NAME and path.with_name(CONFIG_NAME).is_file()


def _architecture(path: Path) -> str:
    """The architecture that a file of another code base is of, by its hash.

    Raises:
        CheckpointError: the catalogue does not know it; the message says which architectures its keys fit.
    """
    digest = sha256(path)
    known = {entry.architecture for entry in entries_of(digest)}
    if len(known) == 1:
        return known.pop()
    fitting = candidates(path)
    hint = f"it has the keys of {' or '.join(fitting)}" if fitting else "it has the keys of none that can be converted"
    raise CheckpointError(f"{path} is no file of the catalogue, architecture= has to say what it is of: {hint}")


def load_checkpoint(name: str, labels: Sequence[str] | None = None, otherwise: str = "") -> Detector:
    """The detector of a checkpoint of the catalogue; `otherwise` ends the question about an unknown name.

    `labels` are its classes where these are words; of another detector they are not asked for.

    Raises as `create_model` does.
    """
    checkpoint = find_checkpoint(name, otherwise)
    # before anything is fetched, since a name may not be one that can be read
    captions = glip.read_names(labels) if labels is not None and reads_words(checkpoint) else None
    detector = _load_files(checkpoint)
    if labels is None or captions is None or tuple(labels) == detector.labels:
        return detector
    return for_words(checkpoint, detector, labels, captions)


def _load_files(checkpoint: Checkpoint) -> Detector:
    files = _locate(checkpoint)
    for path in (files.config, files.weights):
        if not path.is_file():
            raise CheckpointError(f"{path} of {checkpoint.name} is not there: {files.mend_hint}")
    check_hash(files.weights, files.sha256, files.mend_hint)
    detector = Detector.from_files(files.config, files.weights, repo_id=checkpoint.repo_id, mend_hint=files.mend_hint)
    detector.adopt_card(files.weights.with_name(CARD_NAME))
    return detector


def is_here(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint loads without network."""
    if checkpoint.is_foreign:
        return kept(checkpoint) is not None
    if checkpoint.repo_id is None:
        return (weights_folder() / str(checkpoint.folder) / checkpoint.file).is_file()
    return hub.is_cached(checkpoint.repo_id, _file_names(checkpoint), revision=checkpoint.revision)


def fetch_checkpoint(checkpoint: Checkpoint) -> Path:
    """The folder of a checkpoint's files, which are fetched if they are not here yet; raises as `create_model` does."""
    if reads_words(checkpoint):
        return fetch_foreign(checkpoint, for_words=True)
    return _locate(checkpoint).config.parent


class _Files(NamedTuple):
    config: Path
    weights: Path
    sha256: str | None
    mend_hint: str


def _locate(checkpoint: Checkpoint) -> _Files:
    """A checkpoint's files, the sha256 of its weights, and what to do where that is another."""
    if checkpoint.is_foreign:
        folder = fetch_foreign(checkpoint)
        provenance = Provenance.read(folder)
        expected = None if provenance is None else provenance.weights_sha256
        return _Files(folder / CONFIG_NAME, folder / WEIGHTS_NAME, expected, mend_hint(checkpoint.name))
    names = _file_names(checkpoint)
    if checkpoint.repo_id is None:
        folder = weights_folder() / str(checkpoint.folder)
        return _Files(folder / names[0], folder / names[1], checkpoint.sha256, "install dyzoo again")
    config, weights = hub.download(checkpoint.repo_id, names, revision=checkpoint.revision)
    return _Files(config, weights, checkpoint.sha256, hub.mend_hint(checkpoint.repo_id, checkpoint.revision))


def _file_names(checkpoint: Checkpoint) -> tuple[str, str]:
    """Names of a checkpoint's configuration and weights in its folder or repository."""
    return str(PurePosixPath(checkpoint.file).with_name(CONFIG_NAME)), checkpoint.file


def with_labels(source: Detector, labels: Sequence[str] | None) -> Detector:
    """A detector of these classes that begins with what another has learnt; the other itself where they are its own."""
    if labels is None or tuple(labels) == source.labels:
        return source
    model = Detector(source.config.with_labels(labels))
    old, new = start_from(model, source)
    if new:
        shown = ", ".join(new[:5]) + (f" and {len(new) - 5} more" if len(new) > 5 else "")
        warnings.warn(
            f"{len(old)} of {len(model.labels)} classes are known to the pretrained {source.config.architecture}; the "
            f"class layer begins anew for {shown}: train before you predict{_where_words_are_read(source)}",
            NewClassesWarning,
            stacklevel=3,
        )
    return model.eval()


def _where_words_are_read(source: Detector) -> str:
    """The end of a warning about new classes, where the text encoder could have read them but is not beside them."""
    if not isinstance(source.config.head, GroundedATSSConfig):
        return ""
    name = source.config.architecture
    return f", or let {name} read the names (dyzoo.load({name!r}, labels=[...]), or `dyzoo convert --labels`)"
