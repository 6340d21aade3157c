"""Datasets: COCO JSON, YOLO and Pascal VOC folders as one dataset type, its transforms and its loader.

The names below load their modules when first used: what is there to look at label files needs no torchvision.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyzoo.config import TransformConfig as TransformConfig
    from dyzoo.data.dataset import DetectionDataset as DetectionDataset
    from dyzoo.data.formats.registry import list_splits as list_splits
    from dyzoo.data.loader import build_loader as build_loader
    from dyzoo.data.loader import collate as collate
    from dyzoo.data.opening import open_dataset as open_dataset
    from dyzoo.data.records import Sample as Sample
    from dyzoo.data.tools.check import check_dataset as check_dataset
    from dyzoo.data.tools.convert import Conversion as Conversion
    from dyzoo.data.tools.convert import convert_dataset as convert_dataset
    from dyzoo.data.tools.labelling import Labelling as Labelling
    from dyzoo.data.tools.labelling import label_images as label_images
    from dyzoo.data.tools.report import DatasetReport as DatasetReport
    from dyzoo.data.tools.report import Finding as Finding
    from dyzoo.data.transforms import eval_transform as eval_transform
    from dyzoo.data.transforms import train_transform as train_transform

_HOMES = {
    "Conversion": "dyzoo.data.tools.convert",
    "DatasetReport": "dyzoo.data.tools.report",
    "DetectionDataset": "dyzoo.data.dataset",
    "Finding": "dyzoo.data.tools.report",
    "Labelling": "dyzoo.data.tools.labelling",
    "Sample": "dyzoo.data.records",
    "TransformConfig": "dyzoo.config",
    "build_loader": "dyzoo.data.loader",
    "check_dataset": "dyzoo.data.tools.check",
    "collate": "dyzoo.data.loader",
    "convert_dataset": "dyzoo.data.tools.convert",
    "eval_transform": "dyzoo.data.transforms",
    "label_images": "dyzoo.data.tools.labelling",
    "list_splits": "dyzoo.data.formats.registry",
    "open_dataset": "dyzoo.data.opening",
    "train_transform": "dyzoo.data.transforms",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dyzoo.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
