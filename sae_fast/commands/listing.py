"""`sae-fast list`: the catalogue of published SAEs."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sae_fast import catalogue
from sae_fast.catalogue.facts import POWERS
from sae_fast.commands.output import Examples, say_json, say_table
from sae_fast.errors import ArgumentError

EXAMPLES = """\
examples:
  sae-fast list                                                  all releases
  sae-fast list --model gemma-2-2b --layer 20 --width 65536      SAEs, one a line; load one by its name
  sae-fast list --model gpt2 --hook resid_pre --l0 30-80
  sae-fast list --release gemma-scope-2-1b-pt --width 16k --json
"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "list",
        help="show the catalogue of published SAEs",
        description="Show the published SAEs that fit all that is given, or all releases if nothing is. No network is used.",
        epilog=EXAMPLES,
        formatter_class=Examples,
    )
    parser.add_argument("--model", metavar="NAME", help="language model, with or without its owner: gemma-2-2b")
    parser.add_argument("--hook", metavar="NAME", help="hook or a part of its name: blocks.8.hook_resid_pre, resid_post")
    parser.add_argument("--layer", metavar="N", type=int, help="layer, counted from 0")
    parser.add_argument(
        "--width", metavar="N", type=_width, help="number of features: 65536, or 65k as in names of Gemma Scope"
    )
    parser.add_argument(
        "--l0", metavar="LOW-HIGH", type=_interval, help="mean number of active features per token, as published"
    )
    parser.add_argument("--release", metavar="NAME", help="release or a part of its name")
    parser.add_argument("--json", action="store_true", help="print JSON, with all that is known")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print releases, or the SAEs that fit. Raises `ArgumentError` where none does."""
    asked = {name: getattr(options, name) for name in ("model", "hook", "layer", "width", "l0", "release")}
    if all(value is None for value in asked.values()):
        _say_releases(options.json)
        return
    found = catalogue.find(**asked)
    if not found:
        given = ", ".join(f"--{name} {value}" for name, value in asked.items() if value is not None)
        models = sorted({release["model"] for release in catalogue.releases().values()})
        raise ArgumentError(f"no SAE of the catalogue fits {given}", advice=f"Its models are {', '.join(models)}")
    if options.json:
        say_json([{"name": entry.name, "source": entry.source, **asdict(entry)} for entry in found])
        return
    rows = [(e.name, e.model, e.hook_name or f"layer {e.layer}", _number(e.d_sae), _number(e.l0)) for e in found]
    say_table(("NAME", "MODEL", "HOOK", "FEATURES", "L0"), rows, right=(3, 4))


def _say_releases(as_json: bool) -> None:
    releases = [_summary(release) for release in catalogue.releases().values()]
    if as_json:
        say_json(releases)
        return
    rows = [(r["release"], r["model"], f"{r['n_saes']:,}", _range(r["layers"]), _range(r["widths"])) for r in releases]
    say_table(("RELEASE", "MODEL", "SAES", "LAYERS", "FEATURES"), rows, right=(2, 3, 4))


def _summary(release: Mapping[str, Any]) -> dict[str, Any]:
    entries = list(catalogue.entries_of(release))
    return {
        "release": release["release"],
        "model": release["model"],
        "repo": release["repo"],
        "n_saes": len(entries),
        "layers": sorted({entry.layer for entry in entries if entry.layer is not None}),
        "widths": sorted({entry.d_sae for entry in entries if entry.d_sae is not None}),
    }


def _range(values: list[int]) -> str:
    ends = [f"{value:,}" for value in values[:1] + values[1:][-1:]]
    return " to ".join(ends) or "?"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def _width(text: str) -> int:
    number = text.lower().replace(",", "")
    if number == "1m":
        return 1 << 20
    if number.endswith("k") and number[:-1].isdigit():
        thousands = int(number[:-1])
        return 1 << POWERS[thousands] if thousands in POWERS else 1024 * thousands
    return int(number)


def _interval(text: str) -> tuple[float, float]:
    low, dash, high = text.partition("-")
    return float(low or 0), float(high or "inf") if dash else float(low)
