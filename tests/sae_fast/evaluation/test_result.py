"""Sums by block, position and class: merging, breakdowns and intervals against brute force; prefixes."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_fast.config import SAEConfig, tensor_shapes
from sae_fast.errors import MismatchError, NonFiniteError, ShapeError
from sae_fast.evaluation import Evaluation, TokenClasses, evaluate, mean_activations, measure
from sae_fast.evaluation.groupings import CLASSES, N_BLOCKS, bucket_name, position_buckets, token_class
from sae_fast.evaluation.metrics import Metrics
from sae_fast.evaluation.resampling import draws, interval
from sae_fast.evaluation.sums import Grouping, Sums, metrics_of, reconstruction_of
from sae_fast.lm.transformers import TransformersLM
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs

HOOK, D, D_SAE, D_VOCAB = "blocks.0.hook_resid_post", 8, 12, 30


@pytest.fixture(scope="module")
def lm() -> TransformersLM:
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=D_VOCAB, n_embd=D, n_layer=2, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2
    )
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) / 2)
    return TransformersLM(model, tokenizer=None)


def sae(seed: int = 0, **cfg: Any) -> SAE:
    config = SAEConfig(**{"architecture": "standard", "d_in": D, "d_sae": D_SAE, "hook_name": HOOK} | cfg)
    generator = torch.Generator().manual_seed(seed)
    return SAE(config, **{name: torch.randn(shape, generator=generator) / 2 for name, shape in tensor_shapes(config).items()})


def batch(seed: int, documents: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Contexts of 11 tokens, the first and some others not counted."""
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(0, D_VOCAB, (len(documents), 11), generator=generator)
    counted = torch.rand(token_ids.shape, generator=generator) < 0.8
    counted[:, 0] = False
    return token_ids, counted, torch.ones_like(token_ids), torch.tensor(documents)


BATCHES = [batch(0, [0, 0, 1]), batch(1, [2, 3]), batch(2, [4, 4, 4, 5])]
PARITY = TokenClasses(("even", "odd"), torch.arange(D_VOCAB) % 2)


@pytest.fixture(scope="module")
def whole(lm: TransformersLM) -> Evaluation:
    return measure(lm, {"a": sae(), "b": sae(1)}, BATCHES, classes=PARITY)


def values(metrics: Metrics) -> dict[str, Any]:
    return {name: value for name, value in vars(metrics).items() if name != "feature_counts"}


def test_two_halves_merge_to_the_whole_digit_for_digit(lm: TransformersLM, whole: Evaluation) -> None:
    """Measured with the same means, halves of different documents add up to the numbers of one evaluation, exactly."""
    saes = {"a": sae(), "b": sae(1)}
    first, second = (measure(lm, saes, part, classes=PARITY, means=whole.means) for part in (BATCHES[:1], BATCHES[1:]))
    before = values(second.metrics()["a"])

    first.merge(second)

    for name, expected in whole.metrics().items():
        assert values(first.metrics()[name]) == values(expected)
        assert torch.equal(first.metrics()[name].feature_counts, expected.feature_counts)
        assert first.intervals(name) == whole.intervals(name)
        for row, other in zip(first.by_position(name), whole.by_position(name), strict=True):
            assert {key for key, value in row.items() if value is None} == {k for k, value in other.items() if value is None}
            for key in ("n_tokens", "n_predictions", "explained_variance", "mse", "l1", "kl_sae", "ce_recovered"):
                assert row[key] == (None if other[key] is None else pytest.approx(other[key], rel=1e-9)), key
    assert values(second.metrics()["a"]) == before
    assert first.documents == set(range(6))


def test_halves_that_share_a_document_merge_but_for_rounding(lm: TransformersLM, whole: Evaluation) -> None:
    """Any cut gives the same numbers within float64's rounding."""
    cut = [tuple(part[:2] for part in BATCHES[2]), tuple(part[2:] for part in BATCHES[2])]
    first, second = (measure(lm, {"a": sae()}, part, means=whole.means) for part in ([*BATCHES[:2], cut[0]], [cut[1]]))

    first.merge(second)

    # The LM's own float32 rounding depends on the shape of a batch.
    expected = values(whole.metrics()["a"])
    for name, value in values(first.metrics()["a"]).items():
        assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


