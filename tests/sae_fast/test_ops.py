import logging
from collections.abc import Callable
from dataclasses import fields

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from sae_fast import ops, reference
from sae_fast.cpu import rows, screen
from sae_fast.errors import ArgumentError, ImplementationUnavailableError, NonFiniteError, ShapeError
from sae_fast.sparse import SparseActs
from sae_fast.testing import CASES, ROUNDED_CASES, Case, Inputs, assert_as_accurate, assert_same_acts, assert_well_formed

by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_rounded_case = pytest.mark.parametrize("case", ROUNDED_CASES, ids=str)

ENCODERS: dict[str, Callable[[Inputs, int, ops.Impl], SparseActs]] = {
    "encode_topk": lambda i, k, impl: ops.encode_topk(i.x, i.W_enc, i.b_enc, k, impl=impl),
    "encode_threshold": lambda i, k, impl: ops.encode_threshold(i.x, i.W_enc, i.b_enc, i.threshold, impl=impl),
    "encode_threshold-gated": lambda i, k, impl: ops.encode_threshold(
        i.x, i.W_enc, i.b_enc, i.threshold, i.gain, i.offset, impl=impl
    ),
    "encode_batch_topk": lambda i, k, impl: ops.encode_batch_topk(i.x, i.W_enc, i.b_enc, k, impl=impl),
    "encode_batch_topk-fraction": lambda i, k, impl: ops.encode_batch_topk(i.x, i.W_enc, i.b_enc, k / 3, impl=impl),
}
by_encoder = pytest.mark.parametrize("encoder", ENCODERS)


