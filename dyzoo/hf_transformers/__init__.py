"""dyzoo's detectors in the Hugging Face library transformers: its pipelines, auto classes and `Trainer`.

A detector's folder or repository leads transformers here, with `trust_remote_code=True`. Once this package is imported,
the auto classes know the detectors without that, and nothing of a repository is run. See docs/transformers.md.

Needs the package of `dyzoo[transformers]`.
"""

from __future__ import annotations

from dyzoo.errors import DyzooError

try:
    from dyzoo.hf_transformers.configuration import DyzooConfig
    from dyzoo.hf_transformers.data import Examples, collate
    from dyzoo.hf_transformers.detection_pipeline import DyzooObjectDetectionPipeline
    from dyzoo.hf_transformers.metrics import DetectionMetrics
    from dyzoo.hf_transformers.model import DyzooForObjectDetection
    from dyzoo.hf_transformers.outputs import DyzooObjectDetectionOutput
    from dyzoo.hf_transformers.processing import DyzooImageProcessor
    from dyzoo.hf_transformers.registration import register
except ModuleNotFoundError as error:
    if (error.name or "").startswith("dyzoo"):
        raise
    raise DyzooError(f"{error.name} is not installed: pip install 'dyzoo[transformers]'") from None

register()

__all__ = [
    "DetectionMetrics",
    "DyzooConfig",
    "DyzooForObjectDetection",
    "DyzooImageProcessor",
    "DyzooObjectDetectionOutput",
    "DyzooObjectDetectionPipeline",
    "Examples",
    "collate",
]