def test_parts_that_do_not_belong_together_are_not_merged(lm: TransformersLM, whole: Evaluation) -> None:
    """Other SAEs, and other means, are refused."""
    mine = copy.deepcopy(whole)
    with pytest.raises(MismatchError, match="other SAEs"):
        mine.merge(measure(lm, {"a": sae()}, BATCHES, classes=PARITY))
    with pytest.raises(MismatchError, match=r"other means.*means=…"):
        mine.merge(measure(lm, {"a": sae(), "b": sae(1)}, BATCHES[:1], classes=PARITY))


def test_means_are_those_of_the_counted_tokens(lm: TransformersLM, whole: Evaluation) -> None:
    """`mean_activations` is what an evaluation finds for itself."""
    found = mean_activations(lm, [HOOK], BATCHES)
    rows = [lm.activations(ids, [HOOK], mask)[HOOK][counted] for ids, counted, mask, _ in BATCHES]

    assert torch.equal(found[HOOK], whole.means[HOOK])
    assert torch.allclose(found[HOOK], torch.cat(rows).double().mean(0), rtol=1e-12)


def masked(keep: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The batches with only those counted tokens that `keep`, of all batches one below the other, has."""
    parts = keep.split([len(part[0]) for part in BATCHES])
    return [(ids, counted & kept, mask, docs) for (ids, counted, mask, docs), kept in zip(BATCHES, parts, strict=True)]


@pytest.mark.parametrize("grouping", ["position", "class"])
def test_a_row_of_a_breakdown_is_an_evaluation_of_its_tokens(lm: TransformersLM, whole: Evaluation, grouping: str) -> None:
    """Reconstruction of a bucket's or class's tokens alone is what the row says, and rows add up to all tokens."""
    rows = whole.by_position("a") if grouping == "position" else whole.by_class("a")
    ids = torch.cat([part[0] for part in BATCHES])
    offset = torch.arange(11).expand_as(ids)
    expected = {"even": ids % 2 == 0, "odd": ids % 2 == 1} if grouping == "class" else {
        "1": offset == 1, "2 to 3": (offset >= 2) & (offset < 4), "4 to 7": (offset >= 4) & (offset < 8), "8 to 15": offset >= 8
    }  # fmt: skip

    assert [row["name"] for row in rows] == list(expected)
    assert sum(row["n_tokens"] for row in rows) == whole.metrics()["a"].n_tokens
    for row, keep in zip(rows, expected.values(), strict=True):
        alone = evaluate(lm, {"a": sae()}, masked(keep))["a"]
        for name in ("explained_variance", "mse", "cosine", "l0", "l1", "norm_ratio", "relative_reconstruction_bias"):
            assert row[name] == pytest.approx(getattr(alone, name), rel=1e-6), name
        # What is spliced in elsewhere differs, and the LM as it is does not.
        assert row["ce_clean"] == pytest.approx(alone.ce_clean, rel=1e-10)
    for name, weight in (("ce_sae", "n_predictions"), ("kl_sae", "n_predictions"), ("mse", "n_tokens")):
        mean = sum(row[weight] * row[name] for row in rows) / sum(row[weight] for row in rows)
        assert mean == pytest.approx(getattr(whole.metrics()["a"], name), rel=1e-12)


@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_every_resample_is_the_metric_of_the_documents_drawn(mean: float) -> None:
    """Weights on blocks give explained variance and mse of the tokens repeated as often, also far from zero."""
    generator = torch.Generator().manual_seed(3)
    y = mean + torch.randn(60, 4, generator=generator, dtype=torch.float64)
    block = torch.arange(60) // 10
    y += block[:, None] / 10
    y_hat = y + torch.randn(60, 4, generator=generator, dtype=torch.float64) / 2
    sums, reference = Sums({"block": Grouping(1, 6)}), y[:20].mean(0)
    one = torch.ones(60)
    for rows in torch.arange(60).split([7, 30, 23]):
        cells = {"block": block[rows]}
        shift, error = (y - reference)[rows], (y - y_hat)[rows].square().sum(1)
        sums.add(cells, n=one[rows], shift=shift, deviation=shift.square().sum(1), energy=y[rows].square().sum(1), error=error)
    counts = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 2, 0, 3, 1, 0], [6, 0, 0, 0, 0, 0]])
    names = ["n_predictions", "energy_out", "dot", "n_directed", "l0", "l1", "norm_in", "norm_out", "cosine", "norm_ratio"]
    names += [f"{what}_{way}" for what in ("nll", "kl") for way in ("clean", "sae", "mean_ablation", "zero_ablation")]
    others = dict.fromkeys(names, torch.ones(1, 3, dtype=torch.float64))

    found = metrics_of(sums.scalars("block", counts.double()) | others)

    for r, count in enumerate(counts):
        drawn = torch.cat([torch.arange(60)[block == b].repeat(int(count[b])) for b in range(6)])
        x, x_hat = y[drawn], y_hat[drawn]
        expected = 1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
        assert float(found["explained_variance"][0, r]) == pytest.approx(float(expected), rel=1e-9)
        assert float(found["mse"][0, r]) == pytest.approx(float((x - x_hat).square().sum(1).mean()), rel=1e-9)
    assert bool(found["ce_recovered"].isnan().all())  # 0 / 0: ablation changes nothing


def test_a_row_is_resampled_by_the_blocks_of_all_tokens(lm: TransformersLM) -> None:
    """Each resample of a row is the metric of the row's tokens of the documents drawn, its own mean included; brute force."""
    found = measure(lm, {"a": sae()}, BATCHES, classes=PARITY)
    ids, counted, documents = (torch.cat([part[i] for part in BATCHES]) for i in (0, 1, 3))
    x = torch.cat([lm.activations(part[0], [HOOK], part[2])[HOOK] for part in BATCHES]).double()
    y_hat = sae()(x.float()).double()
    n_documents = 6
    weights = draws(torch.ones(n_documents), 40, seed=3)

    for parity, row in enumerate(found.by_class("a", seed=3, resamples=40)):
        expected = []
        for weight in weights:
            picked = [(documents == d)[:, None] & counted & (ids % 2 == parity) for d in range(n_documents)]
            y, r = (torch.cat([t[keep].repeat(int(w), 1) for keep, w in zip(picked, weight, strict=True)]) for t in (x, y_hat))
            expected.append(float(1 - (y - r).square().sum() / (y - y.mean(0)).square().sum()))
        ends = interval(torch.tensor(expected, dtype=torch.float64))
        assert row["intervals"]["explained_variance"] == pytest.approx(ends, rel=1e-5)
        assert row["intervals"]["delta_ce"][0] < row["delta_ce"] < row["intervals"]["delta_ce"][1]
    assert set(found.by_position("a")[0]["intervals"]) == set(found.intervals("a"))


def test_one_token_drawn_again_and_again_has_no_spread() -> None:
    """Far from what the spread is summed about, rounding is not taken for variance."""
    y = torch.tensor([[3.1, 0.2, -1.7]], dtype=torch.float64)
    sums = Sums({"block": Grouping(1, 2)})
    for block, vector in enumerate((y, -y)):
        shift = vector - torch.tensor([0.1, 0.7, 0.3])
        square = {"deviation": shift.square().sum(1), "energy": vector.square().sum(1), "error": torch.ones(1)}
        sums.add({"block": torch.tensor([block])}, n=torch.ones(1), shift=shift, **square)
    names = ("energy_out", "dot", "n_directed", "norm_in", "norm_out", "cosine", "norm_ratio")
    weights = torch.tensor([[weight, 0.0] for weight in range(1, 40)], dtype=torch.float64)
    totals = sums.scalars("block", weights) | dict.fromkeys(names, torch.ones(1, 39, dtype=torch.float64))

    assert bool(reconstruction_of(totals)["explained_variance"].isnan().all())
    both = sums.scalars("block", torch.ones(1, 2, dtype=torch.float64)) | dict.fromkeys(names, torch.ones(1, 1))
    assert float(reconstruction_of(both)["explained_variance"]) == pytest.approx(1 - 2 / (2 * float(y.square().sum())))


def test_a_row_of_one_block_has_no_interval(lm: TransformersLM) -> None:
    """Tokens that are only drawn together say nothing about other documents."""
    token_ids, counted, mask, documents = batch(0, [0, 1, 2])
    counted[1:, 4:] = False

    rows = measure(lm, {"a": sae()}, [(token_ids, counted, mask, documents)]).by_position("a")

    assert [row["intervals"]["l0"] is None for row in rows] == [row["name"] in ("4 to 7", "8 to 15") for row in rows]
    assert all(row["l0"] > 0 for row in rows)


def test_intervals_hold_the_estimate_and_narrow_with_more_documents(lm: TransformersLM) -> None:
    """Seeded; about as wide as the spread over documents says; None where there is one document."""
    many = [batch(seed, list(range(16 * seed, 16 * seed + 16))) for seed in range(4)]
    few, all_of_them = (measure(lm, {"a": sae()}, part) for part in (many[:1], many))
    one = measure(lm, {"a": sae()}, [batch(0, [7, 7])])

    found, again, other = all_of_them.intervals("a"), all_of_them.intervals("a"), all_of_them.intervals("a", seed=1)
    metrics = all_of_them.metrics()["a"]

    assert found == again != other
    for name in ("l0", "explained_variance", "delta_ce", "kl_sae", "ce_recovered"):
        low, high = found[name]  # type: ignore[misc]
        assert low < getattr(metrics, name) < high
    few_low, few_high = few.intervals("a")["l0"]  # type: ignore[misc]
    sums = all_of_them.saes["a"].sums.of["block"]["l0"][:64] / all_of_them.targets[HOOK].of["block"]["n"][:64]
    low, high = found["l0"]  # type: ignore[misc]
    assert high - low < few_high - few_low
    assert high - low == pytest.approx(2 * 1.96 * float(sums.std()) / 8, rel=0.25)
    assert set(one.intervals("a").values()) == {None}


def test_prefixes_of_a_matryoshka_sae_are_the_sae_cut_there(lm: TransformersLM) -> None:
    """Where a feature fires by itself a prefix has the numbers of the SAE cut there."""
    whole = sae()
    b_enc = whole.tensors()["b_enc"][:6]
    cfg = replace(whole.cfg, d_sae=6)
    cut = SAE(cfg, W_enc=whole.W_enc[:, :6], W_dec=whole.W_dec[:6], b_enc=b_enc, b_dec=whole.b_dec)

    found = evaluate(lm, {"m": sae(group_sizes=(2, 4, 6))}, BATCHES, prefixes=True)
    alone = evaluate(lm, {"m": sae(group_sizes=(2, 4, 6))}, BATCHES)

    assert list(found) == ["m", "m[:2]", "m[:6]"]
    expected = evaluate(lm, {"cut": cut}, BATCHES)["cut"]
    assert values(found["m[:6]"]) == pytest.approx(values(expected), rel=1e-5, abs=1e-7)
    assert torch.equal(found["m[:6]"].feature_counts, expected.feature_counts)
    assert found["m[:6]"].explained_variance != found["m"].explained_variance
    assert list(alone) == ["m"]
    assert values(alone["m"]) == values(found["m"])


@pytest.mark.parametrize(
    "kind", [{"architecture": "topk", "k": 3}, {"architecture": "matching_pursuit"}, {"architecture": "gated"}]
)
def test_a_prefix_decodes_its_share_of_what_the_whole_selected(lm: TransformersLM, kind: dict[str, Any]) -> None:
    """As in training: features are selected among all, once, and those beyond the prefix are left out."""
    whole, encoded = sae(group_sizes=(5, 7), **kind), []

    class Counted(SAE):
        def encode(self, x: Tensor, check_finite: bool = False) -> SparseActs:
            encoded.append(len(x))
            return super().encode(x, check_finite)

    found = evaluate(lm, {"m": Counted(whole.cfg, **whole.tensors())}, BATCHES, prefixes=True)["m[:5]"]

    assert len(encoded) == len(BATCHES)
    error = l0 = 0.0
    for ids, counted, mask, _ in BATCHES:
        x = lm.activations(ids, [HOOK], mask)[HOOK][counted]
        acts = whole.encode(x).to_dense()
        acts[:, 5:] = 0
        error += float((x - whole.decode(acts)).double().square().sum())
        l0 += float((acts != 0).sum())
    assert found.mse == pytest.approx(error / found.n_tokens, rel=1e-5)
    assert found.l0 == l0 / found.n_tokens
    assert found.feature_counts.shape == (5,)


def test_dead_takes_a_million_tokens() -> None:
    """On fewer a feature that never fired is only not seen; dense is more than a tenth of the tokens."""
    counts = torch.tensor([0, 0, 5, 200_000])

    assert Metrics(n_tokens=999_999, feature_counts=counts).n_dead is None
    assert Metrics(n_tokens=1_000_000, feature_counts=counts).n_dead == 2
    assert Metrics(n_tokens=1_000_000, feature_counts=counts).n_not_seen == 2
    assert Metrics(n_tokens=1_000_000, feature_counts=counts).n_dense == 1


def test_positions_count_real_tokens_and_padding_on_either_side_does_not_matter() -> None:
    """Buckets are 0, 1, 2 to 3, 4 to 7, 8 to 15, …"""
    right = position_buckets(torch.tensor([[1] * 10 + [0] * 3]))[0, :10]
    left = position_buckets(torch.tensor([[0] * 3 + [1] * 10]))[0, 3:]

    assert right.tolist() == left.tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 4, 4]
    assert [bucket_name(i) for i in range(5)] == ["0", "1", "2 to 3", "4 to 7", "8 to 15"]


