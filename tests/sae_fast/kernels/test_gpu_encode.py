"""The encoding kernels on a card: real sizes, every tile, races, CUDA graphs and memory. Torch, triton and pytest suffice."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from sae_fast import ops, reference
from sae_fast.kernels._choice import Choice, Tile, configurations
from sae_fast.kernels.encode_batch_topk import encode_batch_topk
from sae_fast.kernels.encode_threshold import encode_threshold
from sae_fast.kernels.encode_topk import encode_topk, expected_recall
from sae_fast.prepared import Prepared
from sae_fast.sparse import SparseActs
from sae_fast.testing import assert_same_acts, assert_well_formed

pytestmark = pytest.mark.gpu
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Operands:
    x: Tensor
    weights: Prepared
    bias: Tensor
    threshold: Tensor


def operands(n: int, d_in: int, d_sae: int, dtype: torch.dtype, seed: int = 0) -> Operands:
    """Normal tokens and features of different norms; about one feature in 500 fires."""
    generator = torch.Generator("cuda").manual_seed(seed)
    x = torch.randn(n, d_in, generator=generator, device="cuda").to(dtype)
    rows = torch.randn(d_sae, d_in, generator=generator, device="cuda")
    rows *= torch.rand(d_sae, 1, generator=generator, device="cuda") + 0.5
    rows = (rows / d_in**0.5).to(dtype)
    bias = torch.randn(d_sae, generator=generator, device="cuda") * 0.1
    return Operands(x, ops.prepare_encoder(rows.T), bias, torch.full((d_sae,), 3.0, device="cuda"))


def assert_selected_right(got: SparseActs, o: Operands, k: int | None) -> None:
    """The k largest, or what exceeds the threshold: outside a band of plain PyTorch's own error about the border."""
    assert_well_formed(got)
    rows, bias = o.weights.rows.double(), o.bias.double()
    for start in range(0, len(o.x), ROWS_AT_ONCE):
        part = got.rows(slice(start, start + ROWS_AT_ONCE))
        x = o.x[start : start + ROWS_AT_ONCE]
        h = x.double() @ rows.T + bias
        plain = reference.pre_acts(x, o.weights.matrix, o.bias)
        band = 2 * float((plain - h).abs().max()) + float(h.abs().max()) * torch.finfo(torch.float32).eps
        border = h.relu().kthvalue(h.shape[1] - k + 1, dim=1, keepdim=True).values if k else o.threshold[None].double()
        chosen = torch.zeros_like(h, dtype=torch.bool)
        chosen[part.row_indices(), part.col_indices.long()] = True
        assert bool(chosen[h > border + band].all())
        assert not bool(chosen[h < border - band].any())
        exact = h[part.row_indices(), part.col_indices.long()]
        assert float((part.values - exact.relu()).abs().max()) <= band


def every_tile(dtype: torch.dtype) -> list[Choice]:
    major, minor = torch.cuda.get_device_capability()
    tiles = configurations(10 * major + minor)
    return [Choice("groups", tile) for tile in tiles] + [Choice("chunks", tiles[0])]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1000, 768, 24576, 32), (515, 2304, 65536, 64), (300, 1000, 10007, 100)], ids=str)
def test_every_design_and_tile_selects_right(size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """TopK and threshold, with every tile of this card and by chunks; the last size fits no tile."""
    n, d_in, d_sae, k = size
    o = operands(n, d_in, d_sae, dtype)
    for choice in every_tile(dtype):
        assert_selected_right(encode_topk(o.x, o.weights, o.bias, k, choice=choice), o, k)
        assert_selected_right(encode_threshold(o.x, o.weights, o.bias, o.threshold, choice=choice), o, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 256, 512, 3000])
