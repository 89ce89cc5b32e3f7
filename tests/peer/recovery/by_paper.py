"""What no other package trains, in plain PyTorch from the papers: dense, without anything that sae_fast adds.

JumpReLU transcoders (Lieberum et al. 2024, with the loss of Rajamanoharan et al. 2024), cross-layer transcoders (Ameisen et al.
2025), crosscoders (Lindsey et al. 2024) and BatchTopK crosscoders (Minder et al. 2025). Decoder rows begin with norm 0.1, the
encoder at their transpose where it can; Adam, gradients clipped to norm one.
"""

from collections.abc import Callable
from typing import Any

import torch
from peer.recovery.planted import DEAD_STEPS, LR, Planted, Trained, side_by_side
from torch import Tensor, nn

BEGIN_NORM = 0.1
AUXILIARY = 1 / 32
"""Weight of the loss that revives dead features."""
WARMUP = 0.3
"""Share of the steps over which a coefficient rises, as in sae_fast's jumprelu."""


class Coder(nn.Module):
    """`ŷ = f(x W_enc + b_enc) W_dec + b_dec`; masks say which entries of the weights there are."""

    def __init__(self, planted: Planted, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.mask_in, self.mask_out = (_mask(planted, hooks) for hooks in (planted.reads, planted.writes))
        rows = BEGIN_NORM * nn.functional.normalize(torch.randn(self.mask_out.shape) * self.mask_out, dim=1)
        reads = BEGIN_NORM * nn.functional.normalize(torch.randn(self.mask_in.shape) * self.mask_in, dim=1)
        self.W_dec = nn.Parameter(rows)
        self.W_enc = nn.Parameter((rows if planted.reads == planted.writes else reads).T.clone())
        self.b_enc = nn.Parameter(torch.zeros(len(rows)))
        self.b_dec = nn.Parameter(torch.zeros(rows.shape[1]))
        self.threshold = nn.Parameter(torch.full((len(rows),), 0.1))
        self.steps_since_active = torch.zeros(len(rows))

    def pre_acts(self, x: Tensor) -> Tensor:
        """[n, d_sae]."""
        return x @ (self.W_enc * self.mask_in.T) + self.b_enc

    def decode(self, acts: Tensor) -> Tensor:
        """[n, d_out]."""
        return acts @ (self.W_dec * self.mask_out) + self.b_dec


def train(architecture: str, options: dict[str, Any], planted: Planted, seed: int) -> Trained:
    """One of `METHODS`."""
    coder, encode = Coder(planted, seed), METHODS[architecture]
    optimizer = torch.optim.Adam(coder.parameters(), lr=LR)
    for step, batch in enumerate(planted.stream(seed)):
        x, y = side_by_side(batch, planted.reads), side_by_side(batch, planted.writes)
        acts, penalty = encode(coder, x, options, planted)
        error = (y - coder.decode(acts)).square().sum(1).mean()
        (error + min(1.0, step / (WARMUP * planted.steps)) * penalty).backward()
        nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        coder.threshold.data.clamp_(min=0)

    coder.eval()

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        acts = encode(coder, x, options, planted)[0]
        return acts, coder.decode(acts)

    return Trained(run, (coder.W_dec * coder.mask_out).detach())


def _jumprelu(coder: Coder, x: Tensor, options: dict[str, Any], planted: Planted) -> tuple[Tensor, Tensor]:
    """Straight-through estimators with a rectangle of the given width; `λ L0`."""
    h, width = coder.pre_acts(x), options["bandwidth"]
    acts = _Jump.apply(h, coder.threshold, width)
    return acts, options["coefficient"] * _Step.apply(h, coder.threshold, width).sum(1).mean()


def _tanh(coder: Coder, x: Tensor, options: dict[str, Any], planted: Planted) -> tuple[Tensor, Tensor]:
    """`λ Σ tanh(4 a ‖d‖)`, with the straight-through estimate of every gradient, that of the pre-activations too."""
    h, width = coder.pre_acts(x), options["bandwidth"]
    near = ((h - coder.threshold).abs() < width / 2) * coder.threshold.detach() / width
    straight = near * (h - coder.threshold)
    acts = h * (h > coder.threshold) + straight - straight.detach()
    return acts, options["coefficient"] * torch.tanh(4 * acts * coder.W_dec.norm(dim=1)).sum(1).mean()


def _l1(coder: Coder, x: Tensor, options: dict[str, Any], planted: Planted) -> tuple[Tensor, Tensor]:
    """`λ Σ a Σ_hooks ‖d_hook‖`."""
    acts = coder.pre_acts(x).relu()
    widths = [planted.directions[hook].shape[1] for hook in planted.writes]
    norms = torch.stack([rows.norm(dim=1) for rows in coder.W_dec.split(widths, dim=1)]).sum(0)
    return acts, options["coefficient"] * (acts * norms).sum(1).mean()


def _batchtopk(coder: Coder, x: Tensor, options: dict[str, Any], planted: Planted) -> tuple[Tensor, Tensor]:
    """The k · n largest of a batch by what they add, scored so too; the error rebuilt from dead features, as of TopK."""
    acts = coder.pre_acts(x).relu()
    sizes = (acts * coder.W_dec.norm(dim=1)).detach()
    smallest = sizes.flatten().topk(int(options["k"] * len(x)), sorted=False).values.min()
    chosen = acts * (sizes >= smallest)
    coder.steps_since_active = (coder.steps_since_active + 1) * (chosen == 0).all(0)
    dead = coder.steps_since_active > DEAD_STEPS
    if not coder.training or not bool(dead.any()):
        return chosen, x.new_zeros(())
    values, places = coder.pre_acts(x)[:, dead].topk(min(int(dead.sum()), x.shape[1] // 2))
    revived = torch.zeros(len(x), int(dead.sum())).scatter(1, places, values.relu()) @ coder.W_dec[dead]
    error = (x - coder.decode(chosen)).detach()
    return chosen, AUXILIARY * (error - revived).square().sum(1).mean()


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(h, threshold)
        ctx.width = width
        return h * (h > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        h, threshold = ctx.saved_tensors
        near = (h - threshold).abs() < ctx.width / 2
        return grads[0] * (h > threshold), -(grads[0] * near * threshold / ctx.width).sum(0), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(h, threshold)
        ctx.width = width
        return (h > threshold).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        h, threshold = ctx.saved_tensors
        near = (h - threshold).abs() < ctx.width / 2
        return None, -(grads[0] * near / ctx.width).sum(0), None


def _mask(planted: Planted, hooks: tuple[str, ...]) -> Tensor:
    """Of a cross-layer transcoder, which features read or write where; ones elsewhere."""
    there = [(planted.directions[hook] != 0).any(1, keepdim=True).expand_as(planted.directions[hook]) for hook in hooks]
    return torch.cat(there, dim=1).float()


METHODS: dict[str, Callable[[Coder, Tensor, dict[str, Any], Planted], tuple[Tensor, Tensor]]] = {
    "jumprelu_transcoder": _jumprelu,
    "clt": _tanh,
    "crosscoder": _l1,
    "batchtopk_crosscoder": _batchtopk,
}
