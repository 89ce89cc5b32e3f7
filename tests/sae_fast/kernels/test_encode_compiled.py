"""The encoding kernels compiled ahead of time: every tile that can be chosen, and every kernel after the product."""

import itertools

import pytest
import torch
from compile_ahead import CAPABILITIES, Report, assert_fits, compile_kernel

pytest.importorskip("triton", reason="Triton is not installed")

import triton

from sae_fast.kernels import _chunks, _compact, _gemm, _level, _refine, _rescan, _select
from sae_fast.kernels import encode_topk as topk
from sae_fast.kernels._choice import Tile, configurations

TENSOR_CORE = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}
TYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
WORDS = {"first_words": "*i32", "second_words": "*i32"}
MARGINS = {"x_margin": "*bf16", "row_margin": "*bf16"}
CANDIDATES = {"features": "*i32", "bits": "*i32", "groups": "*i32", "counts": "*i32"}
ALLOWED_STACK = 0 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9) else 16
"""Bytes. Triton 3.6's assembler keeps a few loop-invariant numbers on the stack where it aims at more programs to a card."""
EPILOGUES = [(False, False), (True, False), (False, True)]
"""(hits, screen); hits of a screening differ little from its top-2, and are in the whole matrix."""
OUT = {"out_features": "*i32", "out_values": "*fp32"}


def compile_product(tile: Tile, capability: int, dtype: str, hits: bool, screen: bool, even: bool = True) -> Report:
    operand = f"*{dtype}"
    signature = {"x": operand, "rows": operand, "bias": "*fp32", "threshold": "*fp32"} | MARGINS | WORDS
    signature |= {"n": "i32", "d_in": "i32", "d_sae": "i32"}
    if tile.descriptors:
        signature |= {"x": f"tensordesc<{dtype}[{tile.rows}, {tile.depth}]>"}
        signature |= {"rows": f"tensordesc<{dtype}[{tile.columns}, {tile.depth}]>"}
    constants = {"HITS": hits, "SCREEN": screen, "DESCRIPTORS": tile.descriptors, "EVEN": even, "INTERPRET": False}
    constants |= {"BM": tile.rows, "BN": tile.columns, "BK": tile.depth, "PANEL": tile.panel}
    return compile_kernel(
        _gemm.group_gemm, signature, constants, capability, num_warps=tile.warps, num_stages=tile.stages, divisible=["d_in"]
    )


def assert_product_fits(report: Report) -> None:
    """No spills, and the product on the card's matrix units."""
    assert_fits(report, ALLOWED_STACK)
    assert report.count(TENSOR_CORE[report.capability]) > 0, str(report)


