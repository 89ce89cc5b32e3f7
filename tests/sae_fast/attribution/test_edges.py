"""Edges of attribution graphs against dense Jacobians and a hand-written linear model; sums with errors; freezing."""

import math
from collections.abc import Callable

import pytest
import torch
from random_saes import make_sae, transcoders

from sae_fast import SAE
from sae_fast.attribution import Graph, attribution_graph
from sae_fast.attribution.frozen import frozen
from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.lm import LanguageModel

FIRST, SECOND = "blocks.0.hook_resid_post", "blocks.2.hook_resid_pre"


def jacobian(lm: LanguageModel, token_ids: torch.Tensor, source: str, target: str) -> torch.Tensor:
    """∂(activation at `target`)/∂(activation at `source`), `[pos, d, pos, d]`."""
    y = lm.activations(token_ids, [source])[source][0].clone()

    def run(leaf: torch.Tensor) -> torch.Tensor:
        return lm.activations(token_ids, [target], edits={source: lambda _: leaf[None]}, grad=True)[target][0]

    return torch.autograd.functional.jacobian(run, y)


def part(graph: Graph, kind: str, layer: int | None = None) -> list[int]:
    return [i for i, node in enumerate(graph.nodes) if node.kind == kind and (layer is None or node.layer == layer)]


