"""`report.html`: the curves and results of a run on one page, without script, readable from a phone to a print."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_fast import __version__
from sae_fast.files import write_whole
from sae_fast.training.charts import Line, histogram, line_chart
from sae_fast.training.metrics_log import read_metrics

COLOURS = 8
GENERATOR = "sae_fast.training"
"""What a page names as its generator, by which a site knows it."""

STYLE = """\
:root { color-scheme: light dark; --bg: light-dark(#fbfbfa, #111416); --surface: light-dark(#ffffff, #171b1e);
  --sunken: light-dark(#f1f2f3, #0c0e10); --text: light-dark(#1b1f23, #e3e6e8); --dim: light-dark(#59626b, #9aa4ad);
  --line: light-dark(#dfe2e5, #2a3035); --link: light-dark(#0a58a6, #7db7f5);
  --c0: light-dark(#2765b5, #86b3ea); --c1: light-dark(#b65a10, #f0a35c); --c2: light-dark(#1f7a4d, #5cc48f);
  --c3: light-dark(#8a3fa0, #cf97e0); --c4: light-dark(#a8324a, #f08a9c); --c5: light-dark(#7a6200, #e0c04f);
  --c6: light-dark(#0b7285, #66d0e0); --c7: light-dark(#5d6670, #aeb7c0); }
:root[data-theme="light"] { color-scheme: light; } :root[data-theme="dark"] { color-scheme: dark; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--text); font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "Liberation Sans", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 16px 40px; }
main h1 { font-size: 26px; line-height: 1.25; letter-spacing: -0.01em; margin: 0 0 4px; }
main h2 { font-size: 14px; line-height: 1.25; margin: 0 0 4px; font-weight: 600; }
main p { margin: 0 0 16px; color: var(--dim); font-size: 15px; } main section { min-width: 0; }
main .legend { list-style: none; padding: 0; margin: 0 0 20px; display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: 13px; }
main .legend li { overflow-wrap: anywhere; }
.chip { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; }
.charts { display: grid; gap: 24px 28px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.charts svg { width: 100%; height: auto; display: block; background: var(--surface); border: 1px solid var(--line);
  border-radius: 4px; }
.charts text { fill: var(--dim); font-size: 11px; }
.charts .grid { stroke: var(--line); } .charts .filled { fill-opacity: 0.12; }
.charts .line { fill: none; stroke-width: 1.7; stroke-linejoin: round; }
main .scroll { overflow-x: auto; margin: 0 0 28px; background: var(--surface); border: 1px solid var(--line);
  border-radius: 5px; }
main table { border-collapse: collapse; width: 100%; font-size: 13px; }
main :is(th, td) { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--sunken); white-space: nowrap; }
main tr:last-child td { border-bottom: 0; }
main th { font-weight: 600; font-size: 12px; background: var(--sunken); }
main :is(th, td):first-child { text-align: left; white-space: normal; min-width: 8rem; overflow-wrap: anywhere; }
main details { margin-top: 28px; } main summary { cursor: pointer; font-weight: 600; }
main pre { overflow-x: auto; margin: 8px 0 0; padding: 10px 12px; background: var(--sunken); border-radius: 5px;
  font: 12px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace; }
"""

_COLOUR_RULES = "".join(
    f".line.c{i} {{ stroke: var(--c{i}); }} .charts .filled.c{i} {{ fill: var(--c{i}); }} "
    f".chip.c{i} {{ background: var(--c{i}); }}\n"
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
    run = json.loads(finished.read_text(encoding="utf-8")) if finished.exists() else {}
    page = folder / "report.html"
    write_whole(page, render(folder.name, found, run.get("results", {}), run.get("config")).encode())
    return page


def render(
    title: str,
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
    results: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
) -> str:
    """The page: `metrics` are the logged lines of each SAE; `results` and `config` what `run.json` holds."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="{GENERATOR} {__version__}"><title>Training: {html.escape(title)}</title>'
        f"<style>{STYLE}{_COLOUR_RULES}</style></head><body><main>\n"
        f"{_content(title, metrics, results, config)}\n</main></body></html>\n"
    )


def _content(
    title: str,
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
    results: Mapping[str, Any],
    config: Mapping[str, Any] | None,
) -> str:
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
        f"<h1>Training: {html.escape(title)}</h1><p>{len(colours)} SAE{'s' * (len(colours) != 1)}, {state}.</p>"
        f'<ul class="legend">{names}</ul>{_table(results)}<div class="charts">{sections}</div>{_settings(config)}'
    )


def _settings(config: Mapping[str, Any] | None) -> str:
    """The configuration as it could be given again; of sources the last part alone, since a path tells of its machine."""
    if not config:
        return ""
    tables = [(f"[{name}]", table) for name, table in config.items() if name != "sae"]
    tables += [("[[sae]]", {"name": name, **table}) for name, table in config.get("sae", {}).items()]
    lines = []
    for heading, table in tables:
        shown = {key: value for key, value in table.items() if value is not None and value != {}}
        if isinstance(source := shown.get("source"), str) and Path(source).is_absolute():
            shown["source"] = Path(source).name
        lines += [heading, *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in shown.items()), ""]
    listing = html.escape("\n".join(lines).strip(), quote=False)
    return f"<details><summary>Settings</summary><pre>{listing}</pre></details>"


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
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Results"><table>{head}{rows}</table></div>'


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