def test_classes_go_by_the_text_of_a_token() -> None:
    """With tokenizers of either form; special tokens, parts of characters and padded ids are "other"."""
    import tiny

    texts = {" the": 0, "ing": 1, " 42": 2, "7": 2, "),": 3, "\n\n": 4, "\ufffd": 5, "": 5, " été": 0, "\x00": 5}
    assert {text: CLASSES.index(token_class(text)) for text in texts} == texts
    for tokenizer in (tiny.byte_level_tokenizer(), tiny.metaspace_tokenizer()):
        n = len(tokenizer)
        found = TokenClasses.by_text(tokenizer, n + 2).of_token
        ids = tokenizer(" the", add_special_tokens=False)["input_ids"]
        assert CLASSES[found[ids[0]]] in ("start of a word", "white space")
        assert all(CLASSES[found[i]] == "other" for i in (*tokenizer.all_special_ids, n, n + 1))
        assert len(found) == n + 2
        assert len(set(found.tolist())) >= 4


def test_what_cannot_be_measured_is_refused(lm: TransformersLM) -> None:
    """A reconstruction that is not finite names its SAE; document numbers have the batch's length."""
    broken = sae()
    broken.b_dec[0] = float("inf")
    with pytest.raises(NonFiniteError, match="'broken': its reconstruction has NaN or infinite"):
        evaluate(lm, {"broken": broken}, BATCHES)
    with pytest.raises(ShapeError, match=r"a document number of each context, \[3\], got \[2\]"):
        evaluate(lm, {"a": sae()}, [(*BATCHES[0][:3], torch.tensor([1, 2]))])
    assert N_BLOCKS <= 500
