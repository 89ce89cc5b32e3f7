"""Batches of tokens as an evaluation reads them: checked, with what each token belongs to."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_fast.corpus.batch import batches
from sae_fast.corpus.tokens import TokenDataset
from sae_fast.errors import ShapeError
from sae_fast.evaluation.groupings import N_BLOCKS, N_BUCKETS, N_ROW_BLOCKS, TokenClasses, blocks, position_buckets
from sae_fast.evaluation.sums import Grouping

Batch = tuple[Tensor, Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, Tensor]
"""`(token_ids int64 [b, p], counted bool [b, p], attention_mask [b, p])`, and as a fourth the number of the document that each
context comes from, int64 `[b]`; without, every context counts as a document of its own."""


class DatasetBatches:
    """The contexts of a TokenDataset as batches that can be read again and again."""

    def __init__(self, dataset: TokenDataset, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size

    def __len__(self) -> int:
        return -(-self.dataset.n_contexts // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for batch in batches(self.dataset, range(self.dataset.n_contexts), self.batch_size):
            documents = torch.as_tensor(self.dataset.document[batch.contexts].astype("int64"))
            yield batch.token_ids, batch.is_counted, batch.attention_mask, documents


@dataclass(frozen=True, eq=False)
class Reading:
    """One batch, ready to be measured."""

    token_ids: Tensor
    counted: Tensor
    mask: Tensor
    predicts: Tensor
    """bool [b, p]: the next token is predicted from here and counted: p is a real token and p + 1 a counted one."""
    documents: Tensor
    cells: dict[str, Tensor]
    """int64 [b, p] by grouping; see `Sums`."""

    def of_tokens(self) -> dict[str, Tensor]:
        """Cells of the counted tokens `[n]`."""
        return {grouping: cell[self.counted] for grouping, cell in self.cells.items()}

    def of_predictions(self) -> dict[str, Tensor]:
        """Cells of the tokens that are predicted `[n_predictions]`, in the order of `next_token_losses`."""
        return {grouping: cell[:, 1:][self.predicts[:, :-1]] for grouping, cell in self.cells.items()}


def groupings(classes: TokenClasses | None) -> dict[str, Grouping]:
    """All tokens; and, in fewer blocks, by position and class."""
    found = {"block": Grouping(1, N_BLOCKS), "position": Grouping(N_BUCKETS, N_ROW_BLOCKS)}
    return found if classes is None else found | {"class": Grouping(len(classes.names), N_ROW_BLOCKS)}


def reading(batch: Batch, first_document: int, classes: TokenClasses | None) -> Reading:
    """Check a batch; contexts without a document number are numbered from `first_document`. Raises `ShapeError`."""
    token_ids, counted, mask = batch[:3]
    if counted.dtype != torch.bool or not (token_ids.shape == counted.shape == mask.shape):
        got = f"{list(token_ids.shape)}, {list(counted.shape)} {counted.dtype}, {list(mask.shape)}"
        raise ShapeError("batch", expected="token_ids, counted (bool) and attention_mask of one shape [b, p]", got=got)
    if bool((counted & ~mask.bool()).any()):
        raise ShapeError(
            "batch", expected="counted tokens that are real (attention_mask 1)", got="a counted token that is padding"
        )
    token_ids, counted, mask = token_ids.cpu(), counted.cpu(), mask.cpu()
    documents = batch[3].cpu() if len(batch) == 4 else torch.arange(len(token_ids)) + first_document
    if documents.shape != token_ids.shape[:1]:
        raise ShapeError("batch", expected=f"a document number of each context, [{len(token_ids)}]", got=list(documents.shape))
    predicts = torch.zeros_like(counted)
    predicts[:, :-1] = counted[:, 1:] & mask[:, :-1].bool()
    block = blocks(documents)[:, None].expand_as(token_ids)
    cells = {"block": block, "position": position_buckets(mask) * N_ROW_BLOCKS + block % N_ROW_BLOCKS}
    if classes is not None:
        cells["class"] = classes.of_token[token_ids] * N_ROW_BLOCKS + block % N_ROW_BLOCKS
    return Reading(token_ids, counted, mask, predicts, documents, cells)
