"""Logistic regression against its optimum, and probes that must find a planted feature."""

import json
from pathlib import Path

import pytest
import torch

import sae_fast.lm
from sae_fast.config import SAEConfig
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.evaluation import logistic
from sae_fast.evaluation.logistic import area_under_curve, choose, fit
from sae_fast.evaluation.probing import Labelled, probe_texts, read_labelled
from sae_fast.lm.interface import LanguageModel
from sae_fast.sae import SAE

HOOK = "blocks.0.hook_resid_pre"


@pytest.mark.parametrize("most", [256, 0])
def test_the_fit_is_the_optimum(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By either method the gradient of the penalised log loss is zero, also where classes can be told apart without error."""
    monkeypatch.setattr(logistic, "_MAX_NEWTON_COLUMNS", most)
    generator = torch.Generator().manual_seed(0)
    x = 5 + 3 * torch.randn(200, 4, generator=generator, dtype=torch.float64)
    for noise in (0.0, 4.0):
        y = x[:, 0] + noise * torch.randn(200, generator=generator, dtype=torch.float64) > 5
        model = fit(x, y, strength=0.5)
        weight, bias = model.weight.clone().requires_grad_(), model.bias.clone().requires_grad_()
        score = (x - model.mean) / model.scale @ weight + bias
        loss = torch.nn.functional.binary_cross_entropy_with_logits(score, y.double(), reduction="sum")
        (loss + 0.25 * weight.square().sum()).backward()
        assert float(weight.grad.abs().max()) < 1e-3  # type: ignore[union-attr]
        assert float(bias.grad.abs()) < 1e-3  # type: ignore[union-attr]
        assert torch.equal(model.score(x), score.detach())


def test_columns_that_do_not_vary_are_left_out() -> None:
    """A constant column changes nothing."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 2, generator=generator)
    y = x[:, 0] > 0.1
    with_constant = torch.cat([x, torch.full((60, 1), 7.0)], dim=1)

    assert torch.allclose(fit(with_constant, y).score(with_constant), fit(x, y).score(x), atol=1e-9)


def test_noise_is_punished_more_than_signal() -> None:
    """Cross-validation takes a strong penalty for columns that say nothing."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(80, 40, generator=generator)
    y = torch.rand(80, generator=generator) > 0.5

    assert choose(x, y) > choose(x[:, :1], x[:, 0] > 0)


def test_area_under_the_curve_counts_pairs() -> None:
    """Ties count half."""
    score = torch.tensor([0.0, 1.0, 1.0, 2.0, -1.0])
    y = torch.tensor([False, True, False, True, True])
    pairs = [(a, b) for a in score[y] for b in score[~y]]

    assert area_under_curve(score, y) == sum(float(a > b) + float(a == b) / 2 for a, b in pairs) / len(pairs)
    assert area_under_curve(score, torch.zeros(5, dtype=torch.bool)) is None


@pytest.fixture(scope="module")
def lm(gpt2_folder: Path) -> LanguageModel:
    return sae_fast.lm.load(gpt2_folder, dtype="float32")


def sae_of_tokens(lm: LanguageModel, token_ids: list[int]) -> SAE:
    """Feature i fires where token i of the list stands, whatever its position."""
    embedding = lm.model.transformer.wte.weight.detach()  # type: ignore[attr-defined]
    d = embedding.shape[1]
    chosen = embedding[token_ids]
    W_enc = torch.linalg.pinv(chosen)
    cfg = SAEConfig(architecture="jumprelu", d_in=d, d_sae=len(token_ids), hook_name=HOOK)
    rest = {"b_enc": torch.zeros(len(token_ids)), "b_dec": torch.zeros(d), "threshold": torch.full((len(token_ids),), 0.5)}
    return SAE(cfg, W_enc=W_enc.contiguous(), W_dec=chosen.contiguous(), **rest)


def test_one_feature_tells_texts_with_a_word(lm: LanguageModel) -> None:
    """The planted feature is the one that is chosen, and alone tells the label; more labels are told one by one."""
    generator = torch.Generator().manual_seed(0)
    filler = [" the", " boat", " old", " lost"]
    labelled = []
    for n in range(60):
        words = [filler[int(i)] for i in torch.randint(4, (6,), generator=generator)]
        kind = ("plain", "clock", "engine")[n % 3]
        words.insert(3, {"clock": " clock", "engine": " engine", "plain": " day"}[kind])
        labelled.append(Labelled("".join(words), kind))
    ids = [lm.tokenizer(word)["input_ids"] for word in (*filler, " clock", " engine")]
    first = [token[0] for token in ids]
    sae = sae_of_tokens(lm, list(dict.fromkeys(first)))

    probes = probe_texts(lm, {"words": sae}, labelled, ks=(1, 2), progress=False)

    assert [(probe.label, probe.k) for probe in probes[:3]] == [("clock", None), ("clock", 1), ("clock", 2)]
    assert {probe.label for probe in probes} == {"clock", "engine", "plain"}
    assert all(probe.n_train == 45 and probe.n_test == 15 for probe in probes)
    assert all(probe.base_rate == pytest.approx(2 / 3) for probe in probes)
    one = {probe.label: probe for probe in probes if probe.k == 1}
    assert one["clock"].auc >= 0.9
    assert len(one["clock"].features) == 1


def test_two_labels_make_one_probe_and_long_texts_are_read_whole(lm: LanguageModel) -> None:
    """A text longer than a context is the mean over all of its contexts."""
    labelled = [Labelled(" boat" * 50 if n % 2 else " clock" * 50, str(n % 2)) for n in range(16)]
    sae = sae_of_tokens(lm, list(dict.fromkeys(lm.tokenizer(" boat clock old")["input_ids"])))

    probes = probe_texts(lm, {"words": sae}, labelled, ks=(1,), context_length=16, progress=False)

    assert [(probe.label, probe.k) for probe in probes] == [("1", None), ("1", 1)]
    assert all(probe.auc == 1.0 for probe in probes)
    assert probe_texts(lm, {"words": sae}, labelled, ks=(1,), context_length=16, progress=False) == probes


def test_labels_are_read_from_lines(tmp_path: Path) -> None:
    """Texts and whole numbers are labels; anything else names its line."""
    path = tmp_path / "labelled.jsonl"
    path.write_text(json.dumps({"text": "a", "label": 1}) + "\n\n" + json.dumps({"text": "b", "label": "no"}) + "\n")
    assert read_labelled(path) == [Labelled("a", "1"), Labelled("b", "no")]
    for bad in ('{"text": "a"}', "[1]", '{"text": 1, "label": "x"}', "{"):
        path.write_text(json.dumps({"text": "a", "label": 1}) + "\n" + bad)
        with pytest.raises(FormatError, match="line 2"):
            read_labelled(path)
    with pytest.raises(FormatError, match=r"none\.jsonl"):
        read_labelled(tmp_path / "none.jsonl")


def test_too_little_to_probe_is_refused(lm: LanguageModel) -> None:
    """One label, a rare one, and k = 0."""
    sae = sae_of_tokens(lm, [5, 6, 7])
    with pytest.raises(ArgumentError, match="got 1 labels"):
        probe_texts(lm, {"a": sae}, [Labelled(" boat", "x")] * 9, progress=False)
    with pytest.raises(ArgumentError, match="got 2 of 'y'"):
        probe_texts(lm, {"a": sae}, [Labelled(" boat", "x")] * 9 + [Labelled(" boat", "y")] * 2, progress=False)
    with pytest.raises(ArgumentError, match="ks: expected numbers of features, at least 1"):
        probe_texts(lm, {"a": sae}, [], ks=(0,), progress=False)
