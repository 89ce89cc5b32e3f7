import math
from typing import Any

import pytest
import torch
from operands import normal
from torch import Tensor

from sae_fast.architectures import reference
from sae_fast.config import Temporal, tensor_shapes
from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.sae import SAE, SAEConfig

D_IN, D_SAE = 6, 48
SHAPE = Temporal(n_heads=3, n_attn_layers=2, bottleneck_factor=4)


def build(temporal: Temporal = SHAPE, k: int | None = 5, dtype: torch.dtype = torch.float32, **changes: Any) -> SAE:
    cfg = SAEConfig(architecture="temporal", d_in=D_IN, d_sae=D_SAE, k=k, temporal=temporal, **changes)
    shapes = tensor_shapes(cfg)
    tensors = {name: normal(seed, *shape).to(dtype) for seed, (name, shape) in enumerate(shapes.items())}
    return SAE(cfg, **tensors)


def token_by_token(sae: SAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """(novel codes, predicted part of the input) of one sequence [pos, d_in]: loops over positions and heads, in float64."""
    temporal = sae.cfg.temporal
    assert temporal is not None
    t = {name: tensor.double() for name, tensor in sae.tensors().items()}
    W_enc, scale = sae.W_enc.double(), 1 / (4 * D_IN)
    residual = [row.double() for row in x]
    for layer in range(temporal.n_attn_layers):
        a = {
            name: t[f"attn_layers.{layer}.{name}"]
            for name in [f"{p}.{w}" for p in ("k_ctx", "q_target", "v_ctx", "c_proj") for w in ("weight", "bias")]
        }
        codes = [(scale * r @ W_enc).relu() for r in residual]
        earlier = [torch.zeros(D_SAE, dtype=torch.float64), *codes[:-1]]
        for position, code in enumerate(codes):
            q = (a["q_target.weight"] @ code + a["q_target.bias"]).chunk(temporal.n_heads)
            k = [(a["k_ctx.weight"] @ c + a["k_ctx.bias"]).chunk(temporal.n_heads) for c in earlier[: position + 1]]
            v = [(a["v_ctx.weight"] @ c + a["v_ctx.bias"]).chunk(temporal.n_heads) for c in earlier[: position + 1]]
            mixed = []
            for head in range(temporal.n_heads):
                scores = torch.stack([q[head] @ key[head] / math.sqrt(len(q[head])) for key in k])
                mixed.append(sum(weight * value[head] for weight, value in zip(scores.softmax(0), v, strict=True)))
            direction = (a["c_proj.weight"] @ torch.cat(mixed) + a["c_proj.bias"]).relu() @ t["W_dec"]
            residual[position] = (
                residual[position] - direction @ residual[position] / (direction.norm() + 1e-6) ** 2 * direction
            )
    novel = (scale * torch.stack(residual) @ W_enc).relu()
    if temporal.sae_diff_type == "topk" and sae.cfg.k is not None:
        novel = torch.where(novel >= novel.sort(descending=True).values[:, sae.cfg.k - 1 : sae.cfg.k], novel, 0)
    return novel, x.double() - torch.stack(residual)


@pytest.mark.parametrize(
    ("temporal", "k"),
    [
        (SHAPE, 5),
        (SHAPE, None),
        (Temporal(n_heads=2, bottleneck_factor=8, tied_weights=False), 5),
        (Temporal(n_heads=1, bottleneck_factor=1, sae_diff_type="relu"), 5),
    ],
    ids=["two-layers", "no-k", "untied", "relu"],
)
def test_novel_codes_and_predictions(temporal: Temporal, k: int | None) -> None:
    """Encode gives the novel codes, forward decodes them and adds the predicted part: nothing is dropped."""
    sae = build(temporal, k)
    x = 4 * normal(99, 2, 7, D_IN)
    parts = [token_by_token(sae, sequence) for sequence in x]
    novel, predicted = (torch.stack(tensors) for tensors in zip(*parts, strict=True))
    bias = torch.zeros(D_IN) if temporal.tied_weights else sae.b_dec

    torch.testing.assert_close(sae.encode(x).to_dense().double(), novel, rtol=1e-4, atol=1e-4)
    skipped = sae.skip(x)
    assert skipped is not None
    torch.testing.assert_close(skipped.double(), predicted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae(x).double(), novel @ sae.W_dec.double() + predicted + bias, rtol=1e-4, atol=1e-4)


def test_the_definition_is_the_same() -> None:
    """The page of formulas agrees with the loops, and its predicted codes decode to the predicted part."""
    sae = build()
    x = normal(99, 7, D_IN)
    novel, predicted = token_by_token(sae, x)
    assert sae.cfg.temporal is not None

    codes, predicted_codes = reference.temporal(x, sae.W_enc, sae.W_dec, sae.attention, sae.cfg.temporal, sae.cfg.k)

    torch.testing.assert_close(codes.double(), novel, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((predicted_codes @ sae.W_dec).double(), predicted, rtol=1e-4, atol=1e-4)


def test_every_dtype(dtype: torch.dtype) -> None:
    """Narrow weights round, and nothing else: the codes are the formulas' on the same weights."""
    sae = build(Temporal(n_heads=2, bottleneck_factor=4, sae_diff_type="relu"), None, dtype)
    x = normal(99, 5, D_IN).to(dtype)
    assert sae.cfg.temporal is not None

    acts = sae.encode(x)

    expected, _ = reference.temporal(x, sae.W_enc, sae.W_dec, sae.attention, sae.cfg.temporal, None)
    rounding = 4 * float(expected.max()) * torch.finfo(dtype).eps
    torch.testing.assert_close(acts.to_dense(), expected, rtol=0, atol=rounding)
    assert acts.values.dtype == torch.promote_types(dtype, torch.float32)
    assert sae(x).dtype == dtype


def test_a_later_token_changes_no_earlier_one() -> None:
    """Attention looks back only, and the first token is predicted from nothing but biases."""
    sae = build()
    x = normal(99, 6, D_IN)
    changed = torch.cat([x[:4], normal(98, 2, D_IN)])

    torch.testing.assert_close(sae(x)[:4], sae(changed)[:4])
    assert not torch.allclose(sae(x)[4:], sae(changed)[4:])


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale", "constant_scalar_rescale"])
def test_normalised_inputs_come_back_in_their_units(normalisation: str) -> None:
    """Both parts are scaled back, the mean is added once, and b_dec is used where it was subtracted."""
    scale = 0.25 if normalisation == "constant_scalar_rescale" else 1.0
    sae = build(normalize_activations=normalisation, input_scale=scale, apply_b_dec_to_input=True)
    x = 3 * normal(99, 2, 5, D_IN) + 1
    mean, factor = torch.zeros(1), torch.tensor(1 / scale)
    if normalisation == "layer_norm":
        mean, factor = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    elif normalisation == "constant_norm_rescale":
        factor = x.norm(dim=-1, keepdim=True) / math.sqrt(D_IN)
    inner = (x - mean) / (factor + (1e-5 if normalisation == "layer_norm" else 0))
    parts = [token_by_token(sae, sequence - sae.b_dec) for sequence in inner]
    novel, predicted = (torch.stack(tensors) for tensors in zip(*parts, strict=True))

    expected = (novel @ sae.W_dec.double() + predicted + sae.b_dec) * factor + mean
    torch.testing.assert_close(sae(x).double(), expected, rtol=1e-4, atol=1e-4)
    skipped = sae.skip(x)
    assert skipped is not None
    torch.testing.assert_close(sae.decode(sae.encode(x)) + skipped, sae(x))


def test_gradients_reach_the_input() -> None:
    """Forward is differentiable through attention and codes alike."""
    sae = build(Temporal(n_heads=2, bottleneck_factor=4), 5, torch.float64)
    x = normal(99, 4, D_IN).double().requires_grad_()

    assert torch.autograd.gradcheck(sae.forward, (x,))


def test_tokens_without_a_sequence_are_refused() -> None:
    """One token alone has no positions; the error says what is needed. No sequence, and one of no tokens, are fine."""
    with pytest.raises(ShapeError, match=r"x: expected \[\.\.\., pos, d_in\]: a temporal SAE encodes sequences, got \[6\]"):
        build().encode(torch.zeros(D_IN))
    assert build()(torch.zeros(0, 4, D_IN)).shape == (0, 4, D_IN)
    assert build()(torch.zeros(3, 0, D_IN)).shape == (3, 0, D_IN)


@pytest.mark.parametrize(
    ("temporal", "message"),
    [
        (Temporal(n_heads=5, bottleneck_factor=4), r"d_sae: expected a multiple of bottleneck_factor \* n_heads = 20, got 48"),
        (Temporal(n_heads=0), "temporal: expected positive numbers of heads"),
        (Temporal(n_heads=1, bottleneck_factor=1, sae_diff_type="max"), "sae_diff_type: expected relu or topk, got 'max'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_attention_is_refused(temporal: Temporal, message: str) -> None:
    """Sizes that do not divide and unknown kinds are named."""
    with pytest.raises(ArgumentError, match=message):
        build(temporal)


def test_missing_attention_is_named() -> None:
    """Every tensor of every layer is needed, by name and shape."""
    sae = build()
    with pytest.raises(ArgumentError, match=r"attn_layers\.1\.c_proj\.bias: an SAE of architecture temporal needs it"):
        sae.replace(**{"attn_layers.1.c_proj.bias": None})
    with pytest.raises(ShapeError, match=r"attn_layers\.0\.k_ctx\.weight: expected \[12, 48\], got \[48, 12\]"):
        sae.replace(**{"attn_layers.0.k_ctx.weight": torch.zeros(48, 12)})
