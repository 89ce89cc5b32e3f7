"""The release file: a TOML file that says what goes into a site. Every table is one frozen dataclass below.

`Release.load(path)` reads and checks the file; paths in it are relative to the file. Whatever is not understood is refused
with the nearest valid name: a key that is silently ignored is an hour lost. `docs/release-file.md` explains every key.
"""

import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from sae_fast.corpus.options import STANDARD_LIBRARY, CorpusOptions
from sae_fast.errors import ConfigError, nearest
from sae_fast.model_options import ModelOptions
from sae_fast.tables import at_least, parse_table
from sitegen.errors import ReleaseError
from sitegen.facts import FactOptions

T = TypeVar("T")

DEMO = Path(__file__).parent / "demo" / "release.toml"
AUTO, NONE = "auto", "none"
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class SiteOptions:
    """`[site]`: what the pages say about themselves."""

    title: str = "Feature dashboards"
    """heading of the index page"""
    description: str = ""
    """a paragraph below it"""
    citation: str | None = None
    """how to cite the SAEs or the site, as text or BibTeX"""
    featured: int = 12
    """how many well-described features of each SAE the index page begins with"""

    def __post_init__(self) -> None:
        at_least("[site]", "featured", self.featured, 0)


@dataclass(frozen=True)
class SaeOptions:
    """`[[sae]]`: one sparse autoencoder; repeat the table for more."""

    source: str
    """anything `sae_fast.load` takes: a folder, a file, a hub address, a catalogue name"""
    slug: str | None = None
    """its name in addresses; default: from hook and architecture, as in `6-resid-post-topk`"""
    name: str | None = None
    """name shown on the pages; default: hook and architecture"""
    hook_name: str | None = None
    """where in the LM it reads, if its metadata do not say or are wrong"""
    hook_names: tuple[str, ...] = ()
    """the same for a crosscoder: all its hooks, in its order"""
    fold_decoder_norm: bool = False
    """scale decoder rows to norm one and activations up by the same factor; default: as published"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """precision of its weights while it runs"""
    training_report: str = AUTO
    """`report.html` of the run that made it, which gets a page; `auto`: where the source lies in a folder `saes`, the report
    beside that folder; `none`: leave it out"""

    def __post_init__(self) -> None:
        _require_slug("[[sae]]", self.slug)


@dataclass(frozen=True)
class ContrastOptions:
    """`[[contrast]]`: a result of `sae-fast contrast` that gets a page; repeat the table for more."""

    source: str
    """`contrast.json`, or the folder that holds it"""
    slug: str | None = None
    """its name in addresses; default: from the title"""
    title: str | None = None
    """heading of its page; default: the names of the two sets"""
    sae: tuple[str, ...] = ()
    """slugs of its SAEs on this site, in its order; default: found by hook, architecture and size"""

    def __post_init__(self) -> None:
        _require_slug("[[contrast]]", self.slug)


@dataclass(frozen=True)
class ComparisonOptions:
    """`[[comparison]]`: a result of `sae-fast eval` that gets a page; repeat the table for more."""

    source: str
    """`evaluation.json`, or the folder that holds it"""
    slug: str | None = None
    """its name in addresses; default: from the title"""
    title: str | None = None
    """heading of its page"""

    def __post_init__(self) -> None:
        _require_slug("[[comparison]]", self.slug)


@dataclass(frozen=True)
class EvaluationOptions:
    """`[evaluation]`: how well the SAEs reconstruct, and what splicing them in costs the LM."""

    tokens: int = 65536
    """counted tokens to measure on, in contexts spread over the corpus; 0 leaves the evaluation out"""

    def __post_init__(self) -> None:
        at_least("[evaluation]", "tokens", self.tokens, 0)


@dataclass(frozen=True)
class BuildOptions:
    """`[build]`: how the work is cut. The site does not depend on it."""

    batch_size: int = 32
    """contexts the LM reads at once"""
    part_tokens: int = 131072
    """positions of one part of the activation index: what an interrupted build loses at most"""
    activations: str | None = None
    """folder of a `sae_fast.activations` store of the same tokens, read instead of running the LM; its rounding shows in the
    last digits"""

    def __post_init__(self) -> None:
        at_least("[build]", "batch_size", self.batch_size, 1)
        at_least("[build]", "part_tokens", self.part_tokens, 1)


@dataclass(frozen=True)
class Release:
    """A whole release file, checked, with sources resolved against its folder."""

    model: ModelOptions
    corpus: CorpusOptions
    sae: tuple[SaeOptions, ...]
    site: SiteOptions = field(default_factory=SiteOptions)
    facts: FactOptions = field(default_factory=FactOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    build: BuildOptions = field(default_factory=BuildOptions)
    contrast: tuple[ContrastOptions, ...] = ()
    comparison: tuple[ComparisonOptions, ...] = ()
    path: Path | None = field(default=None, compare=False)
    """the file it was read from"""

    def __post_init__(self) -> None:
        if not self.sae:
            raise ReleaseError("The release names no SAE: add a [[sae]] table with a source.")
        slugs = [sae.slug for sae in self.sae if sae.slug is not None]
        for slug in slugs:
            if slugs.count(slug) > 1:
                raise ReleaseError(f"[[sae]] slug {slug!r} is given to {slugs.count(slug)} SAEs: addresses must differ.")

    @classmethod
    def load(cls, path: Path | str) -> "Release":
        """Read the release file at `path`; `"demo"` is the release that ships inside the package."""
        path = DEMO if str(path) == "demo" else Path(path)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ReleaseError(f"No release file {path}. `sitegen new {path}` writes one to start from.") from None
        except IsADirectoryError:
            raise ReleaseError(f"{path} is a folder, expected a release file (TOML).") from None
        except UnicodeDecodeError as error:
            raise ReleaseError(f"{path} is not UTF-8 text: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise ReleaseError(f"{path} is not valid TOML: {error}") from None
        try:
            return cls.from_dict(content, base=path.resolve().parent, path=path.resolve())
        except ReleaseError as error:
            raise ReleaseError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, content: dict[str, Any], base: Path | None = None, path: Path | None = None) -> "Release":
        """Check the parsed `content` of a release file; sources are resolved against the folder `base`."""
        try:
            return cls._from_dict(content, base or Path.cwd(), path)
        except ConfigError as error:
            raise ReleaseError(str(error)) from None

    @classmethod
    def _from_dict(cls, content: dict[str, Any], base: Path, path: Path | None) -> "Release":
        tables = {"site": SiteOptions, "model": ModelOptions, "corpus": CorpusOptions, "facts": FactOptions}
        tables |= {"evaluation": EvaluationOptions, "build": BuildOptions}
        valid = [*tables, "sae", "contrast", "comparison"]
        for key in content:
            if key not in valid:
                raise ReleaseError(f"Unknown table [{key}].{nearest(key, valid)} Valid: {', '.join(valid)}.")
        for key in ("sae", "contrast", "comparison"):
            if not isinstance(content.get(key, []), list):
                raise ReleaseError(f"[{key}]: expected an array of tables; write [[{key}]] with two brackets.")
        parsed: dict[str, Any] = {
            name: parse_table(table, content[name], f"[{name}]") for name, table in tables.items() if name in content
        }
        for name in ("model", "corpus"):
            if name not in parsed:
                raise ReleaseError(f"The table [{name}] is missing: give it at least a source.")
        parsed["model"] = _with_source(parsed["model"], base)
        parsed["corpus"] = _with_source(parsed["corpus"], base)
        sae = [parse_table(SaeOptions, table, f"[[sae]] number {n}") for n, table in enumerate(content.get("sae", []), 1)]
        results: dict[str, type[ContrastOptions] | type[ComparisonOptions]]
        results = {"contrast": ContrastOptions, "comparison": ComparisonOptions}
        for key, kind in results.items():
            named = [parse_table(kind, table, f"[[{key}]] number {n}") for n, table in enumerate(content.get(key, []), 1)]
            parsed[key] = tuple(_with_source(table, base) for table in named)
        stored = parsed["build"].activations if "build" in parsed else None
        if stored is not None:
            parsed["build"] = replace(parsed["build"], activations=str((base / Path(stored).expanduser()).resolve()))
        return cls(**parsed, sae=tuple(_with_report(_with_source(table, base), base) for table in sae), path=path)


def _require_slug(where: str, slug: str | None) -> None:
    if slug is not None and not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", slug):
        raise ReleaseError(
            f"{where} slug: expected small letters, digits, '-', '_' and '.', beginning with a letter or digit; got {slug!r}."
        )


def _with_report(table: SaeOptions, base: Path) -> SaeOptions:
    if table.training_report in (AUTO, NONE):
        return table
    return replace(table, training_report=str((base / Path(table.training_report).expanduser()).resolve()))


def _with_source(table: T, base: Path) -> T:
    source = table.source  # type: ignore[attr-defined]
    path = base / Path(source).expanduser()
    if source == STANDARD_LIBRARY:
        return table
    if path.exists():
        return type(table)(**{**vars(table), "source": str(path.resolve())})
    if source.startswith((".", "/", "~")):
        raise ReleaseError(f"source = {source!r}: there is no {path}. Paths are relative to the release file.")
    return table
