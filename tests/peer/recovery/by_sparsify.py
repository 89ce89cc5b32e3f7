"""Training of eai-sparsify's transcoders: its module and its losses, with the optimizer that all get here.

Its own Trainer reads from a language model; what it does between two batches is done here in its order.
"""

import tempfile
from typing import Any

import torch
from peer.recovery.ours import of_sae
from peer.recovery.planted import BATCH, DEAD_STEPS, LR, Planted, Trained
from sparsify import SparseCoder, SparseCoderConfig

import sae_fast

AUXILIARY = 1 / 32
"""Weight of the loss that revives dead features, as elsewhere here; sparsify's default is none."""


def train(architecture: str, options: dict[str, Any], planted: Planted, seed: int) -> Trained:
    """A `transcoder` or `skip_transcoder`."""
    torch.manual_seed(seed)
    (read,), (write,) = planted.reads, planted.writes
    config = SparseCoderConfig(
        num_latents=planted.n_features, transcode=True, skip_connection=architecture == "skip_transcoder", **options
    )
    coder = SparseCoder(planted.directions[read].shape[1], config)
    # As its Trainer does, the bias begins at the mean of the target.
    coder.b_dec.data = planted.sample(8192, 10**6 + 1)[write].mean(0)
    optimizer = torch.optim.Adam(coder.parameters(), lr=LR)
    since_fired = torch.zeros(planted.n_features, dtype=torch.long)
    for batch in planted.stream(seed):
        out = coder(batch[read], batch[write], dead_mask=since_fired > DEAD_STEPS * BATCH)
        (out.fvu + AUXILIARY * out.auxk_loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        since_fired += BATCH
        since_fired[out.latent_indices.flatten()] = 0
    with tempfile.TemporaryDirectory() as folder:
        coder.save_to_disk(folder)
        return of_sae(sae_fast.load(folder))
