"""The commented release file that `sitegen new` writes."""

TEMPLATE = """\
# A release: what goes into a site. `sitegen build {name} --out site` builds it; `--preview` first says what that will cost.
# Paths are relative to this file. Lines that are commented out show defaults. Every key: docs/release-file.md.

[site]
title = "Feature dashboards"
# description = "Features of a sparse autoencoder trained on …"
# citation = ""
# featured = 12                  # features of each SAE that the index page begins with

[model]                          # the language model
source = "path/or/hub-name"      # a Hugging Face folder, or a name on the hub
# name = "…"                     # shown on the pages; default: the last part of source
# backend = "transformers"
# dtype = "float32"              # float32, bfloat16, float16
# device = "cpu"                 # cpu, cuda, cuda:1, …
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
# prepend_bos = "auto"           # auto (as the SAEs were trained), true, false
# count_special = false          # count BOS, EOS and template tokens
# roles = []                     # of chats: the roles that are counted, such as ["assistant"]; default: all
# on_bad_text = "error"          # lone surrogates and bytes that are not UTF-8: error, replace, skip

[[sae]]                          # repeat this table for more
source = "path/to/sae"           # a SAELens folder, a Gemma Scope params.npz, …
# slug = "layer-6"               # in addresses; default: from hook and architecture
# name = "…"                     # on the pages
# hook_name = "blocks.6.hook_resid_post"   # where its metadata do not say, or are wrong
# hook_names = ["…", "…"]        # the same for a crosscoder: all its hooks, in its order
# fold_decoder_norm = false      # default: as published
# dtype = "float32"
# training_report = "auto"       # report.html of its run; auto: the one beside the folder saes that it lies in; none

# [[contrast]]                   # a result of sae-fast contrast, on a page of its own; repeat for more
# source = "contrast"            # its folder, or its contrast.json
# title = "…"
# slug = "my-contrast"
# sae = ["layer-6"]              # slugs of its SAEs; default: found by hook, architecture and size

# [[comparison]]                 # a result of sae-fast eval, on a page of its own; repeat for more
# source = "evaluation"          # its folder, or its evaluation.json
# title = "…"
# slug = "my-comparison"

# [facts]                        # sizes of the facts; 0 leaves one out
# examples = 20                  # top examples
# window = 64                    # tokens of an example
# before = 32                    # of them before the peak
# intervals = 5
# per_interval = 5
# logits = 10
# normed_logits = false
# neighbours = 10
# coactive = 10
# min_together = 5
# top_tokens = 10
# bins = 50
# labels = true
# label_tokens = 2_000_000
# pair_bytes = 536_870_912

# [evaluation]
# tokens = 65_536                # counted tokens to measure on; 0 leaves the evaluation out

# [build]
# batch_size = 32                # contexts the LM reads at once
# part_tokens = 131_072          # what an interrupted build loses at most
# activations = "store"          # a store of the same tokens' activations, read instead of running the LM
"""
