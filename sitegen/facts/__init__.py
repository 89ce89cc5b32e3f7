"""Facts about features: every number on a dashboard, exact, from the activation index and the weights (`docs/facts.md`)."""

from sitegen.facts.compute import compute
from sitegen.facts.options import FactOptions

__all__ = ["FactOptions", "compute"]
