"""Published SAE formats in small: the files of each, exactly as its publisher lays them out, with random tensors.

Weights are multiples of 1/64, so that sums of products are exact in float32 and activations can be compared for equality.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_fast.sae import SAE

D_IN, D_SAE, K = 8, 24, 5
Tensors = dict[str, Tensor]


@dataclass
class Sample:
    """The files of one SAE."""

    folder: str
    """Path below a root; its names matter to some formats."""
    files: dict[str, Any]
    """By name in the folder: tensors, a JSON object, or a text, written by the name's ending."""
    file: str | None = None
    """What is loaded: this file, or the folder."""
    around: dict[str, Any] = field(default_factory=dict)
    """Files by name below the root."""

    def write(self, root: Path) -> Path:
        """Write the files; returns what to load."""
        for name, content in self.around.items():
            write(root / name, content)
        for name, content in self.files.items():
            write(root / self.folder / name, content)
        return root / self.folder if self.file is None else root / self.folder / self.file

    def tensor_files(self) -> list[str]:
        """Names of the files that hold tensors."""
        return [name for name in self.files if name.endswith((".safetensors", ".npz", ".pt", ".pth"))]


def write(file: Path, content: Any) -> None:
    """Write tensors, JSON or text, by the file's ending."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in content.items()}, file)
    elif file.suffix == ".npz":
        np.savez(file, **{key: tensor.numpy() for key, tensor in content.items()})
    elif file.suffix in (".pt", ".pth"):
        torch.save(content, file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(content), encoding="utf-8")
    else:
        file.write_text(content, encoding="utf-8")


def draw(seed: int, **shapes: Iterable[int]) -> Tensors:
    """Random multiples of 1/64 between -2 and 2."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(-128, 128, tuple(shape), generator=generator) / 64 for name, shape in shapes.items()}


def inputs(n: int = 64, d_in: int = D_IN) -> Tensor:
    """`n` activations."""
    return draw(99, x=(n, d_in))["x"]


def assert_computes(sae: SAE, x: Tensor, acts: Tensor, out: Tensor, exact: bool = True) -> None:
    """Activations equal those expected (float64) and are not trivial; what the SAE writes does within float32 rounding."""
    got = sae.encode(x).to_dense()
    assert 0 < int((acts != 0).sum()) < acts.numel()
    if exact:
        assert torch.equal(got.double(), acts)
    torch.testing.assert_close(got.double(), acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(x).double(), out, rtol=1e-5, atol=1e-4)


def largest(h: Tensor, k: int) -> Tensor:
    """`h` with all but the k largest of each row at zero, then relu."""
    values, places = h.topk(k, dim=-1)
    return torch.zeros_like(h).scatter(-1, places, values.relu())


def doubles(tensors: Tensors) -> Tensors:
    """In float64."""
    return {name: tensor.double() for name, tensor in tensors.items() if tensor.is_floating_point()}


def gemma_scope(release: str = "gemma-scope-2b-pt-res", folder: str = "layer_20/width_16k/average_l0_71") -> Sample:
    """params.npz of Gemma Scope."""
    tensors = draw(1, W_enc=(D_IN, D_SAE), W_dec=(D_SAE, D_IN), b_enc=(D_SAE,), b_dec=(D_IN,), threshold=(D_SAE,))
    tensors["threshold"] = tensors["threshold"].abs()
    return Sample(f"{release}/{folder}", {"params.npz": tensors})


def gemma_scope_2_tensors(seed: int = 2, n_layers: int = 0, skip: bool = False) -> Tensors:
    """Tensors of a file of Gemma Scope 2, cross-layer with `n_layers`."""
    w_dec = (D_SAE, n_layers, D_IN) if n_layers else (D_SAE, D_IN)
    tensors = draw(seed, w_enc=(D_IN, D_SAE), w_dec=w_dec, b_enc=(D_SAE,), b_dec=(D_IN,), threshold=(D_SAE,))
    tensors["threshold"] = tensors["threshold"].abs()
    return tensors | (draw(seed + 50, affine_skip_connection=(D_IN, D_IN)) if skip else {})


def gemma_scope_2(kind: str = "resid_post", skip: bool = False, config: dict[str, Any] | None = None) -> Sample:
    """params.safetensors of Gemma Scope 2, with its config.json if one is given."""
    folder = f"gemma-scope-2-1b-pt/{kind}/layer_7_width_16k_l0_medium{'_affine' if skip else ''}"
    files: dict[str, Any] = {"params.safetensors": gemma_scope_2_tensors(skip=skip)}
    return Sample(folder, files | ({} if config is None else {"config.json": config}))


