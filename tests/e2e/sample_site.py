"""A site of invented features on real text: three SAEs of about 200 features, made without a language model.

Features are "active on a token" with invented strengths; every number follows from them. Some features are dead, some have no
label, some fire on the parts of an emoji that is split over tokens. `python tests/e2e/sample_site.py FOLDER` writes it.
"""

import math
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sitegen.records import (
    CorpusInfo,
    Dead,
    Example,
    ExampleGroup,
    FeatureRecord,
    Histogram,
    Label,
    LogHistogram,
    Logits,
    Manifest,
    Metrics,
    ModelInfo,
    SaeInfo,
)
from sitegen.write import OutputDir, SiteSize, write_site

FILES = (
    "argparse",
    "json/decoder",
    "json/encoder",
    "textwrap",
    "pathlib",
    "csv",
    "shlex",
    "heapq",
    "bisect",
    "string",
    "tempfile",
)
EMOJI = '''def celebrate(name):
    """Say hello with a smile."""
    print("😀 hello", name, "🎉")
    return "😀" * 3

# ├── tree └── leaf
'''
PIECE = re.compile(r"\n[ ]*| ?[A-Za-z]+| ?\d|[^\sA-Za-z\d]|[ \t]+")
N_FEATURES = 200
CONTEXT = 128
Entry = str | dict[str, str]


@dataclass(frozen=True)
class Text:
    """Tokens of all documents, one after the other."""

    tokens: np.ndarray
    document: np.ndarray
    offset: np.ndarray
    names: list[str]
    entries: list[Entry]


