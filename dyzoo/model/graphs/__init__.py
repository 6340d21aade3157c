"""CUDA graphs of a network: one for each size of its batches, replayed wherever that changes nothing but the time."""

from dyzoo.model.graphs.replaying import forget, raw_maps

__all__ = ["forget", "raw_maps"]
