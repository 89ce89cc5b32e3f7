"""Static dashboard sites of the features of sparse autoencoders.

    report = sitegen.build("release.toml", out="site")    # or "demo"
    site = sitegen.open("site")
    site["topk"][123]                                      # in a notebook: the feature's dashboard

Names are imported when first used.
"""

from typing import TYPE_CHECKING

from sae_fast.lazy import lazily

if TYPE_CHECKING:
    from sitegen.reader import open  # noqa: A004
    from sitegen.recipe import build
    from sitegen.release import Release

__all__ = ["Release", "build", "open"]

_HOME = {"Release": "release", "build": "recipe", "open": "reader"}

__getattr__, __dir__ = lazily(__name__, _HOME)
