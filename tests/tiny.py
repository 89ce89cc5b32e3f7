"""Tiny random models on disk: Hugging Face language models, tokenizers, SAEs and a small corpus, each built in a moment.

Every model is what a real one of its family is, only small: three layers, `d_model` 32, its own tokenizer, weights drawn
from a seed. No weight is at a value that would hide a mistake: norm weights are neither 0 nor 1, no bias is 0, and
Gemma's soft-caps are low enough to bite. A builder takes the folder to write and returns it; further keywords
go to the model's configuration (`tiny.gpt2(folder, n_layer=1)`).
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

D_MODEL = 32
N_LAYERS = 3
N_HEADS = 4
N_CTX = 256
D_VOCAB_BYTE_LEVEL = 320
D_VOCAB_METASPACE = 384
GPT2_BOS = "<|endoftext|>"
CHAT_TOKENS = ("<|start|>", "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)

_SUBJECTS = ("The old sailor", "A small dog", "My neighbour", "The committee", "Nobody", "Her brother", "The engine")
_VERBS = ("counted", "painted", "lost", "found", "repaired", "remembered", "photographed")
_OBJECTS = ("seven boats", "the red door", "a broken clock", "every letter", "the map of the town", "two green apples")
_SPECIMENS = (
    "def add(a: int, b: int) -> int:\n    return a + b\n\n\nclass Point:\n    def __init__(self, x, y):\n        self.x = x\n",
    "Straße, café, naïve — “quoted” … 12 × 34 = 408 €\n",
    "日本語の文字は複数のバイトです。Ωμέγα и кириллица.\n",
    "emoji 🙂🙃 family 👩‍👩‍👧 flag 🇫🇷 done\n",
    "tabs\tand   spaces\r\nand a line\n\n\nafter two empty ones\n",
    "import os\nimport sys\n\nprint([n ** 2 for n in range(10) if n % 3 == 0])\n",
)


def texts(n: int = 48, seed: int = 0) -> list[str]:
    """`n` small documents: English sentences, then code, accents, CJK, emoji and white space; one document appears twice."""
    rng = np.random.default_rng(seed)
    documents = list(_SPECIMENS[: max(n - 1, 0)])
    while len(documents) < n - 1:
        sentences = [
            f"{rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_OBJECTS)} on day {rng.integers(1, 400)}."
            for _ in range(rng.integers(2, 12))
        ]
        documents.append(" ".join(sentences) + "\n")
    return [*documents, documents[-1]][:n] if documents else list(_SPECIMENS[:n])


def jsonl(path: Path, documents: Iterable[str] | None = None, column: str = "text") -> Path:
    """Write one `{column: document}` a line and return the path."""
    lines = (json.dumps({column: document}, ensure_ascii=False) for document in (texts() if documents is None else documents))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def conversations() -> list[list[dict[str, str]]]:
    """Four short chats of the roles system, user and assistant."""
    return [
        [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4."}],
        [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "Which colour has the sky?"},
            {"role": "assistant", "content": "Blue 🙂"},
        ],
        [{"role": "user", "content": "Name a fruit."}, {"role": "assistant", "content": "Apples, two green apples."}],
        [
            {"role": "user", "content": "Count to three."},
            {"role": "assistant", "content": "1, 2, 3"},
            {"role": "user", "content": "Again."},
            {"role": "assistant", "content": "1, 2, 3"},
        ],
    ]


def byte_level_tokenizer(d_vocab: int = D_VOCAB_BYTE_LEVEL) -> Any:
    """GPT-2's kind: byte-level BPE, `<|endoftext|>` as BOS and EOS, none added by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=[GPT2_BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return _fast(tokenizer, bos_token=GPT2_BOS, eos_token=GPT2_BOS)


