"""Writes the tables of docs/benchmarks.md from the kept results, between two markers."""

from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, read_all
from benchmarks.sizes import CPU_SIZES, CPU_TRAINING, GPU_SIZES, GPU_TRAINING, KINDS, PEER_SIZE

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- begin: written by `python -m benchmarks table` -->"
END = "<!-- end -->"

BASELINES = ("sae-lens", "eager", "dense", "stable sort")
"""With whom a contender is compared: the first of these that was timed beside it."""

HEADINGS = {
    "encode_topk": "`encode_topk`",
    "encode_threshold": "`encode_threshold`",
    "encode_batch_topk": "`encode_batch_topk`",
    "decode": "`decode`",
    "decode_error": "`decode_error`",
    "transpose": "`transpose`",
    "reconstruct": "encode and decode",
    "topk": "TopK SAE, encode and decode",
    "topk encode": "TopK SAE, encode",
    "jumprelu": "JumpReLU SAE, encode and decode",
    "jumprelu encode": "JumpReLU SAE, encode",
    "training step": "TopK SAE, a step of training",
}

NOTHING = "–"

NO_GPU = (
    "**No GPU has run these benchmarks yet.** The kernels are proved by the interpreter and by compiling them ahead of time; "
    "their speed is predicted, not measured (`benchmarks/notes.md`). `python -m benchmarks gpu` measures it in eight minutes."
)


def update(page: Path = PAGE) -> None:
    """Rewrite what lies between the markers."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{render(read_all())}\n\n{END}{after}", encoding="utf-8")


def render(sets: list[dict[str, Any]]) -> str:
    """The sizes, then each set: its machine and a table to an operation."""
    parts = [_sizes()]
    if not any(one["machine"]["kind"] == "cuda" for one in sets):
        parts.append(NO_GPU)
    return "\n\n".join([*parts, *map(_set, sets)])


def _sizes() -> str:
    sizes = dict.fromkeys([*CPU_SIZES, *CPU_TRAINING, PEER_SIZE, *GPU_SIZES, *GPU_TRAINING])
    rows = [f"| {s.name} | {s.d_in:,} | {s.d_sae:,} | {s.tokens:,} | {s.k} | {s.l0:g} | {s.kind} | {s.what} |" for s in sizes]
    kinds = "\n".join(f"* *{kind}*: {what}" for kind, what in KINDS.items())
    head = "| size | d_in | d_sae | tokens | k | L0 | input | |\n|---|---:|---:|---:|---:|---:|---|---|"
    return "\n".join([head, *rows, "", "Kinds of input:", "", kinds])


def _set(one: dict[str, Any]) -> str:
    machine = one["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    load = f", load average {machine['load'][0]:.1f}" if machine.get("load") else ""
    threads = f"{machine['threads']} threads{load}"
    versions = f"Python {machine['python']}, {packages}; commit {machine['commit']}, {machine['date']}"
    about = f"{machine['system']}, {machine['features']}, {threads}. {versions}."
    lines = [f"## {machine['device']}: {one['set']}", "", about]
    measured = [entry for entry in one["entries"] if "ms" in entry]
    for operation in dict.fromkeys(entry["operation"] for entry in measured):
        lines += ["", f"### {HEADINGS[operation]}", "", *_table([e for e in measured if e["operation"] == operation])]
    return "\n".join(lines + _left_out([entry for entry in one["entries"] if "left_out" in entry]))


def _table(entries: list[dict[str, Any]]) -> list[str]:
    """A row to an entry; columns that would be empty are left out."""
    rows = [_row(entry, _baseline(entry, entries)) for entry in entries]
    columns = [name for name in rows[0] if any(row[name] != NOTHING for row in rows)]
    rule = ["---" if name in {"size", "numbers", "contender"} else "---:" for name in columns]
    body = [f"| {' | '.join(row[name] for name in columns)} |" for row in rows]
    return [f"| {' | '.join(columns)} |", f"|{'|'.join(rule)}|", *body]


def _row(entry: dict[str, Any], baseline: float | None) -> dict[str, str]:
    low, high = entry["ms_spread"]
    share, extra, recall = entry.get("share_of_addmm"), entry.get("extra_bytes"), entry.get("recall")
    error = f"{entry['error']:.0e}" if entry.get("checked") else NOTHING
    if recall is not None and entry["contender"].endswith("approximate"):
        error += f", recall {recall:.3f}"
    return {
        "size": entry["size"],
        "numbers": entry["precision"],
        "contender": entry["contender"],
        "ms (quartiles)": f"{_short(entry['ms'])} ({_short(low)}–{_short(high)})",
        "speed-up": f"{baseline / entry['ms']:.2f}" if baseline else NOTHING,
        "tokens/s": f"{entry['tokens_per_s']:,.0f}",
        "TFLOP/s": _short(entry["tflops"]) if "tflops" in entry else NOTHING,
        "of addmm": f"{share:.0%}" if share else NOTHING,
        "GB/s": _short(entry["gb_per_s"]) if "gb_per_s" in entry else NOTHING,
        "extra MB": f"{extra / 1e6:,.0f}" if extra is not None else NOTHING,
        "error": error,
    }


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _baseline(entry: dict[str, Any], entries: list[dict[str, Any]]) -> float | None:
    """The time of the baseline beside the entry."""
    beside = {e["contender"]: e["ms"] for e in entries if (e["size"], e["precision"]) == (entry["size"], entry["precision"])}
    return next((beside[name] for name in BASELINES if name in beside), None)


def _left_out(entries: list[dict[str, Any]]) -> list[str]:
    if not entries:
        return []
    names = ("size", "precision", "operation", "contender")
    return ["", "Not measured:", ""] + [
        f"* {', '.join(str(entry[name]) for name in names if name in entry)}: {entry['left_out']}" for entry in entries
    ]
