import pytest
import torch
from operands import integers

from sae_fast.architectures import encode_groupmax, groupmax, reference
from sae_fast.errors import ArgumentError
from sae_fast.ops import prepare_encoder
from sae_fast.sae import SAE, SAEConfig
from sae_fast.testing import assert_well_formed


def largest_of_each_group(h: list[float], k: int) -> list[float]:
    """The definition in plain Python."""
    size, acts = len(h) // k, [0.0] * len(h)
    for group in range(k):
        best = max(range(group * size, (group + 1) * size), key=lambda feature: (max(h[feature], 0), -feature))
        acts[best] = max(h[best], 0.0)
    return acts


@pytest.mark.parametrize(("n", "d_in", "d_sae", "k"), [(31, 17, 91, 7), (1, 5, 13, 1), (11, 7, 37, 37), (0, 5, 12, 3)])
def test_one_feature_of_each_group(n: int, d_in: int, d_sae: int, k: int, dtype: torch.dtype) -> None:
    """The largest of each group fires if it is positive; ties go to the lower feature, at any size and dtype."""
    x, W_enc, b_enc = integers(1, n, d_in), integers(2, d_in, d_sae), integers(3, d_sae)

    acts = encode_groupmax(x.to(dtype), prepare_encoder(W_enc.to(dtype)), b_enc, k)

    assert_well_formed(acts)
    expected = torch.tensor([largest_of_each_group(row, k) for row in (x @ W_enc + b_enc).tolist()]).reshape(n, d_sae)
    assert torch.equal(acts.to_dense().float(), expected)
    assert torch.equal(acts.topk_view()[0] // (d_sae // k), torch.arange(k, dtype=torch.int32).expand(n, k))
    assert torch.equal(reference.groupmax(x.to(dtype), W_enc.to(dtype), b_enc, k).float(), expected)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens and groups are cut into chunks that do not show in the result."""
    x, W_enc, b_enc = integers(1, 23, 5), prepare_encoder(integers(2, 5, 48)), integers(3, 48)
    whole = encode_groupmax(x, W_enc, b_enc, 12)
    monkeypatch.setattr(groupmax, "CHUNK_ROWS", 4)
    monkeypatch.setattr(groupmax, "CHUNK_ELEMENTS", 4 * 5 * 7)

    acts = encode_groupmax(x, W_enc, b_enc, 12)

    assert torch.equal(acts.col_indices, whole.col_indices)
    assert torch.equal(acts.values, whole.values)


def test_an_sae_of_this_architecture() -> None:
    """Leading dimensions are kept, b_dec is subtracted, decode adds it back; gradients reach the input."""
    cfg = SAEConfig(architecture="groupmax", d_in=6, d_sae=20, k=4, apply_b_dec_to_input=True)
    W_enc, W_dec, b_enc, b_dec = integers(1, 6, 20), integers(2, 20, 6), integers(3, 20), integers(4, 6)
    x = integers(5, 2, 3, 6).requires_grad_()
    h = (x.detach() - b_dec) @ W_enc + b_enc
    expected = torch.tensor([largest_of_each_group(row, 4) for row in h.flatten(0, 1).tolist()]).reshape(2, 3, 20)

    sae = SAE(cfg, W_enc=W_enc, W_dec=W_dec, b_enc=b_enc, b_dec=b_dec)

    assert torch.equal(sae.encode(x).to_dense(), expected)
    assert torch.equal(sae(x), expected @ W_dec + b_dec)
    sae(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, ((expected > 0) * W_dec.sum(1)) @ W_enc.T)


def test_groups_must_be_equal() -> None:
    """K that does not divide d_sae is refused, and so is folding decoder norms, which would change the winners."""
    with pytest.raises(ArgumentError, match="k: expected a number of groups that divides d_sae = 20, got 3"):
        SAEConfig(architecture="groupmax", d_in=6, d_sae=20, k=3)
    cfg = SAEConfig(architecture="groupmax", d_in=2, d_sae=4, k=2)
    sae = SAE(cfg, W_enc=integers(1, 2, 4), W_dec=integers(2, 4, 2), b_enc=integers(3, 4), b_dec=integers(4, 2))
    with pytest.raises(ArgumentError, match="fold_decoder_norm would change what a groupmax SAE selects"):
        sae.fold_decoder_norm()
