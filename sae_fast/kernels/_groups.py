"""Groups of 16 features, and what one group leaves behind of its pre-activations.

A *block* is 64 adjacent features, a *group* the 16 of them that one thread already holds in a matrix unit's accumulator:
group `g` is the features `64 * (g // 4) + 8 * j + 2 * (g % 4) + e` for `j` in 0..7 and `e` in 0..1, and `code = 2 * j + e`
names one of them. Reducing a group needs no traffic between threads. A group leaves two int32 words:

* top-2: the bits of the largest positive pre-activation (0 if none is positive), and the second largest rounded *up* to 28
  bits, with the code of the largest in the low 4. Positive floats order as their bits do.
* hits: the bits of the sum of the pre-activations above their thresholds (of the only one, where there is one), and a mask of
  16 bits that says which were.
"""

import triton
import triton.language as tl

GROUP = 16
"""Features of a group."""
BLOCK = 64
"""Features of a block."""
INTERPRET = bool(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, on CPU tensors. Its `tl.dot` is wrong for bfloat16."""


def n_groups_of(d_sae: int) -> int:
    """Number of groups, those of a last, partly filled block included."""
    return BLOCK // GROUP * triton.cdiv(d_sae, BLOCK)


@triton.jit
def group_feature(group, code):
    """The feature that `code` names in `group`."""
    return (group // 4) * 64 + (code // 2) * 8 + (group % 4) * 2 + code % 2


@triton.jit
def n_features_of(group, d_sae):
    """How many features of `group` exist: the codes below it."""
    left = d_sae - (group // 4) * 64 - (group % 4) * 2
    whole = tl.minimum(tl.maximum(left, 0) // 8, 8)
    return 2 * whole + tl.where(whole < 8, tl.minimum(tl.maximum(left - 8 * whole, 0), 2), 0)


@triton.jit
def positive_bits(h):
    """Bits of a positive float32, 0 for anything else: zero, negative or NaN."""
    return tl.where(h > 0, h, 0.0).to(tl.int32, bitcast=True)


@triton.jit
def _two_largest(first_a, code_a, second_a, first_b, code_b, second_b):
    second = tl.maximum(tl.minimum(first_a, first_b), tl.maximum(second_a, second_b))
    return tl.maximum(first_a, first_b), tl.where(first_a >= first_b, code_a, code_b), second


@triton.jit
def _codes():
    """[8, 1, 2]: the code of each place of a block, laid out as `by_group` does."""
    return tl.arange(0, 8)[:, None, None] * 2 + tl.arange(0, 2)[None, None, :]


@triton.jit
def group_top2(h, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Words of `h` [ROWS, COLUMNS]: two int32 [ROWS, COLUMNS / 16]."""
    first = tl.reshape(positive_bits(h), (ROWS, COLUMNS // 64, 8, 4, 2))
    code = tl.broadcast_to(_codes()[None, None], (ROWS, COLUMNS // 64, 8, 4, 2))
    second = tl.zeros((ROWS, COLUMNS // 64, 8, 4, 2), tl.int32)
    first, code, second = tl.reduce((first, code, second), 4, _two_largest)
    first, code, second = tl.reduce((first, code, second), 2, _two_largest)
    second = ((second + 15) & -16) | code
    return tl.reshape(first, (ROWS, COLUMNS // 16)), tl.reshape(second, (ROWS, COLUMNS // 16))


@triton.jit
def group_hits(h, fires, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Words of `h` where `fires`, both [ROWS, COLUMNS]: two int32 [ROWS, COLUMNS / 16]."""
    value = tl.reshape(tl.where(fires, h, 0.0), (ROWS, COLUMNS // 64, 8, 4, 2))
    bit = tl.broadcast_to((1 << _codes())[None, None], (ROWS, COLUMNS // 64, 8, 4, 2))
    mask = tl.where(tl.reshape(fires, (ROWS, COLUMNS // 64, 8, 4, 2)), bit, 0)
    value = tl.sum(tl.sum(value, 4), 2)
    mask = tl.sum(tl.sum(mask, 4), 2)
    return tl.reshape(value, (ROWS, COLUMNS // 16)).to(tl.int32, bitcast=True), tl.reshape(mask, (ROWS, COLUMNS // 16))


@triton.jit
def count_bits(mask):
    """Number of set bits of a mask of 16 bits."""
    mask = mask - ((mask >> 1) & 0x5555)
    mask = (mask & 0x3333) + ((mask >> 2) & 0x3333)
    mask = (mask + (mask >> 4)) & 0x0F0F
    return (mask + (mask >> 8)) & 0x1F


@triton.jit
def kth_largest(bits, k):
    """The k-th largest of non-negative int32 `bits`, in any place; 0 where fewer than k are positive."""
    level = 0
    for i in range(31):
        trial = level | (1 << (30 - i))
        level = tl.where(tl.sum((bits >= trial).to(tl.int32), 0) >= k, trial, level)
    return level
