"""An evaluation from texts to report: tokens, the means, one reading for all SAEs, numbers with intervals."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sae_fast.corpus.batch import check_tokens
from sae_fast.corpus.corpus import open_corpus
from sae_fast.corpus.options import CorpusOptions
from sae_fast.corpus.tokenise import Tokeniser, choose_prefix, write_tokens
from sae_fast.corpus.tokens import TokenDataset
from sae_fast.errors import ArgumentError
from sae_fast.evaluation.batches import DatasetBatches
from sae_fast.evaluation.groupings import TokenClasses
from sae_fast.evaluation.metrics import Metrics
from sae_fast.evaluation.report import EvaluationReport, SaeReport
from sae_fast.evaluation.result import RESAMPLES, Evaluation
from sae_fast.evaluation.run import mean_activations, measure, n_passes
from sae_fast.evaluation.subjects import Measured, Subject, require_fit, subjects, written_hooks
from sae_fast.lm.interface import LanguageModel
from sae_fast.progress import step

LOWEST_DECADE, BINS_A_DECADE = -6, 8
FEW_BLOCKS = 20
"""Percentiles of resamples of fewer documents than these are too narrow."""


def evaluate_texts(
    lm: LanguageModel,
    saes: Mapping[str, Measured],
    corpus: CorpusOptions,
    *,
    model_name: str = "",
    sources: Mapping[str, str] | None = None,
    batch_size: int = 16,
    prefixes: bool = True,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: bool = True,
) -> tuple[EvaluationReport, Evaluation]:
    """Measure SAEs on a corpus, all of them in one reading of it.

    Args:
        lm: the language model, with its tokenizer.
        saes: SAEs by name, on the device of the LM; see `measure`.
        corpus: the texts, and how they become contexts; `max_tokens` bounds the counted tokens.
        model_name: what to call the LM.
        sources: where each SAE comes from, by its name, for the report.
        batch_size: contexts that the LM reads at once.
        prefixes: also measure the prefixes of matryoshka SAEs.
        seed: of the bootstrap; the same seed gives the same intervals.
        resamples: of the bootstrap.
        progress: show progress on standard error.

    Raises:
        CorpusError: the corpus is missing, empty, or holds no counted token.
        MismatchError: SAEs that were trained with and without BOS, or contexts longer than the LM reads.
        ArgumentError, HookNotFoundError, ShapeError, NonFiniteError: as `measure`.
    """
    if resamples < 1:
        raise ArgumentError("resamples", expected="at least 1", got=resamples)
    every = subjects(saes, prefixes)
    require_fit(lm, every)
    with tempfile.TemporaryDirectory() as folder:
        dataset = _tokens(lm, every, corpus, Path(folder), progress)
        batches = DatasetBatches(dataset, batch_size)
        # Two steps, since their passes take different times: those for the means end at the last hook.
        with step("means (1 of 2)", len(batches), "batches", enabled=progress) as advance:
            means = mean_activations(lm, written_hooks(every), batches, advance)
        n = n_passes(saes, len(batches), prefixes=prefixes, means_known=True)
        classes = TokenClasses.by_text(lm.tokenizer, lm.d_vocab)
        with step("evaluation (2 of 2)", n, "passes of the model", enabled=progress) as advance:
            found = measure(lm, saes, batches, prefixes=prefixes, classes=classes, means=means, progress=advance)
        name = str((dataset.info or {}).get("made_from", {}).get("corpus", corpus.source))
    metrics = found.metrics()
    first = next(iter(metrics.values()))
    report = EvaluationReport(
        model=model_name,
        corpus=name,
        n_tokens=first.n_tokens,
        n_predictions=first.n_predictions,
        n_documents=len(found.documents),
        n_blocks=found.n_blocks(),
        context_length=corpus.context_length,
        dtype=str(lm.unembed().W_U.dtype).removeprefix("torch."),
        seed=seed,
        resamples=resamples,
        saes=tuple(
            _sae(subject, name, (sources or {}).get(subject.name, ""), metrics[name], found, seed, resamples)
            for subject in every
            for name in subject.names
        ),
        notes=_notes(found.n_blocks()),
    )
    return report, found


def _notes(n_blocks: int) -> tuple[str, ...]:
    if not 1 < n_blocks < FEW_BLOCKS:
        return ()
    return (
        f"Intervals rest on only {n_blocks} documents, and say little of others: measure on more tokens, or shorter texts.",
    )


def density_histogram(counts: Tensor, n_tokens: int) -> list[int]:
    """Features `[d_sae]` by log10 of their density: 8 bins a decade from 1e-6 to 1, the rarer in the first, 0 in none."""
    logs = (counts[counts > 0].double() / n_tokens).log10().clamp(LOWEST_DECADE, -1e-9)
    return torch.histc(logs, -LOWEST_DECADE * BINS_A_DECADE, LOWEST_DECADE, 0).long().tolist()


def _tokens(lm: LanguageModel, every: list[Subject], options: CorpusOptions, folder: Path, progress: bool) -> TokenDataset:
    corpus = open_corpus(options)
    trained_with = [place.sae.cfg.prepend_bos for subject in every for place in subject.places]
    prefix = choose_prefix(lm.tokenizer, options.prepend_bos, trained_with, corpus.is_chat)
    tokeniser = Tokeniser(lm.tokenizer, options.context_length, prefix, options.count_special, options.roles)
    with step("tokens", corpus.n_documents or 0, "documents", enabled=progress) as advance:
        dataset = write_tokens(folder, corpus, tokeniser, options.max_tokens, advance)
    check_tokens(dataset, lm.n_ctx, lm.d_vocab)
    return dataset


def _sae(subject: Subject, name: str, source: str, metrics: Metrics, found: Evaluation, seed: int, resamples: int) -> SaeReport:
    cfg, sums, drawn = subject.first.cfg, found.saes[name], (name, seed, resamples)
    numbers = {key: value for key, value in vars(metrics).items() if isinstance(value, float | None)}
    return SaeReport(
        name=name,
        source=source,
        hook_name=subject.places[0].read,
        hooks_in=list(subject.reads),
        hooks_out=list(sums.hooks),
        architecture=", ".join(dict.fromkeys(sae.cfg.architecture for sae in subject.layers.values())),
        d_in=cfg.d_in,
        d_sae=sums.n_features,
        k=cfg.k,
        prefix_of=sums.prefix_of,
        metrics=numbers,
        intervals={key: None if ends is None else list(ends) for key, ends in found.intervals(*drawn).items()},
        n_not_seen=metrics.n_not_seen,
        n_dead=metrics.n_dead,
        n_dense=metrics.n_dense,
        density=density_histogram(metrics.feature_counts, metrics.n_tokens),
        by_position=found.by_position(*drawn),
        by_class=found.by_class(*drawn),
        by_hook=found.by_hook(*drawn),
        by_layer=found.by_layer(*drawn),
    )