def gemma_scope_2_clt(n_layers: int = 4, layer: int = 1, skip: bool = True) -> Sample:
    """All layers of a cross-layer transcoder of Gemma Scope 2; decoders write nothing below their own layer."""
    files: dict[str, Any] = {}
    for own in range(n_layers):
        tensors = gemma_scope_2_tensors(20 + own, n_layers, skip)
        tensors["w_dec"][:, :own] = 0
        files[f"params_layer_{own}.safetensors"] = tensors
    return Sample("gemma-scope-2-270m-pt/clt/width_262k_l0_big_affine", files, f"params_layer_{layer}.safetensors")


def dictionary_learning(dict_class: str, **trainer: Any) -> Sample:
    """ae.pt and config.json of dictionary_learning."""
    linear = {"encoder.weight": (D_SAE, D_IN), "decoder.weight": (D_IN, D_SAE)}
    matrices = {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    bias = {"encoder.bias": (D_SAE,)}
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "AutoEncoder": {"bias": (D_IN,), **linear, **bias},
        "AutoEncoderNew": {**linear, **bias, "decoder.bias": (D_IN,)},
        "GatedAutoEncoder": {"decoder_bias": (D_IN,), **dict.fromkeys(("r_mag", "gate_bias", "mag_bias"), (D_SAE,)), **linear},
        "JumpReluAutoEncoder": {**matrices, "threshold": (D_SAE,)},
        "AutoEncoderTopK": {"b_dec": (D_IN,), **linear, **bias},
        "BatchTopKSAE": {"b_dec": (D_IN,), **linear, **bias},
        "MatryoshkaBatchTopKSAE": matrices,
    }
    state = draw(3, **shapes[dict_class])
    if "TopK" in dict_class:
        state |= {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(1.5)}
    if dict_class == "MatryoshkaBatchTopKSAE":
        state["group_sizes"] = torch.tensor([4, 8, 12])
    settings = {
        "trainer_class": "Trainer", "dict_class": dict_class, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 3,
        "lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": "resid_post_layer_3", "lr": 3e-4,
    }  # fmt: skip
    config = {
        "trainer": settings | ({"k": K} if "TopK" in dict_class else {}) | trainer,
        "buffer": {"ctx_len": 128, "io": "out"},
    }
    return Sample("pythia70m_sweep/resid_post_layer_3/trainer_0", {"ae.pt": state, "config.json": config})


def sparsify(folder: str = "sae-pythia-70m-32k/layers.3", **config: Any) -> Sample:
    """cfg.json and sae.safetensors of sparsify; current versions write num_latents as 0."""
    settings = {
        "activation": "topk", "expansion_factor": D_SAE // D_IN, "normalize_decoder": True, "num_latents": 0, "k": K,
        "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D_IN,
    } | config  # fmt: skip
    tensors = draw(4, **{"encoder.weight": (D_SAE, D_IN), "encoder.bias": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)})
    if settings["skip_connection"]:
        tensors |= draw(5, W_skip=(D_IN, D_IN))
    run = {
        "model": "EleutherAI/pythia-70m",
        "dataset": "EleutherAI/pile",
        "ctx_len": 2048,
        "hookpoints": [folder.split("/")[1]],
    }
    files = {"cfg.json": settings, "sae.safetensors": tensors}
    return Sample(folder, files, around={f"{folder.split('/')[0]}/config.json": run})


def openai(version: str = "resid_post_mlp_v5_32k", activation: str = "TopK") -> Sample:
    """A `.pt` of OpenAI's autoencoders; before v5 with ReLU."""
    shapes = {"pre_bias": (D_IN,), "encoder.weight": (D_SAE, D_IN), "latent_bias": (D_SAE,), "decoder.weight": (D_IN, D_SAE)}
    state: dict[str, Any] = dict(draw(6, **shapes))
    state |= {
        "stats_last_nonzero": torch.zeros(D_SAE, dtype=torch.int64),
        "latents_activation_frequency": torch.ones(D_SAE),
        "latents_mean_square": torch.ones(D_SAE),
        "activation": activation,
        "activation_state_dict": {"k": K, "postact_fn": "ReLU"} if activation == "TopK" else {},
    }
    return Sample(f"gpt2-small/{version}/autoencoders", {"8.pt": state}, "8.pt")


