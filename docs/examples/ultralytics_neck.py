"""DyHead before the prediction layers of any YOLO of Ultralytics': `DyHeadDetect` in a model's YAML.

    pip install dyzoo ultralytics
    python ultralytics_neck.py --data coco8.yaml --epochs 3 --imgsz 640

trains docs/examples/yolo-dyhead.yaml. In a YAML of your own replace the last line, which is `Detect, [nc]`, by

    - [[16, 19, 22], 1, DyHeadDetect, [nc, 128, 2]] # classes, channels, blocks; the numbers of the layers stay yours

and import this file before `YOLO("my.yaml")` or `YOLO("best.pt")`. `--onnx` exports what was trained. No file of
Ultralytics' is edited or copied: the class is a subclass of its `Detect`, and made known to the reader of its YAML
files while the program runs.

LICENCE. Ultralytics is under the AGPL-3.0, or under a licence that it sells. dyzoo, this file included, is under the
MIT licence and neither needs nor contains it; but a program that runs both together, as this example does, has to keep
to the terms of Ultralytics' licence. Read https://www.ultralytics.com/license, also for what it says of trained models.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.modules import Detect

import dyzoo
from dyzoo.export.necks import exportable

MODEL = Path(__file__).with_name("yolo-dyhead.yaml")


class DyHeadDetect(Detect):
    """Ultralytics' `Detect` on maps that DyHead has attended.

    Args:
        nc: number of classes.
        channels, blocks: as of `dyzoo.DyHead`; 1x1 convolutions bring each level to `channels`.
        others: what the reader of the YAML adds: settings of `Detect`'s, and at last the widths of the levels.
    """

    def __init__(self, nc: int, channels: int, blocks: int, *others: Any) -> None:
        *settings, widths = others
        super().__init__(nc, *settings, (channels,) * len(widths))
        self.dyhead = dyzoo.DyHead(channels, blocks, widths)

    def forward(self, x: list[Tensor]) -> Any:
        """Levels, finest first -> as `Detect` gives it."""
        return super().forward(self.dyhead(x))


_parse_model = tasks.parse_model


def parse_model(d: dict[str, Any], *arguments: Any, **settings: Any) -> Any:
    """Ultralytics' own, to which `DyHeadDetect` is what `Detect` is: a layer that is told the widths of its levels."""
    if any(line[2] == "DyHeadDetect" for line in d["head"]):
        with patch.object(tasks, "Detect", DyHeadDetect):
            return _parse_model(d, *arguments, **settings)
    return _parse_model(d, *arguments, **settings)


tasks.DyHeadDetect = DyHeadDetect  # where names of a YAML are looked up
tasks.parse_model = parse_model


def export_onnx(weights: str | Path, imgsz: int | tuple[int, int]) -> str:
    """Write the weights' model as an ONNX file beside them, by Ultralytics' own way; its name."""
    model = YOLO(weights)
    model.model = exportable(model.model, "grid-sample")  # its exporter knows no DeformConv
    return model.export(format="onnx", imgsz=imgsz, simplify=False)


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="coco8.yaml", help="as Ultralytics takes it")
    parser.add_argument("--model", default=str(MODEL), help="YAML or .pt file")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default=None, help="such as cpu or 0")
    parser.add_argument("--project", default=None, help="folder for the run")
    parser.add_argument("--onnx", action="store_true", help="export it afterwards")
    options = vars(parser.parse_args())
    model, onnx = YOLO(options.pop("model")), options.pop("onnx")
    model.train(**{name: value for name, value in options.items() if value is not None})
    if onnx:
        export_onnx(model.trainer.best, options["imgsz"])


if __name__ == "__main__":
    main()
