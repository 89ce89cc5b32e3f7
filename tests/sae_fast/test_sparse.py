import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from sae_fast import ops
from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.sparse import FeatureMajor, SparseActs
from sae_fast.testing import assert_well_formed


@st.composite
def dense_acts(draw: st.DrawFn) -> Tensor:
    """Mostly zero matrices with one or two leading dimensions, some of them empty."""
    leading = draw(st.lists(st.integers(0, 4), min_size=1, max_size=2))
    shape = (*leading, draw(st.integers(1, 9)))
    size = torch.Size(shape).numel()
    values = draw(st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0]), min_size=size, max_size=size))
    return torch.tensor(values).reshape(shape)


def example() -> tuple[Tensor, SparseActs]:
    dense = torch.zeros(2, 3, 5)
    dense[0, 0, 1], dense[0, 2, 4], dense[0, 2, 0], dense[1, 1, 1] = 1.0, 2.0, -3.0, 4.0
    return dense, SparseActs.from_dense(dense)


@settings(max_examples=60, deadline=None)
@given(dense_acts())
def test_dense_round_trip(dense: Tensor) -> None:
    """from_dense and to_dense are inverse for every leading shape, and the entries are in order."""
    acts = SparseActs.from_dense(dense)

    assert_well_formed(acts)
    assert torch.equal(acts.to_dense(), dense)
    assert int((dense != 0).sum()) == acts.nnz


@settings(max_examples=60, deadline=None)
@given(dense_acts(), st.data())
def test_columns_equal_dense_columns(dense: Tensor, data: st.DataObject) -> None:
    """features() and acts[..., i] give the dense columns, repeated and unordered ones too."""
    acts = SparseActs.from_dense(dense)
    wanted = data.draw(st.lists(st.integers(0, dense.shape[-1] - 1), max_size=4))

    assert torch.equal(acts.features(wanted), dense[..., wanted])
    assert torch.equal(acts[..., 0], dense[..., 0])


@settings(max_examples=60, deadline=None)
@given(dense_acts(), st.data())
def test_rows_equal_dense_rows(dense: Tensor, data: st.DataObject) -> None:
    """rows() with a mask or any slice gives those tokens."""
    acts = SparseActs.from_dense(dense)
    flat = dense.reshape(-1, dense.shape[-1])
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(flat), max_size=len(flat))), dtype=torch.bool)
    bound = st.none() | st.integers(-5, 9)
    part = slice(data.draw(bound), data.draw(bound), data.draw(st.sampled_from([None, 1, 2, 3])))

    for which in (mask, mask.reshape(dense.shape[:-1]), part):
        got = acts.rows(which)
        assert_well_formed(got)
        assert torch.equal(got.to_dense(), flat[which.reshape(-1) if isinstance(which, Tensor) else which])


@settings(max_examples=60, deadline=None)
@given(dense_acts())
def test_transpose_equals_dense_transpose(dense: Tensor) -> None:
    """Feature-major order holds each column's rows ascending, by every implementation."""
    acts = SparseActs.from_dense(dense)
    flat = dense.reshape(-1, dense.shape[-1])

    for impl in ("torch", "reference"):
        by_feature = ops.transpose(acts, impl=impl)
        assert by_feature.nnz == acts.nnz
        for feature in range(flat.shape[1]):
            rows, values = by_feature.feature(feature)
            assert torch.equal(rows, flat[:, feature].nonzero()[:, 0])
            assert torch.equal(values, flat[rows, feature])


def test_l0_counts_non_zero_values_only() -> None:
    """A stored zero counts in nnz and not in l0."""
    acts = SparseActs.from_topk(torch.tensor([[3, 0], [1, 2]]), torch.tensor([[1.0, 0.0], [2.0, 5.0]]), d_sae=4)

    assert acts.nnz == 4
    assert acts.l0 == 1.5


def test_l0_of_no_token_is_zero() -> None:
    """A batch without tokens has L0 zero, not a division by zero."""
    assert SparseActs.from_dense(torch.zeros(0, 3)).l0 == 0.0


def test_topk_rows_are_sorted_and_viewed_without_a_copy() -> None:
    """from_topk sorts each row by feature; topk_view shares memory with the entries."""
    acts = SparseActs.from_topk(torch.tensor([[[3, 0]], [[1, 2]]]), torch.tensor([[[1.0, 7.0]], [[2.0, 5.0]]]), d_sae=4)

    indices, values = acts.topk_view()

    assert indices.tolist() == [[0, 3], [1, 2]]
    assert values.tolist() == [[7.0, 1.0], [2.0, 5.0]]
    assert acts.leading == (2, 1)
    assert values.data_ptr() == acts.values.data_ptr()


def test_topk_view_needs_rows_of_equal_length() -> None:
    """topk_view works for any acts with equal rows, and refuses others."""
    equal = SparseActs.from_dense(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    unequal = SparseActs.from_dense(torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.0, 0.0]]))

    assert equal.topk_view()[0].tolist() == [[1], [0]]
    with pytest.raises(ShapeError, match="rows of equal length"):
        unequal.topk_view()