def llama_scope(name: str = "Llama3_1-8B-Base-L15R-8x", **hyperparams: Any) -> Sample:
    """hyperparams.json and checkpoints/final.safetensors of Llama Scope; decoder rows are not of norm one."""
    settings = {
        "device": "cuda:0", "seed": 42, "dtype": "torch.bfloat16", "hook_point_in": "blocks.15.hook_resid_post",
        "hook_point_out": "blocks.15.hook_resid_post", "use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False,
        "expansion_factor": D_SAE // D_IN, "d_model": D_IN, "d_sae": D_SAE, "act_fn": "jumprelu", "jump_relu_threshold": 2.25,
        "norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": 6.3125, "out": 6.3125},
        "sparsity_include_decoder_norm": True, "use_glu_encoder": False, "top_k": 50,
    } | hyperparams  # fmt: skip
    shapes = {
        "encoder.weight": (D_SAE, D_IN),
        "encoder.bias": (D_SAE,),
        "decoder.weight": (D_IN, D_SAE),
        "decoder.bias": (D_IN,),
    }
    return Sample(f"LXR-8x/{name}", {"hyperparams.json": settings, "checkpoints/final.safetensors": draw(7, **shapes)})


def openmoss(former: bool = False, **config: Any) -> Sample:
    """config.json and sae_weights.safetensors of llamascopium, or of its former self as in Llama Scope R1."""
    hook_in, hook_out = config.get("hook_point_in", "blocks.5.hook_resid_post"), config.get("hook_point_out")
    settings = {
        "sae_type": "sae", "d_model": D_IN, "expansion_factor": D_SAE / D_IN, "use_decoder_bias": True, "act_fn": "jumprelu",
        "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True, "top_k": K, "hook_point_in": hook_in,
        "hook_point_out": hook_in, "use_glu_encoder": False, "dtype": "torch.float32", "jumprelu_threshold_window": 2.0,
    } | config  # fmt: skip
    if former:
        shapes = {
            "encoder.weight": (D_SAE, D_IN),
            "encoder.bias": (D_SAE,),
            "decoder.weight": (D_IN, D_SAE),
            "decoder.bias": (D_IN,),
        }
    else:
        shapes = {"W_E": (D_IN, D_SAE), "b_E": (D_SAE,), "W_D": (D_SAE, D_IN), "b_D": (D_IN,)}
    tensors = draw(8, **shapes)
    if settings["act_fn"] == "jumprelu":
        key = "log_jumprelu_threshold" if former else "activation_function.log_jumprelu_threshold"
        tensors |= draw(9, **{key: (D_SAE,)})
    norms = {hook_in: 5.5} | ({hook_out: 3.25} if hook_out else {})
    tensors |= {f"dataset_average_activation_norm.{hook}": torch.tensor(norm) for hook, norm in norms.items()}
    folder = "Llama-Scope-R1-Distill/400M-Slimpajama-400M-OpenR1-Math-220k/L5R" if former else "qwen3-1.7b-plt-8x/L5"
    return Sample(folder, {"config.json": settings, "sae_weights.safetensors": tensors})


def qwen_scope(config: bool = True) -> Sample:
    """layer5.sae.pt of Qwen Scope."""
    state = draw(10, W_enc=(D_SAE, D_IN), W_dec=(D_IN, D_SAE), b_enc=(D_SAE,), b_dec=(D_IN,))
    settings = {
        "model_type": "topk_sae", "base_model": "Qwen/Qwen3-1.7B-Base", "d_model": D_IN, "d_sae": D_SAE, "k": K,
        "num_layers": 28, "hook_point": "resid_post", "dtype": "float32",
    }  # fmt: skip
    files: dict[str, Any] = {"layer5.sae.pt": state}
    return Sample(
        f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}", files | ({"config.json": settings} if config else {}), "layer5.sae.pt"
    )


CONFIG_YAML = """\
# one for all layers
model_name: "Qwen/Qwen3-4B"
model_kind: "{kind}"
feature_input_hook: "{read}"
feature_output_hook: '{written}'
"""


