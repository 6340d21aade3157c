"""The kernels on GPUs that are not at hand: their compiled code, and how long it should take.

`python -m dyhead_kernels.static` compiles every kernel of a DyHead block, forward and backward, with its shipped launch
parameters, and prints registers, spills, shared memory and matrix instructions. With `--model` it prints a time model:
bytes, products and instructions of every launch, and the microseconds that they should take.
"""

from .jobs import OPTIONS, TARGETS, Job, job_of, source_of
from .resources import Resources, compile_job, compile_or_reason

__all__ = ["OPTIONS", "TARGETS", "Job", "Resources", "compile_job", "compile_or_reason", "job_of", "source_of"]
