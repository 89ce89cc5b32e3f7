"""TopK whose features are spread over processes: each holds a part of them and of the optimizer, and sees every token.

A token's k features are the k largest of all parts, as without sharding; a number travels for each feature that a part
proposes, and one reconstruction for each token.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sae_fast import ops
from sae_fast.errors import ArgumentError
from sae_fast.sparse import SparseActs
from sae_fast.training.distributed import Ranks, require_even
from sae_fast.training.variants.base import Loss, Moment, Start, Variant
from sae_fast.training.variants.topk import TopK

SPREAD = ("W_enc", "W_dec", "b_enc", "tokens_since_active")


class ShardedTopK(TopK):
    """One process's part of a TopK SAE; `whole` has all features and is cut."""

    def __init__(self, whole: TopK, ranks: Ranks) -> None:
        nn.Module.__init__(self)
        require_even(ranks, "d_sae with shard_features", whole.d_sae)
        self.ranks, self.n_features = ranks, whole.d_sae
        self.d_sae = whole.d_sae // ranks.size
        for name in ("options", "compute_dtype", "d_in", "d_out", "is_transcoder"):
            setattr(self, name, getattr(whole, name))
        for name, parameter in whole.named_parameters():
            setattr(self, name, nn.Parameter(self.own_part(name, parameter.detach()).clone()))
        for name, buffer in whole.named_buffers():
            self.register_buffer(name, self.own_part(name, buffer).clone())
        if whole.W_skip is None:
            self.W_skip = None

    def objective(self, x: Tensor, y: Tensor, moment: Moment) -> Loss:
        """As TopK's, the sum of what the parts write in the place of the reconstruction."""
        inputs = _Copied.apply(self.centred(x))
        acts = self._kept(ops.encode_topk(inputs, self.encoder, self.b_enc, min(self.options.k, self.d_sae)), self.options.k)
        written = ops.decode(acts, self.narrowed(self.W_dec), self.b_dec.new_zeros(self.d_out))
        y_hat = _Summed.apply(written) + self.b_dec
        y_hat = y_hat if self.W_skip is None else y_hat + x @ self.W_skip.T
        loss = self.reconstruction(y, y_hat, acts)
        return self._with_shared_auxiliary(loss, inputs, y - y_hat)

    def _kept(self, acts: SparseActs, k: int) -> SparseActs:
        """Zero all entries but those among the k largest of a token in all parts."""
        values = acts.values.view(acts.shape[0], -1)
        kept = values * self._among_largest(values, k)
        return SparseActs(acts.crow_indices, acts.col_indices, kept.flatten(), acts.shape, entries_per_row=acts.entries_per_row)

    def _among_largest(self, values: Tensor, k: int) -> Tensor:
        """Bool [n, m]: which of this part's values are among the k largest of a token in all parts; all parts have m."""
        proposed = torch.cat(self.ranks.gathered(values.detach()), dim=1)
        return values.detach() >= proposed.topk(min(k, proposed.shape[1]), dim=1).values[:, -1:]

    def _with_shared_auxiliary(self, loss: Loss, inputs: Tensor, residual: Tensor) -> Loss:
        dead, coefficient = self.dead, self.options.aux_coefficient
        n_dead = int(self.totalled(dead))
        if not n_dead or not coefficient:
            return loss
        k, target = min(n_dead, self.options.k_aux or max(1, self.d_in // 2)), residual.detach()
        pre_acts = self.pre_acts(inputs, dead)
        values, indices = self.strongest(pre_acts, min(k, pre_acts.shape[1]))
        # All parts propose as many; zeros stand in where a part has fewer dead features.
        padded = nn.functional.pad(values, (0, k - values.shape[1]))
        kept = values * self._among_largest(padded, k)[:, : values.shape[1]]
        acts = torch.zeros_like(pre_acts).scatter(1, indices, kept)
        error = (_Summed.apply(acts @ self.W_dec[dead]) - target).square().sum() / len(target)
        loss.total = loss.total + coefficient * error
        loss.terms["aux"] = error.detach()
        return loss

    @torch.no_grad()
    def clip_gradients(self, largest: float) -> None:
        """By the norm over all parts; what every process holds counts once."""
        own = [(name, p.grad) for name, p in self.named_parameters() if p.grad is not None]
        spread = sum((grad.double().square().sum() for name, grad in own if name in SPREAD), torch.zeros(()).double())
        shared = sum((grad.double().square().sum() for name, grad in own if name not in SPREAD), torch.zeros(()).double())
        norm = (self.ranks.total(spread) + shared).sqrt()
        factor = float(largest / (norm + 1e-6))
        if factor < 1:
            for _, grad in own:
                grad.mul_(factor)

    def totalled(self, counts: Tensor) -> Tensor:
        """The sum over all parts."""
        return self.ranks.total(counts.sum())

    def gathered(self, name: str, tensor: Tensor) -> Tensor:
        """All features of a tensor by feature."""
        return torch.cat(self.ranks.gathered(tensor)) if name in SPREAD and tensor.ndim else tensor

    def whole(self) -> TopK:
        """With the features of all processes, which all must call this."""
        nothing = Start(torch.zeros(1, self.d_in), torch.zeros(1, self.d_out), 1.0, 1.0)
        whole = TopK(self.options, nothing)
        whole.load_state_dict({name: self.gathered(name, value) for name, value in self.state_dict().items()})
        return whole.to(self.b_dec.device)

    def own_part(self, name: str, tensor: Tensor) -> Tensor:
        """The features of this process."""
        return tensor.chunk(self.ranks.size)[self.ranks.rank] if name in SPREAD and tensor.ndim else tensor


def sharded(variant: Variant, ranks: Ranks) -> ShardedTopK:
    """The part of this process. Raises `ArgumentError` for variants other than topk."""
    if type(variant) is not TopK:
        raise ArgumentError("shard_features", expected="architecture topk", got=type(variant).__name__)
    return ShardedTopK(variant, ranks)


class _Copied(torch.autograd.Function):
    """The same in every process; gradients are summed over processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _all_reduced(grads[0])


class _Summed(torch.autograd.Function):
    """The sum over processes; every process has the same gradient of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _all_reduced(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def _all_reduced(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    if dist.is_initialized():
        dist.all_reduce(x)
    return x