def metaspace_tokenizer(d_vocab: int = D_VOCAB_METASPACE, chat_template: str | None = None, words: Sequence[str] = ()) -> Any:
    """SentencePiece's kind: `▁` for a space, bytes as fallback, `<bos>` put before every text, ids 0-3 pad, eos, bos, unk.

    `words` are put behind the trained vocabulary as whole tokens; each is found when it stands between spaces.
    """
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", *CHAT_TOKENS]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    room = d_vocab - len(words)
    trainer = trainers.BpeTrainer(vocab_size=room, special_tokens=specials + fallback, limit_alphabet=48, show_progress=False)
    trained.train_from_iterator(texts(), trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"] | {"▁" + word: len(model["vocab"]) + i for i, word in enumerate(words)}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>", ignore_merges=True)
    )
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    fast = _fast(tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    fast.chat_template = chat_template
    return fast


def gpt2(folder: Path, seed: int = 0, **config: Any) -> Path:
    """A GPT-2: learned positions, LayerNorm, tied embeddings, byte-level BPE."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_level_tokenizer()
    sizes = {"n_layer": N_LAYERS, "n_embd": D_MODEL, "n_head": N_HEADS, "n_positions": N_CTX, "vocab_size": len(tokenizer)}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return _write(folder, GPT2LMHeadModel(GPT2Config(**sizes | ids | config)), tokenizer, seed)


def neox(folder: Path, seed: int = 0, **config: Any) -> Path:
    """A GPT-NeoX (Pythia): parallel residual, rotary positions, and an embedding wider than its tokenizer."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = byte_level_tokenizer()
    sizes = _sizes(len(tokenizer) + 16) | {"intermediate_size": 4 * D_MODEL}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return _write(folder, GPTNeoXForCausalLM(GPTNeoXConfig(**sizes | ids | config)), tokenizer, seed)


def llama(folder: Path, seed: int = 0, chat: bool = False, **config: Any) -> Path:
    """A Llama: RMSNorm, grouped-query attention, a SentencePiece-style tokenizer; with `chat`, a template that writes BOS."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = metaspace_tokenizer(chat_template=CHAT_TEMPLATE if chat else None)
    sizes = _sizes(len(tokenizer)) | {"intermediate_size": 3 * D_MODEL, "num_key_value_heads": 2}
    return _write(folder, LlamaForCausalLM(LlamaConfig(**sizes | _token_ids(tokenizer) | config)), tokenizer, seed)


def gemma2(folder: Path, seed: int = 0, **config: Any) -> Path:
    """A Gemma 2: norms that multiply by `1 + weight`, before and after each block, soft-capped attention and logits."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = metaspace_tokenizer()
    settings = _sizes(len(tokenizer)) | _gemma2_settings() | _token_ids(tokenizer)
    return _write(folder, Gemma2ForCausalLM(Gemma2Config(**settings | config)), tokenizer, seed)


def wide_vocabulary(folder: Path, size: int = 256_000, seed: int = 0, **config: Any) -> Path:
    """A one-layer Gemma 2 of `d_model` 8 with `size` tokens; the text `last_word(size)` holds the last id."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = metaspace_tokenizer(d_vocab=size, words=[f"w{index}" for index in range(D_VOCAB_METASPACE, size)])
    sizes = _sizes(len(tokenizer)) | {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2}
    settings = sizes | _gemma2_settings() | {"head_dim": 4, "query_pre_attn_scalar": 4, "intermediate_size": 16}
    model = Gemma2ForCausalLM(Gemma2Config(**settings | _token_ids(tokenizer) | config))
    return _write(folder, model, tokenizer, seed)


def last_word(size: int = 256_000) -> str:
    """The word that `wide_vocabulary(folder, size)` reads as its last token, `size - 1`."""
    return f"w{size - 1}"


def sae(
    folder: Path,
    d_in: int = D_MODEL,
    d_sae: int = 64,
    architecture: str = "topk",
    hook_name: str = "blocks.1.hook_resid_post",
    seed: int = 0,
    k: int = 4,
    **config: Any,
) -> Path:
    """An SAE folder as SAELens writes it: standard, gated, topk, abstopk, jumprelu, or batchtopk.

    A batchtopk SAE is saved as SAELens saves it: jumprelu with one threshold, its training architecture in the metadata.
    `metadata={…}` in `config` is merged into the metadata written here.
    """
    metadata = {
        "sae_lens_version": "6.54.12",
        "model_name": "tiny",
        "hook_name": hook_name,
        "context_size": 64,
        "prepend_bos": True,
    }
    saved_as = "jumprelu" if architecture == "batchtopk" else architecture
    if architecture == "batchtopk":
        metadata["training_architecture"] = "batchtopk"
    top_k = {"k": k, "rescale_acts_by_decoder_norm": False} if saved_as in ("topk", "abstopk") else {}
    metadata |= config.pop("metadata", {})
    cfg = {
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
        **top_k,
        "architecture": saved_as,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(cfg | config), encoding="utf-8")
    save_file(_sae_weights(d_in, d_sae, architecture, seed), folder / "sae_weights.safetensors")
    return folder


def gemma_scope(folder: Path, d_in: int = D_MODEL, d_sae: int = 64, seed: int = 0) -> Path:
    """An SAE in Gemma Scope's layout: a folder that holds `params.npz` and nothing else; JumpReLU, fp32."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = _sae_weights(d_in, d_sae, "jumprelu", seed)
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in weights.items()})
    return folder


def _sae_weights(d_in: int, d_sae: int, architecture: str, seed: int) -> dict[str, torch.Tensor]:
    """Random fp32 weights: unit decoder rows, a noisy transpose as encoder, thresholds about which pre-activations spread."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    W_dec = torch.nn.functional.normalize(normal(d_sae, d_in), dim=1)
    weights = {
        "W_enc": (W_dec.T + 0.1 * normal(d_in, d_sae)).contiguous(),
        "W_dec": W_dec,
        "b_dec": 0.1 * normal(d_in),
    }
    if architecture == "gated":
        return weights | {"b_gate": normal(d_sae) - 1, "b_mag": 0.2 * normal(d_sae), "r_mag": 0.2 * normal(d_sae)}
    weights["b_enc"] = 0.2 * normal(d_sae) - (0.5 if architecture == "standard" else 0.0)
    if architecture == "jumprelu":
        weights["threshold"] = 0.5 + normal(d_sae).abs()
    if architecture == "batchtopk":
        weights["threshold"] = torch.full((d_sae,), 1.25)
    return weights


def _sizes(d_vocab: int) -> dict[str, Any]:
    return {
        "vocab_size": d_vocab,
        "hidden_size": D_MODEL,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "max_position_embeddings": N_CTX,
    }


def _gemma2_settings() -> dict[str, Any]:
    return {
        "intermediate_size": 3 * D_MODEL,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 16,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 5.0,
    }


def _token_ids(tokenizer: Any) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def _fast(tokenizer: Tokenizer, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=N_CTX, clean_up_tokenization_spaces=False, **special
    )


@torch.no_grad()
def _write(folder: Path, model: Any, tokenizer: Any, seed: int) -> Path:
    """Redraw every parameter from the seed, then save model and tokenizer as Hugging Face does."""
    generator = torch.Generator().manual_seed(seed)
    gemma = model.config.model_type.startswith("gemma")
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith(".bias"):
            parameter.copy_(0.1 * noise)
        elif parameter.ndim == 1:
            parameter.copy_(0.3 * noise + (0.1 if gemma else 1.0))
        else:
            parameter.copy_(noise / math.sqrt(model.config.hidden_size))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
