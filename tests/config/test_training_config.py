"""Settings of a training run."""

from __future__ import annotations

from pathlib import Path

from dyzoo.config.training import TrainConfig


def test_paths_may_be_text() -> None:
    config = TrainConfig(data="DIR", out="runs/mine", backbone_weights="weights.safetensors")  # type: ignore[arg-type]
    assert (config.data, config.folder, config.backbone_weights) == (
        Path("DIR"),
        Path("runs/mine"),
        Path("weights.safetensors"),
    )
    assert TrainConfig(data=Path("DIR")).folder == Path("runs/dyhead_atss_resnet10t")
