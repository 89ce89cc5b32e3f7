"""What a feature's decoder row does to the next-token logits, read directly through the unembedding."""

from typing import Any

import torch

from sitegen.errors import MismatchError
from sitegen.facts.blocks import by_block
from sitegen.facts.histogram import row_histograms
from sitegen.facts.ranking import largest
from sitegen.facts.rounding import significant
from sitegen.records import Logits


class LogitEffects:
    """`W_dec[f] @ W_U` by block of features, fp32.

    Raw by default. `normed` folds the final norm's weight into W_U and removes the mean over the vocabulary. The norm's scale,
    a soft-cap and norms behind a layer are left out: for some models the numbers are an approximation.
    """

    def __init__(self, W_dec: torch.Tensor, unembed: Any, k: int, bins: int, normed: bool = False) -> None:
        """`W_dec [d_sae, d_model]`; `unembed.W_U [d_model, d_vocab]`, `unembed.norm_weight [d_model]` (1 + w for Gemma).

        Raises MismatchError where `normed` is asked for and the model's final norm is not known.
        """
        W_U = unembed.W_U.detach().float()
        if normed:
            if unembed.norm_weight is None:
                raise MismatchError(
                    "normed_logits is on, but the final norm of this model is not known: set normed_logits = false."
                )
            W_U = W_U * unembed.norm_weight.detach().float().to(W_U.device)[:, None]
            W_U = W_U - W_U.mean(dim=1, keepdim=True)
        self.W_dec, self.W_U = W_dec.detach(), W_U.contiguous()
        self.k, self.bins, self.normed = k, bins, normed

    def of(self, first: int, last: int) -> list[Logits]:
        """Return top, bottom and histogram over the whole vocabulary for the features `first … last - 1`; nothing is masked."""
        return by_block(self._block, first, last, len(self.W_dec), self.W_U.shape[1])

    def _block(self, first: int, last: int) -> list[Logits]:
        directions = self.W_dec[first:last].to(device=self.W_U.device, dtype=torch.float32)
        effects = (directions @ self.W_U).cpu().numpy()
        top, top_values = largest(effects, self.k)
        bottom, bottom_values = largest(-effects, self.k)
        top_values, bottom_values = significant(top_values), significant(-bottom_values)
        histograms = row_histograms(effects, self.bins)
        return [
            Logits(
                top=list(zip(top[row].tolist(), top_values[row].tolist(), strict=True)),
                bottom=list(zip(bottom[row].tolist(), bottom_values[row].tolist(), strict=True)),
                histogram=histograms[row],
                normed=self.normed,
            )
            for row in range(len(effects))
        ]
