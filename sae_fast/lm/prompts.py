"""Texts to a batch of token ids, with the BOS that the SAE was trained with and exactly one of it."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError


def tokenize(
    tokenizer: Any, texts: str | Sequence[str], prepend_bos: bool | None, side: Literal["left", "right"]
) -> tuple[Tensor, Tensor]:
    """`(token_ids int64 [batch, pos], attention_mask int64 [batch, pos])`; see `LanguageModel.tokenize`."""
    if tokenizer is None:
        raise ArgumentError("texts", expected="token ids, for this model has no tokenizer", got="texts")
    rows = [_ids(tokenizer, text, prepend_bos) for text in ([texts] if isinstance(texts, str) else texts)]
    if not rows or not all(rows):
        raise ArgumentError("texts", expected="texts of at least one token", got="an empty one" if rows else "no text")
    width = max(len(row) for row in rows)
    token_ids = torch.full((len(rows), width), padding_id(tokenizer), dtype=torch.int64)
    mask = torch.zeros_like(token_ids)
    for index, row in enumerate(rows):
        columns = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        token_ids[index, columns] = torch.tensor(row)
        mask[index, columns] = 1
    return token_ids, mask


def padding_id(tokenizer: Any) -> int:
    """The token that fills up a batch; its value never matters."""
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        if isinstance(value := getattr(tokenizer, name, None), int):
            return value
    return 0


def left_padded(token_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same rows with their real tokens moved to the right end, in order."""
    order = mask.long().argsort(dim=1, stable=True)
    return token_ids.gather(1, order), mask.gather(1, order)


def _ids(tokenizer: Any, text: str, prepend_bos: bool | None) -> list[int]:
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos: Any = getattr(tokenizer, "bos_token_id", None)
    if prepend_bos is None:
        prepend_bos = bos is not None and list(tokenizer(text)["input_ids"])[:1] == [bos]
    if prepend_bos and bos is None:
        raise ArgumentError(
            "prepend_bos", expected="a tokenizer with a BOS token", got=f"{type(tokenizer).__name__} without one"
        )
    return ids if not prepend_bos or ids[:1] == [bos] else [bos, *ids]
