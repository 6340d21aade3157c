"""timm models that give feature maps, with the weights that timm publishes or without."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import timm
from timm.models import is_model_in_modules

from dyzoo import hub
from dyzoo.config import BackboneConfig
from dyzoo.errors import DyzooError, UnknownModelError, first_line

TIMM_WEIGHTS_NAME = "model.safetensors"
WITHOUT_WEIGHTS = "or start without them (--no-pretrained-backbone, pretrained_backbone=False)"


def create_timm_model(config: BackboneConfig, pretrained: bool | Path) -> Any:
    name = config.name
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() names those there are"
        raise UnknownModelError(f"timm has no backbone {name!r}: {hint}")
    options: dict[str, Any] = {}
    if is_model_in_modules(architecture, ["swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr"]):
        # without always_partition a stage smaller than the window at 224 px silently loses its shift at larger sizes
        options = {"strict_img_size": False, "always_partition": True}
    if config.drop_path_rate:
        options["drop_path_rate"] = config.drop_path_rate
    file = _published_weights(name) if pretrained is True else pretrained
    if file:
        if not file.is_file():
            raise UnknownModelError(f"backbone weights {file} are no file: name a .safetensors or .pth of {name}")
        options["pretrained_cfg_overlay"] = {"file": str(file)}
        if pretrained is True:  # what it publishes as safetensors is no archive of the first authors'
            options["pretrained_cfg_overlay"]["custom_load"] = False
    try:
        return timm.create_model(name, features_only=True, pretrained=bool(pretrained), **options)
    except Exception as error:  # each model has a way of its own to say that it has no maps
        if not pretrained:
            raise UnknownModelError(f"backbone {name!r} gives no feature maps: {first_line(error)}") from error
        raise UnknownModelError(
            f"timm's weights for {name!r} cannot be loaded ({first_line(error)}): {WITHOUT_WEIGHTS}"
        ) from error


def _published_weights(name: str) -> Path | Literal[False]:
    """The file that timm publishes on the Hub; False where it publishes another way, which is then left to timm.

    Fetched here and not by timm, which asks for half a minute and more where there is no network, and which would also
    take a pickled file.
    """
    try:
        published = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UnknownModelError(f"timm has no weights {name!r}: {first_line(error)}") from error
    if published is None or not published.hf_hub_id or published.hf_hub_filename:
        return False
    try:
        return hub.download(published.hf_hub_id, (TIMM_WEIGHTS_NAME,))[0]
    except DyzooError as error:
        raise UnknownModelError(f"timm's weights for {name!r}: {error}; {WITHOUT_WEIGHTS}") from error
