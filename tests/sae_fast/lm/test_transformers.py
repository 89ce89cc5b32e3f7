"""Every hook against the model's own code, padding, early stop, unembedding, and the errors of the interface."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sae_fast.errors import HookNotFoundError, ShapeError
from sae_fast.lm.transformers import TransformersLM


def assert_near(got: Tensor, expected: Tensor, ulps: float = 64) -> None:
    """Equal but for fp32 rounding, in units of the largest expected value."""
    assert got.shape == expected.shape
    allowed = ulps * torch.finfo(torch.float32).eps * expected.abs().max()
    assert (got - expected).abs().max() <= allowed


def layers_of(lm: TransformersLM) -> Any:
    return next(module for name, module in lm.model.named_modules() if name.rpartition(".")[2] in ("h", "layers"))


def causal_mask(n_pos: int, window: int | None) -> Tensor:
    """Additive mask [1, 1, pos, pos], written out: a position sees itself and what came before, `window` at most."""
    distance = torch.arange(n_pos)[:, None] - torch.arange(n_pos)[None, :]
    allowed = (distance >= 0) & (distance < (window or n_pos))
    return torch.where(allowed, 0.0, float("-inf"))[None, None]


@torch.no_grad()
def block_by_hand(lm: TransformersLM, layer: int, x: Tensor) -> dict[str, Tensor]:
    """What each hook of a block should hold, from the block's own modules called one by one on its input `x`."""
    block, config, model_type = layers_of(lm)[layer], lm.model.config, lm.model.config.model_type
    window = None
    layer_types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    if model_type == "mistral" or layer_types[layer] == "sliding_attention":
        window = config.sliding_window
    arguments: dict[str, Any] = {"attention_mask": causal_mask(x.shape[1], window)}
    if model_type != "gpt2":
        positions = torch.arange(x.shape[1])[None].expand(x.shape[0], -1)
        extra = (config.layer_types[layer],) if model_type == "gemma3_text" else ()
        arguments["position_embeddings"] = lm.model.base_model.rotary_emb(x, positions, *extra)
    if model_type == "gpt2":
        ln1, attention, projection, ln2 = block.ln_1, block.attn, block.attn.c_proj, block.ln_2
        mlp_pre, mlp_last = block.mlp.c_fc, block.mlp.c_proj
    elif model_type == "gpt_neox":
        ln1, attention, projection = block.input_layernorm, block.attention, block.attention.dense
        ln2, mlp_pre, mlp_last = block.post_attention_layernorm, block.mlp.dense_h_to_4h, block.mlp.dense_4h_to_h
    else:
        ln1, attention, projection = block.input_layernorm, block.self_attn, block.self_attn.o_proj
        ln2, mlp_pre, mlp_last = block.post_attention_layernorm, block.mlp.gate_proj, block.mlp.down_proj
    post_attention = post_mlp = torch.nn.Identity()
    if model_type in ("gemma2", "gemma3_text"):
        post_attention, ln2, post_mlp = (
            block.post_attention_layernorm,
            block.pre_feedforward_layernorm,
            block.post_feedforward_layernorm,
        )
    attended = attention(ln1(x), **arguments)[0]
    attn_out = post_attention(attended)
    parallel = getattr(config, "use_parallel_residual", False)
    mid = x + attn_out
    mlp_in = x if parallel else mid
    mlp_out = post_mlp(block.mlp(ln2(mlp_in)))
    plus_one = 1.0 if model_type.startswith("gemma") else 0.0

    def before_weight(norm: Any, y: Tensor) -> Tensor:
        bias = getattr(norm, "bias", None)
        return (norm(y) - (0 if bias is None else bias)) / (norm.weight + plus_one)

    expected = {
        "hook_resid_pre": x,
        "ln1.hook_normalized": before_weight(ln1, x),
        "hook_attn_out": attn_out,
        "hook_resid_mid": mid,
        "hook_mlp_in": mlp_in,
        "ln2.hook_normalized": before_weight(ln2, mlp_in),
        "mlp.hook_in": ln2(mlp_in),
        "mlp.hook_pre": mlp_pre(ln2(mlp_in)),
        "hook_mlp_out": mlp_out,
        "hook_resid_post": x + attn_out + mlp_out,
        "(projected) attn.hook_z": attended,
        "(projected) mlp.hook_post": block.mlp(ln2(mlp_in)),
        "_projection": projection,
        "_mlp_last": mlp_last,
    }
    if parallel:
        del expected["hook_resid_mid"]
    return expected


