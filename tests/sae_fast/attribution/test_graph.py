"""Graphs: influence and pruning against the closed form, and the file against circuit-tracer's schema."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_saes import transcoders

from sae_fast.attribution import Graph, Node, attribution_graph
from sae_fast.attribution.schema import FEATURE_TYPES, SCHEMA
from sae_fast.errors import ArgumentError
from sae_fast.lm import LanguageModel


def random_graph(seed: int, n_layers: int = 4, width: int = 5, n_pos: int = 2) -> Graph:
    """A layered graph with random edges, some of them missing."""
    rng = np.random.default_rng(seed)
    nodes = [Node("feature", layer, p, i, 1.0) for layer in range(n_layers) for p in range(n_pos) for i in range(width)]
    nodes += [Node("error", layer, p, -1) for layer in range(n_layers) for p in range(n_pos)]
    nodes += [Node("token", -1, p, 50 + p) for p in range(n_pos)]
    nodes += [Node("logit", n_layers + 1, n_pos - 1, i, probability=share) for i, share in ((7, 0.6), (8, 0.3))]
    adjacency = torch.zeros(len(nodes), len(nodes))
    for t, target in enumerate(nodes):
        for s, source in enumerate(nodes):
            forward = source.layer < target.layer and source.position <= target.position
            if target.kind in ("feature", "logit") and source.kind != "logit" and forward and rng.random() < 0.6:
                adjacency[t, s] = rng.normal() ** 3
    return Graph(
        nodes=tuple(nodes),
        adjacency=adjacency,
        constant=torch.zeros(len(nodes)),
        token_ids=(50, 51),
        tokens=(" a", '"b'),
        target_texts={7: " c", 8: "<d>"},
        layers={layer: f"blocks.{layer}.hook_mlp_out" for layer in range(n_layers)},
        n_layers=n_layers,
    )


@pytest.mark.parametrize("seed", range(5))
def test_influence_is_the_closed_form(seed: int) -> None:
    """Influence over all paths is w ((I − A)⁻¹ − I), A the row-normalised sizes, w the logits' probabilities."""
    graph = random_graph(seed)
    size = graph.adjacency.abs().double().numpy()
    shares = size / np.maximum(size.sum(1, keepdims=True), 1e-10)
    identity = np.eye(len(graph))
    weights = np.array([node.probability if node.kind == "logit" else 0.0 for node in graph.nodes], dtype=float)
    expected = weights @ (np.linalg.inv(identity - shares) - identity)

    np.testing.assert_allclose(graph.influence().numpy(), expected, rtol=1e-4, atol=1e-6)


