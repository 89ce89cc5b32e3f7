"""k-sparse probing: what a few features of an SAE tell about labels of texts, beside all of the activation.

    labelled = read_labelled("reviews.jsonl")
    for probe in probe_texts(lm, {"layer-8": sae}, labelled): print(probe)

As in SAEBench and Gurnee et al. 2023 (arXiv 2305.01610): features are chosen by the difference of their means between the label
and the rest, and a logistic regression on these is compared with one on the activation that the SAE reads.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from sae_fast.corpus.corpus import Document
from sae_fast.corpus.tokenise import Tokeniser, choose_prefix
from sae_fast.corpus.tokens import TokenDataset, TokenDatasetWriter
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.evaluation.batches import DatasetBatches
from sae_fast.evaluation.logistic import area_under_curve, choose, fit
from sae_fast.lm.interface import LanguageModel
from sae_fast.lm.places import Place, places
from sae_fast.progress import step
from sae_fast.sae import SAE

KS = (1, 2, 5, 10)


@dataclass(frozen=True)
class Labelled:
    """A text and its label."""

    text: str
    label: str


@dataclass(frozen=True)
class Probe:
    """One probe on held-out texts."""

    sae: str
    label: str
    """What it tells from the rest. Of two labels, the second in order."""
    k: int | None
    """Features that it reads; None: all of the activation that the SAE reads (the dense baseline)."""
    features: tuple[int, ...]
    """These features, the most different first."""
    accuracy: float
    balanced_accuracy: float
    """Mean of the shares of the label, and of the rest, that are told rightly."""
    auc: float
    """Area under the ROC curve."""
    base_rate: float
    """Share of the more frequent of label and rest: the accuracy of saying always the same."""
    n_train: int
    n_test: int
    strength: float
    """L2 penalty, chosen by cross-validation on the training texts."""


def read_labelled(path: str | Path) -> list[Labelled]:
    """Read a JSON object a line, `{"text": "…", "label": "…"}`; labels may be texts, whole numbers or true and false.

    Raises `FormatError` for anything else, naming the line.
    """
    path, found = Path(path), []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}", expected="a file of UTF-8 text", got=error) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FormatError(f"{path}, line {number}", expected="JSON", got=error) from error
        good = isinstance(row, dict) and isinstance(row.get("text"), str) and isinstance(row.get("label"), str | int)
        if not good:
            raise FormatError(f"{path}, line {number}", expected='{"text": "…", "label": "…"}', got=line[:80])
        found.append(Labelled(row["text"], str(row["label"])))
    return found


def probe_texts(
    lm: LanguageModel,
    saes: Mapping[str, SAE],
    labelled: Sequence[Labelled],
    *,
    ks: Sequence[int] = KS,
    test_share: float = 0.25,
    context_length: int = 128,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> list[Probe]:
    """Probe each SAE, and the activation that it reads, for each label against the rest.

    A text is the mean of its tokens, special ones left out; long texts are read in several contexts. Training and test texts
    are drawn label by label, so that both hold every label in like shares.

    Raises:
        ArgumentError: fewer than two labels, or a label with fewer than 4 texts; k below 1.
        HookNotFoundError: the LM lacks the hook of an SAE.
    """
    if not ks or min(ks) < 1:
        raise ArgumentError("ks", expected="numbers of features, at least 1", got=list(ks))
    with tempfile.TemporaryDirectory() as folder:
        dataset = _tokens(lm, saes, labelled, context_length, Path(folder))
        kept = [labelled[int(name)] for name in dataset.documents]
        labels = _labels(kept)
        pooled = _pool(lm, saes, dataset, batch_size, progress)
    is_test = _split([text.label for text in kept], test_share, seed)
    found: list[Probe] = []
    dense: dict[tuple[str, str], Probe] = {}
    with step("probes", len(saes) * len(labels) * (len(ks) + 1), "probes", enabled=progress) as advance:
        for name in saes:
            for label in labels:
                y = torch.tensor([text.label == label for text in kept])
                key = (pooled.read[name], label)
                if key not in dense:
                    dense[key] = _probe(name, label, None, (), pooled.dense[key[0]], y, is_test, seed)
                found.append(replace(dense[key], sae=name))
                order = pooled.by_difference(name, y & ~is_test, ~y & ~is_test, max(ks))
                advance(1)
                for k in ks:
                    columns = pooled.columns(name, order[:k])
                    found.append(_probe(name, label, k, tuple(order[:k]), columns, y, is_test, seed))
                    advance(1)
    return found


@dataclass(eq=False)
class _Pooled:
    """Means over the tokens of each text."""

    dense: dict[str, Tensor]
    """float64 `[n_texts, d]` by where an SAE reads: a hook, or the hooks of a crosscoder, side by side."""
    read: dict[str, str]
    """Of each SAE where it reads."""
    text: dict[str, Tensor]
    feature: dict[str, Tensor]
    value: dict[str, Tensor]
    """Of each SAE the entries other than 0: text, feature and mean."""
    d_sae: dict[str, int]
    n_texts: int

    def by_difference(self, sae: str, inside: Tensor, outside: Tensor, n: int) -> list[int]:
        """The features with the largest |mean inside - mean outside|, ties by lower index."""
        weight = inside.double() / inside.sum() - outside.double() / outside.sum()
        difference = torch.zeros(self.d_sae[sae], dtype=torch.float64)
        difference.index_add_(0, self.feature[sae], self.value[sae] * weight[self.text[sae]])
        return difference.abs().sort(descending=True, stable=True).indices[:n].tolist()

    def columns(self, sae: str, features: Sequence[int]) -> Tensor:
        """float64 `[n_texts, len(features)]`."""
        found = torch.zeros(self.n_texts, len(features), dtype=torch.float64)
        for place, feature in enumerate(features):
            here = self.feature[sae] == feature
            found[self.text[sae][here], place] = self.value[sae][here]
        return found


@torch.no_grad()
def _pool(lm: LanguageModel, saes: Mapping[str, SAE], dataset: TokenDataset, batch_size: int, progress: bool) -> _Pooled:
    n_texts = len(dataset.documents)
    at = {name: places(sae)[0] for name, sae in saes.items()}
    reads = {place.read: place.reads for place in at.values()}
    hooks = list(dict.fromkeys(hook for read in reads.values() for hook in read))
    dense = {read: torch.zeros(n_texts, sum(map(lm.d_hook, among)), dtype=torch.float64) for read, among in reads.items()}
    n_tokens = torch.zeros(n_texts, dtype=torch.float64)
    entries: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in saes}
    batches = DatasetBatches(dataset, batch_size)
    with step("activations", len(batches), "batches", enabled=progress) as advance:
        for batch in batches:
            token_ids, counted, mask = batch[:3]
            text = batch[-1][:, None].expand_as(token_ids)[counted]
            found = lm.activations(token_ids, hooks, mask)
            n_tokens += text.bincount(minlength=n_texts)
            for read, among in reads.items():
                x = torch.cat([found[hook].cpu()[counted].double() for hook in among], 1)
                dense[read].index_add_(0, text, x)
            for name, place in at.items():
                entries[name].append(_sums(place, found, counted, text))
            advance(1)
    dense = {read: total / n_tokens[:, None] for read, total in dense.items()}
    read_by = {name: place.read for name, place in at.items()}
    pooled = _Pooled(dense, read_by, {}, {}, {}, {name: sae.cfg.d_sae for name, sae in saes.items()}, n_texts)
    for name, parts in entries.items():
        key, value = _added(torch.cat([key for key, _ in parts]), torch.cat([value for _, value in parts]))
        pooled.text[name], pooled.feature[name] = key // pooled.d_sae[name], key % pooled.d_sae[name]
        pooled.value[name] = value / n_tokens[pooled.text[name]]
    return pooled


def _sums(place: Place, found: Mapping[str, Tensor], counted: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """(text * d_sae + feature, sum of activations) of one batch."""
    sae, x = place.sae, place.input(found)
    where = counted.to(x.device)
    acts = sae.encode(x).rows(where) if sae.cfg.temporal is not None else sae.encode(x[where])
    key = text[acts.row_indices().cpu()] * acts.shape[1] + acts.col_indices.cpu()
    return _added(key, acts.values.cpu().double())


def _added(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the values with one key."""
    keys, index = key.unique(return_inverse=True)
    return keys, torch.zeros(len(keys), dtype=torch.float64).index_add_(0, index, value)


