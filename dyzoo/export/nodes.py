"""Nodes of the graph that is being built, and constants among them."""

from __future__ import annotations

from typing import Any


class _Opset:
    """Opset 20, which is loaded when the first node is made: programs of PyTorch are exported without."""

    def __getattr__(self, name: str) -> Any:
        from onnxscript import opset20

        return getattr(opset20, name)


op: Any = _Opset()  # typed less narrowly than its methods, which take more than they say
Value = Any
"""A value of the graph."""

FLOAT, INT64 = 1, 7
"""ONNX's numbers of the types that values are cast to."""


def scalar(value: float) -> Value:
    """A constant without dimensions: int64 or float32, as it is written."""
    return op.Constant(value_int=value) if isinstance(value, int) else op.Constant(value_float=value)


def vector(*values: float) -> Value:
    """A constant of one dimension: int64 or float32, as they are written."""
    if isinstance(values[0], int):
        return op.Constant(value_ints=list(values))
    return op.Constant(value_floats=list(values))


def scalar_like(value: float, like: Value) -> Value:
    """A constant without dimensions, of the type of another value."""
    return op.CastLike(op.Constant(value_float=value), like)
