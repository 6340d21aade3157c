"""Parameters and operations of every architecture: measured here, kept in `complexity.json`, shown by `dyzoo list`.

python -m dyzoo.zoo.complexity      measures again and rewrites the file
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dyzoo.files import write_text

if TYPE_CHECKING:
    from dyzoo.config import DetectorConfig

IMAGE_SIZE = (800, 1344)
TABLE = Path(__file__).with_name("complexity.json")


@dataclass(frozen=True)
class Complexity:
    """Parameters and operations of an architecture with COCO's 80 classes.

    Attributes:
        parameters: learnt numbers; frozen norms are not among them.
        gflops: 1e9 operations for one image of `IMAGE_SIZE`, up to the raw predictions and, for Faster R-CNN, the boxes
            of all proposals. A multiplication and an addition count once, as detectron2 and mmdetection count.
    """

    parameters: int
    gflops: float


@cache
def complexities() -> dict[str, Complexity]:
    """The table by architecture."""
    return {name: Complexity(**row) for name, row in json.loads(TABLE.read_text(encoding="utf-8")).items()}


def measure(config: DetectorConfig) -> Complexity:
    """Count the operations on tensors without values: nothing is computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dyzoo.model.detector import Detector
    from dyzoo.model.heads import FasterRCNNHead

    model = Detector(config).eval().to("meta")  # not made there: timm's Swin reads values while it is built
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.forward_head(model.forward_features(torch.empty(1, 3, *IMAGE_SIZE, device="meta")))
    operations = counter.get_total_flops() / 2
    if isinstance(model.head, FasterRCNNHead):  # which proposals there are depends on values, not how many
        weights = sum(p.numel() for p in model.head.roi.parameters() if p.ndim == 2)
        operations += model.head.config.num_proposals * weights
    return Complexity(sum(p.numel() for p in model.parameters()), round(operations / 1e9, 1))


def main() -> None:
    """Measure every architecture and rewrite the table."""
    from dyzoo.config.architectures import ARCHITECTURES

    rows = {name: asdict(measure(factory())) for name, factory in ARCHITECTURES.items()}
    write_text(TABLE, json.dumps(rows, indent=2) + "\n")
    print(f"{len(rows)} architectures -> {TABLE}")


if __name__ == "__main__":
    main()
