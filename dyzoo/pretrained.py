"""Detectors on disk: `config.json` beside `model.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dyzoo.config import DetectorConfig
from dyzoo.errors import CheckpointError
from dyzoo.files import replacing, write_text

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


ModelT = TypeVar("ModelT", bound="PretrainedModel")


class PretrainedModel(nn.Module):
    """Saving and loading of a model that its configuration describes."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; predicted labels index into them."""
        return self.config.labels

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write `config.json` and `model.safetensors` into `folder`, each aside and then renamed.

        Args:
            folder: made if absent.
            dtype: store floating-point weights in this type (`torch.float16` halves the file); None keeps theirs.
        """
        folder = Path(folder)
        weights = {
            name: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
            for name, value in self.state_dict().items()
        }
        write_text(folder / CONFIG_NAME, self.config.to_json())
        with replacing(folder / WEIGHTS_NAME) as aside:
            save_file(weights, aside, metadata={"format": "pt", "architecture": self.config.architecture})

    @classmethod
    def from_pretrained(cls: type[ModelT], folder: str | Path, device: str | torch.device = "cpu") -> ModelT:
        """Load what `save_pretrained` wrote, in evaluation mode.

        Raises:
            CheckpointError: the folder or one of its files is missing, damaged, or the weights are of another
                architecture than `config.json` describes.
        """
        folder = Path(folder)
        config_path, weights_path = folder / CONFIG_NAME, folder / WEIGHTS_NAME
        for path in (config_path, weights_path):
            if not path.is_file():
                raise CheckpointError(f"{folder} has no {path.name}, expected a folder written by save_pretrained")
        try:
            config_text = config_path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"{config_path} is not a text file") from None
        model = cls(DetectorConfig.from_json(config_text, config_path))
        try:
            weights = load_file(weights_path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{weights_path} is damaged or no safetensors file: {error}") from None
        model.load_weights(weights, str(weights_path))
        return model.eval().to(device)

    def load_weights(self, weights: dict[str, Tensor], source: str) -> None:
        """Fill every parameter and buffer from `weights`, cast to their types; `source` leads error messages.

        Raises:
            CheckpointError: a tensor is missing, unknown or of another shape; nothing has been changed then.
        """
        own = self.state_dict()
        hint = f"these weights are not of {self.config.architecture} with {len(self.labels)} classes"
        if missing := sorted(own.keys() - weights.keys()):
            raise CheckpointError(f"{source} lacks {missing[0]!r} and {len(missing) - 1} more: {hint}")
        if unknown := sorted(weights.keys() - own.keys()):
            raise CheckpointError(f"{source} has the unknown {unknown[0]!r} and {len(unknown) - 1} more: {hint}")
        for name, value in own.items():
            if value.shape != weights[name].shape:
                raise CheckpointError(
                    f"{source}: {name!r} is {tuple(weights[name].shape)}, expected {tuple(value.shape)}: {hint}"
                )
        self.load_state_dict(weights)
