"""What the architectures of this package compute, as formulas in plain PyTorch: their specification.

Everything is dense and meant to be read. `x` [n, d_in] (temporal: [pos, d_in]) has been normalised and `b_dec` subtracted
where the SAE does so; it is rounded to the dtype of the weights, products and sums are float32 (float64 beside float64
weights). Results are dense [n, d_sae].
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from sae_fast.config import MatchingPursuit, Temporal
from sae_fast.reference import pre_acts

NORM_EPSILON = 1e-6
"""Added to the norm of a temporal SAE's prediction."""


def abstopk(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> Tensor:
    """The k pre-activations largest in magnitude, with their sign (arXiv 2510.00404). Ties go to the lower feature index."""
    h = pre_acts(x, W_enc, b_enc)
    largest = h.abs().sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(h).scatter(1, largest, h.gather(1, largest))


def groupmax(x: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> Tensor:
    """Of each of k groups of neighbouring features the largest relu(h). Ties go to the lower feature index."""
    acts = pre_acts(x, W_enc, b_enc).relu()
    groups = acts.unflatten(1, (k, -1))
    largest = groups.sort(dim=2, descending=True, stable=True).indices[:, :, :1]
    return torch.zeros_like(groups).scatter(2, largest, groups.gather(2, largest)).flatten(1)


def matching_pursuit(x: Tensor, W_dec: Tensor, pursuit: MatchingPursuit) -> Tensor:
    """Greedy pursuit: each step gives the decoder row that fits the residual best its projection, and subtracts it.

    The residual is rounded to the dtype of the weights for the choice of the row, not for what is subtracted.
    """
    wide = torch.promote_types(W_dec.dtype, torch.float32)
    rows, n = W_dec.to(wide), len(x)
    residual = x.to(wide)
    acts = residual.new_zeros(n, len(W_dec))
    done = torch.zeros(n, dtype=torch.bool, device=x.device)
    every = torch.arange(n, device=x.device)
    for _ in range(pursuit.max_iterations or x.shape[1]):
        fit = pre_acts(residual, W_dec.T, residual.new_zeros(len(W_dec))).relu()
        best = fit.sort(dim=1, descending=True, stable=True).indices[:, 0]
        value = (residual * rows[best]).sum(1).relu() * ~done
        before = acts != 0
        acts = acts.index_put((every, best), value, accumulate=True)
        residual = residual - value[:, None] * rows[best]
        if pursuit.stop_on_duplicate_support:
            done = done | ((acts != 0) == before).all(1)
        done = done | (residual.norm(dim=1) < pursuit.residual_threshold)
    return acts


def temporal(
    x: Tensor, W_enc: Tensor, W_dec: Tensor, attention: Mapping[str, Tensor], temporal: Temporal, k: int | None
) -> tuple[Tensor, Tensor]:
    """(novel, predicted): what the context does not explain, made sparse, and what it does (arXiv 2511.01836).

    Each attention layer predicts codes from those of earlier positions; the projection of the residual on what they decode
    to is taken from the residual. `forward` decodes novel + predicted.
    """
    wide = torch.promote_types(W_dec.dtype, torch.float32)
    E, D, scale = W_enc.to(wide), W_dec.to(wide), 1 / (4 * x.shape[1])
    residual = x.to(W_dec.dtype).to(wide)
    predicted = residual.new_zeros(len(x), len(D))
    for layer in range(temporal.n_attn_layers):
        codes = (scale * residual @ E).relu()
        context = torch.cat([torch.zeros_like(codes[:1]), codes[:-1]])
        p = _attend(codes, context, attention, f"attn_layers.{layer}", temporal.n_heads).relu()
        direction = p @ D
        share = (direction * residual).sum(1, keepdim=True) / (direction.norm(dim=1, keepdim=True) + NORM_EPSILON).square()
        predicted = predicted + share * p
        residual = residual - share * direction
    novel = scale * pre_acts(residual, W_enc, residual.new_zeros(len(D))).relu()
    if temporal.sae_diff_type == "topk" and k is not None:
        largest = novel.sort(dim=1, descending=True, stable=True).indices[:, :k]
        novel = torch.zeros_like(novel).scatter(1, largest, novel.gather(1, largest))
    return novel, predicted


def _attend(codes: Tensor, context: Tensor, attention: Mapping[str, Tensor], layer: str, n_heads: int) -> Tensor:
    """Causal attention: queries from the codes, keys and values from those one position earlier."""
    wide = codes.dtype

    def project(x: Tensor, name: str) -> Tensor:
        return x @ attention[f"{layer}.{name}.weight"].to(wide).T + attention[f"{layer}.{name}.bias"].to(wide)

    def by_head(x: Tensor) -> Tensor:
        return x.unflatten(1, (n_heads, -1)).transpose(0, 1)

    q, k, v = by_head(project(codes, "q_target")), by_head(project(context, "k_ctx")), by_head(project(context, "v_ctx"))
    later = torch.ones(len(codes), len(codes), dtype=torch.bool, device=codes.device).triu(1)
    weights = F.softmax((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(later, float("-inf")), dim=-1)
    return project((weights @ v).transpose(0, 1).flatten(1), "c_proj")