def test_edges_equal_the_dense_jacobian(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """Without freezing, an edge is activation · decoder row · Jacobian · encoder column; errors and constants likewise."""
    first, second = make_sae(1, hook_name=FIRST), make_sae(2, hook_name=SECOND, apply_b_dec_to_input=True)
    graph = attribution_graph(gpt2, [first, second], token_ids, [5], freeze=False, batch_size=7)
    dense = jacobian(gpt2, token_ids, FIRST, SECOND)
    y = gpt2.activations(token_ids, [FIRST])[FIRST]
    error = (y - first(y))[0]
    sources, errors, targets = part(graph, "feature", 0), part(graph, "error", 0), part(graph, "feature", 2)

    assert len(sources) > 10
    assert len(targets) > 10
    for t in targets:
        node = graph.nodes[t]
        slope = torch.einsum("e,epd->pd", second.W_enc[:, node.index], dense[node.position])
        for s in sources:
            source = graph.nodes[s]
            expected = source.activation * first.W_dec[source.index] @ slope[source.position]  # type: ignore[operator]
            assert float(graph.adjacency[t, s]) == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
        torch.testing.assert_close(graph.adjacency[t, errors], (error * slope).sum(1), rtol=1e-3, atol=1e-5)
        # Features, errors and the decoder's bias together are all that is there.
        total = graph.adjacency[t].sum() + graph.constant[t]
        torch.testing.assert_close(total, (y[0] * slope).sum(), rtol=1e-3, atol=1e-4)


def gpt2_by_hand(
    lm: LanguageModel, token_ids: torch.Tensor, saes: list[SAE]
) -> tuple[Callable[..., tuple[list[torch.Tensor], torch.Tensor]], torch.Tensor, list[torch.Tensor]]:
    """A GPT-2 with attention patterns and norms held and MLP outputs given: a function of (stream [pos, d], MLP outputs).

    Written from the modules' weights, without hooks. The function gives what each MLP's norm feeds it (before weight and bias)
    and the logits at the last position.
    """
    model = lm.model.transformer  # type: ignore[attr-defined]
    names = ["blocks.0.hook_resid_pre"]
    for layer in range(3):
        names += [f"blocks.{layer}.hook_resid_mid", f"blocks.{layer}.hook_mlp_out", f"blocks.{layer}.hook_resid_post"]
    found = {name: value[0] for name, value in lm.activations(token_ids, names).items()}

    def held(norm: torch.nn.LayerNorm, at: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        deviation = (at.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        return lambda x: (x - x.mean(-1, keepdim=True)) / deviation

    def attention(block: torch.nn.Module, at: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        attn = block.attn
        q, k, _ = (attn.c_attn(block.ln_1(at))).split(32, dim=-1)  # type: ignore[operator]
        q, k = (value.reshape(-1, 4, 8).transpose(0, 1) for value in (q, k))
        scores = q @ k.transpose(1, 2) / math.sqrt(8)
        pattern = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1)
        norm = held(block.ln_1, at)  # type: ignore[arg-type]

        def run(x: torch.Tensor) -> torch.Tensor:
            normed = norm(x) * block.ln_1.weight + block.ln_1.bias  # type: ignore[union-attr,operator]
            v = attn.c_attn(normed)[:, 64:].reshape(-1, 4, 8).transpose(0, 1)  # type: ignore[operator]
            return attn.c_proj((pattern @ v).transpose(0, 1).reshape(-1, 32))  # type: ignore[operator]

        return run

    inputs = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    attentions = [attention(block, found[name]) for block, name in zip(model.h, inputs, strict=True)]
    norms = [held(block.ln_2, found[f"blocks.{layer}.hook_resid_mid"]) for layer, block in enumerate(model.h)]
    final = held(model.ln_f, found["blocks.2.hook_resid_post"])

    def run(stream: torch.Tensor, *outputs: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        reads = []
        for layer in range(3):
            stream = stream + attentions[layer](stream)
            reads.append(norms[layer](stream))
            skipped = saes[layer].skip(reads[-1]) if saes[layer].W_skip is not None else None
            stream = stream + outputs[layer] + (0 if skipped is None else skipped)
        normed = final(stream)[-1] * model.ln_f.weight + model.ln_f.bias
        return reads, normed @ lm.unembed().W_U

    return run, found["blocks.0.hook_resid_pre"], [found[f"blocks.{layer}.hook_mlp_out"] for layer in range(3)]


@pytest.mark.parametrize("skip", [False, True])
def test_frozen_edges_equal_a_hand_written_linear_model(gpt2: LanguageModel, token_ids: torch.Tensor, skip: bool) -> None:
    """With a transcoder for every MLP, the graph is that of a GPT-2 with patterns and norms held, and its sums are exact.

    Everything that acts on a node (features, errors, tokens, decoder biases, the model's own biases) adds up to its value.
    """
    saes = transcoders(skip=skip)
    graph = attribution_graph(gpt2, saes, token_ids, [5, 9], batch_size=16)
    with torch.no_grad():
        run, stream, outputs = gpt2_by_hand(gpt2, token_ids, saes)
        if skip:
            reads, _ = gpt2_by_hand(gpt2, token_ids, transcoders())[0](stream, *outputs)
            outputs = [y - sae.skip(x) for y, sae, x in zip(outputs, saes, reads, strict=True)]  # type: ignore[operator]
        nothing = [torch.zeros_like(value) for value in (stream, *outputs)]
        reads, logits = run(stream, *outputs)
        bias_reads, bias_logits = run(*nothing)

        torch.testing.assert_close(logits, gpt2.logits(token_ids)[0, -1], rtol=1e-4, atol=1e-4)
        for t in part(graph, "feature"):
            node = graph.nodes[t]
            column = saes[node.layer].W_enc[:, node.index]
            expected = (reads[node.layer] - bias_reads[node.layer])[node.position] @ column
            total = graph.adjacency[t].sum() + graph.constant[t]
            torch.testing.assert_close(total, expected, rtol=1e-3, atol=1e-4)
        for t in part(graph, "logit"):
            difference = logits - bias_logits
            total = graph.adjacency[t].sum() + graph.constant[t]
            torch.testing.assert_close(total, difference[graph.nodes[t].index] - difference.mean(), rtol=1e-3, atol=1e-4)
        # Single edges: moving one source alone moves each target by its edge, however far.
        feature = max(part(graph, "feature", 0), key=lambda s: float(graph.adjacency[:, s].abs().sum()))
        source = graph.nodes[feature]
        moved = [y.clone() for y in outputs]
        moved[0][source.position] -= source.activation * saes[0].W_dec[source.index]
        without, without_logits = run(stream, *moved)
        for t in part(graph, "feature", 1) + part(graph, "feature", 2):
            node = graph.nodes[t]
            change = (reads[node.layer] - without[node.layer])[node.position] @ saes[node.layer].W_enc[:, node.index]
            torch.testing.assert_close(graph.adjacency[t, feature], change, rtol=1e-3, atol=1e-5)
        change = logits - without_logits
        for t in part(graph, "logit"):
            torch.testing.assert_close(
                graph.adjacency[t, feature], change[graph.nodes[t].index] - change.mean(), rtol=1e-3, atol=1e-5
            )


def test_later_nodes_never_act_on_earlier_ones(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """Edges go forward in the model and in the text, and nothing acts on errors and tokens."""
    graph = attribution_graph(gpt2, transcoders(), token_ids)

    for source, target, _ in graph.edges():
        assert target.kind in ("feature", "logit")
        assert source.position <= target.position
        assert source.layer < target.layer
        assert source.kind != "logit"


def test_features_beyond_the_limit_count_with_the_errors(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """With fewer features the sums into each remaining node stay what they were."""
    full = attribution_graph(gpt2, transcoders(), token_ids, [5])
    small = attribution_graph(gpt2, transcoders(), token_ids, [5], max_features=20)
    totals = {node.id: full.adjacency[i].sum() for i, node in enumerate(full.nodes)}

    assert len(part(small, "feature")) == 20
    for i, node in enumerate(small.nodes):
        torch.testing.assert_close(small.adjacency[i].sum(), totals[node.id], rtol=1e-3, atol=1e-4)


def test_freezing_changes_no_value(gemma2: LanguageModel, gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """Logits of a held pass are bitwise those of the model, and the hooks are gone afterwards."""
    for lm in (gemma2, gpt2):
        clean = lm.logits(token_ids)
        with frozen(lm):
            assert torch.equal(lm.logits(token_ids, grad=True), clean)
        assert torch.equal(lm.logits(token_ids), clean)


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "gemma2"])
def test_a_frozen_model_is_linear_where_it_has_no_mlp(request: pytest.FixtureRequest, family: str) -> None:
    """In each family, the slope of a norm's output along its own input's direction is that of a linear map through zero."""
    import sae_fast

    lm = sae_fast.lm.load(request.getfixturevalue(f"{family}_folder"), dtype="float32")
    for name, parameter in lm.model.named_parameters():  # type: ignore[attr-defined]
        if name.endswith("bias"):
            parameter.data.zero_()
    ids = torch.randint(5, 300, (1, 6), generator=torch.Generator().manual_seed(3))
    source, target = "blocks.1.hook_resid_pre", "blocks.1.hook_attn_out"
    leaf: dict[str, torch.Tensor] = {}

    def cut(y: torch.Tensor) -> torch.Tensor:
        leaf["x"] = y.detach().requires_grad_()
        return leaf["x"]

    def slope() -> tuple[torch.Tensor, torch.Tensor]:
        out = lm.activations(ids, [target], edits={source: cut}, grad=True)[target]
        direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(4))
        (gradient,) = torch.autograd.grad((out * direction).sum(), leaf["x"])
        return (gradient * leaf["x"]).sum(), (out * direction).sum()

    # A norm's output does not depend on its input's length, so the slope along the input nearly vanishes unless it is held;
    # held, the map is linear, and its slope along the input is the output itself.
    free, _ = slope()
    with frozen(lm):
        held, out = slope()
    torch.testing.assert_close(held, out, rtol=1e-3, atol=1e-3)
    assert float((free - out).detach().abs()) > 0.1 * float(out.detach().abs())


@pytest.mark.parametrize(("backend", "family"), [("nnsight", "gemma2"), ("nnsight", "gpt2"), ("transformer_lens", "gemma2")])
def test_backends_agree(request: pytest.FixtureRequest, backend: str, family: str, token_ids: torch.Tensor) -> None:
    """A graph with norms and patterns held is the same through each backend that runs a Hugging Face model here."""
    import sae_fast

    pytest.importorskip(backend)
    folder = request.getfixturevalue(f"{family}_folder")
    graphs = [
        attribution_graph(sae_fast.lm.load(folder, backend=name, dtype="float32"), transcoders(skip=True), token_ids, [5])
        for name in ("transformers", backend)
    ]

    assert graphs[0].nodes[0].id == graphs[1].nodes[0].id
    torch.testing.assert_close(graphs[1].adjacency, graphs[0].adjacency, rtol=1e-3, atol=1e-5)


def test_what_cannot_be_a_graph_is_refused(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """Read-outs that are not linear, tokens that do not exist, and models that cannot be held each give one clear error."""
    pursuit = SAE(
        make_sae().cfg.__class__(architecture="matching_pursuit", d_in=32, d_sae=48, hook_name=FIRST),
        W_dec=make_sae().W_dec,
        b_dec=make_sae().b_dec,
    )
    with pytest.raises(ArgumentError, match="expected features that are linear read-outs, got matching_pursuit"):
        attribution_graph(gpt2, pursuit, token_ids)
    with pytest.raises(ShapeError, match="targets: expected token ids"):
        attribution_graph(gpt2, make_sae(hook_name=FIRST), token_ids, [10_000])
    with pytest.raises(ArgumentError, match="freeze=False takes plain gradients"), frozen(object()):  # type: ignore[arg-type]
        pass
