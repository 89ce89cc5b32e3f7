"""Read a built site from Python: `reader.open("site")["my-sae"][123]`."""

import builtins
from collections.abc import Iterator
from functools import cached_property, lru_cache
from html import escape
from pathlib import Path

from sae_fast.errors import nearest
from sitegen.check import read_data
from sitegen.errors import OutputError
from sitegen.records import Example, FeatureRecord, FeatureTable, Manifest, SaeInfo, Shard
from sitegen.write import numbers
from sitegen.write.output import MANIFEST, is_ours
from sitegen.write.shards import shard_path
from sitegen.write.token_text import Entry, Vocabulary, example_units, opacity, visible

_KEPT_SHARDS = 32
_SHOWN = 8
_GREEN, _ORANGE, _BLUE = "79,199,140", "240,163,92", "134,179,234"


def open(path: str | Path) -> "Site":  # noqa: A001
    """Open a site's folder; OutputError where it holds none. Nothing but the manifest is read before it is asked for."""
    root = Path(path)
    if not is_ours(root):
        raise OutputError(f"{root} holds no site made by sitegen ({MANIFEST} is missing); build one with `sitegen build`.")
    return Site(root, read_data(root, MANIFEST, Manifest))


class Site:
    """A built site: a mapping from SAE slug to `Sae`, in the site's order."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest
        self._saes = {info.slug: info for info in manifest.saes}

    def __getitem__(self, slug: str) -> "Sae":
        if slug not in self._saes:
            raise KeyError(f"no SAE {slug!r} on this site; there are {', '.join(self._saes)}.{nearest(slug, self._saes)}")
        return Sae(self, self._saes[slug])

    def __iter__(self) -> Iterator[str]:
        return iter(self._saes)

    def __len__(self) -> int:
        return len(self._saes)

    def __repr__(self) -> str:
        return (
            f"Site({self.manifest.title!r}, {', '.join(f'{i.slug} ({i.n_features:,} features)' for i in self._saes.values())})"
        )

    @cached_property
    def documents(self) -> list[str]:
        """Names of the corpus's documents, by index."""
        path = self.manifest.corpus.documents
        return read_data(self.root, path, list[str]) if path else []