def pruned_by_hand(graph: Graph, node_threshold: float, edge_threshold: float) -> tuple[set[str], set[tuple[str, str]]]:
    """Ids of the kept nodes and edges, by the definition, node by node."""
    n = len(graph)
    weights = np.array([node.probability if node.kind == "logit" else 0.0 for node in graph.nodes], dtype=float)

    def influence(size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shares = size / np.maximum(size.sum(1, keepdims=True), 1e-10)
        return shares, weights @ (np.linalg.inv(np.eye(n) - shares) - np.eye(n))

    def largest(scores: dict[object, float], threshold: float) -> set[object]:
        kept: set[object] = set()
        total = 0.0
        for key in sorted(scores, key=lambda key: -scores[key]):
            if total / sum(scores.values()) >= threshold:
                break
            kept.add(key)
            total += scores[key]
        return kept

    size = graph.adjacency.abs().double().numpy()
    nodes = largest(dict(enumerate(influence(size)[1])), node_threshold)
    nodes |= {i for i, node in enumerate(graph.nodes) if node.kind in ("token", "logit")}
    mask = np.array([i in nodes for i in range(n)])
    shares, reached = influence(size * mask[:, None] * mask[None])
    scores = {(t, s): shares[t, s] * (reached[t] + weights[t]) for t, s in zip(*np.nonzero(shares), strict=True)}
    edges = largest(scores, edge_threshold)  # type: ignore[arg-type]
    while True:
        gone = set()
        for i in nodes:
            kind = graph.nodes[i].kind  # type: ignore[index]
            no_out = all(s != i for _, s in edges)  # type: ignore[misc]
            no_in = all(t != i for t, _ in edges)  # type: ignore[misc]
            if (kind in ("feature", "error") and no_out) or (kind == "feature" and no_in):
                gone.add(i)
        nodes -= gone
        edges = {(t, s) for t, s in edges if t not in gone and s not in gone}  # type: ignore[misc]
        if not gone:
            break
    ids = [node.id for node in graph.nodes]
    return {ids[i] for i in nodes}, {(ids[s], ids[t]) for t, s in edges}  # type: ignore[index,misc]


@pytest.mark.parametrize("seed", range(5))
def test_pruning_equals_its_definition(seed: int) -> None:
    """The kept nodes and edges are those of a loop over the definition; edges keep their weights, nodes get their influence."""
    graph = random_graph(seed)
    pruned = graph.prune(0.8, 0.95)
    nodes, edges = pruned_by_hand(graph, 0.8, 0.95)

    assert {node.id for node in pruned.nodes} == nodes
    assert {(s.id, t.id) for s, t, _ in pruned.edges()} == edges
    assert 4 < len(pruned) < len(graph)
    weights = {(s.id, t.id): w for s, t, w in graph.edges()}
    assert all(weights[s.id, t.id] == w for s, t, w in pruned.edges())
    assert all((node.influence is None) == (node.kind == "logit") for node in pruned.nodes)


def test_thresholds_of_one_keep_all_that_acts() -> None:
    """With both thresholds at 1, only nodes that reach no logit go."""
    graph = random_graph(0)
    influence = graph.influence()
    pruned = graph.prune(1.0, 1.0)

    gone = {node.id for node in graph.nodes} - {node.id for node in pruned.nodes}
    assert all(float(influence[i]) < 1e-6 or node.kind == "feature" for i, node in enumerate(graph.nodes) if node.id in gone)
    with pytest.raises(ArgumentError, match="node_threshold: expected a number from 0 to 1"):
        graph.prune(1.2)


def test_edges_come_by_size() -> None:
    """`edges(n)` gives the n largest by size."""
    graph = random_graph(1)
    sizes = [abs(weight) for *_, weight in graph.edges()]

    assert sizes == sorted(sizes, reverse=True)
    assert graph.edges(3) == graph.edges()[:3]
    assert len(sizes) == int((graph.adjacency != 0).sum())


def check_schema(content: dict[str, Any]) -> None:
    """Every part has the keys of circuit-tracer's models, and values of their types."""
    for name, keys in SCHEMA.items():
        value = content[name] if name else content
        for part in value if isinstance(value, list) else [value]:
            assert set(keys) <= set(part), name
            for key, types in keys.items():
                # JSON has no integers beside floats where a float is meant, and a bool is no int here.
                assert type(part[key]) in types, (name, key, part[key])
    nodes = {node["node_id"] for node in content["nodes"]}
    assert len(nodes) == len(content["nodes"])
    assert len({node["jsNodeId"] for node in content["nodes"] if node["feature_type"] != "cross layer transcoder"}) == sum(
        node["feature_type"] != "cross layer transcoder" for node in content["nodes"]
    )
    assert all(link["source"] in nodes and link["target"] in nodes for link in content["links"])
    assert {node["feature_type"] for node in content["nodes"]} <= set(FEATURE_TYPES.values())


def test_the_file_follows_the_schema(gpt2: LanguageModel, token_ids: torch.Tensor, tmp_path: Path) -> None:
    """A pruned graph of a real pass is written with circuit-tracer's keys and types; ids are told apart; bytes repeat."""
    graph = attribution_graph(gpt2, transcoders(), token_ids, max_logits=3).prune()
    path = graph.save(tmp_path / "graphs" / "my-graph.json", scan="gpt2", labels={(0, 3): "three"})
    content = json.loads(path.read_text(encoding="utf-8"))

    check_schema(content)
    assert content["metadata"]["slug"] == "my-graph"
    assert content["metadata"]["node_threshold"] == 0.8
    assert content["metadata"]["layers"] == {str(layer): f"blocks.{layer}.hook_mlp_out" for layer in range(3)}
    assert len(content["nodes"]) == len(graph)
    assert len(content["links"]) == len(graph.edges())
    assert [node["is_target_logit"] for node in content["nodes"] if node["feature_type"] == "logit"] == [True, False, False]
    weights = [abs(link["weight"]) for link in content["links"]]
    assert all(a >= b for a, b in pairwise(weights))
    assert path.read_bytes() == graph.save(tmp_path / "my-graph.json", scan="gpt2", labels={(0, 3): "three"}).read_bytes()


def test_readers_can_unpair_features(tmp_path: Path) -> None:
    """A feature node's number is the Cantor pairing of its layer and index, and its id parses into layer, feature, position."""
    content = json.loads(random_graph(2).save(tmp_path / "graph.json").read_text())
    check_schema(content)

    features = [node for node in content["nodes"] if node["feature_type"] == "cross layer transcoder"]
    for node in features:
        layer, index, position = map(int, node["node_id"].split("_"))
        assert (str(layer), position) == (node["layer"], node["ctx_idx"])
        diagonal = int((np.sqrt(8 * node["feature"] + 1) - 1) / 2)
        second = node["feature"] - diagonal * (diagonal + 1) // 2
        assert (diagonal - second, second) == (layer, index)
    assert len({node["feature"] for node in features}) == 4 * 5


def test_several_saes_of_one_block_get_numbers_of_their_own(gpt2: LanguageModel, token_ids: torch.Tensor) -> None:
    """Where two SAEs write in one block, layers count the hooks, so that no two nodes share an id."""
    from random_saes import make_sae

    saes = [
        make_sae(1, hook_name="blocks.1.hook_attn_out"),
        make_sae(2, hook_name="blocks.1.hook_mlp_out"),
        make_sae(3, hook_name="blocks.2.hook_resid_pre"),
    ]
    graph = attribution_graph(gpt2, saes, token_ids, [5])

    assert graph.layers == {0: "blocks.1.hook_attn_out", 1: "blocks.1.hook_mlp_out", 2: "blocks.2.hook_resid_pre"}
    assert len({node.id for node in graph.nodes}) == len(graph)
