"""Detectors for inference on a CPU: norms folded, activations fused, weights packed for oneDNN."""

from dyzoo.model.optimization.detector import OptimizedDetector

__all__ = ["OptimizedDetector"]
