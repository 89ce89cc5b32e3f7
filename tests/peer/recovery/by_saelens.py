"""Training by sae-lens's own SAETrainer."""

import tempfile
import warnings
from typing import Any

import torch
from peer.recovery.ours import of_sae
from peer.recovery.planted import BATCH, DEAD_STEPS, LR, Planted, Trained
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer

import sae_fast


def train(architecture: str, options: dict[str, Any], planted: Planted, seed: int) -> Trained:
    """The same stream, batches, learning rate and meaning of dead; saved by sae-lens and read by sae_fast to be scored."""
    torch.manual_seed(seed)
    warnings.simplefilter("ignore")  # of matryoshka's last width, and of matching pursuit's norms
    kind, config = get_sae_training_class(architecture)
    hook = planted.reads[0]
    d = planted.directions[hook].shape[1]
    sae = kind(config(d_in=d, d_sae=planted.n_features, device="cpu", **options))
    settings = SAETrainerConfig(
        total_training_samples=planted.steps * BATCH,
        train_batch_size_samples=BATCH,
        lr=LR,
        lr_end=LR,
        dead_feature_window=DEAD_STEPS,
    )
    trainer: Any = SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))
    for batch in planted.stream(seed):
        trainer.step(batch[hook])
        trainer.n_training_steps += 1
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return of_sae(sae_fast.load(folder))
