"""An evaluation from texts to report: tokens, one reading of all SAEs, numbers with intervals."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sae_fast.config import THRESHOLD_ARCHITECTURES
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
from sae_fast.evaluation.run import measure, n_passes, with_prefixes
from sae_fast.lm.interface import LanguageModel
from sae_fast.progress import step
from sae_fast.sae import SAE

LOWEST_DECADE, BINS_A_DECADE = -6, 8


def evaluate_texts(
    lm: LanguageModel,
    saes: Mapping[str, SAE],
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
        saes: SAEs by name, on the device of the LM.
        corpus: the texts, and how they become contexts; `max_tokens` bounds the counted tokens.
        model_name: what to call the LM.
        sources: where each SAE comes from, by its name, for the report.
        batch_size: contexts that the LM reads at once.
        prefixes: also measure the prefixes of matryoshka SAEs (`with_prefixes`).
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
    every = with_prefixes(saes) if prefixes else dict(saes)
    with tempfile.TemporaryDirectory() as folder:
        dataset = _tokens(lm, saes, corpus, Path(folder), progress)
        batches = DatasetBatches(dataset, batch_size)
        classes = TokenClasses.by_text(lm.tokenizer, lm.d_vocab)
        with step("evaluation", n_passes(every, len(batches)), "passes of the model", enabled=progress) as advance:
            found = measure(lm, every, batches, classes=classes, progress=advance)
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
        saes=tuple(_sae(name, sae, saes, sources or {}, metrics[name], found, seed, resamples) for name, sae in every.items()),
        notes=_notes(saes) if prefixes else (),
    )
    return report, found


def density_histogram(counts: Tensor, n_tokens: int) -> list[int]:
    """Features `[d_sae]` by log10 of their density: 8 bins a decade from 1e-6 to 1, the rarer in the first, 0 in none."""
    logs = (counts[counts > 0].double() / n_tokens).log10().clamp(LOWEST_DECADE, -1e-9)
    return torch.histc(logs, -LOWEST_DECADE * BINS_A_DECADE, LOWEST_DECADE, 0).long().tolist()


def _tokens(lm: LanguageModel, saes: Mapping[str, SAE], options: CorpusOptions, folder: Path, progress: bool) -> TokenDataset:
    corpus = open_corpus(options)
    prefix = choose_prefix(lm.tokenizer, options.prepend_bos, [sae.cfg.prepend_bos for sae in saes.values()], corpus.is_chat)
    tokeniser = Tokeniser(lm.tokenizer, options.context_length, prefix, options.count_special, options.roles)
    with step("tokens", corpus.n_documents or 0, "documents", enabled=progress) as advance:
        dataset = write_tokens(folder, corpus, tokeniser, options.max_tokens, advance)
    check_tokens(dataset, lm.n_ctx, lm.d_vocab)
    return dataset


def _sae(
    name: str,
    sae: SAE,
    given: Mapping[str, SAE],
    sources: Mapping[str, str],
    metrics: Metrics,
    found: Evaluation,
    seed: int,
    resamples: int,
) -> SaeReport:
    cfg, whole = sae.cfg, None if name in given else name.rpartition("[")[0]
    numbers = {key: value for key, value in vars(metrics).items() if isinstance(value, float | None)}
    return SaeReport(
        name=name,
        source=sources.get(whole or name, ""),
        hook_name=str(cfg.hook_name),
        hooks_out=list(found.saes[name].hooks),
        architecture=cfg.architecture,
        d_in=cfg.d_in,
        d_sae=cfg.d_sae,
        k=cfg.k,
        prefix_of=whole,
        metrics=numbers,
        intervals={key: None if ends is None else list(ends) for key, ends in found.intervals(name, seed, resamples).items()},
        n_not_seen=metrics.n_not_seen,
        n_dead=metrics.n_dead,
        n_dense=metrics.n_dense,
        density=density_histogram(metrics.feature_counts, metrics.n_tokens),
        by_position=found.by_position(name),
        by_class=found.by_class(name),
    )


def _notes(saes: Mapping[str, SAE]) -> tuple[str, ...]:
    return tuple(
        f"The prefixes of {name} are not reported: its features compete for {sae.cfg.k} places, so that some of them alone are "
        "another SAE than what was trained."
        for name, sae in saes.items()
        if sae.cfg.group_sizes and len(sae.cfg.group_sizes) > 1 and sae.cfg.architecture not in THRESHOLD_ARCHITECTURES
    )
