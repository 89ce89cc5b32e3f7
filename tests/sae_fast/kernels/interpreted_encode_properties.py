"""Selection on rows that hypothesis draws, by the kernels themselves in Triton's interpreter."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_fast import ops, reference
from sae_fast.kernels import encode_topk as topk
from sae_fast.kernels._choice import INTERPRETED, Choice
from sae_fast.kernels.encode_batch_topk import encode_batch_topk
from sae_fast.kernels.encode_threshold import encode_threshold
from sae_fast.testing import assert_same_acts

GROUPS = Choice("groups", INTERPRETED)
few_examples = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

ROWS = st.lists(st.integers(-2, 4) | st.integers(-2000, 2000), min_size=1, max_size=80)
"""Pre-activations of one token: few values with many ties, and many values."""


@few_examples
@given(row=ROWS, k=st.integers(1, 80), n_slots=st.sampled_from([16, 64, 256]))
def test_topk_of_any_row(row: list[int], k: int, n_slots: int) -> None:
    """Any values, any k, and however few slots there are for candidates."""
    h, k = torch.tensor([row], dtype=torch.float16), min(k, len(row))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "slots", lambda k: n_slots)
        got = topk.encode_topk(torch.ones(1, 1), ops.prepare_encoder(h), torch.zeros(len(row)), k, choice=GROUPS)

    assert_same_acts(got, reference.encode_topk(torch.ones(1, 1), h, torch.zeros(len(row)), k))


@few_examples
@given(row=ROWS, threshold=st.integers(-3, 4))
def test_threshold_of_any_row(row: list[int], threshold: int) -> None:
    """Any values, with hits in any pattern."""
    h, bar, nothing = torch.tensor([row]).float(), torch.full((len(row),), float(threshold)), torch.zeros(len(row))
    for W in (h, h.half()):
        got = encode_threshold(torch.ones(1, 1), ops.prepare_encoder(W), nothing, bar, choice=GROUPS)
        assert_same_acts(got, reference.encode_threshold(torch.ones(1, 1), W, nothing, bar))


@few_examples
@given(row=ROWS, k=st.floats(0, 80))
def test_batch_topk_of_any_rows(row: list[int], k: float) -> None:
    """Any values and k, over two tokens, of which the second has everything doubled."""
    h, k = torch.tensor([row]).float(), min(k, len(row))
    x, nothing = torch.tensor([[1.0], [2.0]]), torch.zeros(len(row))
    got = encode_batch_topk(x, ops.prepare_encoder(h), nothing, k, choice=GROUPS)

    assert_same_acts(got, reference.encode_batch_topk(x, h, nothing, k))
