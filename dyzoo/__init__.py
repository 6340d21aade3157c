"""dyzoo: Dynamic Head object detectors over timm backbones.

The public names below load their modules when first used, so that `import dyzoo` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dyzoo._version import __version__

if TYPE_CHECKING:
    from dyzoo.checkpoints import convert_checkpoint as convert_checkpoint
    from dyzoo.dyhead import DyHead as DyHead
    from dyzoo.evaluation import evaluate as evaluate
    from dyzoo.images.detections import Detections as Detections
    from dyzoo.model.detector import Detector as Detector
    from dyzoo.model.fixed_size import FixedSizeDetector as FixedSizeDetector
    from dyzoo.prediction import predict_to_folder as predict_to_folder
    from dyzoo.prediction import track as track
    from dyzoo.training import TrainConfig as TrainConfig
    from dyzoo.training import train as train
    from dyzoo.zoo.creation import create_model as create_model
    from dyzoo.zoo.creation import load as load
    from dyzoo.zoo.names import list_models as list_models
    from dyzoo.zoo.pushing import push_run as push_run

_HOMES = {
    "Detections": "dyzoo.images.detections",
    "Detector": "dyzoo.model.detector",
    "DyHead": "dyzoo.dyhead",
    "FixedSizeDetector": "dyzoo.model.fixed_size",
    "TrainConfig": "dyzoo.training",
    "convert_checkpoint": "dyzoo.checkpoints",
    "create_model": "dyzoo.zoo.creation",
    "evaluate": "dyzoo.evaluation",
    "list_models": "dyzoo.zoo.names",
    "load": "dyzoo.zoo.creation",
    "predict_to_folder": "dyzoo.prediction",
    "push_run": "dyzoo.zoo.pushing",
    "track": "dyzoo.prediction",
    "train": "dyzoo.training",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dyzoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
