"""Packages whose names are imported when they are first used, so that `import sae_fast` stays light (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: `homes` has the module of each name; a module's own name is that module."""

    def __getattr__(name: str) -> Any:  # noqa: N807 - what Python calls it
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{homes[name]}")
        value = module if homes[name] == name else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*homes, *({"__version__"} & vars(sys.modules[package]).keys())})

    return __getattr__, __dir__