def circuit_tracer_plt(jumps: bool = True, skip: bool = True, config: bool = True) -> Sample:
    """layer_3.safetensors of circuit-tracer."""
    tensors = draw(11, W_enc=(D_SAE, D_IN), W_dec=(D_SAE, D_IN), b_enc=(D_SAE,), b_dec=(D_IN,))
    if jumps:
        tensors["activation_function.threshold"] = draw(12, threshold=(D_SAE,))["threshold"].abs()
    if skip:
        tensors |= draw(13, W_skip=(D_IN, D_IN))
    text = CONFIG_YAML.format(kind="transcoder_set", read="mlp.hook_in", written="hook_mlp_out")
    files: dict[str, Any] = {"layer_3.safetensors": tensors}
    return Sample("qwen3-4b-transcoders", files | ({"config.yaml": text} if config else {}), "layer_3.safetensors")


def circuit_tracer_clt(jumps: bool = True, n_layers: int = 4, layer: int = 1) -> Sample:
    """Both files of every layer of a cross-layer transcoder of circuit-tracer."""
    text = CONFIG_YAML.format(kind="cross_layer_transcoder", read="hook_resid_mid", written="hook_mlp_out")
    files: dict[str, Any] = {"config.yaml": text}
    for n in range(n_layers):
        tensors = draw(30 + n, **{f"W_enc_{n}": (D_SAE, D_IN), f"b_enc_{n}": (D_SAE,), f"b_dec_{n}": (D_IN,)})
        if jumps:
            tensors[f"threshold_{n}"] = draw(40 + n, threshold=(D_SAE,))["threshold"].abs()
        files[f"W_enc_{n}.safetensors"] = tensors
        files[f"W_dec_{n}.safetensors"] = draw(60 + n, **{f"W_dec_{n}": (D_SAE, n_layers - n, D_IN)})
    return Sample("clt-gemma-2-2b-2.5M", files, f"W_enc_{layer}.safetensors")


def connor_rob() -> Sample:
    """A `.pt` of Connor Kissane's and Rob Krzyzanowski's with its configuration."""
    stem = "gpt2-small_L0_Hcat_z_lr1.20e-03_l11.80e+00_ds24576_bs4096_dc1.00e-06_rsanthropic_rie25000_nr4_v9"
    config = {"act_size": D_IN, "dict_size": D_SAE, "act_name": "blocks.0.attn.hook_z", "seq_len": 128, "lr": 1.2e-3}
    state = draw(14, W_enc=(D_IN, D_SAE), W_dec=(D_SAE, D_IN), b_enc=(D_SAE,), b_dec=(D_IN,))
    return Sample("attn-saes-gpt2-small-all-layers", {f"{stem}.pt": state, f"{stem}_cfg.json": config}, f"{stem}.pt")


N_MODELS = 2


def crosscoder_learning(batchtopk: bool = True, former: bool = False, **config: Any) -> Sample:
    """A crosscoder of science-of-finetuning; former ones had neither `code_normalization_id` nor the hub's files."""
    shapes = {"encoder.weight": (N_MODELS, D_IN, D_SAE), "encoder.bias": (D_SAE,)}
    shapes |= {"decoder.weight": (N_MODELS, D_SAE, D_IN), "decoder.bias": (N_MODELS, D_IN)}
    state = draw(21, **shapes)
    settings: dict[str, Any] = {"activation_dim": D_IN, "dict_size": D_SAE, "num_layers": N_MODELS}
    if batchtopk:
        state |= {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(40.0)}
        settings["k"] = K
    if former:
        return Sample(
            "gemma-2-2b-crosscoder-l13-mu4.1e-02-lr1e-04", {"ae_7.pt": {f"_orig_mod.{k}": v for k, v in state.items()}}
        )
    state["code_normalization_id"] = torch.tensor(1)
    settings |= {"code_normalization": "CROSSCODER", "code_normalization_alpha_sae": 1.0, "code_normalization_alpha_cc": 0.1}
    files = {"model.safetensors": state, "config.json": settings | config}
    return Sample("science-of-finetuning/gemma-2-2b-crosscoder-l13-mu4.1e-02-lr1e-04", files)


