"""Train sparse autoencoders: `train(RunConfig.load("config.toml"))`, or `sae-fast train config.toml`.

`variants` holds what can be trained, each with the loss of its paper; `trainer` the loop over several of them; `run` the way
from texts to finished SAEs.
"""

from sae_fast.training.config import RunConfig
from sae_fast.training.run import train
from sae_fast.training.trainer import StepMetrics, Trainer, TrainOptions
from sae_fast.training.variants import VARIANTS, Variant, VariantOptions

__all__ = ["VARIANTS", "RunConfig", "StepMetrics", "TrainOptions", "Trainer", "Variant", "VariantOptions", "train"]
