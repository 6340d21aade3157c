"""Checkpoints of other code bases: safe reading, and exact conversion to a `Detector`."""

from dyzoo.checkpoints.conversion import Conversion, convert, convert_checkpoint

__all__ = ["Conversion", "convert", "convert_checkpoint"]
