"""Generation with edits under the cache against recomputing the whole text for every token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_fast.lm
from sae_fast.errors import ArgumentError
from sae_fast.lm.feature_edits import Condition, FeatureEdit
from sae_fast.lm.transformers import TransformersLM
from sae_fast.sae import SAE

MakeSae = Callable[..., SAE]
HOOK = "blocks.1.hook_resid_post"
N_NEW = 6
MASK = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 11, [0] * 8 + [1] * 3])
EDITS = {
    "everywhere": [FeatureEdit(3, "add", 6.0)],
    "prompt": [FeatureEdit(3, "clamp", 8.0, positions="prompt")],
    "generated": [FeatureEdit([3, 5], "add", 8.0, positions="generated")],
    "places": [FeatureEdit(3, "add", 8.0, positions=[1, -1, 12, 13])],
    "tokens": [FeatureEdit(3, "add", 8.0, positions=lambda ids, places: (ids % 3 == 0) & (places > 0))],
    "condition": [FeatureEdit(4, "clamp", 9.0, condition=Condition(above=0.0, feature=7)), FeatureEdit(7, "scale", 3.0)],
    "by row": [FeatureEdit(9, "add", torch.tensor([[0.0], [5.0], [20.0]]))],
}


def recomputed(lm: TransformersLM, token_ids: Tensor, mask: Tensor, n_new: int, **arguments: Any) -> tuple[Tensor, Tensor]:
    """(Greedy continuation, its logits `[rows, n_new, d_vocab]`) with one whole pass for each token."""
    prompt_length, logits = token_ids.shape[1], []
    for _ in range(n_new):
        run = lm.run_with_saes(token_ids, attention_mask=mask, prompt_length=prompt_length, **arguments)
        logits.append(run.logits[:, -1])
        token_ids = torch.cat([token_ids, logits[-1].argmax(-1, keepdim=True)], 1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return token_ids, torch.stack(logits, 1)


@pytest.mark.parametrize("name", EDITS)
def test_cached_generation_equals_full_recomputation(
    main_lm: TransformersLM, token_ids: Tensor, make_sae: MakeSae, name: str
) -> None:
    """Batched, left-padded, cached: the same tokens and logits as whole passes, whatever the edit applies to."""
    saes = [make_sae(HOOK, normalize_activations="layer_norm"), make_sae("blocks.0.hook_mlp_out", "topk", seed=2)]
    edits = {HOOK: EDITS[name]}
    options = {"eos_token_id": None, "return_dict_in_generate": True, "output_logits": True}

    got = main_lm.generate(token_ids, N_NEW, saes=saes, edits=edits, attention_mask=MASK, **options)

    expected, logits = recomputed(main_lm, token_ids, MASK, N_NEW, saes=saes, edits=edits)
    assert torch.equal(got.token_ids, expected)
    cached = torch.stack(got.details.logits, 1)
    assert (cached - logits).abs().max() <= 256 * torch.finfo(torch.float32).eps * logits.abs().max()
    clean = main_lm.generate(token_ids, N_NEW, attention_mask=MASK, **options)
    assert (torch.stack(clean.details.logits, 1) - cached).abs().max() > 0.01


def test_a_replaced_activation_holds_under_the_cache(main_lm: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """SAEs without their error, at some of the tokens only, in every step."""
    sae = make_sae(HOOK)
    got = main_lm.generate(
        token_ids, N_NEW, saes=sae, error_term=False, where=slice(1, None), attention_mask=MASK, eos_token_id=None
    )

    expected, _ = recomputed(main_lm, token_ids, MASK, N_NEW, saes=sae, error_term=False, where=slice(1, None))
    assert torch.equal(got.token_ids, expected)
    assert not torch.equal(got.token_ids, main_lm.generate(token_ids, N_NEW, attention_mask=MASK, eos_token_id=None).token_ids)


def test_padding_on_either_side_gives_what_each_prompt_gives_alone(
    main_lm: TransformersLM, token_ids: Tensor, make_sae: MakeSae
) -> None:
    """Right padding is turned into left padding, and neither changes a token."""
    sae, edits = make_sae(HOOK), FeatureEdit(3, "add", 6.0, positions=slice(2, None))
    right = torch.ones_like(token_ids)
    right[0, 5:] = 0
    together = main_lm.generate(token_ids, N_NEW, saes=sae, edits=edits, attention_mask=right, eos_token_id=None)

    alone = main_lm.generate(token_ids[:1, :5], N_NEW, saes=sae, edits=edits, eos_token_id=None)

    assert torch.equal(together.new_token_ids[:1], alone.new_token_ids)
    assert together.attention_mask[0].tolist() == [0] * 6 + [1] * (5 + N_NEW)


def test_samples_and_beams_of_a_prompt_get_its_edits(gpt2: TransformersLM, token_ids: Tensor, make_sae: MakeSae) -> None:
    """With several rows a prompt, masks and values given by row follow their prompt."""
    sae = make_sae(HOOK)
    value = torch.tensor([[0.0], [30.0], [60.0]])
    rows_of_prompt = {"num_beams": 2, "num_return_sequences": 2, "eos_token_id": None}

    got = gpt2.generate(token_ids, 3, saes=sae, edits=FeatureEdit(9, "add", value), attention_mask=MASK, **rows_of_prompt)

    assert got.token_ids.shape == (6, 14)
    for row in range(3):
        edit = FeatureEdit(9, "add", float(value[row, 0]))
        alone = gpt2.generate(
            token_ids[row : row + 1], 3, saes=sae, edits=edit, attention_mask=MASK[row : row + 1], **rows_of_prompt
        )
        assert torch.equal(got.new_token_ids[2 * row : 2 * row + 2], alone.new_token_ids)


def test_sampling_options_go_through(gpt2: TransformersLM, token_ids: Tensor) -> None:
    """Sampling is off unless asked for, and then follows torch's seed and the options."""

    def sample(seed: int, **options: Any) -> Tensor:
        torch.manual_seed(seed)
        return gpt2.generate(token_ids, N_NEW, eos_token_id=None, **options).new_token_ids

    greedy = sample(0)
    assert torch.equal(greedy, sample(1))
    assert torch.equal(sample(0, do_sample=True), sample(0, do_sample=True))
    assert not torch.equal(sample(0, do_sample=True), sample(1, do_sample=True))
    assert torch.equal(sample(0, do_sample=True, top_k=1), greedy)


