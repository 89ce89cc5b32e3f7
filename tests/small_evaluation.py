"""A small LM, SAEs and texts on which every metric can be computed by brute force."""

import torch
import transformers
from torch import Tensor

from sae_fast.evaluation import Batch
from sae_fast.lm.transformers import TransformersLM
from sae_fast.sae import SAE, SAEConfig

D, D_SAE, D_VOCAB, BOS = 16, 24, 40, 1
HOOK = "blocks.1.hook_resid_post"


def small_lm() -> TransformersLM:
    """A random GPT-2 of three layers that is sure enough of what it says."""
    config = transformers.GPT2Config(
        vocab_size=D_VOCAB, n_embd=D, n_layer=3, n_head=2, n_positions=32, bos_token_id=BOS, eos_token_id=2
    )
    model = transformers.GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(1 + 0.3 * noise if parameter.ndim == 1 else noise / 2)
        model.transformer.ln_f.weight.mul_(2)  # confident enough for ablations to show in the cross entropy
    return TransformersLM(model, tokenizer=None)


def random_sae(hook_name: str = HOOK, seed: int = 0) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.nn.functional.normalize(torch.randn(D_SAE, D, generator=generator), dim=1)
    return SAE(
        cfg=SAEConfig(architecture="standard", d_in=D, d_sae=D_SAE, hook_name=hook_name),
        W_enc=0.5 * W_dec.T.contiguous(),
        W_dec=W_dec,
        b_enc=-0.3 * torch.rand(D_SAE, generator=generator),
        b_dec=0.5 * torch.randn(D, generator=generator),
    )


def perfect_sae(hook_name: str = HOOK) -> SAE:
    """`x = relu(x) - relu(-x)`, exact in floating point."""
    eye = torch.eye(D)
    return SAE(
        cfg=SAEConfig(architecture="standard", d_in=D, d_sae=2 * D, hook_name=hook_name),
        W_enc=torch.cat([eye, -eye], dim=1),
        W_dec=torch.cat([eye, -eye]),
        b_enc=torch.zeros(2 * D),
        b_dec=torch.zeros(D),
    )


def texts() -> tuple[list[Tensor], list[Tensor]]:
    """Six texts of BOS and 4 to 13 tokens, and which tokens of each count: not BOS, and not every third token."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.cat([torch.tensor([BOS]), torch.randint(3, D_VOCAB, (n,), generator=generator)]) for n in (9, 4, 13, 6, 8, 5)]
    counted = [(row != BOS) & (torch.arange(len(row)) % 3 != 2) for row in rows]
    return rows, counted


def padded(rows: list[Tensor], counted: list[Tensor], side: str) -> Batch:
    width = max(map(len, rows)) + 1
    token_ids = torch.full((len(rows), width), 2)
    keep, mask = torch.zeros(len(rows), width, dtype=torch.bool), torch.zeros(len(rows), width, dtype=torch.int64)
    for i, (row, kept) in enumerate(zip(rows, counted, strict=True)):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        token_ids[i, place], keep[i, place], mask[i, place] = row, kept, 1
    return token_ids, keep, mask


def uneven_batches() -> list[Batch]:
    """Three batches of different size and padding, the last without a counted token."""
    rows, counted = texts()
    nothing = (torch.full((2, 4), 5), torch.zeros(2, 4, dtype=torch.bool), torch.ones(2, 4, dtype=torch.int64))
    return [padded(rows[:4], counted[:4], "right"), padded(rows[4:], counted[4:], "left"), nothing]
