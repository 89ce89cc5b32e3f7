"""The `cfg.json` of SAELens, current (6) and earlier, as an `SAEConfig`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sae_fast.config import VECTORS_OF, SAEConfig
from sae_fast.errors import ArgumentError, FormatError

BATCH_ARCHITECTURES = ("batchtopk", "matryoshka_batchtopk")
"""Training architectures that SAELens saves for inference as jumprelu, with one threshold for all features."""

LAYOUT_VERSION = "6.0.0"
"""The first SAELens version of the layout that is written."""

_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
_OWN_FIELDS = ("hook_name", "hook_name_out", "model_name", "prepend_bos", "context_size")
_SAE_KEYS = set(
    """
    activation_fn activation_fn_kwargs apply_b_dec_to_input architecture d_in d_sae device dtype finetuning_scaling_factor k
    metadata normalize_activations rescale_acts_by_decoder_norm reshape_activations
    """.split()  # noqa: SIM905
)
_METADATA_KEYS = set(
    """
    context_size dataset_path exclude_special_tokens hf_hook_name hf_hook_name_out hook_head_index hook_head_index_out
    hook_layer hook_name hook_name_out model_class_name model_from_pretrained_kwargs model_name neuronpedia_id prepend_bos
    sae_lens_training_version sae_lens_version seqpos_slice
    """.split()  # noqa: SIM905
)
# How the SAE was trained, in SAELens 6. Nothing here changes what it computes.
_TRAINING_KEYS = set(
    """
    aux_loss_coefficient decoder_init_norm jumprelu_bandwidth jumprelu_init_threshold jumprelu_sparsity_loss_mode
    jumprelu_ste_to_input jumprelu_tanh_scale l0_coefficient l0_warm_up_steps l1_coefficient l1_warm_up_steps lp_norm
    matryoshka_widths pre_act_loss_coefficient target_l0 topk_threshold_lr use_matryoshka_aux_loss use_sparse_activations
    """.split()  # noqa: SIM905
)
# Before version 6, cfg.json held the configuration of the whole training run.
_OLD_TRAINING_KEYS = set(
    """
    act_store_device adam_beta1 adam_beta2 autocast autocast_lm b_dec_init_method cached_activations_path checkpoint_path
    compile_llm compile_sae dataset_trust_remote_code dead_feature_estimation_method dead_feature_threshold
    dead_feature_window decoder_heuristic_init decoder_heuristic_init_norm decoder_orthogonal_init entity
    eval_batch_size_prompts eval_every_n_wandb_logs expansion_factor feature_reinit_scale feature_sampling_method
    feature_sampling_window finetuning_method finetuning_tokens from_pretrained_path hook_eval hook_point_eval
    hook_point_layer init_encoder_as_decoder_transpose is_dataset_tokenized llm_compilation_mode
    log_activations_store_to_wandb log_optimizer_state_to_wandb log_to_wandb lr lr_decay_steps lr_end lr_scheduler
    lr_scheduler_name lr_warm_up_steps model_kwargs mse_loss_normalization n_batches_in_buffer n_checkpoints n_eval_batches
    n_restart_cycles n_running_sparsity noise_scale normalize_sae_decoder resample_batches resume run_name
    sae_compilation_mode scale_sparsity_penalty_by_decoder_norm seed sparsity store_batch_size store_batch_size_prompts
    streaming tokens_per_buffer total_training_tokens train_batch_size train_batch_size_tokens training_tokens
    use_cached_activations use_ghost_grads verbose wandb_entity wandb_id wandb_log_frequency wandb_project
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class ParsedConfig:
    """What cfg.json says, and what must still be done to the tensors that lie beside it."""

    cfg: SAEConfig
    batch_checkpoint: bool
    """A BatchTopK training checkpoint: a scalar `topk_threshold`, which becomes the threshold of all features."""
    fold_norms: bool
    """That threshold is in units of activations rescaled by decoder norm, so the norms must be folded."""
    needs_input_scale: bool
    """Trained on inputs scaled by one factor that has not been folded into the weights yet."""


