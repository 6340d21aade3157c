"""Reading ONNX files of strangers: whether they are what `dyzoo export` writes, before anything is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dyzoo.config import DetectorConfig
from dyzoo.errors import CheckpointError, first_line
from dyzoo.files import read_regular

MOST_BYTES = 2**31 - 1  # of a protocol buffer
INPUTS = {"uint8", "float32"}
WAY_OUT = "export it with `dyzoo export`"


def read_detector(path: Path) -> tuple[bytes, DetectorConfig, dict[str, str]]:
    """Content, configuration and metadata of a file.

    Raises:
        CheckpointError: it is no ONNX file, keeps weights in other files, uses operators of another domain than
            ONNX's, loops, or does not say that it takes pictures and gives detections.
        OSError: it cannot be read, is no regular file, or too large.
    """
    import onnx

    content = read_regular(path, MOST_BYTES)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's, which differs between its implementations
        raise CheckpointError(f"{path} is no ONNX file: {first_line(error)}") from None
    if not model.HasField("graph"):
        raise CheckpointError(f"{path} is no ONNX file: it has no graph")
    if model.functions or {opset.domain for opset in model.opset_import} - {"", "ai.onnx"}:
        raise CheckpointError(f"{path} has operators of its own, expected ONNX's alone: {WAY_OUT}")
    _check_parts(model, path)
    told = {entry.key: entry.value for entry in model.metadata_props}
    return content, told_config(told, path), told


def told_config(told: Mapping[str, str], path: Path) -> DetectorConfig:
    """The configuration in the metadata of a file that takes pictures and gives detections.

    Raises:
        CheckpointError: there is none, none that can be used, or the file says that it is something else.
    """
    if missing := [key for key in ("config", "input", "output") if key not in told]:
        raise CheckpointError(f"{path} does not say its {', '.join(missing)}, expected metadata of dyzoo: {WAY_OUT}")
    if told["output"] != "detections" or told["input"] not in INPUTS:
        raise CheckpointError(
            f"{path} takes {told['input'][:20]!r} and gives {told['output'][:20]!r}, expected pictures and detections: "
            f"{WAY_OUT} and without --no-decode and --no-preprocess"
        )
    try:
        config = DetectorConfig.from_json(told["config"])
        config.check()
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} has a configuration that cannot be used: {first_line(error)}") from None
    if not config.labels:
        raise CheckpointError(f"{path} names no classes, expected at least one label in its configuration")
    if "labels" in told and not _are_names(told["labels"], config.labels):
        raise CheckpointError(f"{path} has other labels in its metadata than in its configuration: {WAY_OUT}")
    return config


def _are_names(text: str, labels: tuple[str, ...]) -> bool:
    """Whether JSON holds these names."""
    try:
        return bool(json.loads(text) == list(labels))
    except (ValueError, RecursionError):
        return False


def _check_parts(message: Any, path: Path) -> None:
    """Refuse tensors whose values lie in another file, or that are larger than the file, and graphs within the graph.

    A loop need not end; without one, each operator runs once.
    """
    import onnx

    waiting = [message]
    while waiting:
        each = waiting.pop()
        if isinstance(each, onnx.TensorProto):
            if each.external_data or each.data_location == onnx.TensorProto.EXTERNAL:
                raise CheckpointError(f"{path} keeps weights in another file, expected all in one: {WAY_OUT}")
            continue
        if isinstance(each, onnx.SparseTensorProto):
            raise CheckpointError(f"{path} has sparse tensors, expected whole ones: {WAY_OUT}")
        if isinstance(each, onnx.AttributeProto) and (each.HasField("g") or each.graphs):
            raise CheckpointError(f"{path} has loops or branches, expected operators that run once: {WAY_OUT}")
        for field, value in each.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "ListFields") else list(value)