def crosscoder_model_diff(owner: str = "ckkissane/crosscoder-gemma-2-2b-model-diff", number: int | None = None) -> Sample:
    """A crosscoder of Connor Kissane's, as published or, with a number, as a checkpoint."""
    shapes = {"W_enc": (N_MODELS, D_IN, D_SAE), "W_dec": (D_SAE, N_MODELS, D_IN), "b_enc": (D_SAE,), "b_dec": (N_MODELS, D_IN)}
    config = {"d_in": D_IN, "dict_size": D_SAE, "seq_len": 1024, "enc_dtype": "fp32", "model_name": "gemma-2-2b", "seed": 49}
    config |= {"site": "resid_pre", "hook_point": "blocks.14.hook_resid_pre", "dec_init_norm": 0.08, "l1_coeff": 2}
    names = ("cc_weights.pt", "cfg.json") if number is None else (f"{number}.pt", f"{number}_cfg.json")
    content = (draw(22, **shapes), config)
    return Sample(f"{owner}/blocks.14.hook_resid_pre", dict(zip(names, content, strict=True)))


def _linear(seed: int, encoder: str, decoder: str) -> Tensors:
    shapes = {f"{encoder}.weight": (D_SAE, D_IN), f"{encoder}.bias": (D_SAE,)}
    return draw(seed, **shapes, **{f"{decoder}.weight": (D_IN, D_SAE), f"{decoder}.bias": (D_IN,)})


def deepseek() -> Sample:
    """A `.pt` of qresearch, in bfloat16."""
    state = {key: tensor.bfloat16() for key, tensor in _linear(15, "encoder", "decoder").items()}
    name = "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
    return Sample("DeepSeek-R1-Distill-Llama-8B-SAE-l19", {name: state}, name)


def goodfire() -> Sample:
    """A `.pth` of Goodfire."""
    name = "Llama-3.1-8B-Instruct-SAE-l19.pth"
    return Sample("Llama-3.1-8B-Instruct-SAE-l19", {name: _linear(16, "encoder_linear", "decoder_linear")}, name)


CONF_YAML = """\
llm:
  dimin: {d_in}
  name: gemma-2-2b
sae:
  exp_factor: {expansion}
  n_heads: 2
  n_attn_layers: 2
  bottleneck_factor: 3
  sae_diff_type: topk
  kval_topk: {k}
  tied_weights: {tied}
  scaling_factor: 0.0078125
data:
  dtype: float32
"""


def temporal(tied: bool = True, wide_bias: bool = True) -> Sample:
    """conf.yaml and latest_ckpt.safetensors of a temporal SAE; `b` is [1, d] in some."""
    shapes: dict[str, tuple[int, ...]] = {"D": (D_SAE, D_IN), "b": (1, D_IN) if wide_bias else (D_IN,)}
    for layer in range(2):
        for name, width in (("k_ctx", D_SAE // 3), ("q_target", D_SAE // 3), ("v_ctx", D_SAE), ("c_proj", D_SAE)):
            shapes |= {f"attn_layers.{layer}.{name}.weight": (width, D_SAE), f"attn_layers.{layer}.{name}.bias": (width,)}
    tensors = draw(17, **shapes, **({} if tied else {"E": (D_IN, D_SAE)}))
    text = CONF_YAML.format(d_in=D_IN, expansion=D_SAE / D_IN, k=K, tied=str(tied).lower())
    return Sample("temporalSAEs/gemma-2-2B/layer_12/temporal", {"conf.yaml": text, "latest_ckpt.safetensors": tensors})


SAMPLES: dict[str, Callable[[], Sample]] = {
    "gemma_scope": gemma_scope,
    "gemma_scope_2": lambda: gemma_scope_2("transcoder", skip=True),
    "gemma_scope_2-clt": gemma_scope_2_clt,
    "dictionary_learning": lambda: dictionary_learning("GatedAutoEncoder"),
    "dictionary_learning-matryoshka": lambda: dictionary_learning("MatryoshkaBatchTopKSAE"),
    "sparsify": lambda: sparsify(transcode=True, skip_connection=True),
    "openai": openai,
    "llama_scope": llama_scope,
    "openmoss": openmoss,
    "openmoss-r1": lambda: openmoss(former=True),
    "qwen_scope": qwen_scope,
    "circuit_tracer_plt": circuit_tracer_plt,
    "circuit_tracer_clt": circuit_tracer_clt,
    "connor_rob": connor_rob,
    "deepseek": deepseek,
    "goodfire": goodfire,
    "temporal": temporal,
    "crosscoder_learning": crosscoder_learning,
    "crosscoder_model_diff": crosscoder_model_diff,
}
"""One or two of every format but SAELens's; what stands before a hyphen is the format's name."""
