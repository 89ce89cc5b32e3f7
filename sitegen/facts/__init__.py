"""Facts about features: every number on a dashboard, exact, from the activation index and the weights (`docs/facts.md`).

`compute` is imported when first used: reading a release needs the options alone, and no torch.
"""

from typing import TYPE_CHECKING, Any

from sitegen.facts.options import FactOptions

if TYPE_CHECKING:
    from sitegen.facts.feature_records import compute

__all__ = ["FactOptions", "compute"]


def __getattr__(name: str) -> Any:
    if name != "compute":
        raise AttributeError(f"module 'sitegen.facts' has no attribute {name!r}")
    from sitegen.facts.feature_records import compute

    globals()[name] = compute
    return compute
