"""Training a detector: `train(TrainConfig(...))`."""

from dyzoo.config.training import TrainConfig
from dyzoo.training.loop import train

__all__ = ["TrainConfig", "train"]
