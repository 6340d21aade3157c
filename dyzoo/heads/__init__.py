"""Detection heads: raw predictions, losses and decoding over the attended feature levels."""

from dyzoo.heads.atss import ATSSHead

__all__ = ["ATSSHead"]
