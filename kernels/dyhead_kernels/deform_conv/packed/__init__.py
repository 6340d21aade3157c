"""Modulated deformable convolution of many maps at once, packed one after the other."""