def compile_others(capability: int, dtype: str, n_groups: int, slots: int, screen: bool) -> list[Report]:
    """The kernels after the product, as they are launched for one size."""
    wide = topk.select_lanes(slots // 4, n_groups)
    lanes, depth = min(2048, n_groups), _refine.refine_depth(getattr(torch, dtype))
    pointer, sizes = f"*{TYPES[dtype]}", {"d_in": "i32", "d_sae": "i32"}
    operands = {"x": pointer, "rows": pointer, "bias": "*fp32"}
    tile = topk.rescan_tile(getattr(torch, dtype))
    listed = {"listed": "*i32", "count": "*i32", "h_rows": "*fp32"}

    def build(kernel: object, signature: dict[str, str], constants: dict[str, object], warps: int, **options: object) -> Report:
        divisible = [name for name in signature if name == "d_in"]
        return compile_kernel(kernel, signature, constants, capability, num_warps=warps, divisible=divisible, **options)

    hits = {"n": "i32", "chunk_stride": "i32", "first_feature": "i32", "n_features": "i32", "d_sae": "i32"}
    return [
        build(
            _select.select, WORDS | MARGINS | CANDIDATES | {"overflows": "*i32", "n_groups": "i32", "k": "i32"},
            {"SCREEN": screen, "EXACT": True, "SLOTS": slots, "LANES": wide}, topk.select_warps(wide),
        ),
        build(
            _select.finish, dict.fromkeys(("features", "bits", "counts"), "*i32") | OUT | {"k": "i32"}, {"SLOTS": slots},
            topk.finish_warps(slots),
        ),
        build(
            _refine.refine_candidates, operands | CANDIDATES | sizes,
            {"SINGLES": screen, "SLOTS": slots, "BK": depth}, 4,
        ),
        build(
            _rescan.products, operands | listed | sizes | {"n_rows": "i32"},
            {"BN": tile[0], "BK": tile[1], "INTERPRET": False}, 4,
        ),
        build(
            _rescan.select_rows, operands | listed | OUT | sizes | {"k": "i32", "n_rows": "i32"},
            {"LANES": min(1024, 16 * n_groups), "BK": depth}, 8, maxnreg=topk.MOST_REGISTERS,
        ),
        build(_compact.count_hits, {"masks": "*i32", "counts": "*i64", "n_groups": "i32"}, {"LANES": lanes}, 4),
        build(
            _compact.write_hits,
            dict.fromkeys(("sums", "masks", "features", "entry_rows"), "*i32")
            | {"pointer": "*i64", "values": "*fp32", "n_groups": "i32"},
            {"VALUES": not screen, "BLOCKS": min(128, n_groups // 4)}, 4,
        ),
        build(
            _compact.refine_entries,
            operands | dict.fromkeys(("threshold", "gain", "offset"), "*fp32")
            | {"features": "*i32", "entry_rows": "*i32", "values": "*fp32", "kept": "*i8", "nnz": "i32", "d_in": "i32"},
            {"ALL": screen, "GAIN": True, "OFFSET": True, "BK": depth}, 4,
        ),
        build(
            _level.count_reaching, WORDS | MARGINS | {"level": "*i32", "counts": "*i32", "n_groups": "i32"},
            {"SCREEN": screen, "LANES": lanes}, 4,
        ),
        build(
            _level.top2_to_hits, WORDS | {"level": "*i32", "n_groups": "i32", "d_sae": "i32"}, {"LANES": min(1024, lanes)}, 4
        ),
        build(
            _chunks.chunk_words, {"h_chunk": "*fp32", "bias": "*fp32", "threshold": "*fp32"} | MARGINS | WORDS | hits,
            {"HITS": False, "SCREEN": screen, "BM": _chunks.TILE_ROWS, "BN": _chunks.TILE_COLUMNS}, 4,
        ),
    ]  # fmt: skip


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    ("hits", "screen"), [(False, False), (True, False), (False, True)], ids=["topk", "threshold", "screen"]
)
def test_the_product_compiles(capability: int, hits: bool, screen: bool) -> None:
    """The default tile of every card spills nothing, fits its shared memory and uses its matrix units."""
    assert_product_fits(compile_product(configurations(capability)[0], capability, "fp16" if screen else "bf16", hits, screen))


@pytest.mark.parametrize(("capability", "dtype", "screen"), [(80, "float32", True), (90, "bfloat16", False)])
def test_the_other_kernels_compile(capability: int, dtype: str, screen: bool) -> None:
    """What follows the product spills nothing either, at the headline's size."""
    for report in compile_others(capability, dtype, n_groups=4096, slots=topk.slots(64), screen=screen):
        assert_fits(report, ALLOWED_STACK)


ALL_TILES = [(capability, tile) for capability in CAPABILITIES for tile in configurations(capability)]


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "tile"), ALL_TILES)
def test_every_tile_compiles(capability: int, tile: Tile) -> None:
    """The same for every tile, dtype and epilogue."""
    for dtype, hits, (screen, even) in itertools.product(
        ("bf16", "fp16"), (False, True), ((False, True), (True, True), (False, False), (True, False))
    ):
        if not (screen and dtype == "bf16") and (even or not tile.descriptors):
            assert_product_fits(compile_product(tile, capability, dtype, hits, screen, even))


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", TYPES)
def test_every_other_kernel_compiles(capability: int, dtype: str) -> None:
    """The kernels after the product, from the smallest to the largest size of each constant."""
    screen = dtype == "float32"
    for n_groups, slots in ((4, 512), (256, 512), (1024, 1024), (4096, 4096)):
        for report in compile_others(capability, dtype, n_groups, slots, screen):
            assert_fits(report, ALLOWED_STACK)
