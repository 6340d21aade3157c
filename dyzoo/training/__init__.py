"""Training a detector: `train(TrainConfig(...))`."""

from dyzoo.recipe import TrainConfig
from dyzoo.training.loop import train

__all__ = ["TrainConfig", "train"]
