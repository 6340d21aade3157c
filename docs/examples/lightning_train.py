"""Train one of dyzoo's detectors with Lightning, and keep it as dyzoo does.

    pip install dyzoo lightning
    python lightning_train.py DIR --model dyhead_atss_resnet18 --epochs 12 --out lightning_run
    dyzoo evaluate --data DIR --model lightning_run

DIR is a data set in COCO JSON, Pascal VOC or YOLO layout. `dyzoo train` does more: schedules, averages of the weights,
validation, reports. This is for those whose other models are trained by Lightning.
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import dyzoo
from dyzoo.data import collate, open_dataset, train_transform


class DetectorModule(lightning.LightningModule):
    """Any detector of dyzoo's; its losses come weighted and normalised, so that their sum is minimised."""

    def __init__(self, detector: dyzoo.Detector, learning_rate: float = 1e-4) -> None:
        super().__init__()
        self.detector = detector
        self.learning_rate = learning_rate

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """`batch` is a list of images (3, H, W) and a list of targets, as `dyzoo.data.collate` makes it."""
        images, targets = batch
        losses = self.detector(images, targets)
        total = torch.stack(list(losses.values())).sum()
        self.log_dict({**losses, "loss": total}, prog_bar=True, batch_size=len(images))
        return total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all weights."""
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.05)


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of the data set")
    parser.add_argument("--model", default="dyhead_atss_resnet18", help="as `dyzoo list` names them")
    parser.add_argument("--pretrained-backbone", action="store_true", help="begin with timm's published weights")
    parser.add_argument("--size", type=int, default=640, help="shortest edge in pixels")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--accelerator", default="auto", help="as Lightning names them")
    parser.add_argument("--out", default="lightning_run", help="folder for the trained detector")
    options = parser.parse_args()

    dataset = open_dataset(options.data, "train")
    dataset.transform = train_transform((options.size, 2 * options.size))
    loader = DataLoader(
        dataset, options.batch_size, shuffle=True, collate_fn=collate, num_workers=options.workers, drop_last=True
    )
    detector = dyzoo.create_model(options.model, labels=dataset.labels, pretrained_backbone=options.pretrained_backbone)
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator=options.accelerator,
        devices=1,
        gradient_clip_val=10.0,
        logger=False,
        enable_checkpointing=False,
    )
    detector.train()  # Lightning leaves every module in the mode that it comes in
    trainer.fit(DetectorModule(detector, options.learning_rate), loader)
    detector.eval().save_pretrained(options.out)


if __name__ == "__main__":
    main()
