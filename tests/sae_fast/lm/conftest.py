"""Tiny random language models of each family, in memory, with no weight at a value that would hide a mistake."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from sae_fast.lm.transformers import TransformersLM
from sae_fast.sae import SAE, SAEConfig

D_MODEL, N_LAYERS, D_VOCAB, N_CTX = 32, 3, 70, 64
_SIZES = {"vocab_size": D_VOCAB, "hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4}
_COMMON = {"max_position_embeddings": N_CTX, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_GROUPED = {"intermediate_size": 48, "num_key_value_heads": 2}
_GEMMA2 = {
    "head_dim": 12,
    "query_pre_attn_scalar": 12,
    "sliding_window": 4,
    "attn_logit_softcapping": 3.0,
    "final_logit_softcapping": 5.0,
}


_SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 4}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_GPT = {"n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": 4}
_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {}),
    "neox": ("GPTNeoXForCausalLM", {"intermediate_size": 48}),
    "neox-sequential": ("GPTNeoXForCausalLM", {"intermediate_size": 48, "use_parallel_residual": False}),
    "llama": ("LlamaForCausalLM", _GROUPED),
    "mistral": ("MistralForCausalLM", {**_GROUPED, "sliding_window": 4}),
    "qwen2": ("Qwen2ForCausalLM", _GROUPED),
    "gemma": ("GemmaForCausalLM", {**_GROUPED, "head_dim": 12}),
    "gemma2": ("Gemma2ForCausalLM", {**_GROUPED, **_GEMMA2}),
    "gemma3": ("Gemma3ForCausalLM", {**_GROUPED, **_SLIDING, "head_dim": 12, "query_pre_attn_scalar": 12}),
    "qwen3": ("Qwen3ForCausalLM", {**_GROUPED, "head_dim": 12}),
    "gpt-neo": (
        "GPTNeoForCausalLM",
        {"num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local", "global"], 1]]},
    ),
    "gptj": ("GPTJForCausalLM", {**_GPT, "rotary_dim": 4}),
    "bloom": ("BloomForCausalLM", {"n_layer": 3, "n_head": 4}),
    "opt": ("OPTForCausalLM", {"ffn_dim": 48, "word_embed_proj_dim": D_MODEL}),
    "phi": ("PhiForCausalLM", {"intermediate_size": 48}),
    "phi3": ("Phi3ForCausalLM", _GROUPED),
    "olmo": ("OlmoForCausalLM", _GROUPED),
    "olmo2": ("Olmo2ForCausalLM", _GROUPED),
    "olmo3": ("Olmo3ForCausalLM", {**_GROUPED, **_SLIDING}),
    "olmoe": ("OlmoeForCausalLM", {**_GROUPED, **_EXPERTS}),
    "qwen3-moe": ("Qwen3MoeForCausalLM", {**_GROUPED, **_EXPERTS, "head_dim": 12}),
    "mixtral": ("MixtralForCausalLM", {**_GROUPED, "num_local_experts": 4}),
    "gpt-oss": ("GptOssForCausalLM", {**_GROUPED, **_SLIDING, "head_dim": 12, "num_local_experts": 4}),
    "stablelm": ("StableLmForCausalLM", _GROUPED),
    "stablelm-parallel": ("StableLmForCausalLM", {**_GROUPED, "use_parallel_residual": True}),
    "starcoder2": ("Starcoder2ForCausalLM", _GROUPED),
    "smollm3": ("SmolLM3ForCausalLM", _GROUPED),
    "qwen3.5": (
        "Qwen3_5ForCausalLM",
        {
            **_GROUPED,
            "head_dim": 12,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
}
FAMILIES = ("gpt2", "neox", "neox-sequential", "llama", "mistral", "qwen2", "gemma", "gemma2", "gemma3")
OTHER_FAMILIES = tuple(name for name in _SETTINGS if name not in FAMILIES)


def _model(family: str) -> Any:
    name, settings = _SETTINGS[family]
    model_class = getattr(transformers, name)
    return model_class(model_class.config_class(**_SIZES | _COMMON | settings))


@torch.no_grad()
def build(family: str) -> TransformersLM:
    model = _model(family)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith(".bias"):
            parameter.copy_(0.1 * noise)
        elif parameter.ndim == 1:
            parameter.copy_(0.3 * noise + (0.1 if family.startswith("gemma") else 1.0))
        else:
            parameter.copy_(noise / math.sqrt(D_MODEL))
    return TransformersLM(model, tokenizer=None)


@pytest.fixture(scope="session", params=FAMILIES)
def lm(request: pytest.FixtureRequest) -> TransformersLM:
    """A language model of each family in turn."""
    return build(request.param)


@pytest.fixture(scope="session", params=OTHER_FAMILIES)
def other_lm(request: pytest.FixtureRequest) -> TransformersLM:
    """A language model of each further family in turn."""
    return build(request.param)


@pytest.fixture(scope="session", params=("gpt2", "llama", "gemma2"))
def main_lm(request: pytest.FixtureRequest) -> TransformersLM:
    """A language model of each of the three main families in turn."""
    return build(request.param)


@pytest.fixture
def build_lm() -> Callable[[str], TransformersLM]:
    """Builds a language model of a family that the test may change."""
    return build


@pytest.fixture(scope="session")
def gpt2() -> TransformersLM:
    return build("gpt2")


@pytest.fixture(scope="session")
def neox() -> TransformersLM:
    return build("neox")


@pytest.fixture
def token_ids() -> torch.Tensor:
    """int64 [3, 11], no padding and no special token."""
    return torch.randint(3, D_VOCAB, (3, 11), generator=torch.Generator().manual_seed(1))


MakeSae = Callable[..., SAE]


@pytest.fixture(scope="session")
def make_sae() -> MakeSae:
    """Random SAEs of `D_MODEL` to 64 features; keywords go to the configuration."""

    def make(hook_name: str = "blocks.1.hook_resid_post", architecture: str = "jumprelu", seed: int = 0, **config: Any) -> SAE:
        generator = torch.Generator().manual_seed(seed)
        settings: dict[str, Any] = {"architecture": architecture, "d_in": D_MODEL, "d_sae": 64, "hook_name": hook_name}
        settings |= {"k": 4} if architecture in ("topk", "abstopk") else {}
        cfg = SAEConfig(**settings | config)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        out = (len(cfg.hook_names_out), cfg.d_out) if cfg.hook_names_out else (cfg.d_out,)
        tensors = {"W_enc": normal(cfg.d_in, cfg.d_sae) / 4, "W_dec": normal(cfg.d_sae, *out) / 4, "b_dec": normal(*out) / 4}
        match architecture:
            case "gated":
                tensors |= {name: normal(cfg.d_sae) / 4 for name in ("b_gate", "b_mag", "r_mag")}
            case "jumprelu":
                tensors |= {"b_enc": normal(cfg.d_sae) / 4, "threshold": normal(cfg.d_sae).abs() + 0.5}
            case _:
                tensors |= {"b_enc": normal(cfg.d_sae) / 4}
        if cfg.skip:
            tensors["W_skip"] = normal(cfg.d_out, cfg.d_in) / 4
        return SAE(cfg, **tensors)

    return make
