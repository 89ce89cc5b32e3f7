"""The options of `load` mean the same for every format."""

from pathlib import Path

import published
import pytest
import torch

import sae_fast
from sae_fast.config import THRESHOLD_ARCHITECTURES
from sae_fast.errors import ArgumentError
from sae_fast.formats import info

CHOSEN = [5, 17, 0, 23]


@pytest.fixture(params=published.SAMPLES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An SAE of each format."""
    return published.SAMPLES[request.param]().write(tmp_path)


def test_some_features_are_those_of_the_whole(path: Path) -> None:
    """In the order asked for; refused where features compete, since a part would be another SAE."""
    whole = sae_fast.load(path)
    x = published.inputs(d_in=whole.cfg.d_in)
    if whole.cfg.architecture not in THRESHOLD_ARCHITECTURES:
        with pytest.raises(ArgumentError, match="some features only"):
            sae_fast.load(path, features=CHOSEN)
        return

    part = sae_fast.load(path, features=CHOSEN)

    torch.testing.assert_close(part.encode(x).to_dense(), whole.encode(x).to_dense()[:, CHOSEN])
    assert torch.equal(part.W_dec, whole.W_dec[CHOSEN])


def test_the_encoder_alone_encodes_the_same(path: Path) -> None:
    """Without its decoder an SAE gives the same activations and says that it cannot decode."""
    whole = sae_fast.load(path)
    x = published.inputs(d_in=whole.cfg.d_in)
    if whole.cfg.architecture == "temporal":
        with pytest.raises(ArgumentError, match="W_dec"):
            sae_fast.load(path, encoder_only=True)
        return

    encoder = sae_fast.load(path, encoder_only=True)

    assert torch.equal(encoder.encode(x).to_dense(), whole.encode(x).to_dense())
    with pytest.raises(ArgumentError, match="loaded without its decoder"):
        encoder.decode(encoder.encode(x))


def test_folding_changes_activations_and_not_the_output(path: Path) -> None:
    """Decoder rows of norm one, activations scaled up by what they had."""
    whole = sae_fast.load(path, dtype="float64")
    x = published.inputs(d_in=whole.cfg.d_in).double()
    if whole.cfg.architecture not in THRESHOLD_ARCHITECTURES:
        with pytest.raises(ArgumentError, match="fold_decoder_norm would change what"):
            sae_fast.load(path, fold_decoder_norm=True)
        return

    folded = sae_fast.load(path, dtype="float64", fold_decoder_norm=True)

    norms = whole.W_dec.flatten(1).norm(dim=1)
    torch.testing.assert_close(folded.W_dec.flatten(1).norm(dim=1), torch.ones_like(norms))
    torch.testing.assert_close(folded.encode(x).to_dense(), whole.encode(x).to_dense() * norms)
    torch.testing.assert_close(folded(x), whole(x))


def test_dtype_hook_and_model_can_be_given(path: Path) -> None:
    """Dtype is that of the matrices, names replace what the files say, and info agrees with what is loaded."""
    hooks = tuple(f"blocks.{layer}.hook_resid_mid" for layer in range(len(sae_fast.load(path).cfg.hook_widths) or 1))
    named = {"hook_name": hooks[0]} if len(hooks) == 1 else {"hook_names": hooks}

    sae = sae_fast.load(path, dtype="bfloat16", model_name="mine", **named)

    assert sae.dtype == torch.bfloat16
    assert (sae.cfg.hooks_read, sae.cfg.model_name) == (hooks, "mine")
    described = info(path)
    assert described.cfg == sae_fast.load(path).cfg
    assert described.dtype == sae_fast.load(path).dtype
    assert described.n_parameters == sum(tensor.numel() for tensor in sae.tensors().values())
