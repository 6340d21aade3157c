"""Files by which the Hugging Face library transformers takes a folder of weights for one of its models.

`config.json` names the classes (`dyzoo.config.transformers_keys`); the code beside it does no more than import them
from `dyzoo.hf_transformers`. dyzoo itself reads neither file.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from dyzoo.config import DetectorConfig, PreprocessConfig
from dyzoo.config.transformers_keys import (
    CODE_NAME,
    CONFIG_CLASS,
    MODEL_CLASS,
    PIPELINE_CLASS,
    PROCESSOR_CLASS,
    auto_map,
)

PROCESSOR_NAME = "preprocessor_config.json"

_CODE = f'''\
"""This repository's detector for transformers. Its code is in the package dyzoo: only this import is run from here."""

try:
    from dyzoo.hf_transformers import (  # noqa: F401
        {CONFIG_CLASS},
        {MODEL_CLASS},
        {PROCESSOR_CLASS},
        {PIPELINE_CLASS},
    )
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] != "dyzoo":
        raise
    raise ImportError(
        "this detector's code is in the package dyzoo, which is missing or older than the detector: "
        "pip install dyzoo, or pip install --upgrade dyzoo"
    ) from None
'''


def processor_values(preprocess: PreprocessConfig, inclusive_corners: bool) -> dict[str, Any]:
    """The content of `preprocessor_config.json`.

    Args:
        preprocess: how pictures become the network's input.
        inclusive_corners: how boxes are brought to another size, see `dyzoo.model.heads.base.Head`.
    """
    return {
        "image_processor_type": PROCESSOR_CLASS,
        "auto_map": auto_map("AutoImageProcessor"),
        **asdict(preprocess),
        "inclusive_corners": inclusive_corners,
    }


def processor_json(preprocess: PreprocessConfig, inclusive_corners: bool) -> str:
    """The text of `preprocessor_config.json`; arguments as for `processor_values`."""
    return json.dumps(processor_values(preprocess, inclusive_corners), indent=2) + "\n"


def remote_files(config: DetectorConfig) -> dict[str, str]:
    """Names and texts of the files beside the configuration and weights of a detector."""
    return {CODE_NAME: _CODE, PROCESSOR_NAME: processor_json(config.preprocess, config.inclusive_corners)}
