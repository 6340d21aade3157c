"""A language model as a safetensors file, beside the detector that its words are for."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from dyzoo.errors import CheckpointError, first_line
from dyzoo.files import check_regular, replacing
from dyzoo.grounding.bert import BERT_BASE
from dyzoo.grounding.folding import LanguageModel


def write_language(model: LanguageModel, path: Path) -> None:
    """Write the weights as they are, float32; aside and then renamed.

    Raises:
        OSError: the disk is full or may not be written to.
        CheckpointError: safetensors cannot write it.
    """
    with replacing(path) as aside:
        try:
            save_file(model.state_dict(), aside, metadata={"format": "pt"})
        except SafetensorError as error:
            raise CheckpointError(f"{path} cannot be written: {first_line(error)}") from None


def read_language(path: Path, channels: int, mend_hint: str) -> LanguageModel:
    """The model that `write_language` wrote, on the CPU. Names, shapes and types are compared before any value is read.

    Args:
        path: the file.
        channels: C of the features that its layers are applied to.
        mend_hint: advice for a file that is not right; it ends the message.

    Raises:
        CheckpointError: it is absent, damaged, or of another model.
    """
    with torch.device("meta"):
        model = LanguageModel(channels, BERT_BASE)
    expected = {name: ("F32", list(value.shape)) for name, value in model.state_dict().items()}
    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            names: list[str] = list(file.keys())
            parts = {name: file.get_slice(name) for name in names}
            found = {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
        if found != expected:
            raise CheckpointError(f"{path} does not hold the text encoder of this detector: {mend_hint}")
        model.take_weights(load_file(path))
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise CheckpointError(f"{path} is damaged or no safetensors file ({reason}): {mend_hint}") from None
    return model
