"""What the encoding kernels rely on, in plain PyTorch: groups, bounds, margins, recall and the table of choices."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("hypothesis", reason="hypothesis is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st

from sae_fast import ops
from sae_fast.kernels import _choice, _screen
from sae_fast.kernels._choice import TABLE, Choice, Tile, choose, configurations
from sae_fast.kernels._groups import n_groups_of
from sae_fast.kernels.encode_topk import expected_recall

FEATURES = torch.arange(256)
GROUP_OF = FEATURES // 64 * 4 + FEATURES % 8 // 2
CODE_OF = FEATURES % 64 // 8 * 2 + FEATURES % 2


def test_groups_divide_features() -> None:
    """Group and code of a feature, inverted by the formula of `_groups`, give it back; every pair occurs once."""
    back = 64 * (GROUP_OF // 4) + 8 * (CODE_OF // 2) + 2 * (GROUP_OF % 4) + CODE_OF % 2

    assert torch.equal(back, FEATURES)
    assert torch.equal((GROUP_OF * 16 + CODE_OF).sort().values, FEATURES)
    assert [n_groups_of(d_sae) for d_sae in (1, 64, 65, 256)] == [4, 4, 8, 16]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 6) | st.integers(0, 1000), min_size=1, max_size=256), st.integers(1, 40))
def test_the_bound_keeps_the_k_largest(row: list[int], k: int) -> None:
    """Every one of the k largest is the largest of its group, or in a group whose second largest reaches the bound."""
    h, k = torch.tensor(row), min(k, len(row))
    group = GROUP_OF[: len(row)]
    words = torch.zeros(16, 16, dtype=torch.int64)
    words[group, CODE_OF[: len(row)]] = h
    first, second = words.topk(2, dim=1).values.T
    bound = first.sort(descending=True).values[k - 1] if k <= 16 else torch.tensor(0)
    bound = bound.clamp(min=1)

    kept = (h == first[group]) & (first[group] >= bound) | (second[group] >= bound)

    largest = h.sort(descending=True, stable=True).indices[:k]
    assert bool((kept | (h == 0))[largest].all())


def screened(x: Tensor, W: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(upper bounds, margins) [n, d_sae] in float64, from float16 products summed in float32."""
    screen = _screen.screen_of(ops.prepare_encoder(W))
    coarse, margin = _screen.screened_x(x, screen)
    a, b = margin.double(), _screen.row_margin(screen, bias).double()
    product = (coarse.float() @ screen.rows.float().T).double()
    return (product + a[:, :6] @ b[:, :6].T) * a[:, 6:7], a[:, :3] @ b[:, :3].T * a[:, 6:7]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30), d_in=st.integers(1, 300), scale=st.sampled_from([1e-18, 1.0, 1e18]),
    kind=st.sampled_from(["normal", "aligned", "huge-bias", "few", "uneven"]),
)  # fmt: skip
def test_margins_bound_the_error_of_screening(seed: int, d_in: int, scale: float, kind: str) -> None:
    """Float16 products and their margins enclose the float64 pre-activation, also where all errors point one way."""
    generator = torch.Generator().manual_seed(seed)
    x, W = torch.randn(5, d_in, generator=generator) * scale, torch.randn(d_in, 5, generator=generator)
    if kind == "aligned":
        # Just below the middle between two float16 numbers: the largest error there is, all of one sign.
        x, W = torch.full_like(x, 1.000488) * scale, torch.full_like(W, 1.000488)
    if kind == "few":
        x[:, 1:], W[:, 1:] = 0, 0
    if kind == "uneven":
        # Magnitudes from far below float16's range, after scaling, to its top.
        x, W = x * torch.logspace(-12, 3, d_in), W * torch.logspace(3, -12, d_in)[:, None]
    bias = torch.randn(5, generator=generator) * (1e6 if kind == "huge-bias" else 1) * scale

    upper, margin = screened(x, W, bias)

    h = x.double() @ W.double() + bias.double()
    assert bool((upper >= h).all())
    assert bool((upper - 2 * margin <= h).all())


