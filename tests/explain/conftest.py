"""A small detector, a picture, and its explanation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from dyzoo.config import ATSSConfig, DyHeadConfig
from dyzoo.explain import Explanation
from dyzoo.model.detector import Detector
from tests.cli.cli_helpers import write_picture
from tests.model.narrow_detectors import narrow_detector

OFFSETS = torch.tensor([[0.1 * tap, -0.2 * tap] for tap in range(9)])  # (dy, dx) of each tap


def planted(**changes: object) -> Detector:
    """A detector of two blocks that finds things everywhere; the offsets of its last block are `OFFSETS`."""
    head = ATSSConfig(prior_probability=0.9, max_detections=5)
    dyhead = DyHeadConfig(channels=32, num_blocks=2)
    model = narrow_detector((64, 128), **{"labels": ("red", "blue"), "head": head, "dyhead": dyhead, **changes})
    last = model.dyhead.blocks[-1]
    last.offset_bias.data[:18] = OFFSETS.flatten()
    last.offset_bias.data[18:] = torch.linspace(-4, 4, 9)
    last.scale_bias.data[:] = 0.6
    return model


@pytest.fixture(scope="session")
def model() -> Detector:
    return planted()


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Image.Image:
    with Image.open(write_picture(tmp_path_factory.mktemp("pictures") / "squares.png")) as image:
        return image.convert("RGB")  # 96 x 64: the network sees it as it is


@pytest.fixture(scope="session")
def explanation(model: Detector, picture: Image.Image) -> Explanation:
    return model.explain(picture, place=(40, 24))


@pytest.fixture(scope="session")
def saved(explanation: Explanation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained") / "seen"
    explanation.save(folder)
    return folder
