"""The training of one SAE, step by step, and the loop that trains several on one stream of activations.

Activations are scaled so that their mean norm is `sqrt(d_in)` (`expected_average_only_in`); `to_sae` folds the factor back, so
that a trained SAE takes and gives activations in the LM's own units. Decoder rows keep norm one throughout.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_fast.sae import SAE, SAEConfig
from sae_fast.training import losses
from sae_fast.training.config import TrainConfig


@dataclass(frozen=True)
class StepMetrics:
    """What one step saw."""

    step: int
    loss: float
    explained_variance: float
    """Of this batch, after the step's forward pass: `1 - Σ‖x - x̂‖² / Σ‖x - x̄‖²`."""
    l0: float
    n_dead: int


class SAETrainer:
    """Weights, optimizer and counters of one SAE in training."""

    def __init__(self, config: TrainConfig, sample: Tensor) -> None:
        """Initialise from `sample [n, d_in]`: the mean as decoder bias, sampled centred activations as decoder directions."""
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        self.scale = config.d_in**0.5 / sample.norm(dim=-1).mean().item()
        sample = sample * self.scale
        mean = sample.mean(0)
        noise = torch.randn(config.d_sae, config.d_in, generator=generator)
        rows = torch.randint(0, len(sample), (config.d_sae,), generator=generator)
        directions = (sample[rows] - mean) / (sample[rows] - mean).norm(dim=-1, keepdim=True).clamp(min=1e-6)
        W_dec = torch.nn.functional.normalize(directions + 0.5 * torch.nn.functional.normalize(noise, dim=-1), dim=-1)
        self.W_dec = torch.nn.Parameter(W_dec)
        self.W_enc = torch.nn.Parameter(0.5 * W_dec.T.contiguous())
        self.b_enc = torch.nn.Parameter(torch.zeros(config.d_sae))
        self.b_dec = torch.nn.Parameter(mean.clone())
        self.log_threshold = torch.nn.Parameter(torch.full((config.d_sae,), config.initial_threshold).log())
        weights = [self.W_dec, self.W_enc, self.b_enc, self.b_dec]
        groups: list[dict[str, object]] = [{"params": weights, "peak_lr": config.lr}]
        if config.architecture == "jumprelu":
            groups.append({"params": [self.log_threshold], "peak_lr": config.threshold_lr})
        self.weights = weights
        self.optimizer = torch.optim.Adam(groups, lr=config.lr, betas=(0.9, 0.999), fused=True)
        self.step_index = 0
        self.tokens_since_active = torch.zeros(config.d_sae, dtype=torch.int64)
        self.running_threshold: float | None = None

    def _pre_acts(self, x: Tensor) -> Tensor:
        return (x - self.b_dec) @ self.W_enc + self.b_enc.to(torch.bfloat16)

    def _activate(self, pre_acts: Tensor) -> Tensor:
        config = self.config
        if config.architecture == "topk":
            return losses.topk(pre_acts, config.k)
        if config.architecture == "batchtopk":
            acts, smallest = losses.batch_topk(pre_acts, config.k)
            previous = self.running_threshold
            self.running_threshold = smallest.item() if previous is None else 0.99 * previous + 0.01 * smallest.item()
            return acts
        return losses.JumpReLU.apply(pre_acts.relu(), self.log_threshold.exp(), config.bandwidth)

    def _sparsity_loss(self, pre_acts: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
        config = self.config
        if config.architecture == "jumprelu":
            threshold = self.log_threshold.exp()
            warmup = min(1.0, self.step_index / max(1, config.l0_warmup_share * config.n_steps))
            penalty = losses.quadratic_l0(pre_acts, threshold, config.k, config.bandwidth)
            pull = losses.dead_pre_activation(pre_acts, threshold, dead)
            return warmup * config.l0_coefficient * penalty + config.dead_coefficient * pull
        power = residual.detach().pow(2).sum(-1).mean()
        return config.aux_coefficient * power * losses.auxiliary(pre_acts, self.W_dec, residual, dead, config.d_in // 2)

    def step(self, x: Tensor) -> StepMetrics:
        """One optimizer step on `x [n, d_in]` in the LM's units."""
        x = x * self.scale
        dead = self.tokens_since_active >= self.config.dead_after_tokens
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.config.lr_factor(self.step_index)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pre_acts = self._pre_acts(x)
            acts = self._activate(pre_acts)
            x_hat = (acts @ self.W_dec).float() + self.b_dec
            residual = x - x_hat
            error = losses.reconstruction(x_hat, x)
            loss = error + self._sparsity_loss(pre_acts, residual, dead)
        loss.backward()
        self._project_decoder_gradient()
        torch.nn.utils.clip_grad_norm_(self.weights, 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.W_dec.div_(self.W_dec.norm(dim=-1, keepdim=True))
            active = acts.detach() != 0
            self.tokens_since_active += len(x)
            self.tokens_since_active[active.any(0)] = 0
            variance = (x - x.mean(0)).pow(2).sum(-1).mean()
        self.step_index += 1
        return StepMetrics(
            step=self.step_index,
            loss=loss.item(),
            explained_variance=1 - error.item() / variance.item(),
            l0=active.sum().item() / len(x),
            n_dead=int(dead.sum()),
        )

    def _project_decoder_gradient(self) -> None:
        """Remove the gradient's part along each decoder row: the rows only turn."""
        grad = self.W_dec.grad
        assert grad is not None
        grad -= (grad * self.W_dec.detach()).sum(-1, keepdim=True) * self.W_dec.detach()

    @torch.no_grad()
    def to_sae(self, held_out: Tensor, dtype: torch.dtype = torch.float32) -> SAE:
        """Return the SAE in the LM's units, with weights in `dtype` and biases and threshold in float32.

        A `batchtopk` threshold is set on `held_out [n, d_in]`, with the rounded weights, to the value at which the mean L0
        equals k; the paper's running estimate stays in the metadata.
        """
        config = self.config
        metadata: dict[str, object] = {"training_architecture": config.architecture}
        threshold: Tensor | None = None
        # Features are left in normalised units (scaled encoder, divided decoder), as SAELens folds the factor.
        W_enc = (self.W_enc * self.scale).to(dtype)
        W_dec = (self.W_dec / self.scale).to(dtype)
        b_enc, b_dec = self.b_enc.detach().clone(), self.b_dec.detach() / self.scale
        if config.architecture == "jumprelu":
            threshold = self.log_threshold.exp().detach().clone()
        elif config.architecture == "batchtopk":
            threshold = torch.full_like(b_enc, calibrated_threshold(W_enc, b_enc, b_dec, held_out, config.k))
            metadata["running_threshold"] = self.running_threshold
        sae_config = SAEConfig(
            architecture=config.architecture,
            d_in=config.d_in,
            d_sae=config.d_sae,
            hook_name=config.hook_name,
            model_name=config.model_name,
            k=None if config.architecture == "jumprelu" else config.k,
            prepend_bos=True,
            context_size=config.context_size,
            apply_b_dec_to_input=True,
            metadata=metadata,
        )
        return SAE(sae_config, W_enc=W_enc, W_dec=W_dec, b_enc=b_enc, b_dec=b_dec, threshold=threshold)


def calibrated_threshold(W_enc: Tensor, b_enc: Tensor, b_dec: Tensor, x: Tensor, k: int) -> float:
    """The value that exactly `k * n` pre-activations of `x [n, d_in]` exceed, so that the mean L0 is `k`."""
    largest = [((rows - b_dec) @ W_enc.float() + b_enc).topk(min(len(b_enc), 8 * k)).values for rows in x.split(4096)]
    values = torch.cat([rows.flatten() for rows in largest])
    return values.topk(k * len(x) + 1, sorted=True).values[-1].clamp(min=0).item()


def train(
    trainers: Mapping[str, SAETrainer],
    batches: Iterator[Mapping[str, Tensor]],
    report: Callable[[Mapping[str, StepMetrics]], None] | None = None,
) -> None:
    """Step every trainer on its hook's activations until each has done its steps, or the batches end.

    `batches` yields `{hook_name: [batch_tokens, d_in]}`; `report` gets the metrics of every step, by trainer.
    """
    n_steps = max(trainer.config.n_steps for trainer in trainers.values())
    for _, batch in zip(range(n_steps), batches, strict=False):
        metrics = {
            name: trainer.step(batch[trainer.config.hook_name])
            for name, trainer in trainers.items()
            if trainer.step_index < trainer.config.n_steps
        }
        if report is not None:
            report(metrics)
