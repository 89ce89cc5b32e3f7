"""Operands of one size in one precision, the same for the same seed on every device."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from benchmarks.sizes import Kind, Size
from sae_fast import ops
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs

Precision = Literal["fp32", "tf32", "bf16"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}

ROTATED = 3
"""Inputs that take turns, so that no run finds its own input in a cache."""

SAMPLE = 4_096
"""Tokens from which the threshold is estimated, and features of each of them."""


@dataclass(frozen=True)
class Operands:
    """Everything that contenders are built from. Weights and inputs in the dtype of the precision, vectors in float32."""

    size: Size
    precision: Precision
    x: tuple[Tensor, ...]
    """ROTATED inputs [tokens, d_in]."""
    rows: Tensor
    """[d_sae, d_in], the encoder by feature; the decoder is the same with its rows in another order."""
    b_enc: Tensor
    threshold: Tensor
    b_dec: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]

    @cached_property
    def W_enc(self) -> Tensor:  # noqa: N802
        """[d_in, d_sae], contiguous, as other libraries keep it."""
        return self.rows.T.contiguous()

    @cached_property
    def W_dec(self) -> Tensor:  # noqa: N802
        """[d_sae, d_in]."""
        return self.rows.roll(1, 0)

    @cached_property
    def encoder(self) -> Prepared:
        return ops.prepare_encoder(self.rows.T)

    @cached_property
    def decoder(self) -> Prepared:
        return ops.prepare_decoder(self.W_dec)

    @cached_property
    def acts(self) -> SparseActs:
        """What decoders decode: the k largest of each token of the first input."""
        return ops.encode_topk(self.x[0], self.encoder, self.b_enc, self.size.k)

    @cached_property
    def dense_acts(self) -> Tensor:
        """The same, dense, in the dtype of the weights."""
        return self.acts.to_dense().to(self.dtype)


def make(size: Size, precision: Precision, device: torch.device, seed: int = 0) -> Operands:
    """The operands of `size`."""
    draw = torch.Generator(device).manual_seed(seed)
    rows = _features(size, draw, device)
    b_enc = torch.randn(size.d_sae, generator=draw, device=device) * 0.1
    if size.kind == "adverse":
        rows[1::2], b_enc[1::2] = rows[::2], b_enc[::2]
    inputs = [_tokens(size, size.kind, draw, device) for _ in range(ROTATED)]
    dtype = DTYPES[precision]
    return Operands(
        size=size,
        precision=precision,
        x=tuple(x.to(dtype) for x in inputs),
        rows=rows.to(dtype),
        b_enc=b_enc,
        threshold=_threshold(size, inputs[0], rows, b_enc, draw),
        b_dec=torch.randn(size.d_in, generator=draw, device=device) * 0.1,
    )


def _features(size: Size, draw: torch.Generator, device: torch.device) -> Tensor:
    rows = torch.randn(size.d_sae, size.d_in, generator=draw, device=device)
    if size.kind != "normal":
        shared = torch.randn(-(-size.d_sae // 4), size.d_in, generator=draw, device=device)
        rows.mul_(0.3**0.5).add_(shared.repeat_interleave(4, 0)[: size.d_sae], alpha=0.7**0.5)
        rows *= 10 ** (torch.rand(size.d_sae, 1, generator=draw, device=device) - 0.5)
    return rows / size.d_in**0.5


def _tokens(size: Size, kind: Kind, draw: torch.Generator, device: torch.device) -> Tensor:
    x = torch.randn(size.tokens, size.d_in, generator=draw, device=device)
    if kind == "low-contrast":
        x[::8] *= 1e-4
    elif kind == "adverse":
        x[2::16] = 0
        x[3::16] = float("nan")
    return x


def _threshold(size: Size, x: Tensor, rows: Tensor, b_enc: Tensor, draw: torch.Generator) -> Tensor:
    """Thresholds that scatter by a twentieth around one level, which lets `l0` features of a token fire on average."""
    x = x[x.isfinite().all(1)][:SAMPLE]
    chosen = torch.randint(0, size.d_sae, (SAMPLE,), generator=draw, device=x.device)
    h = (x @ rows[chosen].T + b_enc[chosen]).flatten()
    level = h.topk(int(h.numel() * size.l0 / size.d_sae)).values[-1]
    return level * (1 + 0.05 * torch.randn(size.d_sae, generator=draw, device=x.device))
