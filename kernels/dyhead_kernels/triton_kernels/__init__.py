"""The Triton kernels and their launches. Importing this package needs Triton; nothing else of dyhead_kernels does."""
