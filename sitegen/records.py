"""What `sitegen` writes and the browser reads: the typed form of every JSON file of a site (contract version 1).

orjson serialises these dataclasses as they are; fields that are None are left out. Everything but a feature's `id` and
`density` is optional: a site may hold less, and every reader must cope. `docs/architecture.md` gives the meaning and unit
of each field.
"""

from dataclasses import dataclass, field

CONTRACT_VERSION = 1

TokenId = int
FeatureId = int


@dataclass(frozen=True, slots=True)
class Label:
    """A short text that says what a feature responds to, with where it came from and how well it predicts the feature."""

    text: str
    source: str
    """`"rule"` for an automatic label; a person's or a model's name otherwise."""
    rule: str | None = None
    """Which rule gave an automatic label: `token`, `tokens`, `previous`, `line`, `shape`, `promotes`, …"""
    precision: float | None = None
    """Share of the tokens named by the label on which the feature is active, on tokens not used to choose the label."""
    recall: float | None = None
    """Share of the feature's activation mass on tokens named by the label, on tokens not used to choose the label."""
    n: int | None = None
    """Active tokens that precision and recall were measured on."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Equal bins between `low` and `high`, left-closed but for the last."""

    low: float
    high: float
    counts: list[int]


@dataclass(frozen=True, slots=True)
class LogHistogram:
    """Bins of equal width in log10: `per_decade` bins for each decade from 10^low_decade upwards."""

    low_decade: int
    per_decade: int
    counts: list[int]


@dataclass(frozen=True, slots=True)
class Logits:
    """Effect of a feature's decoder row on the next-token logits."""

    top: list[tuple[TokenId, float]]
    bottom: list[tuple[TokenId, float]]
    histogram: Histogram | None = None
    normed: bool = False
    """True where the final norm's weight is folded in and the mean over the vocabulary removed."""


@dataclass(frozen=True, slots=True)
class Example:
    """A window of one context around its largest activation."""

    document: int
    """Index into the corpus's list of documents."""
    start: int
    """Offset, in tokens of the document, of the window's first token (a leading BOS has the offset -1)."""
    peak: int
    """Offset of the largest activation within `tokens`."""
    tokens: list[TokenId]
    acts: list[tuple[int, float]]
    """`(offset into tokens, activation)` of every non-zero activation, ascending."""
    duplicates: int = 0
    """How many further examples with the same text were folded into this one."""


@dataclass(frozen=True, slots=True)
class ExampleGroup:
    """Examples chosen alike: the highest, or a few out of one band of activation."""

    kind: str
    """`"top"` or `"interval"`."""
    examples: list[Example]
    low: float | None = None
    high: float | None = None
    share: float | None = None
    """Share of the active tokens whose |activation| lies in `[low, high)` (the last band includes its end)."""
    n: int | None = None
    """Active tokens in the band."""


@dataclass(frozen=True, slots=True)
class Dead:
    """A feature that was never active, and on how many counted tokens that was seen."""

    n_tokens: int