@torch.no_grad()
def test_every_hook_of_every_block_equals_the_models_own_code(lm: TransformersLM, token_ids: Tensor) -> None:
    """Each named hook holds what the block's own modules give, for the whole batch."""
    hidden_states = lm.model(token_ids, output_hidden_states=True).hidden_states
    found = lm.activations(token_ids, lm.hook_names())
    for layer in range(len(hidden_states) - 1):
        expected = block_by_hand(lm, layer, hidden_states[layer])
        projection, mlp_last = expected.pop("_projection"), expected.pop("_mlp_last")
        prefix = f"blocks.{layer}."
        assert_near(projection(found[prefix + "attn.hook_z"]), expected.pop("(projected) attn.hook_z"))
        assert_near(mlp_last(found[prefix + "mlp.hook_post"]), expected.pop("(projected) mlp.hook_post"))
        for name, value in expected.items():
            assert_near(found[prefix + name], value)
        named = {name for name in lm.hook_names() if name.startswith(prefix)}
        assert named == {prefix + name for name in (*expected, "attn.hook_z", "mlp.hook_post")}
        if layer + 2 < len(hidden_states):
            assert_near(found[prefix + "hook_resid_post"], hidden_states[layer + 1])


@torch.no_grad()
def test_embedding_hooks_add_up_to_the_first_blocks_input(lm: TransformersLM, token_ids: Tensor) -> None:
    """`hook_embed` is the token embedding (scaled, for Gemma), and with the positions it is what the first block reads."""
    names = [name for name in ("hook_embed", "hook_pos_embed") if name in lm.hook_names()]
    found = lm.activations(token_ids, [*names, "blocks.0.hook_resid_pre"])

    embedding = lm.model.get_input_embeddings()
    scale = lm.d_model**0.5 if lm.model.config.model_type.startswith("gemma") else 1.0
    assert_near(found["hook_embed"], embedding.weight[token_ids] * scale)
    assert_near(sum(found[name] for name in names), found["blocks.0.hook_resid_pre"])


@torch.no_grad()
def test_unembed_and_the_final_norm_give_the_models_logits(lm: TransformersLM, token_ids: Tensor) -> None:
    """`softcap((normalized * norm_weight + norm bias) @ W_U)` is what the model computes."""
    unembed = lm.unembed()
    normalized = lm.activations(token_ids, ["ln_final.hook_normalized"])["ln_final.hook_normalized"]
    norm = next(m for n, m in lm.model.named_modules() if n.rpartition(".")[2] in ("ln_f", "norm", "final_layer_norm"))
    norm_bias = getattr(norm, "bias", None)

    logits = (normalized * unembed.norm_weight + (0 if norm_bias is None else norm_bias)) @ unembed.W_U
    if unembed.softcap is not None:
        logits = unembed.softcap * torch.tanh(logits / unembed.softcap)

    assert_near(logits, lm.logits(token_ids))
    assert unembed.W_U.shape == (lm.d_model, lm.d_vocab)
    assert (unembed.softcap is not None) == (lm.model.config.model_type == "gemma2")
    assert unembed.centred == (lm.model.config.model_type in ("gpt2", "gpt_neox"))


def _padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    token_ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        token_ids[i, place], mask[i, place] = row, 1
    return token_ids, mask


def test_left_and_right_padding_give_the_activations_of_the_unpadded_text(lm: TransformersLM, token_ids: Tensor) -> None:
    """At real tokens, every hook and the logits are the same whichever side the padding is on."""
    rows = [token_ids[0, :7], token_ids[1], token_ids[2, :4]]
    alone = [lm.activations(row[None], lm.hook_names()) for row in rows]
    alone_logits = torch.cat([lm.logits(row[None])[0] for row in rows])
    for side in ("left", "right"):
        padded, mask = _padded(rows, side)
        found = lm.activations(padded, lm.hook_names(), mask)
        for name in lm.hook_names():
            expected = torch.cat([one[name][0] for one in alone])
            assert_near(found[name][mask.bool()], expected, ulps=256)
        assert_near(lm.logits(padded, mask)[mask.bool()], alone_logits, ulps=256)


def test_padding_matters_without_a_mask(gpt2: TransformersLM, token_ids: Tensor) -> None:
    """Left padding that is not declared changes activations, so that the test above can fail."""
    name = "blocks.2.hook_resid_post"
    padded, _ = _padded([token_ids[0, :7], token_ids[1]], "left")

    unmasked = gpt2.activations(padded, [name])[name][0, -7:]

    alone = gpt2.activations(token_ids[:1, :7], [name])[name][0]
    assert (unmasked - alone).abs().max() > 0.01 * alone.abs().max()


def test_the_pass_stops_after_the_last_hook(lm: TransformersLM, token_ids: Tensor) -> None:
    """Blocks behind the last hook do not run, and neither does the head."""
    ran: list[str] = []
    watched = {f"block {i}": block for i, block in enumerate(layers_of(lm))} | {"head": lm.model.get_output_embeddings()}
    handles = [module.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, module in watched.items()]
    try:
        lm.activations(token_ids, ["blocks.0.hook_resid_post", "blocks.1.ln1.hook_normalized"])
        stopped = list(ran)
        lm.logits(token_ids)
    finally:
        for handle in handles:
            handle.remove()

    assert stopped == ["block 0"]
    assert ran[1:] == [*(f"block {i}" for i in range(3)), "head"]