@pytest.fixture(params=[None, 1000], ids=["one-chunk", "many-chunks"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with the ordinary chunk size, and with one of few rows."""
    if request.param:
        monkeypatch.setattr(rows, "CHUNK_BYTES", request.param)


@by_case
@by_encoder
@pytest.mark.usefixtures("_chunks")
def test_encoders_equal_the_reference(encoder: str, case: Case) -> None:
    """Where arithmetic is exact, features, values and stored zeros are equal."""
    operands = case.inputs()

    got = ENCODERS[encoder](operands, case.k, "torch")

    assert_same_acts(got, ENCODERS[encoder](operands, case.k, "reference"))


@pytest.mark.gpu
@by_case
def test_cuda_equals_the_cpu(case: Case) -> None:
    """On a CUDA device the same code gives the same entries, reconstructions, errors and feature-major order."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    here = case.inputs()
    there = Inputs(**{field.name: getattr(here, field.name).cuda() for field in fields(here)})
    for encoder in ENCODERS.values():
        assert_same_acts(encoder(there, case.k, "torch").to("cpu"), encoder(here, case.k, "torch"))
    acts = ops.encode_topk(there.x, there.W_enc, there.b_enc, case.k)

    assert torch.equal(ops.decode(acts, there.W_dec, there.b_dec).cpu(), ops.decode(acts.to("cpu"), here.W_dec, here.b_dec))
    assert torch.equal(ops.transpose(acts).rows.cpu(), ops.transpose(acts.to("cpu")).rows)


@by_case
@pytest.mark.usefixtures("_chunks")
def test_decode_decode_error_and_transpose_equal_the_reference(case: Case) -> None:
    """Where arithmetic is exact, reconstructions, errors and feature-major order are equal."""
    operands = case.inputs()
    acts = ops.encode_topk(operands.x, operands.W_enc, operands.b_enc, case.k)
    x_hat = ops.decode(acts, operands.W_dec, operands.b_dec, impl="torch")
    error = ops.decode_error(acts, operands.W_dec, operands.b_dec, operands.x, impl="torch")
    by_feature, expected = ops.transpose(acts, impl="torch"), ops.transpose(acts, impl="reference")

    assert torch.equal(x_hat, ops.decode(acts, operands.W_dec, operands.b_dec, impl="reference"))
    assert torch.allclose(error, reference.decode_error(acts, operands.W_dec, operands.b_dec, operands.x), rtol=1e-6)
    for field in ("feature_ptr", "rows", "values"):
        assert torch.equal(getattr(by_feature, field), getattr(expected, field))


@by_case
def test_parts_of_the_backward_pass_equal_the_reference(case: Case) -> None:
    """Where arithmetic is exact, sampled products and the sums by feature are equal, for rows and features of any length."""
    operands = case.inputs()
    acts = ops.encode_threshold(operands.x, operands.W_enc, operands.b_enc, operands.threshold - 4)
    by_feature = reference.transpose(acts)

    for impl in ("torch", "reference"):
        dots = ops.sampled_dot(acts, operands.x, operands.W_dec, impl=impl)
        by_weight = ops.weight_gradient(by_feature, operands.x, impl=impl)
        by_bias = ops.bias_gradient(by_feature, impl=impl)

        dense = acts.to_dense().double()
        pairs = operands.x.double() @ operands.W_dec.double().T
        assert torch.equal(dots.double(), pairs[acts.row_indices(), acts.col_indices.long()])
        assert torch.equal(by_weight.double(), dense.T @ operands.x.double())
        assert torch.equal(by_bias.double(), dense.sum(0))
        assert {dots.dtype, by_weight.dtype, by_bias.dtype} == {torch.promote_types(case.dtype, torch.float32)}


@by_rounded_case
def test_encode_topk_is_as_accurate_as_plain_pytorch(case: Case) -> None:
    """The selected values, in order, err no more than torch.topk of the dense product; each is the feature's activation."""
    operands = case.inputs()
    x, W_enc, b_enc = operands.x, operands.W_enc, operands.b_enc

    acts = ops.encode_topk(x, W_enc, b_enc, case.k, impl="torch")

    assert_well_formed(acts)
    exact = (x.double() @ W_enc.double() + b_enc.double()).relu()
    plain = (x.float() @ W_enc.float() + b_enc).relu()
    indices, values = acts.topk_view()
    assert_as_accurate(values.sort(descending=True).values, plain.topk(case.k).values, exact.topk(case.k).values)
    assert_as_accurate(values, plain.gather(1, indices.long()), exact.gather(1, indices.long()))


@by_rounded_case
def test_encode_threshold_is_as_accurate_as_plain_pytorch(case: Case) -> None:
    """Values err no more than plain PyTorch, outside a band of a few rounding steps around the threshold."""
    operands = case.inputs()
    x, W_enc, b_enc, threshold = operands.x, operands.W_enc, operands.b_enc, operands.threshold

    got = ops.encode_threshold(x, W_enc, b_enc, threshold, impl="torch").to_dense()

    exact = x.double() @ W_enc.double() + b_enc.double()
    band = 16 * torch.finfo(torch.float32).eps * float(exact.abs().max())
    clear = (exact - threshold).abs() > band
    plain = x.float() @ W_enc.float() + b_enc
    zero = torch.zeros(())
    expected = torch.where(exact > threshold, exact, zero.double())
    assert clear.float().mean() > 0.99
    assert_as_accurate(got[clear], torch.where(plain > threshold, plain, zero)[clear], expected[clear])


@by_rounded_case
def test_decode_is_as_accurate_as_plain_pytorch(case: Case) -> None:
    """Reconstructions and their errors err no more than the dense product in float32."""
    operands = case.inputs()
    acts = ops.encode_topk(operands.x, operands.W_enc, operands.b_enc, case.k)
    W_dec, b_dec, x = operands.W_dec, operands.b_dec, operands.x

    x_hat = ops.decode(acts, W_dec, b_dec, impl="torch")
    error = ops.decode_error(acts, W_dec, b_dec, x, impl="torch")

    dense = acts.to_dense()
    exact = dense.double() @ W_dec.double() + b_dec.double()
    plain = dense @ W_dec.float() + b_dec
    assert_as_accurate(x_hat, plain, exact)
    assert_as_accurate(error, (x.float() - plain).square().sum(1), (x.double() - exact).square().sum(1))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_topk_selection_under_ties(data: st.DataObject) -> None:
    """For any rows with few distinct values, the k largest are taken and ties go to the lower feature index."""
    n, d_sae = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, d_sae))
    row = st.lists(st.integers(-2, 2), min_size=d_sae, max_size=d_sae)
    h = torch.tensor(data.draw(st.lists(row, min_size=n, max_size=n)), dtype=torch.float32)

    acts = ops.encode_topk(torch.eye(n), h, torch.zeros(d_sae), k, impl="torch")

    activations = h.relu().tolist()
    expected = [sorted(sorted(range(d_sae), key=lambda f, a=a: (-a[f], f))[:k]) for a in activations]
    assert acts.topk_view()[0].tolist() == expected


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_topk_then_relu_is_relu_then_topk(data: st.DataObject) -> None:
    """Choosing among pre-activations or among activations gives the same dense result."""
    d_sae = data.draw(st.integers(1, 10))
    k = data.draw(st.integers(1, d_sae))
    h = torch.tensor([data.draw(st.lists(st.integers(-3, 3), min_size=d_sae, max_size=d_sae))], dtype=torch.float32)

    got = ops.encode_topk(torch.ones(1, 1), h, torch.zeros(d_sae), k).to_dense()

    order = h[0].sort(descending=True, stable=True).indices[:k]
    expected = torch.zeros(d_sae).index_put((order,), h[0, order].relu())
    assert torch.equal(got[0], expected)


