"""SAEs measured as one against brute force, and what is not finite."""

import copy
from typing import Any

import pytest
import torch
from small_evaluation import D_SAE, HOOK, D, random_sae, texts
from torch import Tensor

from sae_fast.config import SAEConfig, tensor_shapes
from sae_fast.errors import NonFiniteError
from sae_fast.evaluation import Batch, evaluate, measure
from sae_fast.lm.transformers import TransformersLM
from sae_fast.sae import SAE

MLPS = ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out")


def cross_layer(layer: int) -> SAE:
    """Layer `layer` of a random cross-layer transcoder over the three MLPs."""
    cfg = SAEConfig(
        architecture="standard",
        d_in=D,
        d_sae=D_SAE + layer,
        hook_name=f"blocks.{layer}.hook_resid_mid",
        hook_names_out=MLPS[layer:],
        transcoder=True,
    )
    generator = torch.Generator().manual_seed(layer)
    shapes = tensor_shapes(cfg).items()
    return SAE(cfg, **{name: torch.randn(shape, generator=generator) / 8 for name, shape in shapes})


def test_layers_of_a_cross_layer_transcoder_are_measured_as_one(lm: TransformersLM, batches: list[Batch]) -> None:
    """What they write at a hook is summed; each reads what those before it have written when all are spliced in."""
    layers = {f"layer-{layer}": cross_layer(layer) for layer in range(3)}
    rows, counted = texts()

    found = measure(lm, {"clt": layers, "alone": layers["layer-2"]}, batches)

    metrics = found.metrics()["clt"]
    y, y_hat, l0 = ({name: [] for name in names} for names in (MLPS, MLPS, layers))
    spliced = []
    for row, kept in zip(rows, counted, strict=True):
        there = lm.activations(row[None], [*MLPS, *(sae.cfg.hook_name for sae in layers.values())])
        pending = {hook: torch.zeros(int(kept.sum()), D) for hook in MLPS}
        edits: dict[str, Any] = {}
        for name, sae in layers.items():
            x = there[sae.cfg.hook_name][0, kept]
            l0[name].append((sae.encode(x).to_dense() != 0).sum(1))
            for hook, part in zip(sae.cfg.hook_names_out, sae(x).unbind(1), strict=True):
                y_hat[hook].append((name, part))

            def read(stream: Tensor, sae: SAE = sae, kept: Tensor = kept, pending: dict[str, Tensor] = pending) -> Tensor:
                for hook, part in zip(sae.cfg.hook_names_out, sae(stream[0, kept]).unbind(1), strict=True):
                    pending[hook] += part
                return stream

            edits[sae.cfg.hook_name] = read
        for hook in MLPS:
            y[hook].append(there[hook][0, kept])

            def write(stream: Tensor, hook: str = hook, kept: Tensor = kept, pending: dict[str, Tensor] = pending) -> Tensor:
                stream = stream.clone()
                stream[0, kept] = pending[hook]
                return stream

            edits[hook] = write
        spliced.append(lm.logits(row[None], edits=edits)[0].double())
    wanted = {hook: torch.cat(parts).double() for hook, parts in y.items()}
    sums = {
        hook: sum(torch.cat([part for name, part in parts if name == layer]).double() for layer in {name for name, _ in parts})
        for hook, parts in y_hat.items()
    }
    error = {hook: float((wanted[hook] - sums[hook]).square().sum()) for hook in MLPS}
    spread = {hook: float((wanted[hook] - wanted[hook].mean(0)).square().sum()) for hook in MLPS}
    by_hook = found.by_hook("clt")
    assert [row["name"] for row in by_hook] == list(MLPS)
    for row in by_hook:
        assert row["explained_variance"] == pytest.approx(1 - error[row["name"]] / spread[row["name"]], rel=1e-5)
        assert row["intervals"]["mse"][0] < row["mse"] < row["intervals"]["mse"][1]
    assert metrics.explained_variance == pytest.approx(1 - sum(error.values()) / sum(spread.values()), rel=1e-5)
    every = torch.cat([wanted[hook] for hook in MLPS], 1), torch.cat([sums[hook] for hook in MLPS], 1)
    assert metrics.cosine == pytest.approx(float(torch.cosine_similarity(*every).mean()), rel=1e-5)
    assert metrics.norm_in == pytest.approx(float(every[0].norm(dim=1).mean()), rel=1e-6)
    by_layer = found.by_layer("clt")
    assert [(row["name"], row["d_sae"]) for row in by_layer] == [(name, sae.cfg.d_sae) for name, sae in layers.items()]
    for row in by_layer:
        assert row["l0"] == pytest.approx(float(torch.cat(l0[row["name"]]).double().mean()), rel=1e-12)
    assert metrics.l0 == pytest.approx(sum(row["l0"] for row in by_layer), rel=1e-12)
    assert len(metrics.feature_counts) == 3 * D_SAE + 3
    places = [(i, p) for i, row in enumerate(rows) for p in range(len(row) - 1) if counted[i][p + 1]]
    expected = -sum(float(spliced[i][p].log_softmax(-1)[rows[i][p + 1]]) for i, p in places) / len(places)
    assert metrics.ce_sae == pytest.approx(expected, rel=1e-5)
    # The last layer writes at one hook only: as any other SAE there.
    assert found.by_hook("alone") == found.by_layer("alone") == []
    alone = evaluate(lm, {"alone": layers["layer-2"]}, batches)["alone"]
    assert found.metrics()["alone"].explained_variance == alone.explained_variance


