"""Screening float32 weights in bfloat16, with a bound on the error that holds always.

Write `x'` and `w'` for a token and a feature's weights rounded to bfloat16. Then

    |x·w - x'·w'|  =  |(x - x')·w + x'·(w - w')|  <=  ‖x - x'‖ ‖w‖ + ‖x'‖ ‖w - w'‖        (Cauchy-Schwarz),

with norms that are measured, not assumed: about 0.0033 ‖x‖ ‖w‖ in practice (at worst 2^-7 of it), and half where x comes in
bfloat16. A matrix unit adds d_in products in float32, truncating: every step of b products loses at most (b + 1) 2^-23 of the
largest partial sum, which ‖x'‖ ‖w'‖ + |bias| bounds, so 2^-22 of that per product covers it. The margin of token r and feature
f is therefore

    e  =  a_r N_f + b_r R_f + β_f        a_r = ‖x - x'‖ + 2^-22 (d_in + 32) ‖x'‖,   N_f = ‖w‖
                                         b_r = ‖x'‖,                                 R_f = ‖w - w'‖
                                         β_f = 2^-22 (d_in + 32) |bias|

with every factor raised by 1% (the norms are themselves float32 sums) and rounded up to bfloat16. The matrix product forms it:
16 more columns hold `a, b, 1, 1, 1, 1` on the side of x and `N, R, β` and the bias in three pieces on the side of the weights.
What comes out is an upper bound `u = h + e` of every pre-activation, and `u - 2 e` is a lower one.

The bound needs norms below 2^64 and sums that do not underflow; where a norm overflows, u is infinite or NaN, and the row is
computed in full or, if x itself is not finite, fires nothing. Every value that leaves is a float32 dot product. Two exact
implementations may still differ in features whose pre-activations differ by less than the rounding of such a sum, about
d_in^(1/2) 2^-24 ‖x‖ ‖w‖: the tie band.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_fast.prepared import Prepared

SAFETY = 1.01
STEP = 2.0**-22
TINY = 2.0**-100
"""Keeps factors positive where norms vanish, and covers bfloat16 numbers below the normal range."""


def screened(x: Tensor) -> Tensor:
    """What the matrix product reads of x [n, d_in]: bfloat16."""
    return x.to(torch.bfloat16)


def x_margin(x: Tensor, coarse: Tensor) -> Tensor:
    """bfloat16 [n, 16]: `a, b, 1, 1, 1, 1, 0, …` for tokens x and their bfloat16 copy."""
    error = torch.linalg.vector_norm(x - coarse, dim=1)
    norm = torch.linalg.vector_norm(coarse, dim=1, dtype=torch.float32)
    margin = torch.zeros(len(x), 16, dtype=torch.bfloat16, device=x.device)
    margin[:, 0] = _rounded_up(error + _relative_error(x.shape[1]) * norm)
    margin[:, 1] = _rounded_up(norm)
    margin[:, 2:6] = 1.0
    return margin


def row_margin(weights: Prepared, bias: Tensor) -> Tensor:
    """bfloat16 [d_sae, 16]: `N, R, β` and the bias in three pieces."""
    margin = torch.zeros(weights.d_sae, 16, dtype=torch.bfloat16, device=bias.device)
    margin[:, 0] = _rounded_up(weights.norms)
    margin[:, 1] = _rounded_up(weights.residual_norms)
    margin[:, 2] = _rounded_up(_relative_error(weights.shape[0]) * bias.abs())
    for piece in range(3, 6):
        margin[:, piece] = bias
        bias = bias - margin[:, piece].float()
    return margin


def _relative_error(d_in: int) -> float:
    return STEP * (d_in + 32)


def _rounded_up(factor: Tensor) -> Tensor:
    """`factor` and its safety margin in bfloat16, never below."""
    factor = factor * SAFETY + TINY
    near = factor.to(torch.bfloat16)
    return torch.where(near.float() < factor, near * 1.0078125, near)


@triton.jit
def margin_of(x_margin, row_margin, feature, mask):
    """`e` of one token (pointer to its 16 terms) and some features."""
    a, b = tl.load(x_margin).to(tl.float32), tl.load(x_margin + 1).to(tl.float32)
    terms = row_margin + feature * 16
    norm = tl.load(terms, mask=mask, other=0.0).to(tl.float32)
    residual = tl.load(terms + 1, mask=mask, other=0.0).to(tl.float32)
    return a * norm + b * residual + tl.load(terms + 2, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def lower_bound(upper_bits, x_margin, row_margin, feature):
    """Bits of the lower bounds whose upper bounds' bits are given; 0 where that is not positive."""
    upper = upper_bits.to(tl.float32, bitcast=True)
    # Four roundings of float32 on the way: 2^-20 covers them.
    # Where no feature of a group is positive, the one that is named need not exist.
    lower = upper - (2 * margin_of(x_margin, row_margin, feature, upper_bits > 0) + upper * 0.00000095367431640625)
    return tl.where(lower > 0, lower, 0.0).to(tl.int32, bitcast=True)
