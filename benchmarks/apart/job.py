"""One measurement as plain values, which a process of its own takes: what to build, who computes it, with how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..cases import CASES, Case, Setup
from ..cases.blocks import block, head
from ..cases.case import BLOCKS, CHANNELS
from ..cases.deform_conv import deform_conv
from ..cases.detector import ARCHITECTURE, detector
from ..options import EMBEDDED
from ..precision import PRECISIONS
from ..providers import PROVIDERS
from .detectors import DETECTORS

PRECISION = PRECISIONS["float32"]
EMBEDDED_CHECKPOINT = "dyhead_atss_resnet10t.bccd"
TRUTH, EXPORT = "truth", "export"
"""Jobs that measure nothing: they write what the others compare with and what onnxruntime runs."""
ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a case.

    Attributes:
        channels, blocks: not of detectors, whose architecture says it.
        architecture: for the case `detector`.
        classes: for the case `detector`; None for those of the architecture.
    """

    height_px: int
    width_px: int
    batch: int = 1
    channels: int = CHANNELS
    blocks: int = BLOCKS
    architecture: str = ARCHITECTURE
    classes: int | None = None


@dataclass(frozen=True)
class Job:
    """The measurement of one process.

    Attributes:
        case: one of `options.CPU_CASES`.
        pass_: "forward" or "training step".
        provider: a key of `PROVIDERS` or `DETECTORS`, `ONNXRUNTIME`, `TRUTH` or `EXPORT`.
        threads: of PyTorch and of onnxruntime.
        folder: where the files of `TRUTH` and `EXPORT` lie; "" to compare with nothing.
        has_pool: whether a pool of onnxruntime's threads spins in the process.
    """

    case: str
    pass_: str
    provider: str
    threads: int
    sizes: Sizes
    folder: str = ""
    has_pool: bool = False

    @property
    def setup(self) -> Setup:
        """The case's setup."""
        sizes = self.sizes
        return Setup(sizes.height_px, sizes.width_px, sizes.batch, PRECISION, torch.device("cpu"))

    @property
    def label(self) -> str:
        """The provider's name in the rows."""
        if self.provider in PROVIDERS:
            return PROVIDERS[self.provider].name(PRECISION)
        return DETECTORS[self.provider].label if self.provider in DETECTORS else self.provider

    @property
    def columns(self) -> tuple[str, str, str, str, str]:
        """Operation, pass, shape, dtype and provider as a row has them."""
        return self.case, self.pass_, self.setup.shape, PRECISION.name, self.label

    def build(self) -> Case:
        """The case with its network and input."""
        setup, sizes = self.setup, self.sizes
        makers: dict[str, Callable[[], Case]] = {
            "deform_conv": lambda: deform_conv(setup, sizes.channels),
            "block": lambda: block(setup, sizes.channels),
            "head": lambda: head(setup, sizes.channels, sizes.blocks),
            "detector": lambda: detector(setup, sizes.architecture, sizes.classes),
            EMBEDDED: lambda: replace(detector(setup, EMBEDDED_CHECKPOINT, pretrained=True), op=EMBEDDED),
        }
        assert makers.keys() == {*CASES, EMBEDDED}
        return makers[self.case]()
