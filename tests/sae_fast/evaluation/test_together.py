"""SAEs measured as one against brute force, and what is not finite."""

import copy
from typing import Any

import pytest
import torch
from small_evaluation import D_SAE, HOOK, D, random_sae, small_lm, texts, uneven_batches
from torch import Tensor

from sae_fast.config import SAEConfig, tensor_shapes
from sae_fast.errors import NonFiniteError
from sae_fast.evaluation import Batch, evaluate, measure
from sae_fast.lm.transformers import TransformersLM
from sae_fast.sae import SAE


@pytest.fixture(scope="module")
def lm() -> TransformersLM:
    return small_lm()


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return uneven_batches()


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
