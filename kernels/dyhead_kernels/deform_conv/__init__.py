"""Modulated deformable convolution of one map."""
