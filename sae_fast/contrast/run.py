"""A contrast from texts to result: tokens, one pass of the LM, pooled activations, comparison."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_fast.contrast.comparison import Comparison, compare
from sae_fast.contrast.pooling import Pooling, pool
from sae_fast.contrast.report import COLUMNS, INTEGERS, Contrast, SaeContrast, Side, column
from sae_fast.contrast.texts import Text, read_texts
from sae_fast.contrast.tokens import Reader, TokenChoice, Tokens, prefix_id
from sae_fast.errors import ArgumentError, FormatError
from sae_fast.lm.interface import LanguageModel
from sae_fast.lm.places import sae_input
from sae_fast.progress import step
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs, row_pointer

Source = str | Path | Iterable[str | Mapping[str, Any]]


def contrast(
    a: Source,
    b: Source,
    *,
    lm: LanguageModel,
    saes: Mapping[str, SAE],
    pooling: Pooling = "mean",
    tokens: str = "all",
    paired: bool = False,
    names: tuple[str, str] | None = None,
    model_name: str = "",
    prepend_bos: bool | None = None,
    max_tokens: int = 1024,
    batch_size: int = 16,
    alpha: float = 0.05,
    seed: int = 0,
    resamples: int = 1000,
    permutations: int | None = None,
    min_texts: int = 1,
    progress: bool = False,
) -> Contrast:
    """Which features differ between the texts of `a` and of `b`.

    Args:
        a: the first set: path of a JSON lines file, or strings and mappings of the same form (see `read_texts`).
        b: the second set.
        lm: the language model.
        saes: SAEs by name; each reads at its `cfg.hook_name`, a crosscoder at its `cfg.hook_names`.
        pooling: what one text is worth to a feature, `mean`, `max` or `frequency` (see `pool`).
        tokens: which tokens count: `all` (all content), `role:NAME[,NAME…]`, `span` (marked in the texts) or `last:N`.
        paired: texts of both sets with the same `id` belong together; each id must stand once in each set.
        names: what to call the two sets; None: the files' names.
        model_name: what to call the model in the result.
        prepend_bos: begin each text with a BOS; None: as the SAEs were trained, else as the tokenizer does.
        max_tokens: longer texts are cut at the end, and counted.
        batch_size: texts that the LM reads at once.
        alpha: false-discovery rate at which a feature counts as found.
        seed: of permutations and bootstrap; the same seed gives the same numbers.
        resamples: bootstrap samples of texts for the intervals.
        permutations: most for one feature; None: as many as it takes (see `compare`).
        min_texts: test only features that are active in so many texts of both sets together.
        progress: show progress on standard error.

    Raises:
        FormatError: a file or a text is not of the form that is needed; the message names the line.
        ArgumentError: an option is wrong, no text is left, or ids do not pair.
        HookNotFoundError: the LM lacks the hook of an SAE.
        NonFiniteError: an activation of the LM is NaN or infinite.
    """
    if not saes:
        raise ArgumentError("saes", expected="at least one SAE", got="none")
    for name, sae in saes.items():
        if not sae.cfg.hooks_read:
            raise ArgumentError(f"SAE {name!r}: hook_name", expected="the hook that it reads", advice="Name it when loading")
    limit = max_tokens if lm.n_ctx is None else min(max_tokens, lm.n_ctx)
    prefix = prefix_id(lm.tokenizer, prepend_bos, [sae.cfg.prepend_bos for sae in saes.values()])
    reader = Reader(lm.tokenizer, TokenChoice.parse(tokens), prefix, limit)
    names = names or (_name(a, "a"), _name(b, "b"))
    sides = _Side.read(a, names[0], reader), _Side.read(b, names[1], reader)
    sides = _in_pairs(*sides) if paired else (sides[0].without_empty(), sides[1].without_empty())
    texts = [*sides[0].tokens, *sides[1].tokens]
    pooled = _pooled(lm, saes, texts, pooling, batch_size, progress)
    n_a = len(sides[0].tokens)
    found = []
    for name, sae in saes.items():
        result = compare(
            pooled[name].acts.rows(slice(0, n_a)), pooled[name].acts.rows(slice(n_a, None)), paired=paired,
            permutations=permutations, resamples=resamples, min_texts=min_texts, seed=seed, alpha=alpha, progress=progress,
        )  # fmt: skip
        found.append(_result(name, sae, result, pooled[name]))
    first, second = sides[0].summary(), sides[1].summary()
    return Contrast(first, second, model_name, pooling, tokens, paired, alpha, seed, resamples, tuple(found))


@dataclass(frozen=True)
class _Side:
    name: str
    texts: list[Text]
    tokens: list[Tokens]
    n_empty: int = 0

    @classmethod
    def read(cls, source: Source, name: str, reader: Reader) -> "_Side":
        texts = read_texts(source, name)
        return cls(name, texts, [reader.read(text) for text in texts])

    def keep(self, wanted: Sequence[int], n_empty: int) -> "_Side":
        """Some of the texts, in this order."""
        return _Side(self.name, [self.texts[i] for i in wanted], [self.tokens[i] for i in wanted], n_empty)

    def without_empty(self) -> "_Side":
        """The texts of which a token was chosen."""
        wanted = [i for i, tokens in enumerate(self.tokens) if tokens.chosen.any()]
        if not wanted:
            roles = sorted({message.role for text in self.texts for message in text.messages})
            advice = f"The roles in them are {', '.join(roles)}" if roles else "Check tokens"
            raise ArgumentError(f"{self.name}: no token was chosen in any of the {len(self.texts)} texts", advice=advice)
        return self.keep(wanted, len(self.texts) - len(wanted))

    def by_id(self) -> dict[str, int]:
        """Place of each id."""
        places: dict[str, int] = {}
        for i, text in enumerate(self.texts):
            if text.id is None:
                raise FormatError(f"{text.name}", expected='a key "id", since texts are paired', got="none")
            if text.id in places:
                raise FormatError(f"{text.name}: id {text.id!r}", expected="an id of its own", got="one that stood before")
            places[text.id] = i
        return places

    def summary(self) -> Side:
        n_tokens = sum(int(tokens.chosen.sum()) for tokens in self.tokens)
        return Side(self.name, len(self.texts), n_tokens, self.n_empty, sum(tokens.n_cut > 0 for tokens in self.tokens))


@dataclass
class _Pooled:
    """Pooled activations of all texts, and on how many chosen tokens each feature is active."""

    parts: list[SparseActs] = field(default_factory=list)
    n_active: Tensor | None = None
    n_tokens: int = 0
    order: list[int] = field(default_factory=list)

    def add(self, acts: SparseActs, text: Tensor, places: Sequence[int], how: Pooling) -> None:
        """Add the chosen tokens of some texts: `text` [n] counts from 0, `places` says which texts these are."""
        active = acts.col_indices[acts.values != 0].bincount(minlength=acts.shape[1]).cpu()
        self.n_active = active if self.n_active is None else self.n_active + active
        self.n_tokens += acts.shape[0]
        self.parts.append(pool(acts.flatten(), text, len(places), how).to("cpu"))
        self.order += places

    @property
    def acts(self) -> SparseActs:
        """`[n_texts, d_sae]`, in the order of the texts."""
        acts = SparseActs.cat([SparseActs(p.crow_indices, p.col_indices, p.values, p.shape) for p in self.parts])
        row = torch.tensor(self.order)[acts.row_indices()]
        order = row.argsort(stable=True)
        pointer = row_pointer(row.bincount(minlength=acts.shape[0]))
        return SparseActs(pointer, acts.col_indices[order], acts.values[order], acts.shape)


def _pooled(
    lm: LanguageModel, saes: Mapping[str, SAE], texts: Sequence[Tokens], how: Pooling, batch_size: int, progress: bool
) -> dict[str, _Pooled]:
    """Pooled activations by SAE. Texts of like length go through the LM together, padded on the right."""
    pooled = {name: _Pooled() for name in saes}
    hooks = list(dict.fromkeys(hook for sae in saes.values() for hook in sae.cfg.hooks_read))
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i].ids))
    with step("contrast", sum(len(text.ids) for text in texts), "tokens", progress) as advance:
        for first in range(0, len(by_length), batch_size):
            places = by_length[first : first + batch_size]
            token_ids, mask, chosen = _batch([texts[i] for i in places])
            activations = lm.activations(token_ids, hooks, mask)
            text = chosen.nonzero()[:, 0]
            for name, sae in saes.items():
                acts = _encode(sae, {hook: activations[hook] for hook in sae.cfg.hooks_read}, chosen)
                pooled[name].add(acts, text.to(sae.device), places, how)
            advance(int(mask.sum()))
    return pooled


def _encode(sae: SAE, activations: Mapping[str, Tensor], chosen: Tensor) -> SparseActs:
    """Activations of the chosen tokens of a batch; the whole texts are encoded where a token's depend on the ones before."""
    if sae.cfg.architecture == "temporal":
        return sae.encode(sae_input(sae, activations)).rows(chosen)
    tokens = {hook: activation[chosen.to(activation.device)] for hook, activation in activations.items()}
    return sae.encode(sae_input(sae, tokens), check_finite=True)


