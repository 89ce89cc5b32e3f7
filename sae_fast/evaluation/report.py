"""What an evaluation found, as it is written and read: plain numbers, no torch.

`evaluation.json` holds everything; `evaluation.html` is a page that stands alone. `docs/evaluation.md` defines every number.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sae_fast import __version__
from sae_fast.errors import FormatError

VERSION = 1
KIND = "sae_fast.evaluation"
FILE = "evaluation.json"

Row = dict[str, Any]
"""Metrics of some tokens, a hook or a layer: its `name`, numbers by name, and `intervals` as of an SAE."""


@dataclass(frozen=True)
class SaeReport:
    """One SAE: what it is, and what was measured. `metrics` and `intervals` go by the names of `Metrics`."""

    name: str
    source: str
    hook_name: str
    """Where it reads: the hooks of a crosscoder joined by "+", of several layers that of the first."""
    hooks_out: list[str]
    """Where it writes, and is compared."""
    architecture: str
    d_in: int
    d_sae: int
    k: int | None
    prefix_of: str | None
    """Of a prefix of a matryoshka SAE: the name of the whole."""
    metrics: dict[str, float | None]
    intervals: dict[str, list[float] | None]
    """`[low, high]`, 95 %, by resampling documents."""
    n_not_seen: int
    """Features active on no counted token."""
    n_dead: int | None
    """The same where a million tokens were counted, else None."""
    n_dense: int
    """Features active on more than a tenth of the counted tokens."""
    density: list[int]
    """Features by log10 of the share of tokens on which they are active: 8 bins a decade from 1e-6 to 1, rarer in the first."""
    by_position: list[Row]
    by_class: list[Row]
    by_hook: list[Row] = field(default_factory=list)
    """Reconstruction at each hook where it writes at several."""
    by_layer: list[Row] = field(default_factory=list)
    """Sparsity of each SAE where several are measured as one."""
    hooks_in: list[str] = field(default_factory=list)
    """Every hook where it reads."""


@dataclass(frozen=True)
class EvaluationReport:
    """SAEs measured on one set of texts."""

    model: str
    corpus: str
    n_tokens: int
    """Counted tokens."""
    n_predictions: int
    n_documents: int
    n_blocks: int
    """Blocks of documents that the intervals draw from."""
    context_length: int
    dtype: str
    """Of the language model."""
    seed: int
    resamples: int
    saes: tuple[SaeReport, ...]
    notes: tuple[str, ...] = ()
    """What a reader must know beside the numbers."""

    def __getitem__(self, name: str) -> SaeReport:
        for sae in self.saes:
            if sae.name == name:
                return sae
        raise KeyError(f"{name!r}; the SAEs of this evaluation are {', '.join(sae.name for sae in self.saes)}")

    def to_json(self) -> str:
        """The text of `evaluation.json`, the same for the same numbers."""
        content = {"kind": KIND, "version": VERSION, "generator": f"sae_fast {__version__}", **asdict(self)}
        return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    def write(self, folder: str | Path) -> list[Path]:
        """Write `evaluation.json` and `evaluation.html` into a folder, over what is there; return their paths."""
        from sae_fast.evaluation.page import standalone
        from sae_fast.files import write_whole

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        contents = {FILE: self.to_json(), "evaluation.html": standalone(self)}
        for name, text in contents.items():
            write_whole(folder / name, text.encode())
        return [folder / name for name in contents]

    @classmethod
    def read(cls, path: str | Path) -> "EvaluationReport":
        """Read `evaluation.json`, or a folder that holds it.

        Raises:
            FormatError: no such file, not JSON, another kind or version, or a part that is missing or of another form.
        """
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise FormatError(f"{path}", expected=f"an {FILE}", got=error.strerror or error) from error
        except ValueError as error:
            raise FormatError(f"{path}", expected="JSON", got=error) from error
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise FormatError(f"{path}", expected=f'"kind": "{KIND}", as `sae-fast eval` writes it', got="something else")
        if content.get("version") != VERSION:
            raise FormatError(f"{path}: version", expected=VERSION, got=content.get("version"))
        try:
            return _report(content)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}", expected="the form that `sae-fast eval` writes", got=repr(error)) from error


def _report(content: dict[str, Any]) -> EvaluationReport:
    given = {one.name: content[one.name] for one in fields(EvaluationReport)}
    for name, kind in (("model", str), ("corpus", str), ("dtype", str), ("n_tokens", int), ("n_documents", int)):
        _require(name, given[name], kind)
    given["saes"] = tuple(_sae(one) for one in content["saes"])
    given["notes"] = tuple(str(note) for note in content["notes"])
    if not given["saes"]:
        raise ValueError("no SAE")
    return EvaluationReport(**given)


def _sae(content: dict[str, Any]) -> SaeReport:
    sae = SaeReport(**content)
    for name in ("name", "source", "hook_name", "architecture"):
        _require(name, getattr(sae, name), str)
    for name in ("d_in", "d_sae", "n_not_seen", "n_dense"):
        _require(name, getattr(sae, name), int)
    numbers = [*sae.metrics.values(), *_ends(sae.intervals), *sae.density]
    for row in (*sae.by_position, *sae.by_class, *sae.by_hook, *sae.by_layer):
        _require("name of a row", row["name"], str)
        numbers += [value for key, value in row.items() if key not in ("name", "intervals")] + _ends(row.get("intervals", {}))
    if any(isinstance(value, bool) or not isinstance(value, int | float | None) for value in numbers):
        raise TypeError(f"a number of {sae.name} is something else")
    return sae


def _ends(intervals: dict[str, list[float] | None]) -> list[Any]:
    pairs = [ends for ends in intervals.values() if ends is not None]
    if any(len(ends) != 2 for ends in pairs):
        raise ValueError("an interval is no pair")
    return [end for ends in pairs for end in ends]


def _require(name: str, value: object, kind: type) -> None:
    """What stands in the page as it is has its own type."""
    if type(value) is not kind:
        raise TypeError(f"{name} is {value!r}")