def test_transpose_of_more_features_than_16_bits() -> None:
    """The two passes of the radix sort order features beyond 65,536 and keep rows ascending."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randint(0, 200_000, (200, 50), generator=generator)
    features[:, 0], features[:, 1] = 199_999, 65_536
    features[:, 2:] = features[:, 2:] // 3 * 3
    unique = torch.stack([row.unique()[:40] for row in features])
    acts = SparseActs.from_topk(unique, torch.rand(200, 40, generator=generator), d_sae=200_000)

    by_feature, expected = ops.transpose(acts, impl="torch"), ops.transpose(acts, impl="reference")

    assert torch.equal(by_feature.rows, expected.rows)
    assert torch.equal(by_feature.values, expected.values)


@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_leading_dimensions_are_restored(impl: ops.Impl) -> None:
    """Inputs of any number of dimensions come back with their leading dimensions."""
    operands = CASES[0].inputs()
    x = operands.x[:30].reshape(2, 3, 5, 17)

    acts = ops.encode_topk(x, operands.W_enc, operands.b_enc, 4, impl=impl)

    assert acts.to_dense().shape == (2, 3, 5, 101)
    assert ops.decode(acts, operands.W_dec, operands.b_dec, impl=impl).shape == x.shape
    assert ops.decode_error(acts, operands.W_dec, operands.b_dec, x, impl=impl).shape == (2, 3, 5)
    assert ops.encode_topk(x[0, 0, 0], operands.W_enc, operands.b_enc, 4, impl=impl).to_dense().shape == (101,)


@by_case
def test_prepared_weights_give_the_same_result(case: Case) -> None:
    """Prepare is exact, and preparing twice changes nothing."""
    operands = case.inputs()
    W_enc, W_dec = ops.prepare_encoder(operands.W_enc), ops.prepare_decoder(operands.W_dec)

    acts = ops.encode_topk(operands.x, W_enc, operands.b_enc, case.k)

    assert_same_acts(acts, ops.encode_topk(operands.x, operands.W_enc, operands.b_enc, case.k))
    assert torch.equal(ops.decode(acts, W_dec, operands.b_dec), ops.decode(acts, operands.W_dec, operands.b_dec))
    assert ops.prepare_encoder(W_enc) is W_enc


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_preparing_copies_nothing_that_lies_by_feature(dtype: torch.dtype) -> None:
    """A contiguous decoder, and an encoder that is the transpose of contiguous rows, are used where they are."""
    rows = torch.ones(4, 3, dtype=dtype)

    assert ops.prepare_decoder(rows).rows.data_ptr() == rows.data_ptr()
    assert ops.prepare_encoder(rows.T).rows.data_ptr() == rows.data_ptr()


def test_float32_weights_keep_all_bits_of_a_wider_product() -> None:
    """With narrow inputs and float32 weights nothing is rounded to the input's dtype."""
    x = torch.ones(1, 1, dtype=torch.bfloat16)

    acts = ops.encode_threshold(x, torch.full((1, 1), 1 + 2**-20), torch.zeros(1), torch.zeros(1))

    assert acts.values.item() == 1 + 2**-20


