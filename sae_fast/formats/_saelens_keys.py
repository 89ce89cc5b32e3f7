"""The keys that a `cfg.json` of SAELens may hold, of every version; any other is refused, since it might change the SAE."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
"""Keys from before version 6 by their present names."""

SAE_KEYS = _words("""
    activation_fn activation_fn_kwargs activation_normalization_factor apply_b_dec_to_input architecture bottleneck_factor d_in
    d_out d_sae device dtype finetuning_scaling_factor k kval_topk max_iterations metadata n_attn_layers n_heads
    normalize_activations rescale_acts_by_decoder_norm reshape_activations residual_threshold sae_diff_type
    stop_on_duplicate_support tied_weights
""")
"""What the SAE is."""

METADATA_KEYS = _words("""
    context_size dataset_path exclude_special_tokens hf_hook_name hf_hook_name_out hook_head_index hook_head_index_out
    hook_layer hook_name hook_name_out model_class_name model_from_pretrained_kwargs model_name neuronpedia_id prepend_bos
    sae_lens_training_version sae_lens_version seqpos_slice
""")
"""Where it belongs; before version 6 beside what it is, now in `metadata`."""

TRAINING_KEYS = _words("""
    aux_loss_coefficient decoder_init_norm jumprelu_bandwidth jumprelu_init_threshold jumprelu_sparsity_loss_mode
    jumprelu_ste_to_input jumprelu_tanh_scale l0_coefficient l0_warm_up_steps l1_coefficient l1_warm_up_steps lp_norm
    matryoshka_widths pre_act_loss_coefficient target_l0 topk_threshold_lr use_matryoshka_aux_loss use_sparse_activations
""")
"""How it was trained, in version 6. But for the widths nothing here changes what it computes."""

OLD_TRAINING_KEYS = _words("""
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
""")
"""Before version 6, cfg.json held the configuration of the whole training run."""

KNOWN_KEYS = SAE_KEYS | METADATA_KEYS | TRAINING_KEYS | OLD_TRAINING_KEYS
