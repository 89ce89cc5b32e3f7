"""`evaluate` against a brute-force computation text by text with the model's own modules, and its limiting cases."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_evaluation import D_SAE, HOOK, D, padded, perfect_sae, random_sae, texts
from torch import Tensor

from sae_fast.config import tensor_shapes
from sae_fast.errors import ArgumentError, HookNotFoundError, ShapeError
from sae_fast.evaluation import Batch, Metrics, evaluate, n_passes
from sae_fast.lm.transformers import TransformersLM
from sae_fast.sae import SAE, SAEConfig
from sae_fast.sparse import SparseActs


@torch.no_grad()
def brute_force(lm: TransformersLM, sae: SAE) -> dict[str, Any]:
    """Every metric from its definition, one unpadded text at a time, with a plain PyTorch hook on the model's own layer."""
    layer = lm.model.transformer.h[1]
    rows, counted = texts()

    def run(row: Tensor, change: Any = None) -> tuple[Tensor, Tensor]:
        seen = []

        def hook(_: Any, __: Any, output: Tensor) -> Tensor:
            seen.append(output[0].clone())
            return output if change is None else change(output[0].clone())[None]

        handle = layer.register_forward_hook(hook)
        logits = lm.model(row[None]).logits[0].double()
        handle.remove()
        return logits.log_softmax(-1), seen[0]

    clean = [run(row) for row in rows]
    x = torch.cat([stream[kept] for (_, stream), kept in zip(clean, counted, strict=True)]).double()
    W_enc, W_dec, b_enc, b_dec = (t.double() for t in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec))
    acts = (x @ W_enc + b_enc).relu()
    x_hat = acts @ W_dec + b_dec
    reconstructed = iter(x_hat.split([int(kept.sum()) for kept in counted]))
    places = [(i, p) for i, row in enumerate(rows) for p in range(len(row) - 1) if counted[i][p + 1]]

    def ce(log_p: list[Tensor]) -> float:
        return -sum(float(log_p[i][p, rows[i][p + 1]]) for i, p in places) / len(places)

    def with_values(values: list[Tensor]) -> list[Tensor]:
        found = []
        for row, kept, value in zip(rows, counted, values, strict=True):

            def change(stream: Tensor, kept: Tensor = kept, value: Tensor = value) -> Tensor:
                stream[kept] = value.float()
                return stream

            found.append(run(row, change)[0])
        return found

    log_clean = [log_p for log_p, _ in clean]
    log_sae = with_values([next(reconstructed) for _ in rows])
    ce_clean, ce_sae = ce(log_clean), ce(log_sae)
    log_mean, log_zero = with_values([x.mean(0)] * len(rows)), with_values([torch.zeros(D)] * len(rows))
    ce_mean, ce_zero = ce(log_mean), ce(log_zero)

    def kl(log_p: list[Tensor]) -> float:
        return sum(float((log_clean[i][p].exp() * (log_clean[i][p] - log_p[i][p])).sum()) for i, p in places) / len(places)

    kl_sae, kl_mean, kl_zero = kl(log_sae), kl(log_mean), kl(log_zero)
    return {
        "n_tokens": len(x),
        "n_predictions": len(places),
        "l0": float((acts != 0).sum(1).double().mean()),
        "explained_variance": float(1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()),
        "mse": float((x - x_hat).square().sum(1).mean()),
        "ce_clean": ce_clean,
        "ce_sae": ce_sae,
        "ce_mean_ablation": ce_mean,
        "ce_zero_ablation": ce_zero,
        "ce_recovered": (ce_mean - ce_sae) / (ce_mean - ce_clean),
        "ce_recovered_zero": (ce_zero - ce_sae) / (ce_zero - ce_clean),
        "delta_ce": ce_sae - ce_clean,
        "kl_sae": kl_sae,
        "kl_mean_ablation": kl_mean,
        "kl_zero_ablation": kl_zero,
        "kl_recovered": (kl_mean - kl_sae) / kl_mean,
        "kl_recovered_zero": (kl_zero - kl_sae) / kl_zero,
        "l1": float(acts.abs().sum(1).mean()),
        "cosine": float(torch.cosine_similarity(x, x_hat, dim=1).mean()),
        "norm_in": float(x.norm(dim=1).mean()),
        "norm_out": float(x_hat.norm(dim=1).mean()),
        "norm_ratio": float((x_hat.norm(dim=1) / x.norm(dim=1)).mean()),
        "relative_reconstruction_bias": float(x_hat.square().sum() / (x * x_hat).sum()),
        "feature_counts": (acts != 0).sum(0),
    }