def call_all(operands: Inputs, impl: ops.Impl) -> dict[str, Callable[[], object]]:
    """One call of every operation."""
    acts = reference.encode_topk(operands.x, operands.W_enc.detach(), operands.b_enc, 3)
    return {
        "encode_topk": lambda: ENCODERS["encode_topk"](operands, 3, impl),
        "encode_threshold": lambda: ENCODERS["encode_threshold"](operands, 3, impl),
        "encode_batch_topk": lambda: ENCODERS["encode_batch_topk"](operands, 3, impl),
        "decode": lambda: ops.decode(acts, operands.W_dec, operands.b_dec, impl=impl),
        "decode_error": lambda: ops.decode_error(acts, operands.W_dec, operands.b_dec, operands.x, impl=impl),
        "transpose": lambda: ops.transpose(acts, impl=impl),
        "sampled_dot": lambda: ops.sampled_dot(acts, operands.x, operands.W_dec, impl=impl),
        "weight_gradient": lambda: ops.weight_gradient(reference.transpose(acts), operands.x, impl=impl),
        "bias_gradient": lambda: ops.bias_gradient(reference.transpose(acts), impl=impl),
    }


@pytest.mark.parametrize("operation", sorted(call_all(CASES[0].inputs(), "auto")))
def test_an_implementation_is_used_or_refused(operation: str) -> None:
    """Asking for Triton on the CPU, or for an implementation that does not exist, is an error and never a replacement."""
    operands = CASES[0].inputs()
    with pytest.raises(ImplementationUnavailableError, match=f"{operation}: (Triton is not installed|kernels need tensors on)"):
        call_all(operands, "triton")[operation]()
    with pytest.raises(ArgumentError, match="impl: expected one of auto, triton, torch, reference"):
        call_all(operands, "cuda")[operation]()  # type: ignore[arg-type]


def test_gradients_need_no_other_implementation(caplog: pytest.LogCaptureFixture) -> None:
    """Under autograd "auto" chooses as it does without, and "torch" gives gradients; what has none says so."""
    operands = CASES[0].inputs()
    for impl in ("auto", "torch"):
        W_enc = operands.W_enc.clone().requires_grad_()
        with caplog.at_level(logging.DEBUG, logger="sae_fast.ops"):
            acts = ops.encode_topk(operands.x, W_enc, operands.b_enc, 3, impl=impl)
        acts.values.sum().backward()

        assert W_enc.grad is not None
    assert "encode_topk: auto chose torch" in caplog.text
    with pytest.raises(ImplementationUnavailableError, match="computes no gradients"):
        ops.sampled_dot(acts, operands.x, operands.W_dec.clone().requires_grad_(), impl="torch")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["encode_topk", "encode_threshold", "encode_batch_topk"])
def test_check_finite_counts_bad_rows(name: str, bad: float) -> None:
    """With check_finite, NaN and infinity in x raise, and the message counts the rows."""
    operands = CASES[0].inputs()
    x = operands.x.clone()
    x[3, 2] = x[3, 5] = x[17, 0] = bad
    argument = (operands.threshold,) if name == "encode_threshold" else (3,)

    with pytest.raises(NonFiniteError, match="in 2 of 31 rows"):
        getattr(ops, name)(x, operands.W_enc, operands.b_enc, *argument, check_finite=True)
    getattr(ops, name)(operands.x, operands.W_enc, operands.b_enc, *argument, check_finite=True)


