"""The catalogue as it ships: complete, consistent, and quick to search."""

from pathlib import Path

import pytest

from sae_fast import catalogue
from sae_fast.catalogue import Entry
from sae_fast.errors import SourceError
from sae_fast.formats import READABLE


def names(entries: list[Entry]) -> list[str]:
    return [entry.name for entry in entries]


def test_everything_is_there() -> None:
    """170 releases with 13,857 SAEs, each with a name of its own, a repository, a path and a model."""
    entries = catalogue.find()

    assert len(catalogue.releases()) == 170
    assert len(entries) == len(set(names(entries))) == 13_857
    assert all(entry.repo.count("/") == 1 and entry.path and entry.model for entry in entries)


def test_every_entry_has_a_reader() -> None:
    """The formats of the catalogue are formats that `load` reads."""
    assert {entry.format for entry in catalogue.find()} <= set(READABLE)


def test_most_is_known_without_fetching() -> None:
    """Hook, layer and width are known of nearly all, and L0 of those whose names or publishers tell it."""
    entries = catalogue.find()

    assert sum(entry.layer is None for entry in entries) == sum(entry.hook_name == "hook_embed" for entry in entries) == 8
    assert sum(entry.hook_name is None for entry in entries) == 26
    assert sum(entry.d_sae is None for entry in entries) < 250
    assert sum(entry.l0 is not None for entry in entries) > 12_147


