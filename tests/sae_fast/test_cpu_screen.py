"""The CPU encoders on sizes and inputs at which they screen, rank groups, and give rows up."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_fast import ops
from sae_fast.cpu import candidates, encode, rows, screen, threads
from sae_fast.sparse import SparseActs
from sae_fast.testing import Case, assert_same_acts, assert_well_formed

MODES = ("screened", "made", "plain")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Screening with a kept copy, with one made in each call, or none; small blocks, so that there are many."""
    monkeypatch.setattr(screen, "MODE", "never" if request.param == "plain" else "auto")
    monkeypatch.setattr(screen, "has_fast_bfloat16", lambda: True)
    monkeypatch.setattr(screen, "KEPT_BYTES", 1 << 20 if request.param == "screened" else 0)
    monkeypatch.setattr(screen, "MIN_TOKENS_MADE", 1)
    monkeypatch.setattr(screen, "MIN_TOKENS_KEPT", 1)
    monkeypatch.setattr(rows, "BLOCK_ROWS", 16)
    monkeypatch.setattr(threads, "FEWEST_ROWS", 4)
    for module in (rows, candidates):
        monkeypatch.setattr(module, "BLOCK_WIDTH", 512)
    monkeypatch.setattr(encode, "TOKENS", 40)
    name: str = request.param
    return name