def test_bad_rows_do_not_disturb_others() -> None:
    """Without the check, a NaN token affects only its own row."""
    operands = CASES[0].inputs()
    x = operands.x.clone()
    x[3] = float("nan")
    good = torch.arange(len(x)) != 3

    acts = ops.encode_topk(x, operands.W_enc, operands.b_enc, 3)

    assert_same_acts(acts.rows(good), ops.encode_topk(operands.x[good], operands.W_enc, operands.b_enc, 3))


def _encode(**changes: object) -> object:
    operands = CASES[0].inputs()
    arguments: dict[str, object] = {"x": operands.x, "W_enc": operands.W_enc, "b_enc": operands.b_enc, "k": 3}
    return ops.encode_topk(**(arguments | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(4, 16)}, r"x: expected a floating tensor \[..., 17\], got \[4, 16\]"),
        ({"x": torch.zeros(4, 17, dtype=torch.int64)}, "x: expected a floating tensor"),
        ({"x": torch.tensor(1.0)}, "x: expected a floating tensor"),
        ({"W_enc": torch.zeros(17)}, "weights: expected a floating tensor of two dimensions"),
        ({"b_enc": torch.zeros(100)}, r"b_enc: expected \[101\], got \[100\]"),
    ],
    ids=["width", "dtype", "scalar", "weights", "bias"],
)
def test_wrong_encoder_shapes_name_the_argument(changes: dict[str, Tensor], message: str) -> None:
    """A wrong shape or dtype raises ShapeError with the argument, what was expected and what was given."""
    with pytest.raises(ShapeError, match=message):
        _encode(**changes)


@pytest.mark.parametrize("k", [0, 102, -1, 2.5, None])
def test_wrong_k_is_refused(k: object) -> None:
    """The k of top-k is an integer from 1 to d_sae."""
    with pytest.raises(ArgumentError, match="k: expected an integer from 1 to d_sae = 101"):
        _encode(k=k)


def test_wrong_decoder_shapes_name_the_argument() -> None:
    """Decoders check W_dec against the activations, b_dec against W_dec, and x against both."""
    operands = CASES[0].inputs()
    acts = ops.encode_topk(operands.x, operands.W_enc, operands.b_enc, 3)
    with pytest.raises(ShapeError, match="W_dec"):
        ops.decode(acts, operands.W_dec[:-1], operands.b_dec)
    with pytest.raises(ShapeError, match="b_dec"):
        ops.decode(acts, operands.W_dec, operands.b_dec[:-1])
    with pytest.raises(ShapeError, match="x"):
        ops.decode_error(acts, operands.W_dec, operands.b_dec, operands.x[:-1])


def test_wrong_threshold_and_batch_k_are_refused() -> None:
    """encode_threshold checks every vector; encode_batch_topk takes k from 0 to d_sae."""
    operands = CASES[0].inputs()
    with pytest.raises(ShapeError, match="gain"):
        ops.encode_threshold(operands.x, operands.W_enc, operands.b_enc, operands.threshold, gain=torch.ones(1))
    with pytest.raises(ArgumentError, match="k: expected a number from 0"):
        ops.encode_batch_topk(operands.x, operands.W_enc, operands.b_enc, -1)
    assert ops.encode_batch_topk(operands.x, operands.W_enc, operands.b_enc, 0).nnz == 0


def test_the_dense_matrix_of_a_batch_never_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers of pre-activations stay within the chunk size."""
    sizes = []
    original = torch.addmm

    def spy(*arguments: Tensor, **keywords: Tensor) -> Tensor:
        result = original(*arguments, **keywords)
        sizes.append(result.numel() * result.element_size())
        return result

    monkeypatch.setattr(torch, "addmm", spy)
    monkeypatch.setattr(rows, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(screen, "MODE", "never")
    operands = CASES[0].inputs()

    for call in list(call_all(operands, "torch").values())[:3]:
        call()

    assert len(sizes) >= 9
    assert max(sizes) <= 4096