def test_any_k(k: int, dtype: torch.dtype) -> None:
    """Few, many, and too many for groups."""
    o = operands(130, 768, 16384, dtype)

    assert_selected_right(encode_topk(o.x, o.weights, o.bias, k), o, k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_batch_topk_selects_the_largest(dtype: torch.dtype) -> None:
    """As many as asked for, and their smallest value is that of the reference."""
    o = operands(2000, 768, 16384, dtype)
    got = encode_batch_topk(o.x, o.weights, o.bias, 32.5)
    expected = reference.encode_batch_topk(o.x, o.weights.matrix, o.bias, 32.5)

    assert_well_formed(got)
    assert got.nnz == 65_000
    torch.testing.assert_close(got.values.sort().values, expected.values.sort().values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_beyond_the_slots(dtype: torch.dtype) -> None:
    """Hundreds of rows in which all features tie, more than are rescanned together."""
    o = operands(300, 64, 8192, dtype)
    x = o.x.clone()
    x[::2] = 0
    bias = torch.ones_like(o.bias)
    got = encode_topk(x, o.weights, bias, 16)

    tied = got.rows(torch.arange(300, device="cuda") % 2 == 0)
    assert torch.equal(tied.col_indices.view(-1, 16), torch.arange(16, device="cuda", dtype=torch.int32).expand(150, 16))
    assert bool((tied.values == 1).all())
    assert_selected_right(got, Operands(x, o.weights, bias, o.threshold), 16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_result_every_time(dtype: torch.dtype) -> None:
    """Many runs on the same inputs, with other work between, agree in every bit."""
    o = operands(3000, 768, 24576, dtype)
    x = o.x.clone()
    x[:200] = x[0]
    calls = (
        lambda: encode_topk(x, o.weights, o.bias, 32),
        lambda: encode_threshold(x, o.weights, o.bias, o.threshold),
        lambda: encode_batch_topk(x, o.weights, o.bias, 32),
    )
    for call in calls:
        first = call()
        for _ in range(20):
            torch.randn(1 << 20, device="cuda").sort()
            assert_same_acts(call(), first)


def test_a_cuda_graph_of_topk() -> None:
    """TopK reads nothing back, so it can be captured, and replays on new tokens."""
    o = operands(2048, 768, 24576, torch.bfloat16)
    x = o.x.clone()
    encode_topk(x, o.weights, o.bias, 32)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = encode_topk(x, o.weights, o.bias, 32)
    x.copy_(o.x.flip(0))
    graph.replay()

    assert_same_acts(got, encode_topk(o.x.flip(0), o.weights, o.bias, 32))


def test_bad_rows_leave_others_alone() -> None:
    """Rows of NaN and infinities change no other row."""
    for dtype, bad in itertools.product(DTYPES, (float("nan"), float("inf"), -float("inf"))):
        o = operands(260, 768, 16384, dtype)
        x = o.x.clone()
        x[7::50, 3] = bad
        others = (torch.arange(260, device="cuda") - 7) % 50 != 0
        for encode in (
            lambda x, o=o: encode_topk(x, o.weights, o.bias, 32),
            lambda x, o=o: encode_threshold(x, o.weights, o.bias, o.threshold),
        ):
            assert_same_acts(encode(x).rows(others), encode(o.x).rows(others))


def test_approximate_finds_the_expected_share() -> None:
    """Recall on random features is what `expected_recall` says."""
    o = operands(4096, 768, 24576, torch.bfloat16)
    right, found = (encode_topk(o.x, o.weights, o.bias, 64, approximate=a).topk_view()[0] for a in (False, True))
    n_features = o.weights.d_sae
    rows = torch.arange(4096, device="cuda")[:, None] * n_features
    recall = float(torch.isin(right + rows, found + rows).float().mean())

    assert recall == pytest.approx(expected_recall(64, n_features), abs=0.003)


def extra_memory(call: object, *arguments: object) -> int:
    """Bytes that a call takes at its peak, beyond what was there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(*arguments)  # type: ignore[operator]
    return torch.cuda.max_memory_allocated() - before


def test_memory_at_the_headline_size() -> None:
    """Less than 0.7 GB beyond weights and tokens, where the dense matrix takes 2 to 4 GB."""
    o = operands(16384, 2304, 65536, torch.bfloat16)

    assert extra_memory(encode_topk, o.x, o.weights, o.bias, 64) < 700e6
    assert extra_memory(encode_threshold, o.x, o.weights, o.bias, o.threshold) < 700e6


def test_a_million_features() -> None:
    """64-bit addresses, and memory that does not grow with the number of tokens."""
    if torch.cuda.get_device_properties(0).total_memory < 24e9:
        pytest.skip("needs 24 GB of GPU memory")
    o = operands(3000, 1024, 1 << 20, torch.bfloat16)

    assert extra_memory(encode_topk, o.x, o.weights, o.bias, 64) < 700e6
    got = encode_topk(o.x[-40:], o.weights, o.bias, 64)
    assert_selected_right(got, Operands(o.x[-40:], o.weights, o.bias, o.threshold), 64)


def test_tiles_are_small_tuples() -> None:
    """What the table stores of a tile makes it again."""
    major, minor = torch.cuda.get_device_capability()

    assert all(Tile(*list(tile)) == tile for tile in configurations(10 * major + minor))
