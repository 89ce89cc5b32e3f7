"""The decoding kernels compiled ahead of time, and how their work is cut."""

import itertools

import pytest
import torch
from compile_ahead import CAPABILITIES, Report, assert_fits, compile_kernel

pytest.importorskip("triton", reason="Triton is not installed")

from sae_fast.kernels import _dense, _gather
from sae_fast.kernels import decode as decode_kernels
from sae_fast.kernels import decode_error as decode_error_kernels
from sae_fast.kernels._card import H200, Card
from sae_fast.kernels._gather import BLOCKS, MAX_SPLITS, Cut, cut

TYPES = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}
ENTRIES = {"values": "*fp32", "columns": "*i32", "pointer": "*i64"}

CONFIGURATIONS = list(itertools.product(BLOCKS, TYPES, [True, False]))
"""(width of a slab, dtype of the weights, whether d_out is a multiple of 16)."""

REPRESENTATIVE = [(256, "bfloat16", True, 90), (128, "float32", True, 80), (512, "bfloat16", False, 120)]
WHOLE_MATRIX = [(*configuration, capability) for configuration in CONFIGURATIONS for capability in CAPABILITIES]


def compile_decode(block_d: int, dtype: str, even: bool, capability: int, partial: bool) -> Report:
    signature = ENTRIES | {"rows": TYPES[dtype], "bias": "*fp32", "out": "*fp32", "n": "i32", "d_out": "i32"}
    constants = {"BLOCK_D": block_d, "IN_FLIGHT": Cut(block_d, 1).in_flight, "PARTIAL": partial}
    return compile_kernel(decode_kernels._decode, signature, constants, capability, divisible=["d_out"] if even else [])


def compile_decode_error(block_d: int, dtype: str, even: bool, capability: int) -> Report:
    signature = ENTRIES | {"rows": TYPES[dtype], "bias": "*fp32", "x": TYPES[dtype], "out": "*fp32", "n": "i32", "d_out": "i32"}
    constants = {"BLOCK_D": block_d, "IN_FLIGHT": Cut(block_d, 1).in_flight}
    kernel = decode_error_kernels._decode_error
    return compile_kernel(kernel, signature, constants, capability, divisible=["d_out"] if even else [])


def assert_gathers_well(report: Report, even: bool) -> None:
    """No spills; enough registers free for many programs to a multiprocessor; and wide loads where d_out allows.

    The budget of registers is that of the newest Triton. With 3.6, unaligned float32 rows take up to 145 on sm_100.
    """
    import triton

    assert_fits(report)
    if not triton.__version__.startswith("3.6."):
        assert report.registers <= 128
    if even:
        assert sum(n for opcode, n in report.opcodes.items() if opcode.startswith("LDG") and ".128" in opcode) >= 4


@pytest.mark.parametrize(("block_d", "dtype", "even", "capability"), REPRESENTATIVE)
def test_decode_compiles(block_d: int, dtype: str, even: bool, capability: int) -> None:
    """Both kinds of decode and decode_error fit the card and read 16 bytes at a time."""
    for report in (
        compile_decode(block_d, dtype, even, capability, partial=False),
        compile_decode(block_d, dtype, even, capability, partial=True),
        compile_decode_error(block_d, dtype, even, capability),
    ):
        assert_gathers_well(report, even)


@pytest.mark.slow
@pytest.mark.parametrize(("block_d", "dtype", "even", "capability"), WHOLE_MATRIX)
def test_decode_compiles_for_every_card(block_d: int, dtype: str, even: bool, capability: int) -> None:
    """The same for every width, dtype and card."""
    test_decode_compiles(block_d, dtype, even, capability)


@pytest.mark.parametrize("capability", [90, *(pytest.param(c, marks=pytest.mark.slow) for c in CAPABILITIES if c != 90)])
def test_small_decoding_kernels_compile(capability: int) -> None:
    """The sum of the splits, and the scatter of the dense way in both forms."""
    splits = {"partial": "*fp32", "bias": "*fp32", "out": "*fp32", "size": "i64", "d_out": "i32", "n_splits": "i32"}
    block = {"BLOCK": decode_kernels.REDUCE_BLOCK}
    assert_fits(compile_kernel(decode_kernels._add_splits, splits, block, capability))
    integers = dict.fromkeys(("first_token", "first_feature", "n_features", "term_stride"), "i32")
    for dense, terms in (("*bf16", 3), ("*fp32", 1)):
        constants = {"BLOCK": _dense.SCATTER_BLOCK, "TERMS": terms}
        assert_fits(compile_kernel(_dense._scatter, ENTRIES | {"dense": dense} | integers, constants, capability))


def test_headline_size_keeps_a_slab_in_the_cache() -> None:
    """65,536 rows of 256 bfloat16 columns are 34 MB; wider slabs where the matrix is smaller, and one program to a sum."""
    tokens = 16384
    assert cut(tokens, 64 * tokens, 65536, 2304, 2, H200) == Cut(256, 1)
    assert cut(tokens, 64 * tokens, 16384, 2304, 2, H200) == Cut(512, 1)
    assert cut(tokens, 64 * tokens, 131072, 2304, 2, H200) == Cut(128, 1)
    assert cut(tokens, 64 * tokens, 1048576, 4096, 2, H200) == Cut(512, 1)


@pytest.mark.parametrize("n", [1, 2, 5, 16, 64, 256])
@pytest.mark.parametrize("l0", [1, 64, 3000])
def test_small_batches_keep_the_card_busy(n: int, l0: int) -> None:
    """Few tokens are cut until every multiprocessor has a program, or a program would have less than one tile."""
    how = cut(n, l0 * n, 65536, 2304, 2, H200)

    programs = n * -(-2304 // how.block_d) * how.splits
    tiles = -(-l0 // how.in_flight)
    assert programs >= H200.n_multiprocessors or how.splits * 2 > min(tiles, MAX_SPLITS)
    assert how.splits <= max(1, tiles)


def test_widths_are_not_padded_to_a_power_of_two() -> None:
    """A slab is chosen that the width fills to at least seven eighths, where there is one."""
    for d_out in (768, 1024, 2304, 3584, 4096, 5120):
        how = cut(16384, 64 * 16384, 4096, d_out, 2, Card(132, 50 << 20))
        assert -(-d_out // how.block_d) * how.block_d <= d_out * 8 / 7


def test_the_dense_way_needs_many_features() -> None:
    """It is taken above the break-even L0 only, and not for few tokens."""
    n, d_sae = 4096, 65536
    assert not _dense.pays(n, 64 * n, d_sae, torch.bfloat16)
    assert _dense.pays(n, 2000 * n, d_sae, torch.bfloat16)
    assert not _dense.pays(16, 2000 * 16, d_sae, torch.bfloat16)
    assert not _dense.pays(n, 2000 * n, d_sae, torch.float32)
    assert _dense.pays(n, 4000 * n, d_sae, torch.float32)
    assert _gather.ELEMENTS % max(BLOCKS) == 0


def test_the_dense_way_never_rounds_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where float32 products are set to TF32, float32 weights are gathered instead."""
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")

    assert not _dense.pays(4096, 4000 * 4096, 65536, torch.float32)
    assert _dense.pays(4096, 4000 * 4096, 65536, torch.bfloat16)
