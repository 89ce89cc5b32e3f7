"""An evaluation as a section of a model card: Markdown between two markers of a README, replaced at each call."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sae_fast import __version__
from sae_fast.errors import FormatError
from sae_fast.evaluation.report import EvaluationReport, SaeReport
from sae_fast.evaluation.table import kind_of, number
from sae_fast.files import write_whole

BEGIN, END = "<!-- sae-fast eval -->", "<!-- /sae-fast eval -->"
HEADING = "## Evaluation"

COLUMNS = (
    ("l0", "L0"),
    ("explained_variance", "explained variance"),
    ("delta_ce", "ΔCE, nats"),
    ("ce_recovered", "CE recovered"),
    ("kl_sae", "KL, nats"),
    ("norm_ratio", "norm ratio"),
)
"""Metric and heading; `docs/evaluation.md` defines them."""

_DEFINITIONS = (
    "L0: mean number of active features of a token. Explained variance: 1 − Σ‖y − ŷ‖² / Σ‖y − ȳ‖². ΔCE: cross entropy of the "
    "next token with the SAE spliced in, minus that of the model as it is. CE recovered: how much of the loss that putting in "
    "the mean activation costs is not lost. KL: from the model's own predictions. Norm ratio: mean of ‖ŷ‖ / ‖y‖. Not seen: "
    "features active on none of these tokens; dense: active on more than a tenth of them."
)


def write_card(path: str | Path, report: EvaluationReport, made_with: str | None = None) -> Path:
    """Write the evaluation into a Markdown file; return its path.

    Args:
        path: the file, or the folder whose `README.md` it is. It is made where it does not exist. Only what stands between
            the markers `BEGIN` and `END` is replaced; where there are none, a section is added at the end.
        report: what was measured.
        made_with: versions and machine of the measurement, as `environment()` gives them; left out by default.

    Raises:
        FormatError: as `check_card`.
    """
    path, before, after = _parts(Path(path))
    write_whole(path, f"{before}{BEGIN}\n{section(report, made_with)}\n{END}{after}".encode())
    return path


def check_card(path: str | Path) -> None:
    """Raise what `write_card` would, before the hours that a measurement takes.

    Raises:
        FormatError: only one of the two markers is there, one is there twice, they are in the wrong order, the file is no
            UTF-8 text, or its folder does not exist.
    """
    _parts(Path(path))


def section(report: EvaluationReport, made_with: str | None = None) -> str:
    """Markdown of an evaluation: what was measured on what, a table of all SAEs, what its columns mean."""
    documents = f"{report.n_documents:,} document{'s' * (report.n_documents != 1)}"
    measured = (
        f"Measured by `sae-fast eval` {__version__} on {report.n_tokens:,} tokens of {documents} of {_plain(report.corpus)}, "
        f"in contexts of {report.context_length:,} tokens, with {_plain(report.model) or 'the language model'} in "
        f"{report.dtype}{f' ({made_with})' if made_with else ''}.{_clean(report)}{_intervals(report)}"
    )
    lines = [
        measured,
        "",
        *_table(report),
        "",
        *(line for note in report.notes for line in (_plain(note), "")),
        _DEFINITIONS,
    ]
    return "\n".join(lines)


def environment() -> str:
    """What a measurement here is made with: versions of Python, torch and transformers, the machine, the system."""
    found = [f"Python {platform.python_version()}"]
    for package in ("torch", "transformers"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    cores = os.cpu_count() or 1
    found.append(f"{platform.machine()} with {cores} core{'s' * (cores != 1)}")
    return ", ".join([*found, platform.system()])


def _parts(path: Path) -> tuple[Path, str, str]:
    """The card's file, and its text before and after what is replaced."""
    path = path / "README.md" if path.is_dir() else path
    if not path.parent.is_dir():
        raise FormatError(f"{path}", expected="a file in a folder that exists", got=f"no folder {path.parent}")
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}", expected="UTF-8 text", got=error) from None
    found = text.count(BEGIN), text.count(END)
    if found == (0, 0):
        return path, f"{text.rstrip()}\n\n{HEADING}\n\n".lstrip(), "\n"
    if found != (1, 1) or text.index(BEGIN) > text.index(END):
        raise FormatError(f"{path}", expected=f"{BEGIN} once, then {END} once", got=f"{found[0]} and {found[1]} of them")
    before, rest = text.split(BEGIN)
    return path, before, rest.split(END)[1]


def _table(report: EvaluationReport) -> list[str]:
    head = ["SAE", "where", "features", *(words for _, words in COLUMNS), "not seen", "dense"]
    return [
        f"| {' | '.join(head)} |",
        f"|---|---|{'--:|' * (len(head) - 2)}",
        *(f"| {' | '.join(_row(sae))} |" for sae in report.saes),
    ]


def _row(sae: SaeReport) -> list[str]:
    what = sae.architecture + (f", k = {sae.k}" if sae.k else "")
    what += kind_of(sae)
    read = sae.hooks_in or [sae.hook_name]
    places = [sae.hooks_out] if read == sae.hooks_out else [read, sae.hooks_out]
    return [
        f"{_code(sae.name)} ({_plain(what)})",
        " → ".join(map(_hooks, places)),
        f"{sae.d_sae:,}",
        *(_value(sae, name) for name, _ in COLUMNS),
        f"{sae.n_dead:,} dead" if sae.n_dead is not None else f"{sae.n_not_seen:,}",
        f"{sae.n_dense:,}",
    ]


def _hooks(names: list[str]) -> str:
    return ", ".join(map(_code, names)) if len(names) < 3 else f"{_code(names[0])} to {_code(names[-1])}"


def _value(sae: SaeReport, name: str) -> str:
    """The number, and the ends of its interval in brackets."""
    ends = sae.intervals.get(name)
    words = f" [{number(ends[0], 3)}, {number(ends[1], 3)}]" if ends else ""
    return number(sae.metrics.get(name), 3) + words


def _clean(report: EvaluationReport) -> str:
    clean = report.saes[0].metrics.get("ce_clean")
    return "" if clean is None else f" Cross entropy of the model as it is: {number(clean)} nats."


def _intervals(report: EvaluationReport) -> str:
    if not any(ends for sae in report.saes for ends in sae.intervals.values()):
        return ""
    return f" In brackets: 95 % intervals, from {report.resamples:,} resamples of the documents."


def _plain(text: str) -> str:
    """On one line, and without what would end a cell or begin markup."""
    return re.sub(r"([|<\\`*\[])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """The same as code, in which a backslash hides nothing but what would end a cell."""
    return "`" + " ".join(text.replace("`", "'").split()).replace("|", "\\|") + "`"
