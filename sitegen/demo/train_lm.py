"""Train the demo language model: a four-layer GPT-2 on Python source, with its own byte-level BPE tokenizer.

    python -m sitegen.demo.train_lm --out sitegen/demo/lm --tokens 18e6

Text: the standard library's training files, and the Python sources of permissively licensed packages that happen to be
installed (`PACKAGES`). Every window starts with one BOS, as every context of a dashboard does. Hidden matrices are
trained by Muon, the rest by AdamW; the learning rate warms up, stays, and falls linearly over the last third.
A killed run continues from `<out>.work/checkpoint.pt`. On Linux the run is a quarter faster when freed memory is kept:
`GLIBC_TUNABLES=glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592`.
"""

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sae_fast.corpus import standard_library

PACKAGES = ("torch", "numpy", "sympy", "networkx", "jinja2", "huggingface_hub", "datasets", "scipy", "httpx", "fsspec")
"""BSD-, MIT- or Apache-licensed packages whose `.py` files join the training text."""

BOS = "<|endoftext|>"
D_VOCAB = 4096
N_CTX = 256
CONFIG = dict(n_layer=4, n_embd=256, n_head=4, n_positions=N_CTX, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
BATCH = 32
MUON_LR, ADAM_LR = 0.02, 2e-3
WARMUP_STEPS, DECAY_SHARE = 100, 0.35


def package_documents() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for name, text in standard_library.documents(root=Path(spec.origin).parent):
            if name.endswith(".py"):
                yield f"{package}/{name}", text


def train_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=D_VOCAB, special_tokens=[BOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((text for _, text in standard_library.documents("train")), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, model_max_length=N_CTX, clean_up_tokenization_spaces=False
    )


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: Iterator[tuple[str, str]]) -> np.ndarray:
    """Concatenate documents, each behind one BOS, as uint16 ids."""
    parts = []
    for _, text in texts:
        parts.append(np.array([tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)], dtype=np.uint16))
    return np.concatenate(parts)


