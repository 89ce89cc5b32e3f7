"""`report.html`: the curves and results of a run on one page, without script, readable from a phone to a print."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_fast.files import write_whole
from sae_fast.training.charts import Line, histogram, line_chart
from sae_fast.training.metrics_log import read_metrics

COLOURS = 8
FIXED = ("step", "tokens", "loss", "terms", "explained_variance", "l0", "n_dead", "lr", "sae")

STYLE = """\
:root { color-scheme: light dark; --page: #fff; --text: #1c1c1e; --quiet: #6b6b70; --rule: #e3e3e6;
  --c0: #1f6fb4; --c1: #c8530a; --c2: #197a4b; --c3: #a63a86; --c4: #8a6d00; --c5: #5b55c9; --c6: #b3323c; --c7: #50626f; }
@media (prefers-color-scheme: dark) { :root { --page: #161618; --text: #ececf0; --quiet: #9c9ca4; --rule: #343438;
  --c0: #6db3f2; --c1: #ff9d5c; --c2: #5ccf94; --c3: #ec8fd0; --c4: #e0c04f; --c5: #a9a4ff; --c6: #ff8c92; --c7: #a9bcc9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 1.5rem clamp(0.9rem, 3vw, 2rem) 3rem; background: var(--page);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.45rem; margin: 0 0 0.2rem; } h2 { font-size: 1rem; margin: 0 0 0.3rem; font-weight: 600; }
p { margin: 0.2rem 0 1rem; color: var(--quiet); } section { min-width: 0; }
ul { list-style: none; padding: 0; margin: 0 0 1.5rem; display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; }
li { overflow-wrap: anywhere; }
.chip { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px; margin-right: 0.4em; }
.grid-of-charts { display: grid; gap: 1.6rem 2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--quiet); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--rule); } .line { fill: none; stroke-width: 1.7; stroke-linejoin: round; } .filled { fill-opacity: 0.12; }
.scroll { overflow-x: auto; margin: 0 0 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.35rem 0.7rem; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 600; color: var(--quiet); }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal;
  min-width: 8rem; overflow-wrap: anywhere; }
a { color: var(--c0); }
"""

_COLOUR_RULES = "".join(
    f".line.c{i} {{ stroke: var(--c{i}); }} .filled.c{i} {{ fill: var(--c{i}); }} .chip.c{i} {{ background: var(--c{i}); }}\n"
    for i in range(COLOURS)
)

DEFINITIONS = {
    "loss": "Loss",
    "explained_variance": "Explained variance",
    "l0": "L0: active features of a token",
    "n_dead": "Dead features",
    "lr": "Learning rate",
}


def write_report(folder: Path) -> Path:
    """Write `report.html` into the folder of a run, from `metrics.jsonl` and, at the end, `run.json`."""
    metrics = folder / "metrics.jsonl"
    found: dict[str, list[dict[str, Any]]] = {}
    for line in read_metrics(metrics) if metrics.exists() else ():
        found.setdefault(line["sae"], []).append(line)
    finished = folder / "run.json"
    results = json.loads(finished.read_text(encoding="utf-8"))["results"] if finished.exists() else {}
    page = folder / "report.html"
    write_whole(page, render(folder.name, found, results).encode())
    return page


def render(title: str, metrics: Mapping[str, Sequence[Mapping[str, Any]]], results: Mapping[str, Any]) -> str:
    """The page: `metrics` are the logged lines of each SAE, `results` what `run.json` holds of each."""
    colours = {name: number % COLOURS for number, name in enumerate(dict.fromkeys([*metrics, *results]))}
    names = "".join(f'<li><span class="chip c{c}"></span>{html.escape(name)}</li>' for name, c in colours.items())
    charts = [(heading, line_chart(_lines(metrics, colours, key), **_axis(key))) for key, heading in DEFINITIONS.items()]
    charts += [
        (f"Part of the loss: {html.escape(term)}", line_chart(_lines(metrics, colours, term), log=True))
        for term in _terms(metrics)
    ]
    charts.append(("Features by density, on held-out tokens", histogram(_densities(results, colours), "share of tokens")))
    sections = "".join(f"<section><h2>{heading}</h2>{chart}</section>" for heading, chart in charts if chart)
    last = max((line["tokens"] for lines in metrics.values() for line in lines), default=0)
    state = f"{last:,} activations seen, {'finished' if results else 'in training'}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}: training</title><style>{STYLE}{_COLOUR_RULES}</style></head><body>"
        f"<h1>{html.escape(title)}</h1><p>{len(colours)} SAE{'s' * (len(colours) != 1)}, {state}.</p>"
        f'<ul>{names}</ul>{_table(results)}<div class="grid-of-charts">{sections}</div></body></html>\n'
    )


def _axis(key: str) -> dict[str, Any]:
    if key == "explained_variance":
        return {"low": 0.0, "high": 1.0}
    return {"log": key in ("loss", "l0")}


def _lines(metrics: Mapping[str, Sequence[Mapping[str, Any]]], colours: Mapping[str, int], key: str) -> list[Line]:
    found = []
    for name, lines in metrics.items():
        pairs = [(line["tokens"], line[key] if key in line else line["terms"].get(key)) for line in lines]
        kept = [(x, y) for x, y in pairs if y is not None]
        found.append(Line(name, colours[name], [x for x, _ in kept], [y for _, y in kept]))
    return found


def _terms(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """All but a mean squared error that is the whole of every loss."""
    names = dict.fromkeys(term for lines in metrics.values() for line in lines for term in line["terms"])
    return [] if list(names) == ["mse"] else list(names)


def _densities(results: Mapping[str, Any], colours: Mapping[str, int]) -> list[Line]:
    found = []
    for name, result in results.items():
        counts = result.get("density", [])
        edges = [-6 + 6 * i / max(len(counts), 1) for i in range(len(counts) + 1)]
        found.append(Line(name, colours[name], edges, counts))
    return found


def _table(results: Mapping[str, Any]) -> str:
    if not results:
        return ""
    head = (
        "<tr><th>SAE</th><th>Explained variance</th><th>L0</th><th>MSE</th><th>Never active</th><th>Held-out tokens</th></tr>"
    )
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{_number(r['explained_variance'], '.4f')}</td><td>{r['l0']:.2f}</td>"
        f"<td>{r['mse']:.4g}</td><td>{r['never_active']:,} of {r['n_features']:,}</td><td>{r['n_tokens']:,}</td></tr>"
        for name, r in results.items()
    )
    return f'<div class="scroll"><table>{head}{rows}</table></div>'


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
