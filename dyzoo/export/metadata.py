"""Facts that an exported file carries about itself."""

from __future__ import annotations

import hashlib
import json

import torch

from dyzoo._version import __version__
from dyzoo.export.options import ExportOptions
from dyzoo.model.detector import Detector


def metadata(model: Detector, options: ExportOptions) -> dict[str, str]:
    """Facts by name, all text: JSON where they are several."""
    config = model.config
    preprocess, head = config.preprocess, config.head
    fixed = {} if options.size is None else {"picture_size": json.dumps(options.size)}
    return {
        **fixed,
        "dyzoo_version": __version__,
        "architecture": config.architecture,
        "head": head.type,
        "labels": json.dumps(list(config.labels), ensure_ascii=False),
        "config": config.to_json(),
        "weights_sha256": weights_digest(model),
        "input": options.input_type if options.preprocess else "batch",
        "output": "detections" if options.decode else "maps",
        "deform_conv": options.deform_conv,
        "precision": options.precision,
        "size": json.dumps([preprocess.shortest_edge, preprocess.longest_edge]),
        "size_divisor": str(preprocess.size_divisor),
        "channel_order": preprocess.channel_order,
        "mean": json.dumps(preprocess.mean),
        "std": json.dumps(preprocess.std),
        "score_threshold": str(head.score_threshold),
        "nms_threshold": str(head.nms_threshold),
        "max_detections": str(head.max_detections),
    }


def weights_digest(model: Detector) -> str:
    """SHA-256 over the names and values of all weights, which does not depend on the file that they were in."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        in_bytes = value.detach().cpu().contiguous().flatten().view(torch.uint8)  # bfloat16 is no type of numpy's
        digest.update(in_bytes.numpy().tobytes())
    return digest.hexdigest()