def read_text() -> Text:
    """Tokenise a few files of the standard library and one that holds emoji."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = {
        f"{name}.py": (root / f"{name}.py").read_text("utf-8")[:24_000] for name in FILES if (root / f"{name}.py").is_file()
    }
    files |= {f"emoji/celebrate_{i}.py": EMOJI * 3 for i in range(4)}
    pieces = {name: PIECE.findall(text) for name, text in files.items()}
    common = [
        piece for piece, n in Counter(p for found in pieces.values() for p in found if p.isascii()).most_common() if n > 2
    ]
    entries: list[Entry] = ["<|endoftext|>", *[chr(c) for c in range(32, 127)], "\n", "\t"]
    entries += [piece for piece in common if piece not in set(entries)]
    ids = {entry: i for i, entry in enumerate(entries) if isinstance(entry, str)}
    tokens: list[int] = []
    document: list[int] = []
    offset: list[int] = []
    for number, found in enumerate(pieces.values()):
        begin = len(tokens)
        for piece in found:
            tokens += _ids_of(piece, ids, entries)
        document += [number] * (len(tokens) - begin)
        offset += range(len(tokens) - begin)
    return Text(np.array(tokens), np.array(document), np.array(offset), list(pieces), entries)


def _ids_of(piece: str, ids: dict[str, int], entries: list[Entry]) -> list[int]:
    """Known pieces are one token, other letters one each; other characters are split after their second byte."""
    if piece in ids:
        return [ids[piece]]
    found = []
    for character in piece:
        if character.isascii():
            found.append(ids[character])
            continue
        data = character.encode()
        for part in (data[:2], data[2:]):
            entry = {"b": part.hex()}
            if part and entry not in entries:
                entries.append(entry)
            if part:
                found.append(entries.index(entry))
    return found


def records(text: Text, seed: int, n_features: int = N_FEATURES) -> Iterator[FeatureRecord]:
    """Yield the features of one SAE."""
    random = np.random.default_rng(seed)
    counts = Counter(text.tokens.tolist())
    chosen = [token for token, n in counts.most_common() if n >= 6]
    emoji = [i for i, entry in enumerate(text.entries) if isinstance(entry, dict) and entry["b"].startswith("f09f")]
    white = [i for i, entry in enumerate(text.entries) if isinstance(entry, str) and entry.startswith("\n ")]
    targets = [*emoji[:2], *white[:4], *random.permutation(chosen).tolist()]
    labels = {f: _label(text, targets[f % len(targets)], random) for f in range(n_features) if f % 4}
    for feature in range(n_features):
        if feature % 19 == 7:
            yield FeatureRecord(id=feature, density=0.0, n_active=0, dead=Dead(len(text.tokens)), logits=_logits(text, random))
        else:
            yield _record(feature, targets[feature % len(targets)], text, labels.get(feature), random, n_features)


def _label(text: Text, token: int, random: np.random.Generator) -> Label:
    entry = text.entries[token]
    shown = "part of a character" if isinstance(entry, dict) else entry.replace("\n", "↵")
    return Label(f"token `{shown}`", "rule", "token", float(random.uniform(0.5, 1)), float(random.uniform(0.3, 1)), 40)


def _record(
    feature: int, token: int, text: Text, label: Label | None, random: np.random.Generator, n_features: int
) -> FeatureRecord:
    acts = np.zeros(len(text.tokens))
    at = np.flatnonzero(text.tokens == token)
    acts[at] = random.gamma(3, 2.0, len(at)) + 0.2
    for step in (1, 2):
        follow = at[(at + step < len(acts)) & (random.random(len(at)) < 0.5 / step)] + step
        acts[follow] = np.maximum(acts[follow], random.gamma(1.2, 0.9, len(follow)) + 0.05)
    active = np.flatnonzero(acts)
    values = acts[active]
    low, high = float(values.min()), float(values.max())
    decade = math.floor(math.log10(low))
    log_counts, _ = np.histogram(
        np.log10(values),
        bins=10 * (math.floor(math.log10(high)) + 1 - decade),
        range=(decade, math.floor(math.log10(high)) + 1),
    )
    counts = np.bincount(text.tokens[active])
    mass = np.bincount(text.tokens[active], values) / values.sum()
    top = [(int(t), int(counts[t]), float(mass[t])) for t in np.argsort(-mass, kind="stable")[:10] if counts[t]]
    others = [int(f) for f in random.permutation(n_features) if f != feature][:20]
    return FeatureRecord(
        id=feature,
        density=len(active) / len(acts),
        n_active=len(active),
        max_act=high,
        mean_act=float(values.mean()),
        label=label,
        histogram=Histogram(low, high, np.histogram(values, bins=50, range=(low, high))[0].tolist()),
        log_histogram=LogHistogram(decade, 10, log_counts.tolist()),
        logits=_logits(text, random),
        groups=_groups(text, acts, random),
        neighbours=[(f, float(c)) for f, c in zip(others[:10], np.sort(random.uniform(0.05, 0.8, 10))[::-1], strict=True)],
        coactive=[(f, float(c), 9) for f, c in zip(others[10:], np.sort(random.uniform(0.01, 0.6, 10))[::-1], strict=True)],
        top_tokens=top,
    )


def _groups(text: Text, acts: np.ndarray, random: np.random.Generator) -> list[ExampleGroup]:
    by_context: dict[tuple[int, int], int] = {}
    for position in np.flatnonzero(acts):
        key = (int(text.document[position]), int(text.offset[position]) // CONTEXT)
        if key not in by_context or acts[position] > acts[by_context[key]]:
            by_context[key] = int(position)
    peaks = sorted(by_context.values(), key=lambda p: -acts[p])
    groups = [ExampleGroup("top", [_example(text, acts, p, i % 5 == 4) for i, p in enumerate(peaks[:20])])]
    high = float(acts.max())
    positions = np.flatnonzero(acts)
    for band in range(5):
        low, up = band * high / 5, (band + 1) * high / 5
        inside = positions[(acts[positions] >= low) & ((acts[positions] < up) | (band == 4))]
        if len(inside):
            drawn = sorted(random.permutation(inside)[:5].tolist(), key=lambda p: -acts[p])
            groups.append(
                ExampleGroup(
                    "interval", [_example(text, acts, p, 0) for p in drawn], low, up, len(inside) / len(positions), len(inside)
                )
            )
    return groups


def _example(text: Text, acts: np.ndarray, position: int, duplicates: int) -> Example:
    first, last = np.searchsorted(text.document, [text.document[position], text.document[position] + 1]).tolist()
    begin, end = max(first, position - 32), min(last, position + 32)
    window = range(begin, end)
    return Example(
        document=int(text.document[position]),
        start=int(text.offset[begin]),
        peak=position - begin,
        tokens=[int(text.tokens[p]) for p in window],
        acts=[(p - begin, float(acts[p])) for p in window if acts[p]],
        duplicates=int(duplicates),
    )


def _logits(text: Text, random: np.random.Generator) -> Logits:
    values = random.normal(0, 0.3, len(text.entries)) + (random.random(len(text.entries)) < 0.01) * 1.5
    order = np.argsort(values)
    pairs = [(int(t), float(values[t])) for t in order]
    counts, edges = np.histogram(values, bins=50)
    return Logits(pairs[::-1][:10], pairs[:10], Histogram(float(edges[0]), float(edges[-1]), counts.tolist()))


def manifest(text: Text, n_saes: int = 3, n_features: int = N_FEATURES) -> Manifest:
    """Describe the site as the pipeline would before writing."""
    kinds = [("topk", 24), ("jumprelu", None), ("batchtopk", None)]  # the third is a crosscoder
    hooks = [[], [], [f"blocks.{layer}.hook_resid_post" for layer in range(4)]]
    saes = [
        SaeInfo(
            slug=f"{layer}-resid-post-{kind}",
            name=f"Layer {layer} residual stream, {kind}",
            model="sample-lm",
            hook_name="+".join(hooks[layer]) or f"blocks.{layer}.hook_resid_post",
            architecture=kind,
            d_in=256,
            d_sae=n_features,
            n_features=n_features,
            n_dead=0,
            n_tokens=len(text.tokens),
            shard_size=0,
            k=k,
            metrics=Metrics(50_000, 23.9 + layer, 0.871 - layer / 50, 12.1, 3.1, 3.22, 8.3, 11.0, 0.977, 0.985, 0.12),
            hook_names=hooks[layer],
            decoder_hooks=hooks[layer],
        )
        for layer, (kind, k) in enumerate(kinds[:n_saes])
    ]
    return Manifest(
        title="Sample site",
        description="Invented features on real Python source, to look at every part of a site before any model has been run.",
        build_id="sample",
        generator="sitegen 0.1.0",
        models=[ModelInfo("sample-lm", "Sample LM", "gpt2", 256, len(text.entries), 4)],
        corpus=CorpusInfo("Python standard library", len(text.names), len(text.tokens) // CONTEXT, len(text.tokens), CONTEXT),
        saes=saes,
        citation="@misc{sample,\n  title = {Sample site},\n  year = {2026}\n}",
    )


def _shown(info: SaeInfo, found: Iterator[FeatureRecord]) -> Iterator[FeatureRecord]:
    """With decoder norms where the SAE writes at several hooks."""
    n = len(info.decoder_hooks)
    return (replace(record, decoder_norms=[1.0 + (record.id + i) % n for i in range(n)]) if n else record for record in found)


def write_sample(folder: Path, n_saes: int = 3, n_features: int = N_FEATURES) -> SiteSize:
    """Write the sample site, or a smaller one, to a folder."""
    text = read_text()
    described = manifest(text, n_saes, n_features)
    with OutputDir(folder) as out:
        return write_site(
            out,
            described,
            {info.slug: _shown(info, records(text, seed, n_features)) for seed, info in enumerate(described.saes)},
            {"sample-lm": text.entries},
            text.names,
        )


if __name__ == "__main__":
    sys.stdout.write(f"{write_sample(Path(sys.argv[1]))}\n")
