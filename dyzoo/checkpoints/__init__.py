"""Checkpoints of other code bases: safe reading, and exact conversion to a `Detector`."""

from dyzoo.checkpoints.conversion import ConvertedCheckpoint, convert, convert_checkpoint

__all__ = ["ConvertedCheckpoint", "convert", "convert_checkpoint"]

Conversion = ConvertedCheckpoint  # its name in version 0.1
