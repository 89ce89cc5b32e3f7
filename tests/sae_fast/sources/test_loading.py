"""SAEs that lie elsewhere: load, info and fetch meet names, ranges and mirrors."""

import re
from pathlib import Path

import pytest
import tiny
import torch
from file_server import FileServer

import sae_fast
from sae_fast import formats
from sae_fast.errors import ArgumentError, FormatError, SourceError, UnreachableError

NAME = "gpt2-small-res-jb/blocks.8.hook_resid_pre"
REPO = "jbloom/GPT2-Small-SAEs-Reformatted"
WEIGHTS = "sae_weights.safetensors"


@pytest.fixture
def published(hub: FileServer) -> Path:
    """A small SAE where the hub has gpt2-small-res-jb's of layer 8."""
    return tiny.sae(hub.root / REPO / "blocks.8.hook_resid_pre", architecture="jumprelu")


def test_a_name_of_the_catalogue_loads(hub: FileServer, published: Path) -> None:
    """It has the weights of its folder on the hub, and what the catalogue knows better than its files."""
    sae, local = sae_fast.load(NAME), sae_fast.load(published)

    x = torch.randn(3, local.cfg.d_in)
    assert torch.equal(sae(x), local(x))
    assert sae.cfg.centred
    assert not local.cfg.centred
    assert sae.cfg.metadata["neuronpedia_id"] == "gpt2-small/8-res-jb"
    assert sae.cfg.metadata["catalogue_name"] == NAME


def test_the_factor_of_the_inputs_comes_from_the_catalogue(hub: FileServer) -> None:
    """A release that needs norm_scaling_factor gets it; the caller's own wins."""
    folder = hub.root / "jbloom/Gemma-2b-Residual-Stream-SAEs/gemma_2b_blocks.12.hook_resid_post_16384"
    tiny.sae(folder, normalize_activations="expected_average_only_in")
    name = "gemma-2b-res-jb/blocks.12.hook_resid_post"

    expected = sae_fast.load(folder, norm_scaling_factor=0.21381938399317255)
    assert torch.equal(sae_fast.load(name).W_enc, expected.W_enc)
    assert torch.equal(sae_fast.load(name, norm_scaling_factor=2.0).W_enc, sae_fast.load(folder, norm_scaling_factor=2.0).W_enc)


def test_the_caller_wins_over_the_catalogue(hub: FileServer, published: Path) -> None:
    """hook_name and model_name of the call replace both files and catalogue."""
    sae = sae_fast.load(NAME, hook_name="blocks.1.hook_resid_pre", model_name="mine")

    assert (sae.cfg.hook_name, sae.cfg.model_name) == ("blocks.1.hook_resid_pre", "mine")


def test_info_reads_headers_only(hub: FileServer, published: Path) -> None:
    """The header costs one read of a few kilobytes, and info says what would have to be fetched."""
    tiny.sae(published, d_in=64, d_sae=512, architecture="jumprelu")

    found = formats.info(NAME)

    assert found.file_bytes == {WEIGHTS: (published / WEIGHTS).stat().st_size}
    assert found.is_to_be_fetched
    assert found.cfg == sae_fast.formats.info(NAME).cfg
    assert hub.sent[WEIGHTS] == 2 * 4096
    sae_fast.load(NAME)
    assert not formats.info(NAME).is_to_be_fetched


def test_a_whole_sae_is_fetched_once(hub: FileServer, published: Path) -> None:
    """Loading again sends nothing but the question for the commit."""
    sae_fast.load(NAME)
    hub.forget()

    sae_fast.load(NAME)

    assert [path for path, _ in hub.requests] == [f"/api/models/{REPO}/revision/main"]


def test_chosen_features_cost_their_bytes(hub: FileServer, published: Path) -> None:
    """Rows of the decoder and columns of the encoder are read alone; the result is that of the whole SAE."""
    tiny.sae(published, d_in=64, d_sae=4096, architecture="jumprelu")
    whole = sae_fast.load(published)
    features = [4000, 7, 2000]

    sae = sae_fast.load(NAME, features=features)

    x = torch.randn(5, 64)
    assert torch.equal(sae.W_enc, whole.W_enc[:, features])
    assert torch.equal(sae.W_dec, whole.W_dec[features])
    torch.testing.assert_close(sae.encode(x).to_dense(), whole.encode(x).to_dense()[:, features])
    vectors = 3 * 2 * 4
    assert hub.sent[WEIGHTS] == 4096 + (2 * 64 * 3 + 64) * 4 + vectors