CROSSED = ("blocks.0.hook_resid_post", "blocks.1.mlp.hook_post", "blocks.2.hook_resid_post")
"""Hooks of a crosscoder, not all of one width."""


def crosscoder() -> SAE:
    cfg = SAEConfig(
        architecture="batchtopk",
        d_in=6 * D,
        d_sae=D_SAE,
        hook_names=CROSSED,
        hook_widths=(D, 4 * D, D),
        group_sizes=(8, D_SAE - 8),
    )
    generator = torch.Generator().manual_seed(7)
    shapes = tensor_shapes(cfg).items()
    return SAE(cfg, **{name: torch.randn(shape, generator=generator) / 8 for name, shape in shapes})


def test_a_crosscoder_reads_a_clean_pass_and_writes_everywhere(lm: TransformersLM, batches: list[Batch]) -> None:
    """Reconstruction over all hooks and at each; CE with all replaced at once; ablations of all at once; prefixes."""
    sae = crosscoder()
    rows, counted = texts()

    found = measure(lm, {"cross": sae}, batches, prefixes=True)

    metrics, prefix = found.metrics()["cross"], found.metrics()["cross[:8]"]
    wanted, made, cut, l0 = [], [], [], 0
    nll = {"ce_sae": 0.0, "ce_zero_ablation": 0.0}
    places = 0
    for row, kept in zip(rows, counted, strict=True):
        there = lm.activations(row[None], CROSSED)
        x = torch.cat([there[hook][0, kept] for hook in CROSSED], 1)
        acts = sae.encode(x).to_dense()
        l0 += int((acts != 0).sum())
        y_hat = sae.decode(acts)
        acts[:, 8:] = 0
        wanted.append(x.double())
        made.append(y_hat.double())
        cut.append(sae.decode(acts).double())
        for name, value in (("ce_sae", y_hat), ("ce_zero_ablation", torch.zeros_like(y_hat))):

            def put(stream: Tensor, new: Tensor, kept: Tensor = kept) -> Tensor:
                stream = stream.clone()
                stream[0, kept] = new
                return stream

            parts = dict(zip(CROSSED, value.split((D, 4 * D, D), 1), strict=True))
            edits = {hook: lambda stream, new=part, put=put: put(stream, new) for hook, part in parts.items()}
            log_p = lm.logits(row[None], edits=edits)[0].double().log_softmax(-1)
            nll[name] -= sum(float(log_p[p, row[p + 1]]) for p in range(len(row) - 1) if kept[p + 1])
        places += int(kept[1:].sum())
    y, y_hat, of_prefix = (torch.cat(parts) for parts in (wanted, made, cut))
    spread = (y - y.mean(0)).square()
    assert metrics.explained_variance == pytest.approx(float(1 - (y - y_hat).square().sum() / spread.sum()), rel=1e-5)
    assert prefix.explained_variance == pytest.approx(float(1 - (y - of_prefix).square().sum() / spread.sum()), rel=1e-5)
    assert metrics.l0 == l0 / len(y)
    by_hook = found.by_hook("cross")
    assert [row["name"] for row in by_hook] == list(CROSSED)
    for row, part in zip(by_hook, torch.arange(6 * D).split((D, 4 * D, D)), strict=True):
        expected = float(1 - (y - y_hat)[:, part].square().sum() / spread[:, part].sum())
        assert row["explained_variance"] == pytest.approx(expected, rel=1e-5)
    for name, total in nll.items():
        assert getattr(metrics, name) == pytest.approx(total / places, rel=1e-5), name
    together = evaluate(lm, {"group": {"cross": sae}}, batches)["group"]
    assert together.ce_sae == pytest.approx(metrics.ce_sae, rel=1e-6)


