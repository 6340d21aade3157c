"""A dataset and a run that are small enough to train in a test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from dyzoo.config import DetectorConfig
from dyzoo.config.training import TrainConfig
from dyzoo.zoo.names import model_config
from tests.model.narrow_detectors import narrow_config


def write_voc(folder: Path, images: int = 6) -> Path:
    """A VOC folder of grey pictures with one red or blue rectangle each; train and val are the same pictures."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for index in range(images):
        label, colour = (("red", (220, 30, 30)), ("blue", (30, 30, 220)))[index % 2]
        x, y = 8 + 9 * index, 50 - 6 * index
        picture = Image.new("RGB", (96, 96), (128, 128, 128))
        ImageDraw.Draw(picture).rectangle((x, y, x + 30, y + 30), fill=colour)
        picture.save(folder / "JPEGImages" / f"{index}.png")
        (folder / "Annotations" / f"{index}.xml").write_text(
            f"<annotation><filename>{index}.png</filename><object><name>{label}</name><bndbox><xmin>{x}</xmin>"
            f"<ymin>{y}</ymin><xmax>{x + 31}</xmax><ymax>{y + 31}</ymax></bndbox></object></annotation>"
        )
    names = "\n".join(map(str, range(images)))
    for split in ("train", "val"):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
    return folder


def tiny() -> DetectorConfig:
    """An architecture that trains in no time; its norms are frozen, so images do not see each other."""
    config = narrow_config()
    return replace(config, backbone=replace(config.backbone, norm="frozen"))


def known_models(name: str) -> DetectorConfig:
    """The zoo's, and "tiny"."""
    return tiny() if name == "tiny" else model_config(name)


def tiny_run(voc: Path, out: Path, **settings: Any) -> TrainConfig:
    """Two epochs of "tiny" in this process alone, unless `settings` say otherwise."""
    run = TrainConfig(
        data=voc,
        model="tiny",
        out=out,
        epochs=2,
        batch_size=3,
        size_px=64,
        pretrained_backbone=False,
        workers=0,
        precision="fp32",
        device="cpu",
    )
    return replace(run, **settings)