def assert_metrics(got: Metrics, expected: dict[str, Any]) -> None:
    assert torch.equal(got.feature_counts, expected["feature_counts"])
    for name, value in expected.items():
        # A ratio of differences of cross entropies multiplies their rounding by ce / (ce_ablated - ce_clean), 80 here.
        rel = 80 * 2e-5 if "recovered" in name else 2e-5
        if name != "feature_counts":
            assert getattr(got, name) == pytest.approx(value, rel=rel, abs=2e-6), name


def test_every_metric_equals_brute_force(lm: TransformersLM, batches: list[Batch]) -> None:
    """Two SAEs at one hook and padded batches give what one text at a time gives."""
    saes = {"a": random_sae(), "b": random_sae(seed=5)}

    found = evaluate(lm, saes, batches)

    assert list(found) == ["a", "b"]
    for name, sae in saes.items():
        expected = brute_force(lm, sae)
        assert abs(expected["delta_ce"]) > 0.01
        assert_metrics(found[name], expected)


def test_how_the_texts_are_batched_does_not_matter(lm: TransformersLM, batches: list[Batch]) -> None:
    """One batch of all texts gives what three batches give: sums are pooled, never means of means."""
    rows, counted = texts()
    together = evaluate(lm, {"a": random_sae()}, [padded(rows, counted, "left")])["a"]

    assert_metrics(together, vars(evaluate(lm, {"a": random_sae()}, batches)["a"]))


def test_a_perfect_sae_costs_nothing(lm: TransformersLM, batches: list[Batch]) -> None:
    """Exact reconstruction gives explained variance 1, ΔCE 0, KL 0 and all of the cross entropy recovered, exactly."""
    found = evaluate(lm, {"perfect": perfect_sae()}, batches)["perfect"]

    assert (found.explained_variance, found.mse, found.delta_ce, found.kl_sae) == (1.0, 0.0, 0.0, 0.0)
    assert (found.ce_recovered, found.ce_recovered_zero, found.kl_recovered) == (1.0, 1.0, 1.0)
    assert (found.norm_ratio, found.relative_reconstruction_bias) == (1.0, 1.0)
    assert found.cosine == pytest.approx(1.0, rel=1e-14)
    assert found.l0 == D


def test_saes_at_different_hooks_are_independent(lm: TransformersLM, batches: list[Batch]) -> None:
    """An SAE's numbers do not depend on which others are evaluated with it."""
    saes = {"mid": random_sae("blocks.0.hook_resid_mid"), "post": random_sae(), "mlp": random_sae("blocks.2.hook_mlp_out")}

    together = evaluate(lm, saes, batches)

    for name, sae in saes.items():
        alone = evaluate(lm, {name: sae}, batches)[name]
        assert vars(together[name]) | {"feature_counts": None} == vars(alone) | {"feature_counts": None}
        assert torch.equal(together[name].feature_counts, alone.feature_counts)


