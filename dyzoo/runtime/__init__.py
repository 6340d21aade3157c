"""Detectors that run outside of PyTorch, with `predict` and `evaluate` as every other."""
