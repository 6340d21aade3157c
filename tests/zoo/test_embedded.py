"""The shipped checkpoint, on data it was not trained on."""

from pathlib import Path

import pytest

import dyzoo
from dyzoo.data import open_dataset
from dyzoo.zoo import catalog
from dyzoo.zoo.names import DEFAULT_MODEL


@pytest.mark.slow
def test_the_embedded_checkpoint_reaches_its_card_on_bccd_val(bccd_folder: Path) -> None:
    model = dyzoo.create_model(DEFAULT_MODEL, pretrained=True)
    found = dyzoo.evaluate(model, open_dataset(bccd_folder, split="val")).metrics
    promised = catalog.checkpoints()[DEFAULT_MODEL].metrics
    assert promised["AP"] >= 0.50
    assert promised["AP50"] >= 0.80
    for name, value in promised.items():
        # other thread counts and CPUs round differently, which moves a few detections across a threshold
        assert found[name] == pytest.approx(value, abs=2e-3), name