def batches(streams: list[tuple[np.ndarray, float]], bos: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield `[BATCH, N_CTX + 1]` int64: BOS, then a random window of one of the streams, chosen by its weight."""
    rng = np.random.default_rng(seed)
    weights = np.array([weight for _, weight in streams])
    weights /= weights.sum()
    while True:
        rows = []
        for stream_index in rng.choice(len(streams), size=BATCH, p=weights):
            stream = streams[stream_index][0]
            start = rng.integers(0, len(stream) - N_CTX)
            rows.append(np.concatenate([[bos], stream[start : start + N_CTX].astype(np.int64)]))
        yield torch.from_numpy(np.stack(rows))


def learning_rate_factor(step: int, n_steps: int) -> float:
    return min(1.0, (step + 1) / WARMUP_STEPS, max(0.02, (n_steps - step) / (DECAY_SHARE * n_steps)))


def make_optimizers(model: GPT2LMHeadModel) -> list[torch.optim.Optimizer]:
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and ".h." in name]
    hidden_ids = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in hidden_ids]
    return [
        torch.optim.Muon(hidden, lr=MUON_LR, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def cross_entropy(model: GPT2LMHeadModel, window: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss in nats of `window [batch, N_CTX + 1]`."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(window[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, stream: np.ndarray, bos: int, max_windows: int | None = None) -> float:
    """Mean loss in nats over consecutive windows of the held-out stream, each behind one BOS."""
    starts = range(0, len(stream) - N_CTX, N_CTX)[:max_windows]
    total = 0.0
    for first in range(0, len(starts), BATCH):
        rows = [np.concatenate([[bos], stream[s : s + N_CTX].astype(np.int64)]) for s in starts[first : first + BATCH]]
        total += cross_entropy(model, torch.from_numpy(np.stack(rows))).item() * len(rows)
    return total / len(starts)


def bigram_loss(train: np.ndarray, held_out: np.ndarray) -> float:
    """Held-out loss in nats of a bigram model of the training stream, interpolated with the unigram by Witten-Bell."""
    unigram = np.bincount(train, minlength=D_VOCAB) + 1.0
    unigram /= unigram.sum()
    pairs, counts = np.unique(train[:-1].astype(np.int64) * D_VOCAB + train[1:], return_counts=True)
    context_count = np.bincount(pairs // D_VOCAB, weights=counts, minlength=D_VOCAB)
    n_successors = np.bincount(pairs // D_VOCAB, minlength=D_VOCAB)
    queries = held_out[:-1].astype(np.int64) * D_VOCAB + held_out[1:]
    position = np.minimum(np.searchsorted(pairs, queries), len(pairs) - 1)
    count = np.where(pairs[position] == queries, counts[position], 0)
    context = held_out[:-1]
    backoff = np.maximum(n_successors[context], 1) * unigram[held_out[1:]]
    probability = (count + backoff) / (context_count[context] + np.maximum(n_successors[context], 1))
    return float(-np.log(probability).mean())


def train(out: Path, n_tokens: int, seed: int = 0) -> None:
    work = out.with_name(out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer()
    bos = tokenizer.bos_token_id
    library = token_stream(tokenizer, standard_library.documents("train"))
    held_out = token_stream(tokenizer, standard_library.documents("held_out"))
    packages = token_stream(tokenizer, package_documents())
    print(f"tokens: library {len(library):,}, packages {len(packages):,}, held out {len(held_out):,}", flush=True)
    bigram = min(bigram_loss(library, held_out), bigram_loss(np.concatenate([library, packages]), held_out))
    print(f"bigram baseline {bigram:.3f} nats", flush=True)

    # The fused form of GPT-2's own activation trains faster; the saved configuration names the usual one.
    config = GPT2Config(
        vocab_size=D_VOCAB, bos_token_id=bos, eos_token_id=bos, activation_function="gelu_pytorch_tanh", **CONFIG
    )
    model = GPT2LMHeadModel(config)
    optimizers = make_optimizers(model)
    n_steps = math.ceil(n_tokens / (BATCH * N_CTX))
    first = 0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    stream = batches([(library, 0.6), (packages, 0.4)], bos, seed + first)
    started, running = time.time(), None
    for step in range(first, n_steps):
        factor = learning_rate_factor(step, n_steps)
        for optimizer, lr in zip(optimizers, (MUON_LR, ADAM_LR), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
        loss = cross_entropy(model, next(stream))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            rate = (step + 1 - first) * BATCH * N_CTX / (time.time() - started)
            left = (n_steps - step - 1) * BATCH * N_CTX / rate / 60
            print(f"step {step + 1}/{n_steps} loss {running:.3f} {rate:,.0f} tokens/s {left:.0f} min left", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == n_steps:
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step + 1}
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
            print(f"held-out loss {held_out_loss(model, held_out, bos, 64):.3f}", flush=True)

    model = model.to(torch.bfloat16)
    model.config.activation_function = "gelu_new"
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    # The class's name of transformers 5 is unknown to version 4 and to what is built on it; this one both know.
    tokenizer_config = json.loads((out / "tokenizer_config.json").read_text())
    tokenizer_config = tokenizer_config | {"tokenizer_class": "PreTrainedTokenizerFast"}
    tokenizer_config.pop("backend", None)
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n")
    whole_loss = held_out_loss(model, held_out, bos)
    metrics = {
        "held_out_loss_nats": round(whole_loss, 4),
        "bigram_loss_nats": round(bigram, 4),
        "held_out_tokens": len(held_out),
        "library_tokens": len(library),
        "package_tokens": len(packages),
        "tokens_trained_on": n_steps * BATCH * N_CTX,
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(metrics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the Hugging Face model")
    parser.add_argument(
        "--tokens", type=float, default=24e6, help="tokens to train on (default 24e6, about an hour on 2 cores)"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train(arguments.out, int(arguments.tokens), arguments.seed)


if __name__ == "__main__":
    main()