class PerfectTranscoder(SAE):
    """Reads the normalised input of an MLP and writes that MLP's output: half by features, half by its skip term."""

    def __init__(self, lm: TransformersLM) -> None:
        cfg = SAEConfig(
            architecture="standard", d_in=D, d_sae=D, hook_name="blocks.1.ln2.hook_normalized",
            hook_name_out="blocks.1.hook_mlp_out", transcoder=True,
        )  # fmt: skip
        super().__init__(cfg, W_enc=torch.eye(D), W_dec=torch.eye(D), b_enc=torch.zeros(D), b_dec=torch.zeros(D))
        self.block = lm.model.transformer.h[1]

    def encode(self, x: Tensor, check_finite: bool = False) -> SparseActs:
        return SparseActs.from_dense(x)

    def decode(self, acts: SparseActs | Tensor, mean: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        assert isinstance(acts, SparseActs)
        return self.skip(acts.to_dense())

    def skip(self, x: Tensor) -> Tensor:
        return self.block.mlp(x * self.block.ln_2.weight + self.block.ln_2.bias) / 2


def test_a_transcoder_is_compared_and_spliced_where_it_writes(lm: TransformersLM, batches: list[Batch]) -> None:
    """A transcoder that computes the MLP explains all of the MLP's output and costs nothing but rounding."""
    found = evaluate(lm, {"transcoder": PerfectTranscoder(lm)}, batches)["transcoder"]

    assert found.explained_variance == pytest.approx(1.0, abs=1e-10)
    assert found.delta_ce == pytest.approx(0.0, abs=1e-6)
    assert found.kl_sae == pytest.approx(0.0, abs=1e-6)  # log-probabilities are float32
    assert found.ce_recovered == pytest.approx(1.0, abs=1e-4)
    assert found.ce_mean_ablation > found.ce_clean


def test_an_sae_of_attention_heads_is_spliced_before_the_output_projection(lm: TransformersLM, batches: list[Batch]) -> None:
    """At hook_z the heads are side by side; a perfect SAE costs nothing, and zeros take away the attention's output."""
    hook = "blocks.1.attn.hook_z"
    found = evaluate(lm, {"perfect": perfect_sae(hook), "random": random_sae(hook, 3)}, batches)
    rows, counted = texts()

    assert (found["perfect"].explained_variance, found["perfect"].delta_ce, found["perfect"].kl_sae) == (1.0, 0.0, 0.0)
    x = torch.cat([lm.activations(row[None], [hook])[hook][0, kept] for row, kept in zip(rows, counted, strict=True)])
    error = (x - random_sae(hook, 3)(x)).double().square().sum(1).mean()
    assert found["random"].mse == pytest.approx(float(error), rel=1e-5)
    assert found["random"].ce_zero_ablation != found["random"].ce_clean


def test_a_centred_sae_reads_and_writes_a_stream_without_its_mean(lm: TransformersLM, batches: list[Batch]) -> None:
    """One that is perfect on the centred stream costs nothing, though it never sees the mean."""
    sae = perfect_sae()
    centred = sae.replace(replace(sae.cfg, centred=True))

    found = evaluate(lm, {"centred": centred}, batches)["centred"]

    assert found.explained_variance == pytest.approx(1.0, abs=1e-12)
    assert found.delta_ce == pytest.approx(0.0, abs=1e-6)


def test_a_cross_layer_transcoder_is_measured_at_all_hooks_at_once(lm: TransformersLM, batches: list[Batch]) -> None:
    """Explained variance is over all it writes, and the ablations remove all of that."""
    hooks = ("blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out")
    generator = torch.Generator().manual_seed(3)
    cfg = SAEConfig(architecture="standard", d_in=D, d_sae=D_SAE, hook_name=HOOK, hook_names_out=hooks, transcoder=True)
    shapes = tensor_shapes(cfg)
    sae = SAE(cfg, **{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})
    cfg = replace(cfg, hook_name="blocks.1.hook_resid_mid")
    sae = sae.replace(cfg)
    rows, counted = texts()

    found = evaluate(lm, {"clt": sae}, batches)["clt"]

    x, y = [], []
    for row, kept in zip(rows, counted, strict=True):
        there = lm.activations(row[None], [cfg.hook_name, *hooks])
        x.append(there[cfg.hook_name][0, kept])
        y.append(torch.stack([there[hook][0, kept] for hook in hooks], 1))
    error = (torch.cat(y) - sae(torch.cat(x))).double().square().sum()
    deviation = (torch.cat(y) - torch.cat(y).mean(0)).double().square().sum()
    assert found.explained_variance == pytest.approx(float(1 - error / deviation), rel=1e-5)
    zero = [
        lm.logits(row[None], edits={hook: lambda a, kept=kept: a * ~kept[None, :, None] for hook in hooks})[0].double()
        for row, kept in zip(rows, counted, strict=True)
    ]
    places = [(i, p) for i, row in enumerate(rows) for p in range(len(row) - 1) if counted[i][p + 1]]
    expected = -sum(float(zero[i][p].log_softmax(-1)[rows[i][p + 1]]) for i, p in places) / len(places)
    assert found.ce_zero_ablation == pytest.approx(expected, rel=1e-5)


def test_the_lm_runs_once_per_batch_sae_and_intervention(
    lm: TransformersLM, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two SAEs at one hook: the mean, then clean, two spliced, zero and mean; a batch without counted tokens is not run."""
    passes = []
    forward = lm._forward
    monkeypatch.setattr(lm, "_forward", lambda *arguments: passes.append(1) or forward(*arguments))
    done: list[int] = []
    saes = {"a": random_sae(), "b": random_sae(seed=5)}

    evaluate(lm, saes, batches, progress=done.append)

    assert len(passes) == 2 * (1 + 1 + 2 + 1 + 1)
    assert done == [1, 1, 1, 5, 5, 5]
    assert sum(done) == n_passes(saes, 3)


def _spoilt(index: int, value: Any) -> list[Batch]:
    batch: list[Any] = [torch.full((2, 4), 5), torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 4, dtype=torch.int64)]
    batch[index] = value
    return [tuple(batch)]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("spoilt", "error", "message"),
    [
        ([], ArgumentError, "at least one counted token, got none in 0 batches"),
        (_spoilt(1, torch.zeros(2, 4, dtype=torch.bool)), ArgumentError, "got none in 1 batches"),
        (_spoilt(1, torch.ones(2, 4)), ShapeError, r"counted \(bool\)"),
        (_spoilt(2, torch.ones(2, 3)), ShapeError, "of one shape"),
        (_spoilt(2, torch.zeros(2, 4, dtype=torch.int64)), ShapeError, "counted token that is padding"),
        (iter([]), ArgumentError, "read twice"),
    ],
)
def test_batches_that_cannot_be_measured_are_refused(
    lm: TransformersLM, spoilt: Any, error: type[Exception], message: str
) -> None:
    """Empty, malformed and one-time batches raise one clear error each."""
    with pytest.raises(error, match=message):
        evaluate(lm, {"a": random_sae()}, spoilt)


def test_saes_that_do_not_fit_the_lm_are_refused(lm: TransformersLM, batches: list[Batch]) -> None:
    """No SAE, no hook name, an unknown hook and a wrong width are found before any batch is read."""
    with pytest.raises(ArgumentError, match="at least one SAE"):
        evaluate(lm, {}, batches)
    with pytest.raises(ArgumentError, match="'a': hook_name"):
        evaluate(lm, {"a": random_sae(hook_name=None)}, batches)  # type: ignore[arg-type]
    with pytest.raises(HookNotFoundError, match=r"blocks\.7\.hook_resid_post"):
        evaluate(lm, {"a": random_sae("blocks.7.hook_resid_post")}, batches)
    with pytest.raises(ShapeError, match=r"'a': d_in: expected 64, the width at blocks\.1\.mlp\.hook_post, got 16"):
        evaluate(lm, {"a": random_sae("blocks.1.mlp.hook_post")}, batches)
