"""Attribution graphs as JSON, in the form that circuit-tracer writes and that its frontend and Neuronpedia's read.

Source of the form: safety-research/circuit-tracer, `circuit_tracer/frontend/graph_models.py` (pydantic models `Metadata`,
`QParams`, `Node`, `Link`, `Model`; schema version 1), which follows anthropics/attribution-graphs-frontend. `SCHEMA` below
states it. We add `metadata.layers`, the hook that each layer number stands for, and `metadata.generator`; readers let them be.
"""

import json
from typing import Any

from sae_fast import __version__
from sae_fast.attribution.graph import Graph, Node

SCHEMA: dict[str, dict[str, tuple[type, ...]]] = {
    "": {"metadata": (dict,), "qParams": (dict,), "nodes": (list,), "links": (list,)},
    "metadata": {
        "slug": (str,),
        "scan": (str,),
        "transcoder_list": (list,),
        "prompt_tokens": (list,),
        "prompt": (str,),
        "node_threshold": (float, type(None)),
        "schema_version": (int,),
    },
    "qParams": {"pinnedIds": (list,), "supernodes": (list,), "linkType": (str,), "clickedId": (str,), "sg_pos": (str,)},
    "nodes": {
        "node_id": (str,),
        "feature": (int,),
        "layer": (str,),
        "ctx_idx": (int,),
        "feature_type": (str,),
        "token_prob": (float,),
        "is_target_logit": (bool,),
        "run_idx": (int,),
        "reverse_ctx_idx": (int,),
        "jsNodeId": (str,),
        "clerp": (str,),
        "influence": (float, type(None)),
        "activation": (float, type(None)),
    },
    "links": {"source": (str,), "target": (str,), "weight": (float,)},
}
"""Keys and types of each part; of `nodes` and `links`, those of each entry."""

FEATURE_TYPES = {
    "feature": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "token": "embedding",
    "logit": "logit",
}
"""What viewers tell the kinds of nodes by; the words are theirs, also where the features are those of an SAE."""


def to_json(graph: Graph, slug: str, scan: str = "", labels: dict[tuple[int, int], str] | None = None) -> str:
    """The text of a graph file.

    Args:
        graph: the graph, usually pruned: viewers slow down from some thousand nodes on.
        slug: the graph's name in addresses.
        scan: what viewers look feature pages up by: a model's name on Neuronpedia, say.
        labels: texts of features by `(layer number, feature)`.
    """
    metadata = {
        "slug": slug,
        "scan": scan,
        "transcoder_list": [],
        "prompt_tokens": list(graph.tokens),
        "prompt": "".join(graph.tokens),
        "node_threshold": graph.threshold,
        "schema_version": 1,
        "layers": {str(number): hook for number, hook in sorted(graph.layers.items())},
        "generator": f"sae_fast {__version__}",
    }
    view = {"linkType": "both", "pinnedIds": [], "clickedId": "", "supernodes": [], "sg_pos": ""}
    targets = [node for node in graph.nodes if node.kind == "logit"]
    nodes = [_node(node, graph, targets, labels or {}) for node in graph.nodes]
    links = [{"source": s.id, "target": t.id, "weight": float(f"{w:.6g}")} for s, t, w in graph.edges()]
    content = {"metadata": metadata, "qParams": view, "nodes": nodes, "links": links}
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _node(node: Node, graph: Graph, targets: list[Node], labels: dict[tuple[int, int], str]) -> dict[str, Any]:
    clerp, feature, js_id = "", node.index, f"{node.layer}_{node.index}-{node.position}"
    if node.kind == "feature":
        # Readers unpair this number into layer and feature (Cantor).
        feature = (node.layer + node.index) * (node.layer + node.index + 1) // 2 + node.index
        clerp, js_id = labels.get((node.layer, node.index), ""), f"{node.layer}_{node.index}-0"
    elif node.kind == "token":
        feature, js_id = node.position, f"E_{node.index}-{node.position}"
        clerp = f'Emb: "{graph.tokens[node.position]}"'
    elif node.kind == "logit":
        text = graph.target_texts.get(node.index, str(node.index))
        clerp, js_id = f'Output "{text}" (p={node.probability:.3f})', f"L_{node.index}-{node.position}"
    return {
        "node_id": node.id,
        "feature": feature,
        "layer": "E" if node.kind == "token" else str(node.layer),
        "ctx_idx": node.position,
        "feature_type": FEATURE_TYPES[node.kind],
        "token_prob": float(node.probability or 0.0),
        "is_target_logit": node.kind == "logit" and node is targets[0],
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": js_id,
        "clerp": clerp,
        "influence": node.influence,
        "activation": node.activation,
    }
