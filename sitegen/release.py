"""The release file: a TOML file that says what goes into a site. Every table is one frozen dataclass below.

`Release.load(path)` reads and checks the file; paths in it are relative to the file. Whatever is not understood is refused
with the nearest valid name: a key that is silently ignored is an hour lost. `docs/release-file.md` explains every key.
"""

import re
import tomllib
import types
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from sitegen.errors import ReleaseError, nearest
from sitegen.facts import FactOptions

T = TypeVar("T")

STANDARD_LIBRARY = "standard-library"
DEMO = Path(__file__).parent / "demo" / "release.toml"
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
        _at_least("site", "featured", self.featured, 0)


@dataclass(frozen=True)
class ModelOptions:
    """`[model]`: the language model (LM) whose activations the SAEs read."""

    source: str
    """folder of a Hugging Face model, or its name on the hub"""
    name: str | None = None
    """name shown on the pages; default: the last part of `source`"""
    backend: str = "transformers"
    """which backend of `sae_fast.lm` runs the LM"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """precision the LM runs in"""
    device: str = "cpu"
    """where the LM and the SAEs run: `cpu`, `cuda`, `cuda:1`, …"""
    arguments: dict[str, Any] = field(default_factory=dict)
    """passed to `from_pretrained` as they are (`revision`, `attn_implementation`, `device_map`, …)"""


@dataclass(frozen=True)
class CorpusOptions:
    """`[corpus]`: the text, and how it becomes contexts of tokens."""

    source: str
    """`standard-library`, a file, a folder, or the name of a dataset on the hub"""
    name: str | None = None
    """configuration of a hub dataset"""
    split: str | None = None
    """split of a dataset (default `train`); of the standard library `all`, `train` or `held_out` (default `all`)"""
    column: str = "text"
    """column of the text, or of the chat messages"""
    kind: Literal["auto", "text", "messages"] = "auto"
    """whether the column holds text or chat messages; `auto` looks, and takes a `messages` column where `column` is missing"""
    streaming: bool = False
    """read a hub dataset as it arrives instead of downloading it whole; give `max_tokens` with it"""
    shuffle: bool = False
    """read the documents in a random order"""
    seed: int = 0
    """of that order"""
    context_length: int = 128
    """tokens of a context, BOS included"""
    max_tokens: int | None = None
    """stop at the end of the context in which this many counted tokens are reached; default: the whole corpus"""
    prepend_bos: bool | Literal["auto"] = "auto"
    """one BOS at the start of each context: as the SAEs' metadata say, else as the tokenizer does"""
    count_special: bool = False
    """count BOS, EOS and template tokens in the facts"""
    roles: tuple[str, ...] = ()
    """roles whose messages are counted, such as `["assistant"]`; default: all. The LM reads every message all the same"""
    on_bad_text: Literal["error", "replace", "skip"] = "error"
    """what to do with text that holds lone surrogates: stop, put U+FFFD in their place, or leave the document out"""

    def __post_init__(self) -> None:
        _at_least("corpus", "context_length", self.context_length, 2)
        _at_least("corpus", "max_tokens", self.max_tokens, 1)


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
    fold_decoder_norm: bool = False
    """scale decoder rows to norm one and activations up by the same factor; default: as published"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """precision of its weights while it runs"""

    def __post_init__(self) -> None:
        if self.slug is not None and not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.slug):
            raise ReleaseError(
                f"[[sae]] slug: expected small letters, digits, '-', '_' and '.', beginning with a letter or digit; "
                f"got {self.slug!r}."
            )


@dataclass(frozen=True)
class EvaluationOptions:
    """`[evaluation]`: how well the SAEs reconstruct, and what splicing them in costs the LM."""

    tokens: int = 65536
    """counted tokens to measure on, in contexts spread over the corpus; 0 leaves the evaluation out"""

    def __post_init__(self) -> None:
        _at_least("evaluation", "tokens", self.tokens, 0)


@dataclass(frozen=True)
class BuildOptions:
    """`[build]`: how the work is cut. The site does not depend on it."""

    batch_size: int = 32
    """contexts the LM reads at once"""
    part_tokens: int = 131072
    """positions of one part of the activation index: what an interrupted build loses at most"""

    def __post_init__(self) -> None:
        _at_least("build", "batch_size", self.batch_size, 1)
        _at_least("build", "part_tokens", self.part_tokens, 1)


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
        base = base or Path.cwd()
        tables = {"site": SiteOptions, "model": ModelOptions, "corpus": CorpusOptions, "facts": FactOptions}
        tables |= {"evaluation": EvaluationOptions, "build": BuildOptions}
        for key in content:
            if key not in tables and key != "sae":
                raise ReleaseError(
                    f"Unknown table [{key}].{nearest(key, [*tables, 'sae'])} Valid: {', '.join([*tables, 'sae'])}."
                )
        saes = content.get("sae", [])
        if not isinstance(saes, list):
            raise ReleaseError("[sae]: expected an array of tables; write [[sae]] with two brackets.")
        parsed: dict[str, Any] = {
            name: _parse(table, content[name], f"[{name}]") for name, table in tables.items() if name in content
        }
        for name in ("model", "corpus"):
            if name not in parsed:
                raise ReleaseError(f"The table [{name}] is missing: give it at least a source.")
        parsed["model"] = _with_source(parsed["model"], base)
        parsed["corpus"] = _with_source(parsed["corpus"], base)
        sae = tuple(_with_source(_parse(SaeOptions, table, f"[[sae]] number {n}"), base) for n, table in enumerate(saes, 1))
        return cls(**parsed, sae=sae, path=path)


def local_path(source: str) -> Path | None:
    """Return `source` as a path where it names something on this disk, else None (a name on the hub)."""
    path = Path(source).expanduser()
    return path if path.exists() else None


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


def _parse(table: type[T], content: Any, where: str) -> T:
    if not isinstance(content, dict):
        raise ReleaseError(f"{where}: expected a table, got {_describe(content)}.")
    valid = {option.name: option for option in fields(table)}  # type: ignore[arg-type]
    for key in content:
        if key not in valid:
            raise ReleaseError(f"{where}: unknown key {key!r}.{nearest(key, valid)} Valid: {', '.join(valid)}.")
    for name, option in valid.items():
        if option.default is MISSING and option.default_factory is MISSING and name not in content:
            raise ReleaseError(f"{where}: {name!r} is missing.")
    types_of = get_type_hints(table)
    return table(**{key: _convert(value, types_of[key], f"{where} {key}") for key, value in content.items()})


def _convert(value: Any, expected: Any, where: str) -> Any:
    """Return `value` as the type `expected`, or raise ReleaseError that says what was expected and what was there."""
    for option in get_args(expected) if get_origin(expected) in (Union, types.UnionType) else (expected,):
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif get_origin(option) is tuple:
            if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
                return tuple(value)
        elif option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        elif isinstance(value, get_origin(option) or option) and not (isinstance(value, bool) and option is not bool):
            return value
    raise ReleaseError(f"{where}: expected {_expectation(expected)}, got {_describe(value)}.")


def _expectation(expected: Any) -> str:
    if get_origin(expected) in (Union, types.UnionType):
        return " or ".join(_expectation(option) for option in get_args(expected) if option is not type(None))
    if get_origin(expected) is Literal:
        return " or ".join(repr(value) for value in get_args(expected))
    if get_origin(expected) is tuple:
        return "an array of strings"
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "a table"}
    return names.get(get_origin(expected) or expected, str(expected))


def _describe(value: Any) -> str:
    names = {str: "a string", int: "an integer", float: "a number", bool: "a boolean", dict: "a table", list: "an array"}
    kind = names.get(type(value), type(value).__name__)
    return f"{kind} ({value!r})" if isinstance(value, str | int | float) else kind


def _at_least(table: str, key: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ReleaseError(f"[{table}] {key}: expected at least {least}, got {value}.")