def test_a_transcoder_measured_in_a_group_of_one_is_the_transcoder(lm: TransformersLM, batches: list[Batch]) -> None:
    """Spliced in by `run_with_saes` or by what was read before, the numbers are the same."""
    sae = cross_layer(0)

    found = evaluate(lm, {"alone": sae, "group": {"layer-0": sae}}, batches)

    for name, value in vars(found["alone"]).items():
        if name != "feature_counts":
            assert getattr(found["group"], name) == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert torch.equal(found["group"].feature_counts, found["alone"].feature_counts)


def test_nan_is_an_error_that_names_the_sae(lm: TransformersLM, batches: list[Batch]) -> None:
    """In weights, where a feature would only never fire, and in what the LM computes."""
    for tensor in ("W_enc", "W_dec", "b_enc", "b_dec"):
        broken = random_sae()
        value = broken.tensors()[tensor]
        value[(0,) * value.ndim] = float("nan")
        with pytest.raises(NonFiniteError, match=f"'a': {tensor} has NaN"):
            evaluate(lm, {"b": random_sae(), "a": broken}, batches)
    model = copy.deepcopy(lm.model)
    model.transformer.h[0].mlp.c_proj.bias.data[0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"activations at blocks\.1\.hook_resid_post have NaN"):
        evaluate(TransformersLM(model, tokenizer=None), {"a": random_sae()}, batches)
    means = {HOOK: torch.zeros(D, dtype=torch.float64)}
    with pytest.raises(NonFiniteError, match="the language model as it is: its cross entropy is NaN"):
        measure(TransformersLM(model, tokenizer=None), {"a": random_sae()}, batches, means=means)


@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_a_large_mean_costs_no_precision(lm: TransformersLM, batches: list[Batch], mean: float) -> None:
    """Of an activation whose mean is far larger than its spread, in total, by position and in every resample."""
    model = copy.deepcopy(lm.model)
    model.transformer.h[1].mlp.c_proj.bias.data += mean
    shifted, hook = TransformersLM(model, tokenizer=None), "blocks.1.hook_mlp_out"
    sae = random_sae(hook)
    sae.b_dec.add_(mean)
    sae = sae.replace(b_enc=sae.tensors()["b_enc"] - mean * sae.W_enc.sum(0))
    rows, counted = texts()

    found = measure(shifted, {"a": sae}, batches)

    y, y_hat, position = [], [], []
    for row, kept in zip(rows, counted, strict=True):
        x = shifted.activations(row[None], [hook])[hook][0, kept]
        y.append(x.double())
        y_hat.append(sae(x).double())
        position.append(torch.arange(len(row))[kept])
    wanted, made, where = torch.cat(y), torch.cat(y_hat), torch.cat(position)

    def explained(rows: Tensor) -> float:
        spread = (wanted[rows] - wanted[rows].mean(0)).square().sum()
        return float(1 - (wanted - made)[rows].square().sum() / spread)

    # Activations of mean 300 are themselves rounded to 2e-5 in float32.
    rel = 1e-5 if not mean else 1e-3
    assert found.metrics()["a"].explained_variance == pytest.approx(explained(where >= 0), rel=rel)
    by_position = {row["name"]: row["explained_variance"] for row in found.by_position("a")}
    assert by_position["4 to 7"] == pytest.approx(explained((where >= 4) & (where < 8)), rel=rel)
    low, high = found.intervals("a")["explained_variance"]  # type: ignore[misc]
    assert low < explained(where >= 0) < high
