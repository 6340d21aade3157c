"""The namespace of this package's operators: `torch.ops.<the name that the package is imported under>`.

Installed, that is `torch.ops.dyhead_kernels`. A copy from the Hugging Face Hub is imported under its build's id, so
it lives beside an installed package and beside other builds, and none takes the operators of another: PyTorch replaces
an operator that is registered twice without a word. The names are those of the `_ops.py` that Hugging Face's kernel
builder writes.
"""

from __future__ import annotations

from typing import Any

import torch

NAMESPACE = __name__.rpartition(".")[0].replace(".", "_")

ops: Any = getattr(torch.ops, NAMESPACE)


def add_op_namespace_prefix(name: str) -> str:
    """The full name of an operator: "deform_conv" -> "dyhead_kernels::deform_conv"."""
    return f"{NAMESPACE}::{name}"
