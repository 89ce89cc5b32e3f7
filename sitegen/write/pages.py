"""HTML pages from the templates in `site_templates`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup, escape

from sitegen.hooks import compact
from sitegen.records import Manifest, SaeInfo
from sitegen.write import charts, numbers
from sitegen.write.output import OutputDir
from sitegen.write.token_text import Unit, Vocabulary, in_list, is_special, opacity, units, visible

SNIPPET_CHARACTERS = 34
"""Shown on either side of the peak in the snippets of the home page."""
_IMPORT = re.compile(r"""^(?:import|export)\s[^"';]*?from\s+"\./([\w-]+\.js)"|^import\s+"\./([\w-]+\.js)\"""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a snippet; `level` 0 (inactive) to 10 (as strong as the maximum)."""

    text: str
    level: int


@dataclass(frozen=True, slots=True)
class Featured:
    """A feature as the home page shows it."""

    id: int
    label: str
    density: float
    max_act: float
    precision: float | None
    before: list[Piece]
    peak: Piece
    after: list[Piece]

    @classmethod
    def of(cls, record: dict[str, Any], vocabulary: Vocabulary) -> "Featured":
        """Make it from a record in JSON's types, with the feature's first example if there is one."""
        label = record.get("label", {})
        example = next((e for group in record.get("groups", ()) for e in group["examples"]), None)
        max_act = record.get("max_act", 0.0)
        before: list[Piece] = []
        after: list[Piece] = []
        peak = Piece("", 0)
        if example is not None:
            found = units(example["tokens"], example["acts"], vocabulary)
            at = next(i for i, unit in enumerate(found) if unit.first <= example["peak"] <= unit.last)
            before = _pieces(found[:at], max_act)
            peak = Piece(_one_line(found[at]), 10)
            after = _pieces(found[at + 1 :], max_act)
        return cls(
            id=record["id"],
            label=label.get("text", ""),
            density=record["density"],
            max_act=max_act,
            precision=label.get("precision"),
            before=_last(before, SNIPPET_CHARACTERS),
            peak=peak,
            after=_first(after, SNIPPET_CHARACTERS),
        )


@dataclass(frozen=True, slots=True)
class SaePage:
    """An SAE with what its pages show before any script runs."""

    info: SaeInfo
    featured: list[Featured]
    labels: dict[int, str] = field(default_factory=dict)
    """Label of every feature that the site holds, empty where it has none."""


def write_pages(out: OutputDir, manifest: Manifest, pages: Sequence[SaePage], assets: str) -> None:
    """Write every HTML page and `.nojekyll`; `assets` is the folder of the assets below the site's root."""
    render = Renderer(manifest, pages, assets)
    out.write("index.html", render("index.html", root=""))
    for page in pages:
        folder = f"sae/{page.info.slug}"
        out.write(f"{folder}/index.html", render("sae.html", root="../../", page=page))
        out.write(f"{folder}/feature.html", render("feature.html", root="../../", page=page))
    out.write("definitions.html", render("definitions.html", root=""))
    out.write("404.html", render("404.html", root=""))
    out.write(".nojekyll", b"")


class Renderer:
    """Pages of one site from their templates."""

    def __init__(self, manifest: Manifest, pages: Sequence[SaePage], assets: str) -> None:
        self._manifest = manifest
        self._environment = _environment()
        self._shared = {
            "manifest": manifest,
            "models": {model.slug: model for model in manifest.models},
            "pages": pages,
            "assets": assets,
            "charts": charts,
        }

    def __call__(self, name: str, root: str, page: SaePage | None = None, **more: Any) -> bytes:
        """Render the template `pages/<name>` for a page from which `root` leads to the site's root."""
        data = _page_data(self._manifest, page.info if page else None)
        html = self._environment.get_template(f"pages/{name}").render(
            self._shared, root=root, page=page, page_data=data, modules=_modules, **more
        )
        return html.encode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "significant": numbers.significant,
        "percent": numbers.percent,
        "count": numbers.count,
        "code": _code,
        "compact": lambda hook_name: compact(hook_name.split("+")),
    }
    return environment


def _code(text: str) -> Markup:
    """Mark what a label quotes in backticks as code, with the spaces at its ends shown."""
    parts = re.split(r"`([^`]+)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(in_list(part)) if i % 2 else escape(part) for i, part in enumerate(parts)
    )


def _source(name: str) -> str:
    return resources.files("site_templates").joinpath(*name.split("/")).read_text("utf-8")


def _page_data(manifest: Manifest, info: SaeInfo | None) -> dict[str, Any]:
    """What the scripts of a page need to know before they read any file."""
    vocabularies = {model.slug: model.vocabulary for model in manifest.models}
    return {
        "build": manifest.build_id,
        "title": manifest.title,
        "slug": info.slug if info else None,
        "saes": [
            {
                "slug": sae.slug,
                "name": sae.name,
                "d_sae": sae.d_sae,
                "n_features": sae.n_features,
                "n_tokens": sae.n_tokens,
                "shard_size": sae.shard_size,
                "vocabulary": vocabularies.get(sae.model),
                "decoder_hooks": sae.decoder_hooks,
            }
            for sae in manifest.saes
        ],
    }


def _modules(entry: str) -> list[str]:
    """Return every module that an entry module imports, at any depth, so that the page can ask for all of them at once."""
    found: list[str] = []
    waiting = [entry]
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found.append(name)
            waiting += [first or second for first, second in _IMPORT.findall(_source(f"assets/js/{name}"))]
    return found


def _pieces(found: Sequence[Unit], max_act: float) -> list[Piece]:
    return [Piece(_one_line(unit), _level(unit.act, max_act)) for unit in found]


def _level(act: float, max_act: float) -> int:
    """Return the opacity of an activation in tenths, at least one where it is active."""
    return max(1, round(10 * opacity(act, max_act))) if act else 0


def _one_line(unit: Unit) -> str:
    if not unit.act and is_special(unit.text):
        return "⊢"
    text = visible(unit.text) if unit.act else unit.text
    return re.sub("  +", " ", text.replace("↵\n", "↵").replace("\n", "↵").replace("\t", "⇥").replace("\r", ""))


def _last(pieces: list[Piece], characters: int) -> list[Piece]:
    return _first(pieces[::-1], characters)[::-1]


def _first(pieces: list[Piece], characters: int) -> list[Piece]:
    kept: list[Piece] = []
    for piece in pieces:
        if characters <= 0:
            break
        kept.append(piece)
        characters -= len(piece.text)
    return kept
