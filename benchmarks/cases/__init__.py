"""What is measured: operators by name, each with the providers that compute it."""

from benchmarks.cases.case import Case, Provider
from benchmarks.cases.convolution import convolution
from benchmarks.cases.head import head

CASES = {"convolution": convolution, "head": head}

__all__ = ["CASES", "Case", "Provider"]
