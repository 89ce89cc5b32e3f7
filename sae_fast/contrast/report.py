"""What a contrast found, as it is written and read: plain numbers, no torch.

`contrast.json` holds everything; `contrast.csv` the features of all SAEs, one a line; `contrast.html` a page that stands alone.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sae_fast import __version__
from sae_fast.errors import ArgumentError, FormatError

VERSION = 1
KIND = "sae_fast.contrast"
INTEGERS = ("feature", "n_a", "n_b")
COLUMNS = (
    "feature", "d", "d_low", "d_high", "auc", "difference", "low", "high", "mean_a", "mean_b", "n_a", "n_b", "density",
    "p", "q", "p_max",
)  # fmt: skip
"""Of every tested feature; `docs/contrast.md` defines each."""

Column = list[float | None]


@dataclass(frozen=True)
class Side:
    """One of the two sets of texts."""

    name: str
    n_texts: int
    """Texts that were compared."""
    n_tokens: int
    """Chosen tokens in them."""
    n_empty: int = 0
    """Texts left out because no token of theirs was chosen."""
    n_cut: int = 0
    """Texts whose end was cut off because they were longer than allowed."""


@dataclass(frozen=True)
class SaeContrast:
    """The features of one SAE. `columns[name][i]` belongs to the i-th tested feature, the most certain difference first."""

    name: str
    hook_name: str
    architecture: str
    d_sae: int
    n_never: int
    """Features active in no text: not tested, not corrected for."""
    n_rare: int
    """Features left out because they are active in fewer texts than was asked for."""
    permutations: int
    """Drawn for the features that took most."""
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.columns["feature"])

    def row(self, i: int) -> dict[str, Any]:
        """All numbers of the i-th tested feature; None for an infinite d."""
        row = {name: self.columns[name][i] for name in COLUMNS}
        return row | {name: int(row[name] or 0) for name in INTEGERS}

    def top(self, n: int = 10) -> list[dict[str, Any]]:
        """The rows of the n most certain differences."""
        return [self.row(i) for i in range(min(n, len(self)))]

    def n_found(self, alpha: float = 0.05) -> int:
        """Features with `q <= alpha`."""
        return sum(q is not None and q <= alpha for q in self.columns["q"])


@dataclass(frozen=True)
class Contrast:
    """Which features differ between two sets of texts, for one or more SAEs of one model."""

    a: Side
    b: Side
    model: str
    pool: str
    tokens: str
    paired: bool
    alpha: float
    """False-discovery rate at which a feature counts as found."""
    seed: int
    resamples: int
    saes: tuple[SaeContrast, ...]

    def __getitem__(self, name: str) -> SaeContrast:
        for sae in self.saes:
            if sae.name == name:
                return sae
        raise KeyError(f"{name!r}; the SAEs of this contrast are {', '.join(sae.name for sae in self.saes)}")

    def to_json(self) -> str:
        """The text of `contrast.json`, the same for the same numbers."""
        content = {"kind": KIND, "version": VERSION, "generator": f"sae_fast {__version__}", **asdict(self)}
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"

    def write(self, folder: str | Path) -> list[Path]:
        """Write `contrast.json`, `contrast.csv` and `contrast.html` into a folder, over what is there; return their paths."""
        from sae_fast.contrast.page import standalone

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"contrast.{suffix}" for suffix in ("json", "csv", "html")]
        paths[0].write_text(self.to_json(), encoding="utf-8")
        with paths[1].open("w", encoding="utf-8", newline="") as file:
            self.write_csv(file)
        paths[2].write_text(standalone(self), encoding="utf-8")
        return paths

    def write_csv(self, file: Any) -> None:
        """Write one line a tested feature, SAE by SAE, to a text file opened with `newline=""`."""
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sae", *COLUMNS])
        for sae in self.saes:
            for i in range(len(sae)):
                row = sae.row(i)
                writer.writerow([sae.name, *("" if row[name] is None else row[name] for name in COLUMNS)])

    @classmethod
    def read(cls, path: str | Path) -> "Contrast":
        """Read `contrast.json`, or a folder that holds it.

        Raises:
            FormatError: no such file, not JSON, another kind or version, or a part that is missing or of another form.
        """
        path = Path(path)
        path = path / "contrast.json" if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise FormatError(f"{path}", expected="a contrast.json", got=error.strerror or error) from error
        except ValueError as error:
            raise FormatError(f"{path}", expected="JSON", got=error) from error
        if not isinstance(content, dict) or content.get("kind") != KIND:
            raise FormatError(f"{path}", expected=f'"kind": "{KIND}", as `sae-fast contrast` writes it', got="something else")
        if content.get("version") != VERSION:
            raise FormatError(f"{path}: version", expected=VERSION, got=content.get("version"))
        try:
            return _contrast(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{path}", expected="the form that `sae-fast contrast` writes", got=repr(error)) from error


def column(values: Iterable[float]) -> Column:
    """Numbers to six significant digits, None for what is not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


def _contrast(content: dict[str, Any]) -> Contrast:
    saes = tuple(_sae(sae) for sae in content["saes"])
    for part in (content, content["a"], content["b"], *content["saes"]):
        _require_plain(part)
    plain: dict[str, Any] = {
        field.name: content[field.name] for field in fields(Contrast) if field.name not in ("a", "b", "saes")
    }
    if not saes:
        raise ArgumentError("saes", expected="at least one SAE", got="none")
    return Contrast(a=Side(**content["a"]), b=Side(**content["b"]), **plain, saes=saes)


def _sae(content: dict[str, Any]) -> SaeContrast:
    sae = SaeContrast(**content)
    lengths = {len(sae.columns[name]) for name in COLUMNS}
    if len(lengths) != 1:
        raise ValueError(f"columns of {sae.name} differ in length")
    features: list[Any] = sae.columns["feature"]
    if any(not isinstance(feature, int) or not 0 <= feature < sae.d_sae for feature in features):
        raise ValueError(f"a feature of {sae.name} is not from 0 to {sae.d_sae - 1}")
    numbers: Iterable[Any] = (value for name in COLUMNS for value in sae.columns[name])
    if any(isinstance(value, bool) or not isinstance(value, int | float | None) for value in numbers):
        raise ValueError(f"a column of {sae.name} holds something else than numbers")
    return sae


def _require_plain(part: dict[str, Any]) -> None:
    """What stands in the page as it is has its own type."""
    kinds: dict[str, type] = {"name": str, "model": str, "hook_name": str, "architecture": str, "pool": str, "tokens": str}
    kinds |= dict.fromkeys(("n_texts", "n_tokens", "n_empty", "n_cut", "d_sae", "n_never", "n_rare", "permutations"), int)
    kinds |= {"seed": int, "resamples": int, "paired": bool, "alpha": float}
    for key, value in part.items():
        if key in kinds and type(value) is not kinds[key]:
            raise TypeError(f"{key} is {value!r}")
