"""Why a language model says what it says, in features: effects on a logit or metric, and edges between features.

    metric = logit_difference(lm.tokenizer.encode(" mat")[0], lm.tokenizer.encode(" hat")[0])
    attribute(lm, saes, token_ids, metric, method="integrated")      # effects of every active feature, by SAE
    direct_logit_attribution(lm, saes, token_ids, tokens)            # what features write straight into logits
    attribution_graph(lm, saes, token_ids).prune().save("graph.json")

`docs/attribution.md` defines every number, and says what is held fixed.
"""

from typing import TYPE_CHECKING

from sae_fast.lazy import lazily

if TYPE_CHECKING:
    from sae_fast.attribution.direct import DirectEffects, direct_logit_attribution
    from sae_fast.attribution.edges import attribution_graph
    from sae_fast.attribution.effects import Effects, Method, attribute
    from sae_fast.attribution.graph import Graph, Node
    from sae_fast.attribution.metrics import Metric, log_probability, logit, logit_difference

__all__ = [
    "DirectEffects",
    "Effects",
    "Graph",
    "Method",
    "Metric",
    "Node",
    "attribute",
    "attribution_graph",
    "direct_logit_attribution",
    "log_probability",
    "logit",
    "logit_difference",
]

_HOME = {
    "DirectEffects": "direct",
    "Effects": "effects",
    "Graph": "graph",
    "Method": "effects",
    "Metric": "metrics",
    "Node": "graph",
    "attribute": "effects",
    "attribution_graph": "edges",
    "direct_logit_attribution": "direct",
    "log_probability": "metrics",
    "logit": "metrics",
    "logit_difference": "metrics",
}

__getattr__, __dir__ = lazily(__name__, _HOME)