def test_the_end_token_ends_a_row(gpt2: TransformersLM, token_ids: Tensor) -> None:
    """What follows the first end token is padding, by the mask as well."""
    free = gpt2.generate(token_ids, N_NEW, eos_token_id=None)
    end = int(free.new_token_ids[0, 2])

    got = gpt2.generate(token_ids, N_NEW, eos_token_id=end)

    n_new = int(free.new_token_ids[0].tolist().index(end)) + 1
    assert torch.equal(got.new_token_ids[0, :n_new], free.new_token_ids[0, :n_new])
    assert got.attention_mask[0, got.prompt_length :].tolist() == [1] * n_new + [0] * (got.new_token_ids.shape[1] - n_new)


def test_texts_are_tokenised_with_one_bos_and_continued(llama_folder: Path, make_sae: MakeSae) -> None:
    """BOS as the SAE was trained, or as asked, or as the tokenizer does; never twice, as after a chat template."""
    lm = sae_fast.lm.load(llama_folder)
    bos = lm.bos_token_id
    texts = ["The old sailor", "<bos>A small dog painted every letter"]

    ids, mask = lm.tokenize(texts)
    assert [int((row == bos).sum()) for row in ids] == [1, 1]
    assert mask.sum(1).tolist() == [len(lm.tokenizer(text)["input_ids"]) - (text[0] == "<") for text in texts]
    assert torch.equal(ids[1], lm.tokenize(texts[1], side="right")[0][0])
    assert lm.tokenize(texts[0], prepend_bos=False)[0][0, 0] != bos

    with_bos = lm.generate(texts, 4, eos_token_id=None)
    without = lm.generate(texts[0], 4, saes=make_sae(HOOK, prepend_bos=False), eos_token_id=None)
    assert with_bos.texts is not None
    assert len(with_bos.texts) == 2
    assert int(with_bos.attention_mask[0].sum()) == int(without.attention_mask.sum()) + 1
    with pytest.raises(ArgumentError, match="at least one token"):
        lm.tokenize("", prepend_bos=False)


def test_tokens_stream_as_they_are_made(llama_folder: Path) -> None:
    """A streamer of transformers receives the prompt, then each token."""
    received: list[list[int]] = []

    class Streamer:
        def put(self, value: Tensor) -> None:
            received.append(value.flatten().tolist())

        def end(self) -> None:
            received.append([])

    lm = sae_fast.lm.load(llama_folder)
    got = lm.generate("The old sailor", 3, streamer=Streamer(), eos_token_id=None)

    assert [token for tokens in received for token in tokens] == got.token_ids[0].tolist()
    assert received[-1] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"assistant_model": object()}, "assistant_model: expected not to be given"),
        ({"max_new_tokens": 60}, r"max_new_tokens: expected at most 53 \(n_ctx = 64\), got 60"),
    ],
)
def test_what_would_lose_a_tokens_place_is_refused(
    gpt2: TransformersLM, token_ids: Tensor, arguments: dict[str, Any], message: str
) -> None:
    """Speculation and texts beyond the context are refused before the first pass; no hook stays behind."""
    with pytest.raises(ArgumentError, match=message):
        gpt2.generate(token_ids, **arguments)
    assert not gpt2.model._forward_pre_hooks