def test_no_hook_stays_behind(gpt2: TransformersLM, token_ids: Tensor) -> None:
    """After a pass, also one that failed, the model carries no hook of ours."""

    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("boom")

    def n_hooks() -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in gpt2.model.modules())

    before = n_hooks()

    gpt2.activations(token_ids, gpt2.hook_names())
    with pytest.raises(RuntimeError, match="boom"):
        gpt2.logits(token_ids, edits={"blocks.1.hook_mlp_out": fail})

    assert n_hooks() == before


def test_any_module_path_is_a_hook(gpt2: TransformersLM, token_ids: Tensor) -> None:
    """A module path with `.input` or `.output` reads what that module takes or gives, the first of a tuple included."""
    named = gpt2.activations(token_ids, ["blocks.1.hook_attn_out", "blocks.1.hook_resid_mid", "blocks.1.mlp.hook_post"])
    paths = ["transformer.h.1.attn.output", "transformer.h.1.ln_2.input", "transformer.h.1.mlp.c_proj.input"]

    by_path = gpt2.activations(token_ids, paths)

    for expected, got in zip(named.values(), by_path.values(), strict=True):
        assert torch.equal(expected, got)


def test_d_hook_is_the_width_of_the_activation(lm: TransformersLM, token_ids: Tensor) -> None:
    """`d_hook` agrees with a real pass for every hook name, and for module paths."""
    for name, activation in lm.activations(token_ids, lm.hook_names()).items():
        assert lm.d_hook(name) == activation.shape[-1]
    assert lm.d_hook("lm_head.output" if hasattr(lm.model, "lm_head") else "embed_out.output") == lm.d_vocab


def test_an_unknown_hook_names_the_nearest_ones(gpt2: TransformersLM, token_ids: Tensor) -> None:
    """The message gives the number of layers and near hook names, or near module paths."""
    for call in (
        gpt2.d_hook,
        lambda name: gpt2.activations(token_ids, [name]),
        lambda name: gpt2.logits(token_ids, None, {name: abs}),
    ):
        with pytest.raises(
            HookNotFoundError, match=r"blocks\.9\.hook_resid_post.*3 layers \(0 to 2\).*blocks\.\d\.hook_resid_post"
        ):
            call("blocks.9.hook_resid_post")
    with pytest.raises(HookNotFoundError, match=r"transformer\.h\.1\.mlp\.output"):
        gpt2.d_hook("transformer.h.1.mpl.output")
    with pytest.raises(HookNotFoundError, match="hook_normalized"):
        gpt2.d_hook("blocks.1.ln2.hook_normalised")


def test_parallel_residual_has_no_resid_mid(neox: TransformersLM) -> None:
    """GPT-NeoX adds attention and MLP at once: there is no stream between them."""
    with pytest.raises(HookNotFoundError, match="hook_resid_mid"):
        neox.d_hook("blocks.1.hook_resid_mid")


def test_a_module_that_does_not_run_is_named(gpt2: TransformersLM, token_ids: Tensor) -> None:
    """A hook on a module that a pass never calls is an error, not a missing key."""
    with pytest.raises(HookNotFoundError, match=r"transformer\.h does not run"):
        gpt2.activations(token_ids, ["transformer.h.output"])
    with pytest.raises(HookNotFoundError, match=r"transformer\.h does not run"):
        gpt2.logits(token_ids, edits={"transformer.h.output": lambda a: a})


@pytest.mark.parametrize(
    ("token_ids", "mask", "message"),
    [
        (torch.zeros(4, dtype=torch.int64), None, r"token_ids: expected int64 \[batch, pos\]"),
        (torch.zeros(2, 4), None, "float32"),
        (torch.zeros(2, 0, dtype=torch.int64), None, r"\[2, 0\]"),
        (torch.full((2, 4), 70), None, "expected ids from 0 to 69, got 70 to 70"),
        (torch.full((2, 4), -1), None, "got -1 to -1"),
        (torch.zeros(2, 65, dtype=torch.int64), None, "at most n_ctx = 64 positions, got 65"),
        (torch.zeros(2, 4, dtype=torch.int64), torch.ones(2, 3), r"attention_mask: expected \[2, 4\], got \[2, 3\]"),
    ],
)
def test_wrong_inputs_are_refused(gpt2: TransformersLM, token_ids: Tensor, mask: Tensor | None, message: str) -> None:
    """Tokens and masks of a wrong shape, dtype, range or length raise `ShapeError` with what was expected and found."""
    with pytest.raises(ShapeError, match=message):
        gpt2.logits(token_ids, mask)


def test_activations_can_train_an_sae(gpt2: TransformersLM, token_ids: Tensor) -> None:
    """Activations carry no graph of the LM and can be saved for another one's backward."""
    x = gpt2.activations(token_ids, ["blocks.1.hook_resid_post"])["blocks.1.hook_resid_post"]
    weight = torch.ones(x.shape[-1], requires_grad=True)

    (x * weight).sum().backward()

    assert not x.requires_grad
    assert weight.grad is not None
