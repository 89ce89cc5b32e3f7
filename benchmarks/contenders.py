"""Who is timed: for each operation, functions of the input that are built once from the operands.

`sae_fast` calls the public operation with prepared weights. `eager` is what SAELens computes, `compiled` the same under
`torch.compile`; `addmm` is the matrix product alone, below which no dense method can go. Peers run where they are installed.
"""

import importlib.util
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.operands import Operands, Precision
from benchmarks.timing import Function
from sae_fast import ops

ON_BOTH: tuple[Precision, ...] = ("fp32", "bf16")
ON_GPU: tuple[Precision, ...] = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class Contender:
    """One way to compute an operation."""

    operation: str
    name: str
    build: Callable[[Operands], Function]
    precisions: tuple[Precision, ...] = ON_GPU
    package: str | None = None
    """What must be installed."""
    only_on: str | None = None
    """The type of device without which it is of no interest."""
    gives: str = "acts"
    """acts, topk ((values, indices) [n, k]), dense, x_hat, error, entries, or nothing that could be checked."""
    dense: bool = False
    """Whether it forms [tokens, d_sae]."""
    compiled: bool = False
    approximate: bool = False

    def available(self, device: torch.device) -> bool:
        """Whether it can run here."""
        installed = self.package is None or importlib.util.find_spec(self.package) is not None
        return installed and self.only_on in {None, device.type}


def _saelens_pre_acts(o: Operands) -> Function:
    W_enc, b_enc = o.W_enc, o.b_enc.to(o.dtype)
    return lambda x: x @ W_enc + b_enc


def _eager_topk(o: Operands) -> Function:
    pre_acts, k = _saelens_pre_acts(o), o.size.k

    def encode(x: Tensor) -> Tensor:
        h = pre_acts(x)
        values, indices = torch.topk(h, k=k, dim=-1)
        return torch.zeros_like(h).scatter_(-1, indices, values.relu())

    return encode


def _eager_threshold(o: Operands) -> Function:
    pre_acts, threshold = _saelens_pre_acts(o), o.threshold.to(o.dtype)

    def encode(x: Tensor) -> Tensor:
        h = pre_acts(x)
        return F.relu(h) * (h > threshold).to(h.dtype)

    return encode


def _addmm(o: Operands) -> Function:
    W_enc, b_enc = o.W_enc, o.b_enc.to(o.dtype)
    out = torch.empty(o.size.tokens, o.size.d_sae, dtype=o.dtype, device=W_enc.device)
    return lambda x: torch.addmm(b_enc, x, W_enc, out=out)


def _addmm_topk(o: Operands) -> Function:
    product, k = _addmm(o), o.size.k
    return lambda x: torch.topk(product(x), k, dim=-1, sorted=False)


def _addmm_flashinfer(o: Operands) -> Function:
    import flashinfer

    product, k = _addmm(o), o.size.k
    return lambda x: flashinfer.top_k(product(x), k)


def _sparsify_encoder(o: Operands) -> Function:
    from sparsify.fused_encoder import fused_encoder

    W, b, k = o.rows, o.b_enc.to(o.dtype), o.size.k
    return lambda x: tuple(fused_encoder(x, W, b, k, "topk"))[:2]


def _sparsify_decoder(o: Operands) -> Function:
    from sparsify.utils import decoder_impl

    indices, values = (part.clone() for part in o.acts.topk_view())
    return lambda x: decoder_impl(indices.long(), values.to(o.dtype), o.W_dec.mT) + o.b_dec


def _eager_batch_topk(o: Operands) -> Function:
    pre_acts, k = _saelens_pre_acts(o), o.size.k

    def encode(x: Tensor) -> Tensor:
        acts = pre_acts(x).relu()
        values, indices = torch.topk(acts.flatten(), k * len(x), sorted=False)
        return torch.zeros_like(acts.flatten()).scatter_(0, indices, values).view_as(acts)

    return encode


def _decode(o: Operands) -> Function:
    acts, weights = o.acts, o.decoder
    return lambda x: ops.decode(acts, weights, o.b_dec)


def _dense_decode(o: Operands) -> Function:
    acts, W_dec, b_dec = o.dense_acts, o.W_dec, o.b_dec.to(o.dtype)
    return lambda x: acts @ W_dec + b_dec


