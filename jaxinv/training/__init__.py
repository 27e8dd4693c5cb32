"""Training on the fly: leadfields solved and measurements simulated inside the jitted step."""

from jaxinv.training.config import TrainConfig
from jaxinv.training.interruption import TrainingInterrupted
from jaxinv.training.loop import TrainResult, train
from jaxinv.training.run import load_trained
from jaxinv.training.trained import TrainedNetwork

__all__ = ["TrainConfig", "TrainResult", "TrainedNetwork", "TrainingInterrupted", "load_trained", "train"]
