"""Generation under the KV cache: transformers' own `generate`, told before each pass which columns it computes."""

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError
from sae_fast.lm.positions import Window

_NO_PLACES = ("assistant_model", "prompt_lookup_num_tokens", "custom_generate", "inputs_embeds", "input_ids", "inputs")


@dataclass(frozen=True, eq=False)
class Generation:
    """Prompts and what the model continued them with."""

    token_ids: Tensor
    """int64 `[rows, pos]`: prompts, padded on the left, and their continuations, padded on the right. With several samples a
    prompt (`num_return_sequences`) those of a prompt follow one another."""
    attention_mask: Tensor
    """int64 `[rows, pos]`: 1 at real tokens, the end token included."""
    prompt_length: int
    """Columns of the prompts."""
    texts: list[str] | None
    """The continuations without special tokens; None where there is no tokenizer."""
    details: Any = None
    """What transformers returned, where `return_dict_in_generate=True` was given (scores, logits, attentions, …)."""

    @property
    def new_token_ids(self) -> Tensor:
        """int64 `[rows, new]`: the continuations."""
        return self.token_ids[:, self.prompt_length :]


def generate(
    model: Any,
    token_ids: Tensor,
    mask: Tensor,
    begin: Callable[[Window], None],
    hooked: AbstractContextManager[None],
    options: dict[str, Any],
    beforehand: Callable[[], AbstractContextManager[None]] | None = None,
) -> tuple[Tensor, Any]:
    """`(token ids [rows, pos], what transformers returned)` of `model.generate` with `hooked` around it.

    Args:
        model: a `PreTrainedModel`.
        token_ids: left-padded prompts, int64 `[batch, pos]`.
        mask: their attention mask, of the same shape.
        begin: called before each pass with the columns that it computes.
        hooked: in force during generation.
        options: for `generate`.
        beforehand: in force while each pass is first run by itself, with a cache of its own; None for no such pass.
    """
    if beforehand is not None and (options.get("num_beams") or 1) > 1:
        advice = "Sample instead, or generate without crosscoders"
        raise ArgumentError("num_beams", expected="1 with a crosscoder", got=options["num_beams"], advice=advice)
    for name in _NO_PLACES:
        if options.get(name) is not None:
            raise ArgumentError(name, expected="not to be given: the place of a token would be lost", got="a value")
    options = {"do_sample": False, "disable_compile": True} | options

    own_cache: list[Any] = []

    def before_pass(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        past = kwargs.get("past_key_values")
        start = 0 if past is None else int(past.get_seq_length())
        begin(Window.continuing(ids, mask, start))
        if beforehand is not None:
            if start == 0:
                own_cache[:] = [copy.deepcopy(past)]
            with beforehand():
                # Not the model's __call__, whose hooks would begin again.
                model.forward(*args, **kwargs | {"past_key_values": own_cache[0]})

    handle = model.register_forward_pre_hook(before_pass, with_kwargs=True)
    try:
        with hooked, torch.no_grad():
            result = model.generate(input_ids=token_ids, attention_mask=mask, **options)
    finally:
        handle.remove()
    return (result, None) if isinstance(result, Tensor) else (result.sequences, result)


def with_end(token_ids: Tensor, prompt_mask: Tensor, end_ids: Iterable[int]) -> Tensor:
    """Attention mask int64 `[rows, pos]`: the prompts', then ones up to the first end token, that included."""
    rows, n_prompt = token_ids.shape[0], prompt_mask.shape[1]
    new = token_ids[:, n_prompt:]
    ended = torch.isin(new, torch.tensor(list(end_ids), dtype=new.dtype, device=new.device)).long()
    real = (ended.cumsum(1) - ended) == 0
    prompts = prompt_mask.to(token_ids.device).repeat_interleave(rows // prompt_mask.shape[0], 0)
    return torch.cat([prompts, real.long()], 1)


def end_ids_of(model: Any, options: dict[str, Any]) -> list[int]:
    """The tokens that end a text, by the options or by the model's generation config."""
    given = options.get("eos_token_id", getattr(getattr(model, "generation_config", None), "eos_token_id", None))
    if given is None:
        return []
    return [int(given)] if isinstance(given, int) else [int(token) for token in given]


def recompute(
    next_logits: Callable[[Tensor, Tensor], Tensor],
    token_ids: Tensor,
    mask: Tensor,
    end_ids: list[int],
    options: dict[str, Any],
) -> Tensor:
    """Token ids `[batch, pos]` continued by a pass over the whole text for each token, for backends without a cache.

    `next_logits(token_ids, mask)` gives `[batch, d_vocab]`. Known options: `max_new_tokens`, `pad_token_id`, `do_sample`,
    `temperature`, `top_k`, `eos_token_id`; others raise `ArgumentError`.
    """
    known = {"max_new_tokens", "pad_token_id", "do_sample", "temperature", "top_k", "eos_token_id"}
    if unknown := sorted(set(options) - known):
        raise ArgumentError(
            f"{unknown[0]}: this backend generates by recomputing", expected=f"one of {', '.join(sorted(known))}"
        )
    ended = torch.zeros(len(token_ids), dtype=torch.bool, device=token_ids.device)
    ends = torch.tensor(end_ids, device=token_ids.device)
    for _ in range(options["max_new_tokens"]):
        with torch.no_grad():
            chosen = _choose(next_logits(token_ids, mask), options).to(token_ids.device)
        chosen = torch.where(ended, options["pad_token_id"], chosen)
        token_ids = torch.cat([token_ids, chosen[:, None]], 1)
        mask = torch.cat([mask, (~ended).long()[:, None]], 1)
        ended = ended | torch.isin(chosen, ends)
        if bool(ended.all()):
            break
    return token_ids


def _choose(logits: Tensor, options: dict[str, Any]) -> Tensor:
    """The next token of each row `[batch]`, greedy unless `do_sample`."""
    if not options.get("do_sample", False):
        return logits.argmax(-1)
    logits = logits.float() / options.get("temperature", 1.0)
    if k := options.get("top_k"):
        logits = logits.masked_fill(logits < logits.topk(k, -1).values[:, -1:], float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]
