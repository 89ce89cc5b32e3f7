"""Parts of an SAE: some features, a matryoshka prefix, the encoder alone."""

from typing import Any

import pytest
import torch
from operands import integers

from sae_fast.config import THRESHOLD_ARCHITECTURES, VECTORS_OF
from sae_fast.errors import ArgumentError
from sae_fast.sae import SAE, SAEConfig

D_IN, D_SAE = 6, 24
by_architecture = pytest.mark.parametrize("architecture", THRESHOLD_ARCHITECTURES)


def build(architecture: str = "standard", without: str | None = None, **config: Any) -> SAE:
    cfg = SAEConfig(architecture=architecture, d_in=D_IN, d_sae=D_SAE, **config)  # type: ignore[arg-type]
    tensors = {name: integers(seed, D_SAE) for seed, name in enumerate(VECTORS_OF[architecture], 5)}
    tensors |= {"W_enc": integers(1, D_IN, D_SAE), "W_dec": integers(2, D_SAE, D_IN), "b_dec": integers(3, D_IN)}
    return SAE(cfg, **{name: tensor for name, tensor in tensors.items() if name != without})


@by_architecture
def test_some_features_fire_as_they_did(architecture: str) -> None:
    """Selected features have the activations and directions they had, in the order asked for, and the config names them."""
    sae = build(architecture, apply_b_dec_to_input=True, metadata={"note": 1})
    x = integers(9, 3, 5, D_IN)
    chosen = [7, 0, 23, 11]

    part = sae.select(chosen)

    assert part.cfg.d_sae == 4
    assert part.cfg.metadata == {"note": 1, "selected_features": chosen}
    torch.testing.assert_close(part.encode(x).to_dense(), sae.encode(x).features(chosen))
    assert torch.equal(part.W_dec, sae.W_dec[chosen])
    again = part.select(torch.tensor([2, 1]))
    assert again.cfg.metadata["selected_features"] == [23, 0]
    torch.testing.assert_close(again.encode(x).to_dense(), sae.encode(x).features([23, 0]))


@pytest.mark.parametrize("chosen", [[], [1, 1], [-1], [D_SAE]], ids=["none", "twice", "negative", "beyond"])
def test_features_must_be_distinct_and_exist(chosen: list[int]) -> None:
    """Anything else is refused with what was asked for."""
    with pytest.raises(ArgumentError, match="features: expected distinct feature indices from 0 to 23"):
        build().select(chosen)


@pytest.mark.parametrize(
    "config",
    [{"architecture": "topk", "k": 3}, {"architecture": "abstopk", "k": 3}, {"architecture": "groupmax", "k": 3}],
    ids=["topk", "abstopk", "groupmax"],
)
def test_competing_features_cannot_be_parted(config: dict[str, Any]) -> None:
    """Where features compete, a part of them is another SAE: refused, with the way that works."""
    sae = build(**config, group_sizes=(10, 14))
    for take in (lambda: sae.select([1, 2]), lambda: sae.prefix(1)):
        with pytest.raises(ArgumentError, match="SAE compete"):
            take()


@by_architecture
def test_matryoshka_prefixes(architecture: str) -> None:
    """The first groups are an SAE that shares the weights, and whose reconstruction uses their features alone."""
    sae = build(architecture, group_sizes=[4, 8, 12])
    x = integers(9, 7, D_IN)
    acts = sae.encode(x).to_dense()

    for n_groups, d_sae in ((1, 4), (2, 12), (3, 24)):
        prefix = sae.prefix(n_groups)

        assert prefix.cfg.group_sizes == (4, 8, 12)[:n_groups]
        assert prefix.cfg.metadata == {"prefix_groups": n_groups}
        torch.testing.assert_close(prefix.encode(x).to_dense(), acts[:, :d_sae])
        torch.testing.assert_close(prefix(x), acts[:, :d_sae] @ sae.W_dec[:d_sae] + sae.b_dec)
        assert prefix.W_dec.data_ptr() == sae.W_dec.data_ptr()
        assert prefix.W_enc.data_ptr() == sae.W_enc.data_ptr()


def test_groups_are_checked() -> None:
    """Groups cover the features; a prefix needs groups and counts them."""
    for sizes in ((4, 8), (0, 24), ()):
        with pytest.raises(ArgumentError, match="group_sizes: expected positive integers that sum to d_sae = 24"):
            build(group_sizes=sizes)
    with pytest.raises(ArgumentError, match="n_groups: expected an SAE with group_sizes, got 1"):
        build().prefix(1)
    for n_groups in (0, 3):
        with pytest.raises(ArgumentError, match="n_groups: expected a number of groups from 1 to 2"):
            build(group_sizes=(4, 20)).prefix(n_groups)


@by_architecture
def test_an_encoder_without_its_decoder(architecture: str) -> None:
    """It encodes as before, b_dec included; everything that needs W_dec says what is missing."""
    whole = build(architecture, apply_b_dec_to_input=True)
    sae = build(architecture, without="W_dec", apply_b_dec_to_input=True)
    x = integers(9, 5, D_IN)

    assert torch.equal(sae.encode(x).to_dense(), whole.encode(x).to_dense())
    assert (sae.has_decoder, whole.has_decoder) == (False, True)
    assert torch.equal(sae.select([3, 1]).encode(x).to_dense(), whole.encode(x).features([3, 1]))
    assert sae.to(dtype=torch.bfloat16).dtype == torch.bfloat16
    for use in (lambda: sae(x), lambda: sae.decode(sae.encode(x)), sae.fold_decoder_norm, lambda: sae.W_dec):
        with pytest.raises(ArgumentError, match="W_dec: this SAE was loaded without its decoder"):
            use()


def test_encoders_that_need_their_decoder() -> None:
    """Where activations are scaled by decoder norms, the encoder alone cannot encode, and is refused."""
    with pytest.raises(ArgumentError, match="W_dec: an SAE of architecture topk needs it"):
        build("topk", without="W_dec", k=3, rescale_acts_by_decoder_norm=True)


def test_the_encoder_is_laid_out_by_feature() -> None:
    """W_enc is a view of contiguous rows, so that preparing it copies nothing; a given layout of that kind is not copied."""
    rows = integers(1, D_SAE, D_IN)
    sae = SAE(
        SAEConfig(architecture="standard", d_in=D_IN, d_sae=D_SAE), W_enc=rows.T, W_dec=rows, b_enc=rows[:, 0], b_dec=rows[0]
    )

    assert sae.W_enc.data_ptr() == rows.data_ptr()
    assert build().W_enc.T.is_contiguous()
