"""Launches of Triton kernels: tables of maps and tiles, launch parameters, products, sums in parts."""