def test_cat_joins_along_the_first_leading_dimension() -> None:
    """Cat behaves as torch.cat on the dense tensors, and keeps mean and scale."""
    dense, _ = example()
    mean, scale = torch.arange(6.0)[:, None], torch.arange(6.0)[:, None] + 1
    whole = SparseActs.from_dense(dense)
    acts = SparseActs(whole.crow_indices, whole.col_indices, whole.values, whole.shape, (2, 3), mean, scale)

    joined = SparseActs.cat([acts, acts, acts])

    assert_well_formed(joined)
    assert torch.equal(joined.to_dense(), torch.cat([dense] * 3))
    assert torch.equal(joined.mean, torch.cat([mean] * 3))  # type: ignore[arg-type]
    assert torch.equal(joined.rows(slice(6, 12)).scale, scale)  # type: ignore[arg-type]


def test_cat_refuses_what_does_not_fit() -> None:
    """Different d_sae, different inner dimensions, nothing at all, or normalisation in some parts only are errors."""
    _, acts = example()
    with pytest.raises(ShapeError, match="d_sae"):
        SparseActs.cat([acts, SparseActs.from_dense(torch.zeros(2, 3, 4))])
    with pytest.raises(ShapeError, match="flatten"):
        SparseActs.cat([acts, SparseActs.from_dense(torch.zeros(2, 4, 5))])
    with pytest.raises(ArgumentError, match="at least one"):
        SparseActs.cat([])
    normalised = SparseActs(acts.crow_indices, acts.col_indices, acts.values, acts.shape, (2, 3), scale=torch.ones(6, 1))
    with pytest.raises(ArgumentError, match="mean or scale"):
        SparseActs.cat([acts, normalised])


def test_flatten_keeps_the_entries() -> None:
    """flatten() changes the leading dimensions only."""
    dense, acts = example()

    assert torch.equal(acts.flatten().to_dense(), dense.reshape(6, 5))


def test_to_torch_is_the_same_matrix() -> None:
    """to_torch gives a sparse CSR tensor with the same dense form."""
    dense, acts = example()

    assert acts.to_torch().layout == torch.sparse_csr
    assert torch.equal(acts.to_torch().to_dense(), dense.reshape(6, 5))


def test_to_changes_the_dtype_of_values_only() -> None:
    """to(dtype) converts values and leaves indices."""
    _, acts = example()

    converted = acts.to(dtype=torch.float64)

    assert converted.values.dtype == torch.float64
    assert converted.col_indices.dtype == torch.int32


def test_gradients_flow_through_the_dense_form() -> None:
    """to_dense and features are differentiable in the values."""
    _, acts = example()
    values = acts.values.clone().requires_grad_()
    leaf = SparseActs(acts.crow_indices, acts.col_indices, values, acts.shape, acts.leading)

    (leaf.to_dense().square().sum() + leaf[..., 1].sum()).backward()

    assert torch.equal(values.grad, 2 * acts.values + (acts.col_indices == 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crow_indices", torch.zeros(6, dtype=torch.int64)),
        ("crow_indices", torch.zeros(7, dtype=torch.int32)),
        ("col_indices", torch.zeros(4, dtype=torch.int64)),
        ("col_indices", torch.zeros(3, dtype=torch.int32)),
        ("values", torch.zeros(4, dtype=torch.int64)),
        ("leading", (5,)),
        ("mean", torch.zeros(6)),
    ],
    ids=["pointer-length", "pointer-dtype", "column-dtype", "column-length", "value-dtype", "leading", "mean"],
)
def test_construction_refuses_wrong_lengths_and_dtypes(field: str, value: object) -> None:
    """Every field is checked, and the message names it."""
    _, acts = example()
    fields = {"crow_indices": acts.crow_indices, "col_indices": acts.col_indices, "values": acts.values, "shape": (6, 5)}

    with pytest.raises(ShapeError, match=field):
        SparseActs(**{**fields, field: value})  # type: ignore[arg-type]


def test_indexing_errors_are_clear() -> None:
    """A feature out of range, another kind of index, and a mask of the wrong shape are refused."""
    _, acts = example()
    with pytest.raises(IndexError, match="expected 0 to 4"):
        acts[..., 5]
    with pytest.raises(IndexError, match="expected 0 to 4"):
        acts.features([-1])
    with pytest.raises(TypeError, match=r"acts\[\.\.\., i\]"):
        acts[0]  # type: ignore[index]
    with pytest.raises(ShapeError, match="boolean mask"):
        acts.rows(torch.ones(5, dtype=torch.bool))
    with pytest.raises(ShapeError, match="boolean mask"):
        acts.rows(torch.tensor([0, 1]))


def test_feature_major_counts_its_entries() -> None:
    """FeatureMajor.feature of an absent feature is empty."""
    _, acts = example()
    by_feature: FeatureMajor = ops.transpose(acts)

    assert by_feature.feature(2)[0].tolist() == []
    assert by_feature.shape == (6, 5)
