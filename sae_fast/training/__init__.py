"""Train sparse autoencoders: losses as pure functions, one trainer per SAE, several trainers over one stream of activations."""

from sae_fast.training.buffer import ShuffleBuffer
from sae_fast.training.config import TrainConfig
from sae_fast.training.trainer import SAETrainer, StepMetrics, train

__all__ = ["SAETrainer", "ShuffleBuffer", "StepMetrics", "TrainConfig", "train"]