@pytest.mark.parametrize(
    ("name", "known"),
    [
        (
            "gpt2-small-res-jb/blocks.8.hook_resid_pre",
            {
                "source": "hf://jbloom/GPT2-Small-SAEs-Reformatted/blocks.8.hook_resid_pre",
                "hook_name": "blocks.8.hook_resid_pre",
                "d_sae": 24576,
                "neuronpedia_id": "gpt2-small/8-res-jb",
                "overrides": {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
            },
        ),
        (
            "gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical",
            {"path": "layer_20/width_16k/average_l0_71", "l0": 71.0, "d_sae": 16384, "hook_name": "blocks.20.hook_resid_post"},
        ),
        ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", {"hook_name": "hook_embed", "layer": None, "d_sae": 4096}),
        ("gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_54", {"hook_name": "blocks.3.ln2.hook_normalized"}),
        ("gemma-scope-2b-pt-att/layer_0/width_16k/average_l0_104", {"hook_name": "blocks.0.attn.hook_z"}),
        ("gemma-scope-9b-pt-res/layer_9/width_1m/average_l0_9", {"d_sae": 1 << 20}),
        (
            "gemma-scope-2-1b-pt-transcoders/transcoder/layer_13_width_262k_l0_big_affine",
            {"d_sae": 1 << 18, "layer": 13, "hook_name": "blocks.13.mlp.hook_in", "format": "gemma_scope_2"},
        ),
        ("llama_scope_lxr_8x/l0r_8x", {"norm_scaling_factor": 58.935, "hook_name": "blocks.0.hook_resid_post", "d_sae": 32768}),
        ("llama_scope_lxa_32x/l31a_32x", {"hook_name": "blocks.31.hook_attn_out", "d_sae": 131072}),
        ("gpt2-small-hook-z-kk/blocks.5.hook_z", {"hook_name": "blocks.5.attn.hook_z", "d_sae": 49152}),
        ("gpt2-small-res-jb-feature-splitting/blocks.8.hook_resid_pre_768", {"d_sae": 768, "layer": 8}),
        ("gpt2-small-resid-post-v5-32k/blocks.3.hook_resid_post", {"path": "v5_32k_layer_3.pt", "d_sae": 32768}),
        ("qwen-scope-3.5-27b-w80k-l50/layer7", {"d_sae": 81920, "layer": 7, "l0": 50.0, "path": "layer7.sae.pt"}),
        ("goodfire-llama-3.3-70b-instruct/layer_50", {"hook_name": "blocks.50.hook_resid_post", "d_sae": 65536}),
        ("pythia-70m-deduped-res-sm/blocks.0.hook_resid_pre", {"path": "e-res-sm"}),
        (
            "sae_bench_gemma-2-2b_topk_width-2pow14_date-1109/blocks.12.hook_resid_post__trainer_0",
            {"d_sae": 16384, "layer": 12},
        ),
    ],
)
def test_what_names_tell(name: str, known: dict[str, object]) -> None:
    """Facts that SAELens's directory or a publisher's names state."""
    entry = catalogue.get(name)

    found = {key: getattr(entry, key) for key in known}
    expected = {key: pytest.approx(value, abs=5e-4) if key == "norm_scaling_factor" else value for key, value in known.items()}
    assert found == expected


def test_layers_of_a_cross_layer_transcoder_have_numbers_for_paths() -> None:
    """Their files are named after the number, and the source is the encoder's file."""
    entry = catalogue.get("mntss-gemma-2-2b-2.5m-clt-as-per-layer/layer_7")

    assert entry.path == "7"
    assert entry.source == "hf://mntss/clt-gemma-2-2b-2.5M/W_enc_7.safetensors"
    assert entry.files == ("W_enc_7.safetensors", "W_dec_7.safetensors", "config.yaml")
    assert (entry.layer, entry.d_sae) == (7, 98304)


def test_the_malformed_entry_is_whole() -> None:
    """The SAE into which SAELens's directory nests its whole release is one SAE among three."""
    found = catalogue.find(release="gpt2-small-res_scefr-ajt")

    assert [entry.path for entry in found] == ["2-res_scefr-ajt", "6-res_scefr-ajt", "10-res_scefr-ajt"]


def test_a_wrong_model_is_corrected() -> None:
    """The instruction-tuned Gemma Scope was trained on the instruction-tuned model."""
    assert {entry.model for entry in catalogue.find(release="gemma-scope-9b-it-res")} == {"gemma-2-9b-it"}


def test_searches_narrow_down() -> None:
    """Every criterion holds for all that is found."""
    found = catalogue.find(model="google/gemma-2-2b", layer=20, width=65536, hook="hook_resid_post", l0=(50, 120))

    assert names(found)[0] == "gemma-scope-2b-pt-res/layer_20/width_65k/average_l0_114"
    for entry in found:
        assert (entry.model, entry.layer, entry.d_sae) == ("gemma-2-2b", 20, 65536)
        assert entry.l0 is not None
        assert 50 <= entry.l0 <= 120
        assert entry.hook_name == "blocks.20.hook_resid_post"


def test_models_go_by_several_names() -> None:
    """With or without owner, in any case, and by the hub's name where it is another."""
    assert catalogue.find(model="GPT2") == catalogue.find(model="gpt2-small") == catalogue.find(model="openai-community/gpt2")
    assert catalogue.find(model="google/gemma-2-2b") == catalogue.find(model="gemma-2-2b")
    assert catalogue.find(model="gemma-2") == []


@pytest.mark.parametrize(
    ("hook", "layers"), [("blocks.1", {1}), ("blocks.1.hook_resid_pre", {1}), ("resid_pre", set(range(12))), ("resi", set())]
)
def test_hooks_are_matched_by_whole_parts(hook: str, layers: set[int]) -> None:
    """`blocks.1` does not mean layer 11, and a part of a word means nothing."""
    found = catalogue.find(release="gpt2-small-res-jb", hook=hook)

    assert {entry.layer for entry in found if "splitting" not in entry.release} == layers


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt2-small-res-jp/blocks.8", r"no such release in the catalogue. Near it: gpt2-small-res-jb"),
        ("gpt2-small-res-jb/blocks.8.hook_resid", r"has no SAE 'blocks.8.hook_resid'. Near it: blocks.8.hook_resid_pre"),
        (
            "gpt2-small-res-jb",
            r"a release of 13 SAEs. Name one of them: gpt2-small-res-jb/blocks.0.hook_resid_pre, .*13 in all",
        ),
        ("xyz/abc", r"no such release in the catalogue. There are: .*170 in all"),
    ],
)
def test_unknown_names_get_near_ones(name: str, message: str) -> None:
    """An error names the release or SAE that may have been meant."""
    with pytest.raises(SourceError, match=message):
        catalogue.get(name)


def test_what_exists_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the name of a release is that folder; paths and addresses are never names."""
    monkeypatch.chdir(tmp_path)
    assert catalogue.named("gpt2-small-res-jb/blocks.8.hook_resid_pre") is not None
    (tmp_path / "gpt2-small-res-jb" / "blocks.8.hook_resid_pre").mkdir(parents=True)

    assert catalogue.named("gpt2-small-res-jb/blocks.8.hook_resid_pre") is None
    assert catalogue.named(Path("gpt2-small-res-jb/blocks.9.hook_resid_pre")) is None
    assert catalogue.named("hf://owner/repo") is None
    assert catalogue.named("sae/layer_3") is None