def rows_computed_whole(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call from now on computes whole."""
    counts: list[int] = []
    original = encode.pre_act_chunks

    def spy(x: Tensor, *arguments: Tensor) -> object:
        counts.append(len(x))
        return original(x, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(encode, "pre_act_chunks", spy)
    return counts


def operands(n: int = 61, d_in: int = 96, d_sae: int = 1607, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """(x, W_enc, bias, threshold) with norms of features spread over a decade, dead ones among them."""
    generator = torch.Generator().manual_seed(1)
    scale = 10 ** (torch.rand(d_sae, generator=generator) - 0.5)
    scale[::97] = 0
    W_enc = torch.randn(d_in, d_sae, generator=generator) / d_in**0.5 * scale
    x = torch.randn(n, d_in, generator=generator) * 10 ** torch.randn(n, 1, generator=generator)
    bias = torch.randn(d_sae, generator=generator) * 0.1
    threshold = (torch.rand(d_sae, generator=generator) + 2) * scale
    return x.to(dtype), W_enc.to(dtype), bias, threshold


def assert_right_choice(acts: SparseActs, h: Tensor, band: Tensor, chosen: Tensor) -> None:
    """What is stored is `chosen` [n, d_sae] but within the band around its border; values are those of float64 `h`."""
    assert_well_formed(acts)
    stored = torch.zeros(acts.shape, dtype=torch.bool)
    stored[acts.row_indices(), acts.col_indices.long()] = True
    assert not ((stored != chosen) & ~band).any()
    exact = h[acts.row_indices(), acts.col_indices.long()].relu()
    scale = h.abs().amax(1)[acts.row_indices()]
    assert ((acts.values.double() - exact).abs() <= 1e-5 * scale).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [1, 8, 45])
def test_topk_of_rounded_inputs(mode: str, k: int, dtype: torch.dtype) -> None:
    """The chosen are the k largest but for ties within rounding, whatever the norms; values are float32 products."""
    x, W_enc, bias, _ = operands(dtype=dtype)

    acts = ops.encode_topk(x, W_enc, bias, k, impl="torch")

    h = x.double() @ W_enc.double() + bias.double()
    border = h.sort(descending=True, dim=1).values[:, k - 1 : k + 1].mean(1, keepdim=True)
    assert_right_choice(acts, h, (h - border).abs() < 1e-5 * h.abs().amax(1, keepdim=True), h > border)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_threshold_of_rounded_inputs(mode: str, dtype: torch.dtype) -> None:
    """What fires is what exceeds its threshold but for rounding, infinite and negative thresholds among them."""
    x, W_enc, bias, threshold = operands(dtype=dtype)
    threshold[5::50], threshold[6::50], threshold[7::50] = torch.inf, -1.0, torch.nan

    acts = ops.encode_threshold(x, W_enc, bias, threshold, impl="torch")

    h = x.double() @ W_enc.double() + bias.double()
    band = (h - threshold).abs() < 1e-5 * h.abs().amax(1, keepdim=True)
    expected = ops.encode_threshold(x, W_enc, bias, threshold, impl="reference")
    assert_well_formed(acts)
    stored, wanted = (torch.zeros(h.shape, dtype=torch.bool) for _ in range(2))
    stored[acts.row_indices(), acts.col_indices.long()] = True
    wanted[expected.row_indices(), expected.col_indices.long()] = True
    assert not ((stored != wanted) & ~band).any()
    assert 0 < acts.nnz < h.numel() / 2


SHAPES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "ties of few values": lambda x, W: (x.sign(), W.sign() * (torch.arange(W.shape[1]) % 3 == 0)),
    "all features alike": lambda x, W: (x.round(), W[:, :1].round().expand(-1, W.shape[1])),
    "clusters of equal features": lambda x, W: (x.round(), W[:, torch.arange(W.shape[1]) // 40].mul(4).round()),
    "features sorted by size": lambda x, W: (x.abs().round(), torch.arange(W.shape[1]).expand(len(W), -1).float()),
    "half the rows zero": lambda x, W: (x.round() * (torch.arange(len(x)) % 2)[:, None], W.mul(4).round()),
    "no feature positive": lambda x, W: (x.abs().round(), -W.abs().mul(4).round()),
    "fewer than k positive": lambda x, W: (x.abs().round(), W.abs().round() * torch.where(torch.arange(W.shape[1]) < 3, 1, -1)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_low_contrast_and_ties(mode: str, shape: str) -> None:
    """Inputs that leave a bound nothing to separate give exactly the entries of the reference, zeros and ties included."""
    x, W_enc, _, _ = operands()
    x, W_enc = SHAPES[shape](x.clamp(-30, 30), W_enc)
    bias = torch.zeros(W_enc.shape[1])

    for k in (1, 8):
        assert_same_acts(ops.encode_topk(x, W_enc, bias, k, impl="torch"), ops.encode_topk(x, W_enc, bias, k, impl="reference"))
    for threshold in (bias, bias + 5):
        assert_same_acts(
            ops.encode_threshold(x, W_enc, bias, threshold, impl="torch"),
            ops.encode_threshold(x, W_enc, bias, threshold, impl="reference"),
        )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30, 1e-30])
def test_extreme_rows_do_not_disturb_others(mode: str, bad: float) -> None:
    """A row beyond the screen's range, or not finite, changes no other row; a finite one is right itself."""
    x, W_enc, bias, threshold = operands()
    x, W_enc, bias = x.round(), W_enc.mul(4).round(), bias.mul(8).round()
    x[20] = bad
    good = torch.arange(len(x)) != 20

    topk = ops.encode_topk(x, W_enc, bias, 8, impl="torch")
    fired = ops.encode_threshold(x, W_enc, bias, threshold, impl="torch")

    assert_same_acts(topk.rows(good), ops.encode_topk(x[good], W_enc, bias, 8, impl="reference"))
    assert_same_acts(fired.rows(good), ops.encode_threshold(x[good], W_enc, bias, threshold, impl="reference"))
    if bad in {1e30, 1e-30}:
        exact = (x[20:21].double() @ W_enc.double() + bias.double()).relu().topk(8).values
        assert torch.allclose(topk.rows(~good).values.double().sort(descending=True).values, exact[0], rtol=1e-5)


def test_ordinary_rows_are_not_computed_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On ordinary inputs the candidates suffice for every row."""
    x, W_enc, bias, _ = operands()
    counts = rows_computed_whole(monkeypatch)

    ops.encode_topk(x, W_enc, bias, 8, impl="torch")

    assert counts == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("adversarial", [False, True], ids=["random", "adversarial"])
def test_the_margin_bounds_the_error_of_every_score(dtype: torch.dtype, adversarial: bool) -> None:
    """No score is further from the exact value than its margin, and the largest error is no small part of it."""
    x, W_enc, bias, _ = operands(dtype=dtype)
    if adversarial:
        # Every operand lies just below the middle of two bfloat16 numbers, and all errors have one sign.
        x, W_enc = torch.full_like(x, 1 + 0.99 * 2**-8), torch.full_like(W_enc, 1 + 0.99 * 2**-8)
    weights = ops.prepare_encoder(W_enc)
    source = screen.Screened(x, weights, bias, bias)

    source.take(0, 1536, 64)
    scores = source.scores(0, len(x)).float()
    margin = source.margin(0, len(x), candidates.group_maxima(scores.bfloat16(), 64)).repeat_interleave(64, 1)

    exact = (x.double() @ W_enc.double() + bias.double())[:, :1536]
    # A margin speaks of what is positive: the rounding of scores below their group's largest is not in it.
    error = (scores - exact).abs() - 2**-8 * scores.abs()
    assert (error <= margin).all()
    if adversarial:
        assert (margin < 4 * (scores - exact).abs()).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_group_maxima_of_any_numbers(data: st.DataObject) -> None:
    """The integer reduction of bfloat16 bits equals the largest number, for any signs, zeros and infinities."""
    numbers = st.floats(width=16, allow_nan=False) | st.sampled_from([0.0, -0.0, float("-inf"), -1.0])
    scores = torch.tensor(data.draw(st.lists(numbers, min_size=16, max_size=16))).bfloat16().view(1, 16)

    assert torch.equal(candidates.group_maxima(scores, 8), scores.float().view(1, 2, 8).amax(2))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), min_size=0, max_size=300))
def test_flat_entries_of_any_mask(bits: list[bool]) -> None:
    """Positions ascend and are those that are true, for any length."""
    mask = torch.tensor(bits, dtype=torch.bool).view(1, -1)

    assert rows.flat_entries(mask).tolist() == [place for place, bit in enumerate(bits) if bit]


def test_screening_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """With MODE "never" no copy of the weights is made; otherwise a small one is kept."""
    case = Case("screens", n=64, d_in=32, d_sae=512, k=2, kind="normal")
    monkeypatch.setattr(screen, "has_fast_bfloat16", lambda: True)
    i = case.inputs()
    for mode, kept in (("never", False), ("auto", True)):
        monkeypatch.setattr(screen, "MODE", mode)
        weights = ops.prepare_encoder(i.W_enc)
        ops.encode_topk(i.x, weights, i.b_enc, 2, impl="torch")
        assert ("screen" in vars(weights)) == kept
