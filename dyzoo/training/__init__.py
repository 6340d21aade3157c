"""Training a detector: `train(TrainConfig(...))`."""

from dyzoo.training.config import TrainConfig
from dyzoo.training.loop import train

__all__ = ["TrainConfig", "train"]
