"""One pass over the LM, or over a store of its activations, that writes the index of every SAE that lacks one.

The dataset is cut into parts of whole contexts at fixed places, and a part into batches, so that a resumed pass computes the
same numbers as an uninterrupted one. Nothing is kept in memory beyond one part: its non-zero activations in CSR, then in CSC.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray

import sae_fast.errors
from sae_fast import SAE, SparseActs
from sae_fast.activations import ActivationStore
from sae_fast.corpus.batch import Batch, batches, part_contexts
from sae_fast.corpus.tokens import COUNTED, TokenDataset
from sae_fast.lm import LanguageModel
from sae_fast.lm.places import Place, places
from sae_fast.progress import Advance
from sitegen.activation_index import ActivationIndexWriter
from sitegen.errors import MismatchError, NonFiniteError

VERSION = 2
"""Raised when the same inputs give another index."""


@dataclass(frozen=True)
class Target:
    """An SAE, where it reads, and where its index goes."""

    slug: str
    sae: SAE
    hook_name: str
    """A hook, or those of a crosscoder joined by "+"."""
    index: ActivationIndexWriter

    @cached_property
    def place(self) -> Place:
        """Where it reads."""
        return _place(self.sae, self.hook_name)


@dataclass
class _Rows:
    """Non-zero activations of one part, batch after batch."""

    row_counts: list[NDArray[np.int64]] = field(default_factory=list)
    columns: list[NDArray[np.int32]] = field(default_factory=list)
    values: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, acts: SparseActs) -> None:
        acts = acts.to(device="cpu", dtype=torch.float32)
        self.row_counts.append(np.diff(acts.crow_indices.numpy()))
        self.columns.append(acts.col_indices.numpy())
        self.values.append(acts.values.numpy())

    def by_feature(self, d_sae: int) -> scipy.sparse.csc_matrix:
        """`[n_counted, d_sae]`, zeros dropped, rows ascending within a feature."""
        row_counts = np.concatenate([np.zeros(1, dtype=np.int64), *self.row_counts])
        columns, values = np.concatenate(self.columns), np.concatenate(self.values)
        matrix = scipy.sparse.csr_matrix((values, columns, np.cumsum(row_counts)), shape=(len(row_counts) - 1, d_sae))
        matrix.eliminate_zeros()
        return matrix.tocsc()


def check_fit(lm: LanguageModel, slug: str, sae: SAE, hook_name: str) -> None:
    """Raise HookNotFoundError or MismatchError where an SAE cannot read this LM; nothing is run."""
    place = _place(sae, hook_name)
    for field_name, hook, width in place.widths:
        if hook in place.reads and field_name != "d_out" and (d_hook := lm.d_hook(hook)) != width:
            raise MismatchError(
                f"SAE {slug} reads activations of width {field_name} = {width}, but {hook} of the model has width {d_hook}. "
                "Is it an SAE of another model or hook? [[sae]] hook_name names the hook where the metadata are wrong."
            )


def _place(sae: SAE, hook_name: str) -> Place:
    return places({hook_name: sae})[0]


Read = Callable[[Batch, Sequence[str]], Mapping[str, torch.Tensor]]
"""Activations of a batch at each hook: `[batch, pos, d]`, or `[n, d]` of its counted tokens alone."""


def from_model(lm: LanguageModel) -> Read:
    """Activations by running the LM."""
    return lambda batch, hook_names: lm.activations(batch.token_ids, hook_names, batch.attention_mask)


def from_store(store: ActivationStore, dataset: TokenDataset) -> Read:
    """Activations that were stored before, rounded as the store holds them.

    Raises MismatchError where the store was made from other tokens.
    """
    try:
        store.require_dataset(dataset)
    except sae_fast.errors.MismatchError as error:
        raise MismatchError(str(error)) from None

    def read(batch: Batch, hook_names: Sequence[str]) -> Mapping[str, torch.Tensor]:
        ends = np.array([batch.contexts[0], batch.contexts[-1] + 1]) * dataset.context_length
        first, last = np.searchsorted(store.positions, ends)
        return {name: store.rows(name, slice(int(first), int(last))).float() for name in hook_names}

    return read


def collect(
    read: Read,
    dataset: TokenDataset,
    targets: Sequence[Target],
    batch_size: int,
    part_tokens: int,
    advance: Advance | None = None,
) -> None:
    """Write every part that an index lacks, and finish the indexes; `advance` is called with the contexts done.

    Raises NonFiniteError where an activation at a counted token is NaN or infinite.
    """
    for number, contexts in enumerate(part_contexts(dataset, part_tokens)):
        pending = [target for target in targets if number not in target.index.parts]
        if pending:
            _collect_part(read, dataset, pending, number, contexts, batch_size, advance)
        elif advance is not None:
            advance(len(contexts))
    for target in targets:
        target.index.finish()


def _collect_part(
    read: Read,
    dataset: TokenDataset,
    targets: Sequence[Target],
    number: int,
    contexts: range,
    batch_size: int,
    advance: Advance | None,
) -> None:
    rows = {target.slug: _Rows() for target in targets}
    hook_names = list(dict.fromkeys(hook for target in targets for hook in target.place.reads))
    for batch in batches(dataset, contexts, batch_size):
        with torch.inference_mode():
            activations = read(batch, hook_names)
            for name, activation in activations.items():
                _check_finite(_counted(activation, batch), name, batch, dataset)
            for target in targets:
                rows[target.slug].add(_encode(target, activations, batch))
        if advance is not None:
            advance(len(batch.contexts))
    first_position = contexts.start * dataset.context_length
    positions = np.flatnonzero(dataset.kind[contexts.start : contexts.stop] == COUNTED).astype(np.int32)
    for target in targets:
        # One at a time, and dropped when written: a part of many SAEs at once would not fit.
        columns = rows.pop(target.slug).by_feature(target.sae.cfg.d_sae)
        n_positions = len(contexts) * dataset.context_length
        target.index.write_part(
            number, first_position, n_positions, len(positions), columns.indptr, positions[columns.indices], columns.data
        )


def _encode(target: Target, activations: Mapping[str, torch.Tensor], batch: Batch) -> SparseActs:
    """The features of the counted tokens; a temporal SAE reads the whole contexts that they stand in."""
    x = target.place.input(activations)
    if target.sae.cfg.temporal is None:
        return target.sae.encode(_counted(x, batch))
    if x.ndim == 2:
        raise MismatchError(
            f"SAE {target.slug} is temporal: it reads whole contexts, and a store of activations holds counted tokens alone. "
            "Leave out [build] activations."
        )
    return target.sae.encode(x).rows(batch.is_counted)


def _counted(activation: torch.Tensor, batch: Batch) -> torch.Tensor:
    return activation if activation.ndim == 2 else activation[batch.is_counted.to(activation.device)]


def _check_finite(x: torch.Tensor, hook_name: str, batch: Batch, dataset: TokenDataset) -> None:
    if bool(torch.isfinite(x).all()):
        return
    rows = torch.nonzero(batch.is_counted)[:, 0]
    bad = int(rows[(~torch.isfinite(x)).flatten(1).any(1).cpu()][0])
    context = batch.contexts[bad]
    raise NonFiniteError(
        f"The model gives NaN or infinity at {hook_name}, first in context {context:,} (document "
        f"{dataset.documents[dataset.document[context]]}). Its weights may be damaged, or float16 too narrow: try "
        '[model] dtype = "float32".'
    )