@dataclass(frozen=True, slots=True)
class FeatureRecord:
    """Everything a page shows about one feature."""

    id: FeatureId
    density: float
    n_active: int | None = None
    max_act: float | None = None
    mean_act: float | None = None
    label: Label | None = None
    histogram: Histogram | None = None
    log_histogram: LogHistogram | None = None
    logits: Logits | None = None
    decoder_norms: list[float] | None = None
    """Norm of its decoder row at each of the SAE's `decoder_hooks`."""
    groups: list[ExampleGroup] | None = None
    neighbours: list[tuple[FeatureId, float]] | None = None
    """`(feature, cosine of decoder rows)`, nearest first."""
    coactive: list[tuple[FeatureId, float, int]] | None = None
    """`(feature, phi coefficient, tokens on which both are active)`, largest phi first."""
    top_tokens: list[tuple[TokenId, int, float]] | None = None
    """`(token, active occurrences, share of the activation mass)`, largest share first."""
    dead: Dead | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of consecutive features: `data/<slug>/f/<hi>/<n>.json.gz`."""

    first: FeatureId
    features: list[FeatureRecord]
    strings: dict[str, str | dict[str, str]] | None = None
    """Token id (as a string) → text or `{"b": hex}`, where the vocabulary travels with the shards."""
    labels: dict[str, str] | None = None
    """Feature id (as a string) → label text of every neighbour and co-active feature named here that has a label, so that
    one request shows a feature."""
    documents: dict[str, str] | None = None
    """Document index (as a string) → name of every document that an example here comes from."""
    version: int = CONTRACT_VERSION


@dataclass(frozen=True, slots=True)
class Metrics:
    """How well an SAE reconstructs, and what splicing it in costs the LM. Definitions: `docs/evaluation.md`."""

    n_tokens: int
    l0: float | None = None
    explained_variance: float | None = None
    mse: float | None = None
    ce_clean: float | None = None
    ce_sae: float | None = None
    ce_mean_ablation: float | None = None
    ce_zero_ablation: float | None = None
    ce_recovered: float | None = None
    """Against mean ablation."""
    ce_recovered_zero: float | None = None
    delta_ce: float | None = None
    """CE with the SAE minus CE without, in nats."""


@dataclass(frozen=True, slots=True)
class SaeInfo:
    """One SAE of the site: what it is, how good it is, and how its data are laid out."""

    slug: str
    name: str
    model: str
    """Slug of the LM, which names its vocabulary file."""
    hook_name: str
    architecture: str
    d_in: int
    d_sae: int
    n_features: int
    """Features on the site: `d_sae`, or fewer where some were chosen."""
    n_dead: int
    n_tokens: int
    """Counted tokens behind every density."""
    shard_size: int
    k: int | None = None
    folded: bool = False
    """True where decoder rows were scaled to norm one and activations up by the same factor."""
    metrics: Metrics | None = None
    density_histogram: LogHistogram | None = None
    """Features by log10 density."""
    featured: list[FeatureId] = field(default_factory=list)
    """Well-described features to begin with."""
    strings_in_shards: bool = False
    hook_names: list[str] = field(default_factory=list)
    """What a crosscoder reads and reconstructs; `hook_name` is these, joined by "+"."""
    decoder_hooks: list[str] = field(default_factory=list)
    """Where features have a decoder row each, if at several hooks: those of a crosscoder or of a cross-layer transcoder."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The LM whose activations the SAEs read."""

    slug: str
    name: str
    architecture: str
    d_model: int
    d_vocab: int
    n_layers: int | None = None
    vocabulary: str | None = None
    """Path of the vocabulary file below the site's root; None where the strings travel with the shards."""


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """The text that was read."""

    name: str
    n_documents: int
    n_contexts: int
    n_tokens: int
    """Counted tokens."""
    context_length: int
    documents: str | None = None
    """Path of the list of document names below the site's root."""


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """All features of one SAE by column: `data/<slug>/features.json.gz`."""

    id: list[FeatureId]
    density: list[float]
    max_act: list[float]
    label: list[str]
    """Empty where a feature has none."""
    precision: list[float | None]
    recall: list[float | None]
    top_token: list[TokenId | None]
    strings: dict[str, str | dict[str, str]] | None = None
    """As in `Shard`, for the tokens of `top_token`."""
    version: int = CONTRACT_VERSION


@dataclass(frozen=True, slots=True)
class ContrastInfo:
    """A contrast of two sets of texts: `contrast/<slug>/index.html`."""

    slug: str
    title: str
    path: str
    """Of its numbers below the site's root, as `sae_fast.contrast.Contrast` writes them, compressed."""
    saes: list[str]
    """Slugs of the SAEs of this site whose features it compares."""
    n_found: int
    """Features that differ at its false-discovery rate, of all its SAEs."""


@dataclass(frozen=True, slots=True)
class ComparisonInfo:
    """A comparison of SAEs, measured on the same tokens: `comparison/<slug>/index.html`."""

    slug: str
    title: str
    path: str
    """Of its numbers below the site's root, as `sae_fast.evaluation` writes them, compressed."""
    saes: list[str]
    """Slugs of the SAEs of this site that it measures."""
    n_saes: int
    """SAEs that it measures, those that are not on this site included."""


@dataclass(frozen=True, slots=True)
class TrainingInfo:
    """A report of a training run: `training/<slug>/index.html`."""

    slug: str
    title: str
    saes: list[str]
    """Slugs of the SAEs of this site that the run made."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """`data/manifest.json`: what the site holds and who wrote it."""

    title: str
    description: str
    build_id: str
    generator: str
    models: list[ModelInfo]
    corpus: CorpusInfo
    saes: list[SaeInfo]
    citation: str | None = None
    contrasts: list[ContrastInfo] = field(default_factory=list)
    comparisons: list[ComparisonInfo] = field(default_factory=list)
    trainings: list[TrainingInfo] = field(default_factory=list)
    version: int = CONTRACT_VERSION