def _batch(texts: Sequence[Tokens]) -> tuple[Tensor, Tensor, Tensor]:
    """`(token_ids int64, attention_mask int64, chosen bool)`, `[b, p]` each, padded on the right with id 0."""
    length = max(len(text.ids) for text in texts)
    token_ids, mask = torch.zeros(len(texts), length, dtype=torch.int64), torch.zeros(len(texts), length, dtype=torch.int64)
    chosen = torch.zeros(len(texts), length, dtype=torch.bool)
    for row, text in enumerate(texts):
        n = len(text.ids)
        token_ids[row, :n], mask[row, :n], chosen[row, :n] = torch.from_numpy(text.ids), 1, torch.from_numpy(text.chosen)
    return token_ids, mask, chosen


def _in_pairs(a: _Side, b: _Side) -> tuple[_Side, _Side]:
    places_a, places_b = a.by_id(), b.by_id()
    alone = [f"{text!r} of {side.name}" for side, own, other in ((a, places_a, places_b), (b, places_b, places_a))
             for text in own if text not in other]  # fmt: skip
    if alone:
        raise ArgumentError(f"{len(alone)} texts have no partner with the same id", expected="each id in both", got=alone[0])
    both = [text for text in places_a if a.tokens[places_a[text]].chosen.any() and b.tokens[places_b[text]].chosen.any()]
    if not both:
        raise ArgumentError("there is no pair of texts with a chosen token in each", advice="Check tokens")
    n_empty = len(places_a) - len(both)
    return a.keep([places_a[text] for text in both], n_empty), b.keep([places_b[text] for text in both], n_empty)


def _result(name: str, sae: SAE, result: Comparison, pooled: _Pooled) -> SaeContrast:
    assert pooled.n_active is not None
    values = result.columns() | {"density": pooled.n_active.numpy()[result.feature] / pooled.n_tokens}
    columns: dict[str, Any] = {
        key: values[key].tolist() if key in INTEGERS else column(values[key].tolist()) for key in COLUMNS
    }
    return SaeContrast(
        name=name,
        hook_name=str(sae.cfg.reads_at),
        architecture=sae.cfg.architecture,
        d_sae=sae.cfg.d_sae,
        n_never=result.n_never,
        n_rare=result.n_rare,
        permutations=result.permutations,
        columns=columns,
    )


def _name(source: Source, otherwise: str) -> str:
    return Path(source).stem if isinstance(source, str | Path) else otherwise