class Sae:
    """The features of one SAE: indexed by feature id, iterated in ascending order."""

    def __init__(self, site: Site, info: SaeInfo) -> None:
        self.site = site
        self.info = info
        self._shard = lru_cache(_KEPT_SHARDS)(self._read_shard)

    def __getitem__(self, feature: int) -> "Feature":
        shard = self._shard(int(feature) // self.info.shard_size) if 0 <= feature < self.info.d_sae else None
        record = next((one for one in shard.features if one.id == feature), None) if shard else None
        if shard is None or record is None:
            raise KeyError(f"no feature {feature} in {self.info.slug}; it has {len(self):,}, from 0 to {self.info.d_sae - 1}")
        return Feature(self, record, shard)

    def __iter__(self) -> Iterator["Feature"]:
        return (self[feature] for feature in self.table.id)

    def __len__(self) -> int:
        return self.info.n_features

    def __repr__(self) -> str:
        return f"Sae({self.info.slug!r}, {self.info.architecture} at {self.info.hook_name}, {len(self):,} features)"

    @cached_property
    def table(self) -> FeatureTable:
        """All features by column."""
        return read_data(self.site.root, f"data/{self.info.slug}/features.json.gz", FeatureTable)

    @cached_property
    def entries(self) -> list[Entry] | None:
        """The model's vocabulary, by token id; None where token texts travel with the shards."""
        path = next((model.vocabulary for model in self.site.manifest.models if model.slug == self.info.model), None)
        return read_data(self.site.root, path, list[str | dict[str, str]]) if path else None

    def search(self, text: str) -> list["Feature"]:
        """Return the features whose label holds every word of `text`, whatever its case, best precision first."""
        words = text.lower().split()
        table = self.table
        rows = [row for row, label in enumerate(table.label) if label and all(word in label.lower() for word in words)]
        rows.sort(key=lambda row: (-(table.precision[row] or 0.0), table.id[row]))
        return [self[table.id[row]] for row in rows]

    def _read_shard(self, number: int) -> Shard | None:
        path = shard_path(self.info.slug, number)
        return read_data(self.site.root, path, Shard) if (self.site.root / path).is_file() else None


class Feature:
    """One feature. `record` holds all its numbers; a notebook shows it as its page does, in short."""

    def __init__(self, sae: Sae, record: FeatureRecord, shard: Shard) -> None:
        self.sae = sae
        self.record = record
        self._shard = shard

    @property
    def id(self) -> int:
        """Its number within the SAE."""
        return self.record.id

    @property
    def label(self) -> str:
        """Its label's text, empty where it has none."""
        return self.record.label.text if self.record.label else ""

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Texts of the tokens that its record names."""
        strings = self._shard.strings
        return Vocabulary(None, strings) if strings is not None else Vocabulary(self.sae.entries)

    @property
    def examples(self) -> list[Example]:
        """The top examples, strongest first."""
        return [example for group in self.record.groups or () if group.kind == "top" for example in group.examples]

    def text(self, example: Example) -> str:
        """Return an example's text."""
        return "".join(unit.text for unit in example_units(example, self.vocabulary))

    def document(self, example: Example) -> str:
        """Return the name of an example's document."""
        return (self._shard.documents or {}).get(str(example.document), f"document {example.document}")

    def __repr__(self) -> str:
        lines = [f"{self.sae.info.slug}[{self.id}]: {self._title()}", f"  {self._facts()}"]
        if self.record.logits:
            lines.append(
                "  promotes " + ", ".join(repr(self.vocabulary.text(token)) for token, _ in self.record.logits.top[:6])
            )
        for example in self.examples[:5]:
            found = example_units(example, self.vocabulary)
            at = next(i for i, unit in enumerate(found) if unit.first <= example.peak <= unit.last)
            before = "".join(unit.text for unit in found[:at])[-36:]
            after = "".join(unit.text for unit in found[at + 1 :])[:28]
            lines.append(f"  {found[at].act:8.3g}  {_flat(before):>36}»{_flat(found[at].text)}«{_flat(after)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        examples = "".join(self._example_html(example) for example in self.examples[:_SHOWN])
        return (
            '<div style="font:13px system-ui,sans-serif;max-width:960px;line-height:1.45">'
            f'<div style="font-size:16px;font-weight:600">{escape(self._title())} '
            f'<span style="font-weight:400;opacity:.65">{escape(self.sae.info.name)} · {self.id}</span></div>'
            f'<div style="opacity:.75">{escape(self._facts())}</div>{self._logits_html()}'
            f'<table style="border-collapse:collapse;width:100%">{examples}</table></div>'
        )

    def _title(self) -> str:
        if self.record.dead or self.record.density == 0:
            n = self.record.dead.n_tokens if self.record.dead else self.sae.info.n_tokens
            return f"not active on {n:,} tokens"
        return self.label or "no simple pattern found"

    def _facts(self) -> str:
        record, label = self.record, self.record.label
        facts = [f"density {numbers.percent(record.density)}", f"max {numbers.significant(record.max_act)}"]
        if record.n_active is not None:
            facts.insert(1, f"active on {record.n_active:,} tokens")
        if label is not None:
            facts.append(f"{'automatic label' if label.source == 'rule' else f'label by {label.source}'}")
            facts += [f"{name} {numbers.significant(value)}" for name, value in _measured(self.record) if value is not None]
        return " · ".join(facts)

    def _logits_html(self) -> str:
        logits = self.record.logits
        if logits is None:
            return ""
        sides = (("promotes", logits.top, _ORANGE), ("suppresses", logits.bottom, _BLUE))
        return "".join(
            f'<div style="margin:3px 0">{name} {self._tokens_html(pairs, colour)}</div>' for name, pairs, colour in sides
        )

    def _tokens_html(self, pairs: builtins.list[tuple[int, float]], colour: str) -> str:
        style = f"font-family:monospace;background:rgba({colour},.35);border-radius:3px;padding:0 3px;margin-right:4px"
        shown = [(escape(_flat(self.vocabulary.text(token))), value) for token, value in pairs[:8]]
        return "".join(f'<span style="{style}" title="{value:+.4g}">{text}</span>' for text, value in shown)

    def _example_html(self, example: Example) -> str:
        top = self.record.max_act or 1.0
        pieces = []
        for unit in example_units(example, self.vocabulary):
            text = escape(_flat(visible(unit.text) if unit.act else unit.text))
            if unit.act:
                peak = ";font-weight:700;text-decoration:underline" if unit.first <= example.peak <= unit.last else ""
                style = f"background:rgba({_GREEN},{opacity(unit.act, top):.2f});border-radius:2px{peak}"
                text = f'<span style="{style}" title="{unit.act:.4g}">{text}</span>'
            pieces.append(text)
        act = dict(example.acts).get(example.peak, 0.0)
        cell = "border-top:1px solid rgba(128,128,128,.3);padding:3px 6px;text-align:left;vertical-align:top"
        return (
            f'<tr><td style="{cell};opacity:.75">{act:.3g}</td><td style="{cell};font-family:monospace;white-space:pre-wrap">'
            f'{"".join(pieces)}</td><td style="{cell};opacity:.75">{escape(self.document(example))}</td></tr>'
        )


def _measured(record: FeatureRecord) -> list[tuple[str, float | None]]:
    label = record.label
    return [("precision", label.precision), ("recall", label.recall)] if label else []


def _flat(text: str) -> str:
    return text.replace("↵\n", "↵").replace("\n", "↵").replace("\t", "⇥")