def _embedding_bag(o: Operands) -> Function:
    indices, values = o.acts.topk_view()
    values, b_dec = values.to(o.dtype), o.b_dec.to(o.dtype)
    return lambda x: F.embedding_bag(indices, o.W_dec, per_sample_weights=values, mode="sum") + b_dec


def _csr(o: Operands) -> Function:
    matrix, b_dec = o.acts.to(dtype=o.dtype).to_torch(), o.b_dec.to(o.dtype)
    return lambda x: matrix @ o.W_dec + b_dec


def _dense_error(o: Operands) -> Function:
    decode = _dense_decode(o)
    return lambda x: (x - decode(x)).float().square().sum(1)


def _reconstruct(o: Operands) -> Function:
    return lambda x: ops.decode(ops.encode_topk(x, o.encoder, o.b_enc, o.size.k), o.decoder, o.b_dec)


def _eager_reconstruct(o: Operands) -> Function:
    encode, b_dec = _eager_topk(o), o.b_dec.to(o.dtype)
    return lambda x: encode(x) @ o.W_dec + b_dec


CONTENDERS: tuple[Contender, ...] = (
    Contender("encode_topk", "sae_fast", lambda o: lambda x: ops.encode_topk(x, o.encoder, o.b_enc, o.size.k), ON_BOTH),
    Contender(
        "encode_topk", "sae_fast approximate",
        lambda o: lambda x: ops.encode_topk(x, o.encoder, o.b_enc, o.size.k, approximate=True),
        ("bf16",), only_on="cuda", approximate=True,
    ),
    Contender("encode_topk", "eager", _eager_topk, gives="dense", dense=True),
    Contender("encode_topk", "addmm", _addmm, gives="nothing", dense=True),
    Contender("encode_topk", "addmm + topk", _addmm_topk, gives="topk", dense=True),
    Contender("encode_topk", "addmm + flashinfer", _addmm_flashinfer, ("bf16",), "flashinfer", "cuda", "topk", dense=True),
    Contender("encode_topk", "eai-sparsify", _sparsify_encoder, ON_BOTH, "sparsify", gives="topk", dense=True),
    Contender(
        "encode_threshold", "sae_fast", lambda o: lambda x: ops.encode_threshold(x, o.encoder, o.b_enc, o.threshold), ON_BOTH
    ),
    Contender("encode_threshold", "eager", _eager_threshold, gives="dense", dense=True),
    Contender("encode_threshold", "addmm", _addmm, gives="nothing", dense=True),
    Contender(
        "encode_batch_topk", "sae_fast",
        lambda o: lambda x: ops.encode_batch_topk(x, o.encoder, o.b_enc, o.size.k), ON_BOTH, gives="nothing",
    ),
    Contender("encode_batch_topk", "eager", _eager_batch_topk, ON_BOTH, gives="nothing", dense=True),
    Contender("decode", "sae_fast", _decode, ON_BOTH, gives="x_hat"),
    Contender("decode", "dense", _dense_decode, gives="x_hat", dense=True),
    Contender("decode", "embedding_bag", _embedding_bag, ON_BOTH, gives="x_hat"),
    Contender("decode", "torch.sparse CSR", _csr, ("fp32",), gives="x_hat"),
    Contender("decode", "eai-sparsify", _sparsify_decoder, ON_BOTH, "sparsify", "cuda", gives="x_hat"),
    Contender(
        "decode_error", "sae_fast", lambda o: lambda x: ops.decode_error(o.acts, o.decoder, o.b_dec, x), ON_BOTH, gives="error"
    ),
    Contender("decode_error", "dense", _dense_error, ON_BOTH, gives="error", dense=True),
    Contender("transpose", "sae_fast", lambda o: lambda x: ops.transpose(o.acts), ("fp32",), gives="entries"),
    Contender(
        "transpose", "stable sort", lambda o: lambda x: ops.transpose(o.acts, impl="reference"), ("fp32",), gives="entries"
    ),
    Contender("reconstruct", "sae_fast", _reconstruct, ON_BOTH, gives="nothing"),
    Contender("reconstruct", "eager", _eager_reconstruct, gives="nothing", dense=True),
)  # fmt: skip


def compiled(contender: Contender) -> Contender:
    """The same under `torch.compile`."""
    return replace(
        contender,
        name="compiled",
        compiled=True,
        build=lambda o: torch.compile(contender.build(o), dynamic=False),
    )


@contextmanager
def arithmetic(precision: Precision):
    """Matrix products as the precision says: TF32 only where it is asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
