"""Labels for features. By rule: chosen on one half of the documents, measured on the other (`docs/facts.md`)."""

from sitegen.explain.labeller import Labeller

__all__ = ["Labeller"]
