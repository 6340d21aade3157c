"""Constants of the GPUs that have a time model.

Peaks, memory, clocks and numbers of multiprocessors are of NVIDIA's data sheets (dense products). Speeds of the L2
cache and of atomics, and all times below, are estimates until a GPU has measured them.
"""

from __future__ import annotations

from dataclasses import dataclass

SCHEDULERS = 4
"""Schedulers of a multiprocessor; each issues an instruction of one warp in a cycle."""
LAUNCH_US = 1.5
"""From the end of one kernel of a CUDA graph to the start of the next, and filling and draining the GPU."""
LOAD_CYCLES = 500
"""Until a load that is waited for arrives, from the L2 cache or memory."""
BARRIER_CYCLES = 30
ALONE_CYCLES = 2
"""Between two instructions of a warp that has its scheduler for itself: half of what dependent ones take."""


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        names: what PyTorch calls it.
        target: its architecture.
        multiprocessors: their number.
        l1_kib: first cache and shared memory of a multiprocessor, together.
        clock_ghz: boost clock.
        half_tflops, tf32_tflops: peaks of products on tensor cores.
        memory_tbps, l2_tbps, atomics_tbps: bytes a second through memory, through the L2 cache, and of float32 atomics.
    """

    names: tuple[str, ...]
    target: str
    multiprocessors: int
    l1_kib: int
    clock_ghz: float
    half_tflops: float
    tf32_tflops: float
    memory_tbps: float
    l2_tbps: float
    atomics_tbps: float


CARDS = {
    "H100": Card(("NVIDIA H100 80GB HBM3",), "sm_90", 132, 256, 1.83, 989, 494, 3.35, 5.5, 1.65),
    "H200": Card(("NVIDIA H200",), "sm_90", 132, 256, 1.83, 989, 494, 4.8, 5.5, 1.65),
    "A100": Card(("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"), "sm_80", 108, 192, 1.41, 312, 156, 2.04, 4.0, 1.2),
    "L4": Card(("NVIDIA L4",), "sm_89", 58, 128, 2.04, 121, 60, 0.3, 2.0, 0.5),
}


def card_of(device: str) -> str | None:
    """The key of a card by the name that PyTorch gives a device; None without a model."""
    return next((key for key, card in CARDS.items() if device in card.names), None)
