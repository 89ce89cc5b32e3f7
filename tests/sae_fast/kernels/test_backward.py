"""The kernels of the backward pass compiled ahead of time, and how their work is cut."""

import pytest
from compile_ahead import CAPABILITIES, assert_fits, compile_kernel

pytest.importorskip("triton", reason="Triton is not installed")

from sae_fast.kernels import bias_gradient, sampled_dot, weight_gradient
from sae_fast.kernels._card import H200
from sae_fast.kernels._gather import BLOCKS, Cut

TYPES = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}

by_capability = pytest.mark.parametrize(
    "capability", [90, *(pytest.param(c, marks=pytest.mark.slow) for c in CAPABILITIES if c != 90)]
)
by_dtype = pytest.mark.parametrize("dtype", ["bfloat16", *(pytest.param(t, marks=pytest.mark.slow) for t in list(TYPES)[1:])])


@by_capability
@by_dtype
@pytest.mark.parametrize("even", [True, False], ids=["even", "odd"])
def test_sampled_dot_compiles(even: bool, dtype: str, capability: int) -> None:
    """Fits every card, and reads 16 bytes at a time where the width allows."""
    signature = {"columns": "*i32", "pointer": "*i64", "a": "*fp32", "rows": TYPES[dtype], "out": "*fp32", "d": "i32"}
    constants = {"BLOCK_D": sampled_dot.BLOCK_D, "IN_FLIGHT": sampled_dot.in_flight(2304 if even else 2305)}

    report = compile_kernel(sampled_dot._sampled_dot, signature, constants, capability, divisible=["d"] if even else [])

    assert_fits(report)
    if even:
        assert any(opcode.startswith("LDG") and ".128" in opcode for opcode in report.opcodes)


@by_capability
@by_dtype
@pytest.mark.parametrize("block_d", BLOCKS)
def test_weight_gradient_compiles(block_d: int, dtype: str, capability: int) -> None:
    """Short sums, long sums and the sum of their parts fit every card."""
    entries = {"values": "*fp32", "tokens": "*i64", "pointer": "*i64", "a": TYPES[dtype]}
    constants = {"BLOCK_D": block_d, "IN_FLIGHT": Cut(block_d, 1).in_flight}
    short = entries | {"out": "*fp32", "d": "i32", "limit": "i32"}
    long = entries | {"long_features": "*i64", "partial": "*fp32", "d": "i32", "d_sae": "i32"}

    assert_fits(compile_kernel(weight_gradient._short_sums, short, constants, capability, divisible=["d"]))
    assert_fits(compile_kernel(weight_gradient._long_sums, long, constants, capability, divisible=["d"]))


@by_capability
def test_sums_compile(capability: int) -> None:
    """So do the sums of parts and of a feature's values."""
    parts = {"partial": "*fp32", "long_features": "*i64", "out": "*fp32", "d": "i32", "d_sae": "i32"}
    constants = {"SPLITS": weight_gradient.SPLITS, "BLOCK": weight_gradient.REDUCE_BLOCK}
    assert_fits(compile_kernel(weight_gradient._add_parts, parts, constants, capability))
    values = {"values": "*fp32", "pointer": "*i64", "out": "*fp32"}
    assert_fits(compile_kernel(bias_gradient._segment_sum, values, {"BLOCK": bias_gradient.BLOCK}, capability))


def test_few_tokens_share_a_card() -> None:
    """A token's entries are shared among programs while there are fewer than the card has room for."""
    assert sampled_dot.programs_per_token(16384, 64 * 16384, 2304, H200) == 1
    assert sampled_dot.programs_per_token(1, 64, 2304, H200) == 4
    assert sampled_dot.programs_per_token(1, 1, 2304, H200) == 1
    assert sampled_dot.programs_per_token(16, 16 * 4096, 2304, H200) == 66
