"""Operators as graphs that onnxruntime runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn


def onnx_answers(
    module: nn.Module, inputs: tuple[Any, ...], shapes: Any, translations: dict[Any, Any], path: Path, given: Any = None
) -> list[np.ndarray]:
    """Export a module with dynamic shapes and run it on `given`, flat, or on what it was traced with."""
    with torch.no_grad():
        program = torch.export.export(module.eval(), inputs, dynamic_shapes=shapes, strict=False)
    exported = torch.onnx.export(
        program, dynamo=True, opset_version=20, verbose=False, optimize=False, custom_translation_table=translations
    )
    assert exported is not None
    exported.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values: list[Tensor] = torch.utils._pytree.tree_leaves(inputs) if given is None else given
    names = [value.name for value in session.get_inputs()]
    answers: list[np.ndarray] = session.run(None, {n: v.numpy() for n, v in zip(names, values, strict=True)})
    return answers