def test_a_screen_is_kept_until_the_weights_change() -> None:
    """One screen for many calls, and another after a change in place."""
    weights = ops.prepare_encoder(torch.ones(3, 4))
    first = _screen.screen_of(weights)
    again = _screen.screen_of(weights)
    weights.rows[1] *= 2

    assert again is first
    assert float(_screen.screen_of(weights).norms[1]) == 2 * float(
        first.norms[1] * _screen.screen_of(weights).scale / first.scale
    )


def test_margins_are_far_below_the_worst_case() -> None:
    """Measured norms and float16: under a thousandth of ‖x‖ ‖w‖ at 2304 dimensions, and less where x is in half precision."""
    generator = torch.Generator().manual_seed(0)
    x, W = torch.randn(20, 2304, generator=generator), torch.randn(2304, 30, generator=generator)
    for tokens, largest in ((x, 0.00092), (x.bfloat16().float(), 0.00071)):
        _, margin = screened(tokens, W, torch.zeros(30))
        assert float((margin / (tokens.norm(dim=1)[:, None] * W.norm(dim=0))).max()) < largest


@pytest.mark.parametrize(("k", "d_sae"), [(1, 64), (8, 64), (64, 1024)])
def test_expected_recall_is_that_of_random_features(k: int, d_sae: int) -> None:
    """A simulation of random places finds it within four standard errors."""
    generator = torch.Generator().manual_seed(k)
    places = torch.rand(4000, d_sae, generator=generator).argsort(dim=1)[:, :k] // 16
    distinct = (torch.nn.functional.one_hot(places, d_sae // 16).sum(1) > 0).sum(1).double() / k

    error = float(distinct.std()) / 4000**0.5
    assert abs(float(distinct.mean()) - expected_recall(k, d_sae)) <= 4 * error + 1e-12


def test_the_table_is_well_formed() -> None:
    """Every entry names a tile that is compiled ahead of time, and says whether it was measured."""
    entries = json.loads(TABLE.read_text(encoding="utf-8"))["entries"]

    assert entries
    for entry in entries:
        assert set(entry) == {"operation", "capability", "screen", "d_in", "d_sae", "n", "k", "design", "tile", "status", "ms"}
        assert entry["operation"] in {"encode_topk", "encode_threshold", "encode_batch_topk"}
        assert entry["status"] in {"measured", "predicted"}
        assert (entry["ms"] is None) == (entry["status"] == "predicted")
        assert entry["design"] == "chunks" or Tile(*entry["tile"]) in configurations(entry["capability"])


def test_the_nearest_entry_is_chosen(tmp_path: Path) -> None:
    """By the ratios of sizes; measured and predicted entries alike; another operation's or card's never."""
    tile = list(configurations(90)[1])
    entry = {"operation": "encode_topk", "capability": 90, "screen": False, "n": 4096, "k": 32, "ms": 1.0}
    large = {"d_in": 4096, "d_sae": 131072, "design": "groups", "tile": tile, "status": "measured"}
    small = {"d_in": 768, "d_sae": 16384, "design": "chunks", "tile": None, "status": "predicted"}
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"entries": [entry | large, entry | small]}), encoding="utf-8")

    assert choose("encode_topk", 90, False, 3584, 65536, 4096, 64, table) == Choice("groups", Tile(*tile), "measured")
    assert choose("encode_topk", 90, False, 1024, 16384, 4096, 64, table).design == "chunks"
    assert choose("encode_topk", 80, False, 1024, 16384, 4096, 64, table) == Choice(
        "groups", configurations(80)[0], "predicted"
    )


def test_descriptors_need_an_even_width() -> None:
    """A width that is no multiple of 8 gets a tile without descriptors."""
    assert choose("encode_topk", 90, False, 768, 24576, 32768, 32).tile.descriptors
    assert not choose("encode_topk", 90, False, 769, 24576, 32768, 32).tile.descriptors


def test_newer_cards_use_the_tiles_of_the_newest_known() -> None:
    """A capability between two that are listed gets the lower one's."""
    assert configurations(121) == _choice.TILES[120]
    assert configurations(103) == _choice.TILES[100]
    assert configurations(87) == _choice.TILES[86]
