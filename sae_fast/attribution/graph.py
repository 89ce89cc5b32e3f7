"""Attribution graphs: nodes, weighted edges, pruning by influence as circuit-tracer defines it.

Definitions: Ameisen et al., *Circuit Tracing: Revealing Computational Graphs in Language Models* (2025), appendix on pruning,
and safety-research/circuit-tracer, `circuit_tracer/graph.py` (`prune_graph`, `compute_node_influence`, `find_threshold`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError

Kind = Literal["feature", "error", "token", "logit"]


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph."""

    kind: Kind
    layer: int
    """Block in which the hook lies (see `Graph.layers`); -1 for tokens, `n_layers + 1` for logits."""
    position: int
    index: int
    """Feature, token id of a token or logit, or -1 for an error."""
    activation: float | None = None
    """Of a feature."""
    probability: float | None = None
    """Of a logit's token."""
    influence: float | None = None
    """After pruning: share of all influence that this node and all more influential ones have together."""

    @property
    def id(self) -> str:
        """`layer_index_position`, the layer of a token being `E`."""
        return f"{'E' if self.kind == 'token' else self.layer}_{self.index}_{self.position}"


@dataclass(frozen=True, eq=False)
class Graph:
    """Linear effects of nodes on nodes for one prompt.

    Nodes stand in the order features, errors, tokens, logits. `adjacency[t, s]` is the direct effect of node `s` on node `t`:
    on the activation of a feature, on the logit of a token (its mean over the vocabulary taken away).
    """

    nodes: tuple[Node, ...]
    adjacency: Tensor
    """float32 `[n, n]`; rows of errors and tokens are zero: nothing acts on them."""
    constant: Tensor
    """`[n]`: direct effect of decoder biases on each node, which no node stands for."""
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """Texts of the prompt's tokens."""
    target_texts: dict[int, str]
    """Texts of the logits' tokens, by token id."""
    layers: dict[int, str]
    """The hook that each layer number of a feature or error stands for."""
    n_layers: int
    """Blocks of the language model."""
    threshold: float | None = None
    """The node threshold it was pruned with."""

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def logit_weights(self) -> Tensor:
        """`[n]`: probability of each logit's token, zero for other nodes: what influence is measured on."""
        return torch.tensor([node.probability or 0.0 if node.kind == "logit" else 0.0 for node in self.nodes])

    def edges(self, n: int | None = None) -> list[tuple[Node, Node, float]]:
        """`(source, target, weight)` of the n largest edges by size, all if None."""
        target, source = self.adjacency.nonzero(as_tuple=True)
        weight = self.adjacency[target, source]
        order = weight.abs().argsort(descending=True, stable=True)[:n]
        columns = (source[order].tolist(), target[order].tolist(), weight[order].tolist())
        return [(self.nodes[s], self.nodes[t], w) for s, t, w in zip(*columns, strict=True)]

    def influence(self) -> Tensor:
        """`[n]`: influence of each node on the logits, over all paths.

        With `A` the sizes of the edges, each row divided by its sum, and `w` the logits' probabilities: `w A + w A² + …`.
        """
        return _influence(_normalised(self.adjacency), self.logit_weights)

    def prune(self, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> "Graph":
        """The graph of the nodes, then of the edges, that hold these shares of all influence.

        Tokens and logits always stay. A feature without an edge in, or a feature or error without an edge out, goes.

        Raises:
            ArgumentError: a threshold is not between 0 and 1.
        """
        for name, threshold in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
            if not 0 <= threshold <= 1:
                raise ArgumentError(name, expected="a number from 0 to 1", got=threshold)
        influence = self.influence()
        fixed = torch.tensor([node.kind in ("token", "logit") for node in self.nodes])
        is_feature = torch.tensor([node.kind == "feature" for node in self.nodes])
        keep = (influence >= _cutoff(influence, node_threshold)) | fixed
        pruned = self.adjacency * keep[:, None] * keep[None]
        shares = _normalised(pruned)
        scores = shares * (_influence(shares, self.logit_weights) + self.logit_weights)[:, None]
        edges = (scores >= _cutoff(scores.flatten(), edge_threshold)) & (pruned != 0)
        while True:
            kept = keep & (fixed | edges.any(0)) & (~is_feature | edges.any(1))
            edges = edges & kept[:, None] & kept[None]
            if torch.equal(kept, keep):
                break
            keep = kept
        return self._part(keep, self.adjacency * edges, _cumulative(influence), node_threshold)

    def save(
        self, path: str | Path, slug: str | None = None, scan: str = "", labels: dict[tuple[int, int], str] | None = None
    ) -> Path:
        """Write the graph as JSON that viewers of circuit-tracer's graphs open; see `sae_fast.attribution.schema.to_json`."""
        from sae_fast.attribution.schema import to_json

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_json(self, path.stem if slug is None else slug, scan, labels), encoding="utf-8")
        return path

    def _part(self, keep: Tensor, adjacency: Tensor, cumulative: Tensor, threshold: float) -> "Graph":
        chosen = keep.nonzero()[:, 0]
        nodes = [self.nodes[i] for i in chosen.tolist()]
        scored = [
            node if node.kind == "logit" else replace(node, influence=float(cumulative[i]))
            for node, i in zip(nodes, chosen.tolist(), strict=True)
        ]
        return replace(
            self,
            nodes=tuple(scored),
            adjacency=adjacency[chosen][:, chosen],
            constant=self.constant[chosen],
            threshold=threshold,
        )


def layer_numbers(hooks: Sequence[str], n_layers: int) -> dict[str, int]:
    """A number for each hook: its block, or its place among the hooks where two lie in one block or one lies in none."""
    blocks = [hook.split(".")[1] if hook.startswith("blocks.") else "" for hook in hooks]
    if all(block.isdecimal() and int(block) < n_layers for block in blocks) and len(set(blocks)) == len(blocks):
        return {hook: int(block) for hook, block in zip(hooks, blocks, strict=True)}
    return {hook: number for number, hook in enumerate(hooks)}


def _normalised(adjacency: Tensor) -> Tensor:
    size = adjacency.abs()
    return size / size.sum(1, keepdim=True).clamp(min=1e-10)


def _influence(shares: Tensor, weights: Tensor) -> Tensor:
    """`w A + w A² + …`; the sum ends because a node acts only on what comes after it."""
    total = torch.zeros_like(weights)
    current = weights @ shares
    for _ in range(len(weights) + 1):
        if not bool(current.any()):
            return total
        total = total + current
        current = current @ shares
    raise ArgumentError("adjacency", expected="a graph without cycles", got="influence that does not end")


def _cutoff(scores: Tensor, threshold: float) -> Tensor:
    """The score down to which the largest scores sum to the share `threshold` of all."""
    ordered = scores.sort(descending=True).values
    cumulative = ordered.double().cumsum(0) / ordered.double().sum().clamp(min=1e-30)
    place = int(torch.searchsorted(cumulative, threshold))
    return ordered[min(place, len(ordered) - 1)]


def _cumulative(influence: Tensor) -> Tensor:
    ordered, order = influence.double().sort(descending=True)
    cumulative = torch.zeros_like(ordered)
    cumulative[order] = ordered.cumsum(0) / ordered.sum().clamp(min=1e-30)
    return cumulative
