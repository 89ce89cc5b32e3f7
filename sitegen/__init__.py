"""Static dashboard sites of the features of sparse autoencoders.

    report = sitegen.build("release.toml", out="site")    # or "demo"
    site = sitegen.open("site")
    site["topk"][123]                                      # in a notebook: the feature's dashboard

Names are imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sitegen.reader import open  # noqa: A004
    from sitegen.recipe import build
    from sitegen.release import Release

__all__ = ["Release", "build", "open"]

_HOME = {"Release": "release", "build": "recipe", "open": "reader"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sitegen' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sitegen.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
