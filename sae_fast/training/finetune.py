"""End-to-end fine-tuning: for the last stretch the loss is also what the SAE does to the LM's predictions (Karvonen 2025).

The SAE's output takes the place of what it reconstructs at counted tokens, and the loss is
`(objective + α · KL(clean ‖ spliced)) / 2`, α chosen in each step so that both parts weigh the same (or the cross entropy
in the place of the KL divergence). The LM's weights stay as they are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sae_fast.activations import Permutation
from sae_fast.corpus.batch import Batch
from sae_fast.corpus.tokens import TokenDataset
from sae_fast.errors import ConfigError
from sae_fast.lm.interface import Edit, LanguageModel
from sae_fast.tables import at_least
from sae_fast.training.distributed import require_even
from sae_fast.training.trainer import StepMetrics, Trainer, TrainOptions
from sae_fast.training.variants import Loss, Moment, Variant


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """`[finetune]`: end-to-end training after the other. Left out unless `tokens` is given."""

    tokens: int = 0
    """length, in tokens of contexts; 0: none"""
    loss: Literal["kl", "ce"] = "kl"
    """KL divergence from the clean model's predictions, or cross entropy of the next token"""
    lr: float = 5e-5
    """peak learning rate, which falls to zero"""
    contexts: int = 8
    """of a step"""

    def __post_init__(self) -> None:
        at_least("[finetune]", "tokens", self.tokens, 0)
        at_least("[finetune]", "contexts", self.contexts, 1)
        if not self.lr > 0:
            raise ConfigError(f"[finetune] lr: expected a positive number, got {self.lr}")


class FineTuner(Trainer):
    """Trains variants through the LM, each in a pass of its own."""

    def __init__(
        self,
        variants: Mapping[str, Variant],
        options: FinetuneOptions,
        train: TrainOptions,
        lm: LanguageModel,
        dataset: TokenDataset,
        contexts: NDArray[np.int64],
    ) -> None:
        """`contexts` are those of training. Raises `ConfigError` for variants that write at several hooks."""
        for name, variant in variants.items():
            if len(variant.options.writes) > 1:
                raise ConfigError(f"[finetune]: {name} writes at several hooks; only one can be spliced in")
        given: dict[str, Any] = {"tokens": options.tokens, "batch_tokens": options.contexts * dataset.context_length}
        given |= {"lr": options.lr, "warmup": 0.0, "decay": 1.0, "seed": train.seed, "precision": train.precision}
        super().__init__(variants, TrainOptions(**given, clip_norm=train.clip_norm))
        require_even(self.layout.rows, "[finetune] contexts", options.contexts)
        for optimizer in self.optimizers.values():
            # A table's own rate is for the first training; the ratio of thresholds to weights stays.
            peak = optimizer.param_groups[0]["peak_lr"]
            for group in optimizer.param_groups:
                group["peak_lr"] *= options.lr / peak
        self.lm, self.dataset, self.contexts, self.finetune = lm, dataset, contexts, options

    def batches(self, first_step: int) -> Iterator[Any]:
        """Contexts of this process from a step on, in a random order for each epoch."""
        step, n, per_step = first_step, len(self.contexts), self.finetune.contexts
        while True:
            places = np.arange(step * per_step, (step + 1) * per_step)
            chosen = [int(Permutation(n, self.options.seed, int(p) // n)[np.array([p % n])][0]) for p in places]
            yield Batch.of(self.dataset, np.sort(self.contexts[chosen])[self.layout.rows.rank :: self.layout.rows.size])
            step += 1

    def _train(self, name: str, variant: Variant, batch: Any) -> StepMetrics:
        variant.train()
        losses: list[Loss] = []
        with torch.no_grad():
            clean = self.lm.logits(batch.token_ids, batch.attention_mask)
        edits = _edits(variant, batch, Moment(self.options.n_steps, self.options.n_steps), losses)
        spliced = self.lm.logits(batch.token_ids, batch.attention_mask, edits, grad=True)
        (loss,), rows = losses, self.layout.rows
        effect, n_predictions = self._effect(spliced, clean, batch)
        # Processes have different numbers of tokens; the gradients that are averaged over them are weighted accordingly.
        total, mean_effect = rows.mean(loss.total, loss.n).detach(), rows.mean(effect, n_predictions).detach()
        weight = total / mean_effect.clamp(min=1e-12)
        n, of_predictions = rows.share(loss.n, effect.device), rows.share(n_predictions, effect.device)
        ((loss.total * n + weight * effect * of_predictions) / 2).backward()
        loss.total = (total + weight * mean_effect) / 2
        loss.terms[self.finetune.loss] = mean_effect
        loss.release()
        n_tokens = int(rows.total(torch.tensor(loss.n, device=effect.device)))
        self.take_step(name, rows.total(loss.fired), n_tokens)
        return self._metrics(name, losses, loss.fired, n_tokens)

    def _effect(self, logits: Tensor, clean: Tensor, batch: Batch) -> tuple[Tensor, int]:
        """(mean over predictions, in nats, how many they are)."""
        predicts = (batch.is_counted[:, :-1] & (batch.attention_mask[:, 1:] > 0)).to(logits.device)
        log_q = functional.log_softmax(logits[:, :-1][predicts].float(), dim=-1)
        if self.finetune.loss == "ce":
            return functional.nll_loss(log_q, batch.token_ids.to(logits.device)[:, 1:][predicts]), len(log_q)
        log_p = functional.log_softmax(clean[:, :-1][predicts].float(), dim=-1)
        return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True), len(log_q)


def _edits(variant: Variant, batch: Batch, moment: Moment, losses: list[Loss]) -> dict[str, Edit]:
    """Functions that read at one hook, and put the reconstruction at the other; the loss is appended to `losses`."""
    (read,), (write,) = variant.options.reads, variant.options.writes
    seen: dict[str, Tensor] = {}

    def reading(activation: Tensor) -> Tensor:
        seen[read] = activation
        return activation

    def writing(activation: Tensor) -> Tensor:
        counted = batch.is_counted.to(activation.device)
        y = activation.detach()[counted]
        x = y if read == write else seen[read].detach()[counted]
        loss = variant.loss(x, y, moment)
        losses.append(loss)
        assert loss.y_hat is not None
        placed = activation.detach().clone()
        placed[counted] = (loss.y_hat / variant.scale_out.to(loss.y_hat.dtype)).to(activation.dtype)
        return placed

    return {write: writing} if read == write else {read: reading, write: writing}