def test_the_encoder_alone_costs_half(hub: FileServer, published: Path) -> None:
    """Without its decoder an SAE encodes the same, and the decoder's bytes stay where they are."""
    tiny.sae(published, d_in=64, d_sae=512, architecture="jumprelu")
    whole = sae_fast.load(published)
    hub.forget()

    sae = sae_fast.load(NAME, encoder_only=True)

    x = torch.randn(5, 64)
    assert torch.equal(sae.encode(x).to_dense(), whole.encode(x).to_dense())
    assert hub.sent[WEIGHTS] == 4096 + (64 * 512 + 2 * 512 + 64) * 4
    with pytest.raises(ArgumentError):
        sae.decode(sae.encode(x))


def test_competing_features_are_refused_before_a_byte_is_read(hub: FileServer, published: Path) -> None:
    """A few features of a topk SAE are no SAE; nothing but the header is fetched to say so."""
    tiny.sae(published, d_in=64, d_sae=512, architecture="topk")

    with pytest.raises(ArgumentError, match="features"):
        sae_fast.load(NAME, features=[1, 2])

    assert hub.sent[WEIGHTS] == 4096


def test_a_truncated_file_on_the_hub_is_refused(hub: FileServer, published: Path) -> None:
    """A file whose header promises more than there is names itself, and nothing is kept."""
    content = (published / WEIGHTS).read_bytes()
    (published / WEIGHTS).write_bytes(content[:-8])

    with pytest.raises(FormatError, match=rf"hf://{REPO}/blocks.8.hook_resid_pre/{WEIGHTS}: not a safetensors file"):
        sae_fast.load(NAME)


def test_a_mirror_takes_what_an_sae_needs(
    hub: FileServer, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetch puts exactly its files into the mirror, and with the mirror alone the same SAE loads."""
    (published / "sparsity.safetensors").write_bytes(b"not needed")
    expected = sae_fast.load(published)

    files = formats.fetch(NAME, mirror=tmp_path / "mirror")

    place = tmp_path / "mirror" / REPO / "blocks.8.hook_resid_pre"
    assert files == [place / "cfg.json", place / WEIGHTS]
    assert sorted(place.iterdir()) == files
    monkeypatch.setenv("SAE_FAST_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("SAE_FAST_CACHE", str(tmp_path / "other-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.forget()
    sae = sae_fast.load(NAME)
    assert torch.equal(sae.W_enc, expected.W_enc)
    assert sae.cfg.centred
    assert hub.requests == []


def test_a_pinned_revision_has_a_place_of_its_own_in_a_mirror(hub: FileServer, published: Path, tmp_path: Path) -> None:
    """Files of another revision than main do not pass for those of main."""
    commit = "0123456789abcdef0123456789abcdef01234567"

    files = formats.fetch(f"hf://{REPO}/blocks.8.hook_resid_pre@{commit}", mirror=tmp_path)

    assert files[0] == tmp_path / f"{REPO}@{commit}" / "blocks.8.hook_resid_pre" / "cfg.json"


def test_fetch_without_a_mirror_fills_the_cache(hub: FileServer, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards the SAE loads without a network; a local SAE is fetched already."""
    files = formats.fetch(NAME)
    assert [file.parent.name for file in files] == ["blobs", "blobs"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    sae_fast.load(NAME)

    assert formats.fetch(published) == [published / WEIGHTS]


def test_only_the_hub_is_mirrored(hub: FileServer, published: Path, tmp_path: Path) -> None:
    """A file server has no owner and repository to lay a mirror out by."""
    with pytest.raises(ArgumentError, match="mirror: expected a place on the hub"):
        formats.fetch(f"{hub.address}/files/{REPO}/blocks.8.hook_resid_pre", mirror=tmp_path)


def test_without_a_network_the_files_are_named(hub: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a name lists its files, repository and revision, and the command that brings them."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(UnreachableError) as caught:
        sae_fast.load(NAME)

    message = str(caught.value)
    assert f"blocks.8.hook_resid_pre/cfg.json, blocks.8.hook_resid_pre/{WEIGHTS} of {REPO} at its revision main" in message
    assert f"sae-fast fetch 'hf://{REPO}/blocks.8.hook_resid_pre' --mirror MIRROR" in message
    assert f"MIRROR/{REPO}/blocks.8.hook_resid_pre" in message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gpt2-small-rs-jb/x", "no such file or folder. The catalogue has releases of like names: gpt2-small-res-jb"),
        (
            "gpt2-small-res-jb/blocks.12.hook_resid_pre",
            "has no SAE 'blocks.12.hook_resid_pre'. Near it: blocks.2.hook_resid_pre, blocks.1.hook",
        ),
        ("saes/mine", "saes/mine: no such file or folder. If it is a repository on the hub, write hf://saes/mine"),
    ],
)
def test_wrong_names_get_near_ones(hub: FileServer, source: str, message: str) -> None:
    """A misspelt release or SAE is answered with what may have been meant."""
    with pytest.raises(SourceError, match=re.escape(message)):
        sae_fast.load(source)

    assert hub.requests == []
