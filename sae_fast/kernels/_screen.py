"""Screening float32 weights in float16, with a bound on the error that holds always.

Float16 has 11 significant bits where bfloat16 has 8, so its errors are an eighth; its narrow range is met by powers of two: `c`
for all weights and `s` for each token, chosen so that the largest magnitude is near 2^10. Write `X = s x` and `W = c w` for a
token and a feature's weights, `X'` and `W'` for both rounded to float16. Then

    |X·W - X'·W'|  =  |(X - X')·W + X'·(W - W')|  <=  ‖X - X'‖ ‖W‖ + ‖X'‖ ‖W - W'‖        (Cauchy-Schwarz),

with norms that are measured, not assumed: about 0.0004 ‖X‖ ‖W‖ in practice, half where x comes in half precision, and right
also for what falls below float16's range. A matrix unit adds the d_in products in float32, truncating: every step of b products
loses at most (b + 2) 2^-23 of the largest partial sum, which ‖X'‖ ‖W'‖ + |bias| bounds; with steps of 4 or more that is at most
1.5 2^-23 per product. The margin of token r and feature f is therefore, in units of s c,

    e  =  A_r N_f + B_r R_f + s_r β_f    A = ‖X - X'‖ + 1.5 2^-23 (d_in + 32) ‖X'‖,   N = ‖W‖
                                         B = ‖X'‖,                                    R = ‖W - W'‖
                                                                                      β = 1.5 2^-23 (d_in + 32) c |bias|

with every factor raised by 1% (the norms are themselves float32 sums) and rounded up to bfloat16. The matrix product forms it:
16 more columns hold `A, B, s, s, s, s` on the side of x and `N, R, β` and `c bias` in three pieces on that of the weights. What
comes out, divided by s c, is an upper bound `u = h + e` of every pre-activation, and `u - 2 e` is a lower one.

Where a norm overflows float32, u is infinite or NaN, and the row is computed in full or, if x itself is not finite, fires
nothing. Every value that leaves is a float32 dot product. Two exact implementations may still differ in features whose
pre-activations differ by less than the rounding of such a sum, about d_in^(1/2) 2^-24 ‖x‖ ‖w‖: the tie band.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae_fast.prepared import Prepared

LARGEST_EXPONENT = 10
"""Scaled magnitudes are at most 2^10: a float16 product of two, and sums of them, stay far from overflow."""
X_EXPONENTS = (-120, 80)
WEIGHT_EXPONENTS = (-60, 40)
"""What s and c may be, so that neither s c nor its inverse leaves float32 for weights below 2^70."""
SAFETY = 1.01
PER_PRODUCT = 1.5 * 2.0**-23
TINY = 2.0**-100
"""Keeps factors positive where norms vanish."""
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Screen:
    """Float32 weights as they are screened."""

    rows: Tensor
    """float16 [d_sae, d_in], scaled."""
    scale: Tensor
    """c, a power of two, float32 []."""
    norms: Tensor
    """N, float32 [d_sae]."""
    residual_norms: Tensor
    """R, float32 [d_sae]."""
    version: int
    """Of the weights: how often they had been changed in place."""


_SCREENS: WeakKeyDictionary[Prepared, Screen] = WeakKeyDictionary()


def screen_of(weights: Prepared) -> Screen:
    """The screen of float32 weights: made at the first call, half their size, and kept as long as they stay as they are."""
    screen = _SCREENS.get(weights)
    if screen is None or screen.version != _version(weights.rows):
        screen = _SCREENS[weights] = _screen(weights.rows)
    return screen


def screened_x(x: Tensor, screen: Screen) -> tuple[Tensor, Tensor]:
    """(float16 [n, d_in], margin bfloat16 [n, 16]: `A, B, s, s, s, s, 1 / (s c), 0, …`) of tokens x, float32 [n, d_in]."""
    s = _power_of_two(x.abs().amax(dim=1, keepdim=True), X_EXPONENTS)
    scaled = x * s
    coarse = scaled.half()
    norm = torch.linalg.vector_norm(coarse, dim=1, dtype=torch.float32)
    error = torch.linalg.vector_norm(scaled - coarse, dim=1)
    margin = torch.zeros(len(x), 16, dtype=torch.bfloat16, device=x.device)
    margin[:, 0] = _rounded_up(error + PER_PRODUCT * (x.shape[1] + 32) * norm)
    margin[:, 1] = _rounded_up(norm)
    margin[:, 2:6] = s
    margin[:, 6] = 1 / (s[:, 0] * screen.scale)
    return coarse, margin


def row_margin(screen: Screen, bias: Tensor) -> Tensor:
    """bfloat16 [d_sae, 16]: `N, R, β` and the scaled bias in three pieces."""
    bias = bias * screen.scale
    margin = torch.zeros(len(bias), 16, dtype=torch.bfloat16, device=bias.device)
    margin[:, 0] = _rounded_up(screen.norms)
    margin[:, 1] = _rounded_up(screen.residual_norms)
    margin[:, 2] = _rounded_up(PER_PRODUCT * (screen.rows.shape[1] + 32) * bias.abs())
    for piece in range(3, 6):
        margin[:, piece] = bias
        bias = bias - margin[:, piece].float()
    return margin


def _screen(rows: Tensor) -> Screen:
    scale = _power_of_two(torch.stack([part.abs().amax() for part in rows.split(ROWS_AT_ONCE)]).amax(), WEIGHT_EXPONENTS)
    coarse = torch.empty_like(rows, dtype=torch.float16)
    norms, residual_norms = [], []
    for part, out in zip(rows.split(ROWS_AT_ONCE), coarse.split(ROWS_AT_ONCE), strict=True):
        scaled = part * scale
        out.copy_(scaled)
        norms.append(torch.linalg.vector_norm(scaled, dim=1))
        residual_norms.append(torch.linalg.vector_norm(scaled - out, dim=1))
    return Screen(coarse, scale, torch.cat(norms), torch.cat(residual_norms), _version(rows))


def _version(rows: Tensor) -> int:
    return 0 if rows.is_inference() else rows._version


def _power_of_two(largest: Tensor, exponents: tuple[int, int]) -> Tensor:
    """The power of two, of those allowed, that brings `largest` nearest to between 2^9 and 2^10."""
    exponent = torch.frexp(largest).exponent
    return torch.ldexp(torch.ones_like(largest), (LARGEST_EXPONENT - exponent).clamp(*exponents))


def _rounded_up(factor: Tensor) -> Tensor:
    """`factor` and its safety margin in bfloat16, never below."""
    factor = factor * SAFETY + TINY
    near = factor.to(torch.bfloat16)
    return torch.where(near.float() < factor, near * 1.0078125, near)


@triton.jit
def lower_bound(upper_bits, x_margin, row_margin, feature):
    """Bits of the lower bounds of some features of one token, whose upper bounds' bits are given; 0 where not positive."""
    upper = upper_bits.to(tl.float32, bitcast=True)
    # Where no feature of a group is positive, the one that is named need not exist.
    mask = upper_bits > 0
    terms = row_margin + feature * 16
    norm = tl.load(terms, mask=mask, other=0.0).to(tl.float32)
    residual = tl.load(terms + 1, mask=mask, other=0.0).to(tl.float32)
    of_bias = tl.load(terms + 2, mask=mask, other=0.0).to(tl.float32)
    a, b = tl.load(x_margin).to(tl.float32), tl.load(x_margin + 1).to(tl.float32)
    s, unscale = tl.load(x_margin + 2).to(tl.float32), tl.load(x_margin + 6).to(tl.float32)
    margin = (a * norm + b * residual + s * of_bias) * unscale
    # Some roundings of float32 on the way: 2^-20 covers them.
    lower = upper - (2 * margin + upper * 0.00000095367431640625)
    return tl.where(lower > 0, lower, 0.0).to(tl.int32, bitcast=True)
