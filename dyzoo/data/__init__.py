"""Datasets: COCO JSON, YOLO and Pascal VOC folders as one dataset type, its transforms and its loader."""

from dyzoo.data.check import check_dataset
from dyzoo.data.convert import Conversion, convert_dataset
from dyzoo.data.dataset import DetectionDataset
from dyzoo.data.formats import list_splits, open_dataset
from dyzoo.data.loader import build_loader, collate
from dyzoo.data.records import Sample
from dyzoo.data.report import DatasetReport, Finding
from dyzoo.data.transforms import TransformConfig, eval_transform, train_transform

__all__ = [
    "Conversion",
    "DatasetReport",
    "DetectionDataset",
    "Finding",
    "Sample",
    "TransformConfig",
    "build_loader",
    "check_dataset",
    "collate",
    "convert_dataset",
    "eval_transform",
    "list_splits",
    "open_dataset",
    "train_transform",
]
