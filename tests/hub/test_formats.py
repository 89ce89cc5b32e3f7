"""One published SAE of every format: its headers say what the catalogue says, and it encodes."""

import pytest
import torch

import sae_fast
from sae_fast import catalogue, formats
from sae_fast.config import THRESHOLD_ARCHITECTURES

NAMES = [
    "gpt2-small-res-jb-feature-splitting/blocks.8.hook_resid_pre_768",
    "gpt2-small-resid-post-v5-32k/blocks.3.hook_resid_post",
    "gpt2-small-hook-z-kk/blocks.0.hook_z",
    "gpt2-small-mlp-tm/blocks.0.hook_mlp_out",
    "mistral-7b-res-wg/blocks.8.hook_resid_pre",
    "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6",
    "gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76",
    "gemma-scope-2-270m-pt-res-all/layer_0_width_16k_l0_small",
    "gemma-scope-2-270m-pt-transcoders-all/layer_0_width_16k_l0_small_affine",
    "llama_scope_lxr_8x/l0r_8x",
    "llama_scope_r1_distill/l0r_800m_slimpajama",
    "sae_bench_pythia70m_sweep_topk_ctx128_0730/blocks.3.hook_resid_post__trainer_0",
    "sae_bench_pythia70m_sweep_gated_ctx128_0730/blocks.3.hook_resid_post__trainer_0",
    "sae_bench_pythia70m_sweep_panneal_ctx128_0730/blocks.3.hook_resid_post__trainer_16",
    "saebench_gemma-2-2b_width-2pow12_date-0108/blocks.12.hook_resid_post__trainer_0",
    "deepseek-r1-distill-llama-8b-qresearch/blocks.19.hook_resid_post",
    "goodfire-llama-3.1-8b-instruct/layer_19",
    "qwen-scope-3-1.7b-base-w32k-l50/layer0",
    "mwhanna-qwen3-0.6b-transcoders-lowl0/layer_0",
    "mntss-gemma-2-2b-2.5m-clt-as-per-layer/layer_25",
    "temporal-sae-gemma-2-2b/blocks.12.hook_resid_post",
]
ADDRESSES = [
    "hf://EleutherAI/sae-pythia-70m-32k/layers.3",
    "hf://EleutherAI/sae-llama-3-8b-32x/layers.10",
    "https://openaipublic.blob.core.windows.net/sparse-autoencoder/gpt2-small/resid_post_mlp_v5_32k/autoencoders/8.pt",
]
FEATURES = [0, 5, 700]


def test_no_format_is_left_out() -> None:
    """The list has every format of the catalogue."""
    assert {catalogue.get(name).format for name in NAMES} == {entry.format for entry in catalogue.find()}


@pytest.mark.parametrize("name", NAMES)
def test_the_catalogue_says_what_the_headers_say(name: str) -> None:
    """Hook and width that were told from names are those of the files."""
    entry, found = catalogue.get(name), formats.info(name)

    assert entry.d_sae in (None, found.cfg.d_sae)
    assert entry.hook_name in (None, found.cfg.hook_name)


@pytest.mark.parametrize("source", NAMES + ADDRESSES)
def test_it_loads_and_encodes(source: str) -> None:
    """As much of it as its architecture allows is read in ranges; its numbers are finite and some features fire."""
    cfg = formats.info(source).cfg
    some = FEATURES if cfg.architecture in THRESHOLD_ARCHITECTURES else None

    sae = sae_fast.load(source, features=some, encoder_only=some is None and not cfg.tied)

    x = 10 * torch.randn(64, cfg.d_in, generator=torch.Generator().manual_seed(0), dtype=sae.dtype)
    acts = sae.encode(x).to_dense()
    assert acts.shape == (64, cfg.d_sae if some is None else len(some))
    assert acts.isfinite().all()
    if some is None:
        assert (acts != 0).any()
    else:
        assert sae.decode(sae.encode(x)).isfinite().all()
