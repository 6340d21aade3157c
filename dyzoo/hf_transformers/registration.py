"""transformers' auto classes learn what dyzoo's model type is."""

from __future__ import annotations

from inspect import signature
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection

from dyzoo.config.transformers_keys import MODEL_TYPE
from dyzoo.hf_transformers.configuration import DyzooConfig
from dyzoo.hf_transformers.model import DyzooForObjectDetection
from dyzoo.hf_transformers.processing import DyzooImageProcessor


def register() -> None:
    """Have the auto classes load folders and repositories of detectors with the classes of this package."""
    AutoConfig.register(MODEL_TYPE, DyzooConfig, exist_ok=True)
    AutoModelForObjectDetection.register(DyzooConfig, DyzooForObjectDetection, exist_ok=True)
    if "image_processor_classes" in signature(AutoImageProcessor.register).parameters:  # transformers 5
        given: dict[str, Any] = {"image_processor_classes": dict.fromkeys(("torchvision", "pil"), DyzooImageProcessor)}
    else:
        given = {"slow_image_processor_class": DyzooImageProcessor}
    AutoImageProcessor.register(DyzooConfig, **given, exist_ok=True)