def _tokens(
    lm: LanguageModel, saes: Mapping[str, SAE], labelled: Sequence[Labelled], context_length: int, folder: Path
) -> TokenDataset:
    prefix = choose_prefix(lm.tokenizer, "auto", [sae.cfg.prepend_bos for sae in saes.values()])
    tokeniser = Tokeniser(lm.tokenizer, min(context_length, lm.n_ctx or context_length), prefix)
    documents = [Document(str(i), text.text) for i, text in enumerate(labelled)]
    with TokenDatasetWriter(folder, tokeniser.context_length, prefix, tokeniser.pad) as writer:
        for document, (ids, kind) in zip(documents, tokeniser.encode(documents), strict=True):
            # A text without a counted token has no mean.
            if (kind == 1).any():
                writer.add(document.name, ids, kind)
        return writer.finish()


def _labels(kept: Sequence[Labelled]) -> list[str]:
    """Labels that get a probe. Of two, one says all."""
    counts: dict[str, int] = {}
    for text in kept:
        counts[text.label] = counts.get(text.label, 0) + 1
    rare = [label for label, n in counts.items() if n < 4]
    if len(counts) < 2 or rare:
        got = f"{len(counts)} labels" if len(counts) < 2 else f"{counts[rare[0]]} of {rare[0]!r}"
        raise ArgumentError("labelled texts", expected="at least two labels, and 4 texts of each with a token in them", got=got)
    labels = sorted(counts)
    return labels[1:] if len(labels) == 2 else labels


def _split(labels: Sequence[str], test_share: float, seed: int) -> Tensor:
    """Which texts are for the test, bool `[n]`: of each label the same share, at least one, and at least two are left."""
    generator = torch.Generator().manual_seed(seed)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels)):
        members = torch.tensor([i for i, other in enumerate(labels) if other == label])
        n = min(max(round(test_share * len(members)), 1), len(members) - 2)
        is_test[members[torch.randperm(len(members), generator=generator)[:n]]] = True
    return is_test


def _probe(
    sae: str, label: str, k: int | None, features: tuple[int, ...], x: Tensor, y: Tensor, is_test: Tensor, seed: int
) -> Probe:
    strength = choose(x[~is_test], y[~is_test], seed)
    score, truth = fit(x[~is_test], y[~is_test], strength).score(x[is_test]), y[is_test]
    right = (score > 0) == truth
    share = float(truth.double().mean())
    area = area_under_curve(score, truth)
    assert area is not None
    balanced = (float(right[truth].double().mean()) + float(right[~truth].double().mean())) / 2
    return Probe(
        sae, label, k, features, float(right.double().mean()), balanced, area, max(share, 1 - share),
        int((~is_test).sum()), int(is_test.sum()), strength,
    )  # fmt: skip
