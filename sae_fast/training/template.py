"""The commented configuration that `sae-fast train --new` writes."""

TEMPLATE = """\
# Training of SAEs. `sae-fast train {name}` carries it out, or goes on with it; `--estimate` first says what that will need.
# Paths are relative to this file. Lines that are commented out show defaults. Every key: docs/training.md.

[model]                          # the language model
source = "path/or/hub-name"      # a Hugging Face folder, or a name on the hub
# name = "…"                     # kept in the SAEs; default: the last part of source
# backend = "transformers"
# dtype = "float32"              # float32, bfloat16, float16
# device = "cpu"                 # where the LM and the SAEs run: cpu, cuda, cuda:1, …
# [model.arguments]              # passed to from_pretrained as they are
# revision = "main"

[corpus]
source = "standard-library"      # or a file, a folder, the name of a dataset on the hub
# name = "…"                     # configuration of a hub dataset
# split = "train"                # of the standard library: all, train, held_out
# column = "text"                # a column of text, or of chat messages
# kind = "auto"                  # auto, text, messages
# streaming = false              # read a hub dataset as it arrives (give max_tokens)
# shuffle = false
# seed = 0
# context_length = 128           # tokens, BOS included
# max_tokens = 10_000_000        # default: the whole corpus
# prepend_bos = "auto"           # auto (where the tokenizer has a BOS), true, false
# count_special = false          # train on BOS, EOS and template tokens too
# roles = []                     # of chats: the roles that are trained on; default: all
# on_bad_text = "error"          # error, replace, skip

# [activations]
# on_disk = true                 # false: no store; the LM runs along with the training
# dtype = "bfloat16"             # of the store: bfloat16, float16, float32, int8
# held_out = 0.02                # share of the documents kept for thresholds and results
# batch_size = 32                # contexts the LM reads at once
# shard_tokens = 131_072         # what an interrupted pass loses at most
# buffer_tokens = 262_144        # without a store: activations that are shuffled together
# folder = "activations"         # default: in the output folder. Several runs may share one

[train]
tokens = 50_000_000              # activation vectors
# batch_tokens = 4096            # of a step
# accumulate = 1                 # parts that a batch is cut into, for less memory
# lr = 3e-4                      # peak learning rate of Adam
# warmup = 0.02                  # share of the steps over which it rises
# decay = 0.2                    # share over which it falls at the end
# schedule = "linear"            # linear, cosine, constant
# beta1 = 0.9
# beta2 = 0.999
# clip_norm = 1.0
# precision = "float32"          # of the products: float32, bfloat16
# shard_features = false         # with torchrun: spread the features over the processes, all or so many
# seed = 0

# [finetune]                     # end-to-end training at the end
# tokens = 0                     # of contexts; 0: none
# loss = "kl"                    # kl, ce
# lr = 5e-5
# contexts = 8                   # of a step

# [output]
# folder = "run"
# checkpoint_tokens = 5_000_000
# log_steps = 50
# dtype = "float32"              # of the finished weights: float32, bfloat16, float16
# format = "saelens"             # what it cannot hold is saved as sae_fast
# tensorboard = false
# wandb = "project"
# trackio = "project"

[[sae]]                          # repeat this table for more; a list of values gives one SAE for each
architecture = "batchtopk"       # batchtopk, topk, abstopk, matryoshka, jumprelu, standard, gated, matching_pursuit,
                                 # clt, crosscoder, batchtopk_crosscoder
hook_name = "blocks.6.hook_resid_post"
expansion = 16                   # features as a multiple of the width; or d_sae = 16384
k = [32, 64]                     # topk, abstopk, batchtopk, matryoshka: active features of a token
# hook_name_out = "…"            # a transcoder writes here
# skip = false                   # a transcoder's linear term
# unit_norm_decoder = true       # standard, clt, crosscoder, transcoders of topk and batchtopk: false
# start_from_data = true         # standard, transcoders of topk and batchtopk: false
# start_at_mean = true           # of the decoder's bias; else zero
# dead_after_tokens = 10_000_000
# lr = 3e-4                      # default: that of [train]
# seed = 0
# name = "…"                     # default: from hook, architecture and size
#                                  topk, abstopk, batchtopk, matryoshka:
# aux_coefficient = 0.03125      # weight of the loss that revives dead features
# k_aux = 384                    # default: half the width
# threshold_decay = 0.99         # batchtopk, matryoshka
# group_sizes = [0.125, 0.25, 0.625]       # matryoshka: numbers of features, or shares
#                                  jumprelu, clt:
# penalty = "quadratic"          # quadratic, step, tanh
# target_l0 = 64                 # of the quadratic penalty
# l0_coefficient = 32.0
# l0_warmup = 0.3
# tanh_scale = 4.0
# bandwidth = 0.1
# initial_threshold = 0.1
# threshold_lr = 6e-3            # default: twenty times that of the weights
# dead_coefficient = 3e-3
#                                  standard, gated, crosscoder:
# l1_coefficient = 5.0
# l1_warmup = 0.05
# lp_norm = 1.0                  # standard, crosscoder
# freeze_auxiliary_decoder = false                                # gated
#                                  matching_pursuit:
# max_iterations = 32
# residual_threshold = 0.01
#                                  clt, crosscoder, batchtopk_crosscoder:
# hook_names = ["blocks.0.ln2.hook_normalized", "blocks.1.ln2.hook_normalized"]
# hook_names_out = ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]      # clt
"""