def parse(file: str, raw: Mapping[str, Any], d_in: int, d_sae: int) -> ParsedConfig:
    """Read the content of `file`; `d_in` and `d_sae` are those of the weights, and must agree."""
    settings = {_RENAMED.get(key, key): value for key, value in raw.items()}
    unknown = sorted(settings.keys() - _SAE_KEYS - _METADATA_KEYS - _TRAINING_KEYS - _OLD_TRAINING_KEYS)
    if unknown:
        raise FormatError(f"{file}: unknown keys {', '.join(unknown)}", advice="What they mean for the SAE is not known")
    metadata = {key: settings[key] for key in sorted(_METADATA_KEYS & settings.keys())} | dict(settings.get("metadata") or {})
    if "metadata" not in settings:
        _complete_old_layout(file, settings, metadata)
    for name, size in (("d_in", d_in), ("d_sae", d_sae)):
        if settings.get(name) not in (None, size):
            raise FormatError(f"{file}: {name}", expected=f"{size}, as in the weights", got=settings[name])
    if metadata.get("hook_head_index") is not None:
        raise FormatError(f"{file}: hook_head_index", expected="null", got=metadata["hook_head_index"])
    saved_as = settings.get("architecture", "standard")
    architecture, k = _architecture(saved_as, settings, metadata)
    if architecture not in VECTORS_OF:
        raise FormatError(f"{file}: architecture", expected=f"one of {', '.join(VECTORS_OF)}", got=repr(architecture))
    normalisation: Any = settings.get("normalize_activations") or "none"
    rescaled = bool(settings.get("rescale_acts_by_decoder_norm", False))
    batch_checkpoint = saved_as in BATCH_ARCHITECTURES
    own_fields: dict[str, Any] = {key: metadata.get(key) for key in _OWN_FIELDS}
    try:
        cfg = SAEConfig(
            architecture=architecture,  # type: ignore[arg-type]
            d_in=d_in,
            d_sae=d_sae,
            k=k,
            apply_b_dec_to_input=bool(settings.get("apply_b_dec_to_input", True)),
            normalize_activations="none" if normalisation == "expected_average_only_in" else normalisation,
            reshape_activations=settings.get("reshape_activations", "none"),
            rescale_acts_by_decoder_norm=rescaled and architecture == "topk",
            metadata={key: value for key, value in metadata.items() if key not in _OWN_FIELDS},
            **own_fields,
        )
    except ArgumentError as error:
        raise FormatError(f"{file}: {error}") from error
    return ParsedConfig(cfg, batch_checkpoint, batch_checkpoint and rescaled, normalisation == "expected_average_only_in")


def write(cfg: SAEConfig, dtype: str) -> dict[str, Any]:
    """The content of cfg.json in the current layout, keys sorted. `dtype` without "torch."."""
    if cfg.d_out != cfg.d_in:
        raise ArgumentError("d_out", expected=f"d_in = {cfg.d_in} for an SAE in SAELens's format", got=cfg.d_out)
    metadata = dict(cfg.metadata) | {key: getattr(cfg, key) for key in _OWN_FIELDS if getattr(cfg, key) is not None}
    if _major_version(metadata.get("sae_lens_version")) < 6:
        metadata["sae_lens_version"] = LAYOUT_VERSION
    settings: dict[str, Any] = {
        "architecture": cfg.architecture,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": cfg.apply_b_dec_to_input,
        "normalize_activations": cfg.normalize_activations,
        "reshape_activations": cfg.reshape_activations,
        "metadata": metadata,
    }
    if cfg.architecture == "topk":
        settings |= {"k": cfg.k, "rescale_acts_by_decoder_norm": cfg.rescale_acts_by_decoder_norm}
    if cfg.architecture == "batchtopk":
        settings["architecture"] = "jumprelu"
        if metadata.get("training_architecture") not in BATCH_ARCHITECTURES:
            metadata["training_architecture"] = "batchtopk"
        if cfg.k is not None:
            metadata["training_architecture_details"] = dict(metadata.get("training_architecture_details") or {}) | {"k": cfg.k}
    return settings


def _architecture(saved_as: str, settings: Mapping[str, Any], metadata: Mapping[str, Any]) -> tuple[str, int | None]:
    """(our name of the architecture, k)."""
    k = settings.get("k")
    trained_as = metadata.get("training_architecture")
    if saved_as in BATCH_ARCHITECTURES or (saved_as == "jumprelu" and trained_as in BATCH_ARCHITECTURES):
        if k is None:
            k = (metadata.get("training_architecture_details") or {}).get("k")
        return "batchtopk", int(k) if k is not None and float(k).is_integer() else None
    return saved_as, k


def _complete_old_layout(file: str, settings: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Give `settings` and `metadata` of a file from before SAELens 6 the keys and defaults of the current layout."""
    metadata.setdefault("prepend_bos", True)
    hook = str(metadata.get("hook_name") or "")
    settings.setdefault("reshape_activations", "hook_z" if "hook_z" in hook else "none")
    if isinstance(settings.get("normalize_activations"), bool):
        settings["normalize_activations"] = "expected_average_only_in" if settings["normalize_activations"] else "none"
    activation = settings.get("activation_fn") or "relu"
    if activation == "topk":
        settings["architecture"] = "topk"
        settings["k"] = (settings.get("activation_fn_kwargs") or {}).get("k")
    elif activation != "relu":
        raise FormatError(f"{file}: activation_fn", expected="relu or topk", got=repr(activation))


def _major_version(version: object) -> int:
    major = str(version or "").split(".")[0]
    return int(major) if major.isdigit() else 0
