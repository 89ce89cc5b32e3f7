"""What a release needs: its SAEs with their configurations, and every stage with the fingerprint of its inputs.

Making a plan reads headers and hashes files; it loads neither the LM nor the weights of an SAE.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_fast import SAEConfig, formats
from sae_fast.corpus import corpus_fingerprint
from sae_fast.files import content_fingerprint, source_fingerprint
from sitegen import collect
from sitegen.comparison import SiteComparison, open_comparisons
from sitegen.contrast import SiteContrast, open_contrasts
from sitegen.errors import MismatchError, ReleaseError
from sitegen.hooks import compact
from sitegen.records import FeatureId
from sitegen.release import Release, SaeOptions
from sitegen.stages import Stage
from sitegen.training import SiteTraining, open_trainings

TOKENS_VERSION = 1
"""Raised when the same corpus gives other tokens."""
EVALUATION_VERSION = 1
"""Raised when the same inputs give other metrics."""

PACKAGE = Path(__file__).parent
FACTS_CODE = ("facts", "explain", "vocabulary.py", "records.py")


@dataclass(frozen=True)
class SaePlan:
    """One SAE of the release, and its stages."""

    slug: str
    options: SaeOptions
    cfg: SAEConfig
    hook_name: str
    """where it reads: a hook, or those of a crosscoder joined by "+"."""
    evaluation: Stage | None
    """None where the release asks for no evaluation"""
    activations: Stage
    facts: Stage

    @property
    def name(self) -> str:
        kind = f"{self.cfg.architecture} crosscoder" if self.cfg.crosscoder else self.cfg.architecture
        return self.options.name or f"{compact(self.hook_name.split('+'))} ({kind})"

    @property
    def architecture(self) -> str:
        return self.cfg.architecture

    @property
    def d_sae(self) -> int:
        return self.cfg.d_sae

    @property
    def stages(self) -> list[Stage]:
        return [stage for stage in (self.evaluation, self.activations, self.facts) if stage is not None]

    @property
    def is_done(self) -> bool:
        return all(stage.is_done for stage in self.stages)

    def features(self, chosen: Sequence[FeatureId] | None) -> Sequence[FeatureId]:
        """Return the features whose records are built."""
        return range(self.cfg.d_sae) if chosen is None else chosen


@dataclass(frozen=True)
class Plan:
    """A release, and the stages that make it."""

    release: Release
    features: tuple[FeatureId, ...] | None
    """features to build records of; None: all"""
    every: int
    """read one document in so many (a preview)"""
    model: Stage
    tokens: Stage
    saes: tuple[SaePlan, ...]
    contrasts: tuple[SiteContrast, ...] = ()
    comparisons: tuple[SiteComparison, ...] = ()
    trainings: tuple[SiteTraining, ...] = ()

    @property
    def stages(self) -> list[Stage]:
        """All stages whose work needs the LM."""
        return [self.model, self.tokens, *(stage for sae in self.saes for stage in sae.stages)]

    @property
    def needs_lm(self) -> bool:
        return not all(stage.is_done for stage in self.stages)


def make_plan(release: Release, cache: Path, features: Sequence[FeatureId] | None = None, every: int = 1) -> Plan:
    """Read the headers of the SAEs, hash every source, and return the stages."""
    chosen = None if features is None else tuple(sorted(set(features)))
    configurations = [_configuration(sae) for sae in release.sae]
    model = {**asdict(release.model), "source": source_fingerprint(release.model.source), "name": None}
    trained_with = sorted({str(cfg.prepend_bos) for cfg in configurations})
    corpus = {**asdict(release.corpus), "source": corpus_fingerprint(release.corpus), "every": every}
    tokens = Stage(
        "tokens",
        cache,
        {"version": TOKENS_VERSION, "corpus": corpus, "tokenizer": model["source"], "trained_with": trained_with},
    )
    saes = []
    for slug, options, cfg in zip(slugs(release.sae, configurations), release.sae, configurations, strict=True):
        saes.append(_sae_plan(release, cache, chosen, tokens, model, slug, options, cfg))
    contrasts = tuple(open_contrasts(release.contrast, saes))
    comparisons = tuple(open_comparisons(release.comparison, saes))
    trainings = tuple(open_trainings(saes))
    stage = Stage("model", cache, {"version": 1, **model})
    return Plan(release, chosen, every, stage, tokens, tuple(saes), contrasts, comparisons, trainings)


def _configuration(options: SaeOptions) -> SAEConfig:
    """Of an SAE, with the hooks that the release names. Raises `ArgumentError` where these do not fit it."""
    cfg = formats.info(options.source).cfg
    return formats.with_hooks(cfg, options.hook_name, options.hook_names)


def _sae_plan(
    release: Release,
    cache: Path,
    features: tuple[FeatureId, ...] | None,
    tokens: Stage,
    model: dict[str, Any],
    slug: str,
    options: SaeOptions,
    cfg: SAEConfig,
) -> SaePlan:
    hook_name = cfg.reads_at
    if hook_name is None and cfg.crosscoder:
        raise _unplaced_crosscoder(options, cfg)
    if hook_name is None:
        raise ReleaseError(
            f"SAE {options.source}: its files do not say where in the model it reads. Add hook_name to its [[sae]] table, such "
            'as hook_name = "blocks.8.hook_resid_post".'
        )
    if features and features[-1] >= cfg.d_sae:
        raise MismatchError(f"Feature {features[-1]} does not exist: SAE {slug} has features 0 to {cfg.d_sae - 1}.")
    sae = {
        "source": source_fingerprint(options.source),
        "hook_name": hook_name,
        "fold_decoder_norm": options.fold_decoder_norm,
        "dtype": options.dtype,
    }
    run = {"tokens": tokens.fingerprint, "model": model, "sae": sae, "batch_size": release.build.batch_size}
    index = {"version": collect.VERSION, **run, "part_tokens": release.build.part_tokens}
    if release.build.activations is not None:
        index["stored"] = source_fingerprint(release.build.activations)
    activations = Stage(f"activations-{slug}", cache, index)
    evaluation = None
    if release.evaluation.tokens:
        inputs = {"version": EVALUATION_VERSION, **run, "n_tokens": release.evaluation.tokens}
        evaluation = Stage(f"evaluation-{slug}", cache, inputs)
    code = [content_fingerprint(PACKAGE / name) for name in FACTS_CODE]
    facts = Stage(
        f"facts-{slug}",
        cache,
        {"code": code, "activations": activations.fingerprint, "options": asdict(release.facts), "features": features},
    )
    return SaePlan(slug, options, cfg, hook_name, evaluation, activations, facts)


def _unplaced_crosscoder(options: SaeOptions, cfg: SAEConfig) -> ReleaseError:
    if models := cfg.metadata.get("models"):
        return ReleaseError(
            f"SAE {options.source}: a crosscoder of several models ({', '.join(models)}), and a site is of one."
        )
    return ReleaseError(
        f"SAE {options.source}: its files do not say where in the model this crosscoder reads. Add hook_names with its "
        f"{len(cfg.hook_widths)} hooks to its [[sae]] table."
    )


def slugs(options: Sequence[SaeOptions], configurations: Sequence[SAEConfig]) -> list[str]:
    """Return the name in addresses of each SAE: the one given, else from hook and architecture, numbered where it is taken."""
    taken = {option.slug for option in options if option.slug is not None}
    found = []
    for option, cfg in zip(options, configurations, strict=True):
        slug = option.slug
        if slug is None:
            slug = base = default_slug(compact(cfg.hooks_read) or "sae", cfg.architecture)
            number = 1
            while slug in taken:
                number += 1
                slug = f"{base}-{number}"
            taken.add(slug)
        found.append(slug)
    return found


def default_slug(hook_name: str, architecture: str) -> str:
    """Return `6-resid-post-topk` for `blocks.6.hook_resid_post` and `topk`."""
    return slugified(f"{hook_name.removeprefix('blocks.').replace('hook_', '')}-{architecture}")


def slugified(text: str) -> str:
    """Return `text` in small letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "sae"
