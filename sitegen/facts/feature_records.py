"""From the activation index and the weights to one record per feature."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_fast import SAEConfig
from sae_fast.corpus.tokens import TokenDataset
from sitegen.activation_index import ActivationIndex
from sitegen.errors import MismatchError, NonFiniteError
from sitegen.explain.labeller import Labeller
from sitegen.facts.activations import FeatureRange, read_ranges
from sitegen.facts.coactivation import Coactive, most_coactive
from sitegen.facts.contexts import Corpus
from sitegen.facts.decoder import DecoderNorms, hooks_of, into_stream
from sitegen.facts.density import densities
from sitegen.facts.histogram import activation_histograms, log_histograms
from sitegen.facts.logits import LogitEffects
from sitegen.facts.neighbours import Neighbours
from sitegen.facts.options import FactOptions
from sitegen.facts.tokens import top_tokens
from sitegen.facts.windows import example_groups
from sitegen.records import Dead, FeatureRecord
from sitegen.vocabulary import Vocabulary

Progress = Callable[[int], object]


def compute(
    index: ActivationIndex,
    dataset: TokenDataset,
    sae: Any,
    unembed: Any | None,
    vocabulary: Vocabulary,
    options: FactOptions | None = None,
    features: Iterable[int] | None = None,
    progress: Progress | None = None,
) -> Iterator[FeatureRecord]:
    """Yield the record of every feature, or of `features`, by ascending id; memory is bounded by a range of features.

    `sae.W_dec [d_sae, d_out]` or `[d_sae, n_out, d_out]`, and `sae.cfg` where it writes at several hooks;
    `unembed.W_U [d_model, d_vocab]` and `unembed.norm_weight [d_model]`: logit effects are left out where it is None or where
    the SAE does not write into the residual stream (d_out ≠ d_model). `progress` is called with the number of features finished
    since its last call. Raises MismatchError where the inputs do not belong together, NonFiniteError where the decoder holds
    NaN or infinity; both before the first record.
    """
    options = options or FactOptions()
    wanted = _wanted(features, index.d_sae)
    _check(index, dataset, sae)
    return _records(index, dataset, sae.W_dec, getattr(sae, "cfg", None), unembed, vocabulary, options, wanted, progress)


def _records(
    index: ActivationIndex,
    dataset: TokenDataset,
    W_dec: torch.Tensor,
    cfg: SAEConfig | None,
    unembed: Any | None,
    vocabulary: Vocabulary,
    options: FactOptions,
    wanted: NDArray[np.int64],
    progress: Progress | None,
) -> Iterator[FeatureRecord]:
    corpus = Corpus(dataset)
    coactive: dict[int, Coactive] = {}
    if options.coactive:
        coactive = most_coactive(index, wanted, options.coactive, options.min_together, options.pair_bytes)
    logits = None
    written = None if unembed is None else into_stream(W_dec, cfg, unembed.W_U.shape[0])
    if written is not None and options.logits:
        logits = LogitEffects(written, unembed, options.logits, options.bins, options.normed_logits)
    norms = DecoderNorms(W_dec, cfg) if hooks_of(cfg) else None
    neighbours = Neighbours(W_dec.flatten(1), options.neighbours) if options.neighbours else None
    labeller = Labeller(dataset, vocabulary, options.label_tokens) if options.labels else None
    for activations in read_ranges(index, wanted):
        yield from _range_records(activations, index.n_counted, corpus, options, coactive, logits, norms, neighbours, labeller)
        if progress is not None:
            progress(len(activations))


def _range_records(
    activations: FeatureRange,
    n_counted: int,
    corpus: Corpus,
    options: FactOptions,
    coactive: dict[int, Coactive],
    logits: LogitEffects | None,
    norms: DecoderNorms | None,
    neighbours: Neighbours | None,
    labeller: Labeller | None,
) -> Iterator[FeatureRecord]:
    first, last = activations.first, activations.last
    nothing: list[Any] = [None] * len(activations)
    levels = densities(activations, n_counted)
    histograms = activation_histograms(activations, options.bins)
    logs = log_histograms(activations)
    groups = example_groups(activations, corpus, options)
    tokens = top_tokens(activations, corpus.flat_tokens, options.top_tokens) if options.top_tokens else nothing
    effects = logits.of(first, last) if logits else nothing
    lengths = norms.of(first, last) if norms else nothing
    nearest = neighbours.of(first, last) if neighbours else nothing
    labels = labeller.labels(activations, effects) if labeller else nothing
    for row in range(len(activations)):
        is_dead = levels.n_active[row] == 0
        yield FeatureRecord(
            id=first + row,
            density=levels.density[row],
            n_active=levels.n_active[row],
            max_act=levels.max_act[row],
            mean_act=levels.mean_act[row],
            label=labels[row],
            histogram=histograms[row],
            log_histogram=logs[row],
            logits=effects[row],
            decoder_norms=lengths[row],
            groups=groups[row],
            neighbours=nearest[row],
            coactive=None if is_dead else coactive.get(first + row),
            top_tokens=tokens[row],
            dead=Dead(n_counted) if is_dead else None,
        )


def _wanted(features: Iterable[int] | None, d_sae: int) -> NDArray[np.int64]:
    if features is None:
        return np.arange(d_sae, dtype=np.int64)
    wanted = np.array(sorted(set(features)), dtype=np.int64)
    if len(wanted) and not (0 <= wanted[0] and wanted[-1] < d_sae):
        wrong = int(wanted[0]) if wanted[0] < 0 else int(wanted[-1])
        raise MismatchError(f"Feature {wrong} does not exist: the SAE has features 0 to {d_sae - 1}.")
    return wanted


def _check(index: ActivationIndex, dataset: TokenDataset, sae: Any) -> None:
    if len(sae.W_dec) != index.d_sae:
        raise MismatchError(
            f"The SAE has {len(sae.W_dec)} features, its activation index {index.d_sae}: expected the index of this SAE."
        )
    if index.n_positions != dataset.n_positions or index.context_length != dataset.context_length:
        raise MismatchError(
            f"The activation index covers {index.n_positions} positions in contexts of {index.context_length}, the token "
            f"dataset {dataset.n_positions} in contexts of {dataset.context_length}: expected the index of this dataset."
        )
    if not bool(torch.isfinite(sae.W_dec).all()):
        raise NonFiniteError("The decoder W_dec holds NaN or infinity: the SAE's weights are damaged.")
