"""Gradients of the public operations, and their registration with torch.library."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae_fast import autograd, ops, reference
from sae_fast.autograd import operators
from sae_fast.config import SAEConfig
from sae_fast.prepared import prepared_from
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs
from sae_fast.testing import CASES, ROUNDED_CASES, Case, Inputs, assert_as_accurate

NAMES = ("x", "W_enc", "b_enc", "gain", "offset", "W_dec", "b_dec")
"""Operands that have gradients."""

by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_rounded_case = pytest.mark.parametrize("case", ROUNDED_CASES, ids=str)

ENCODERS: dict[str, Callable[[Inputs, int, ops.Impl], SparseActs]] = {
    "encode_topk": lambda i, k, impl: ops.encode_topk(i.x, i.W_enc, i.b_enc, k, impl=impl),
    "encode_threshold": lambda i, k, impl: ops.encode_threshold(i.x, i.W_enc, i.b_enc, i.threshold, impl=impl),
    "encode_threshold-gated": lambda i, k, impl: ops.encode_threshold(
        i.x, i.W_enc, i.b_enc, i.threshold, i.gain, i.offset, impl=impl
    ),
    "encode_batch_topk": lambda i, k, impl: ops.encode_batch_topk(i.x, i.W_enc, i.b_enc, k / 2, impl=impl),
}
by_encoder = pytest.mark.parametrize("encoder", ENCODERS)


def leaves(operands: Inputs, dtype: torch.dtype | None = None) -> Inputs:
    """The same operands, each a leaf that requires gradients."""
    tensors = {name: getattr(operands, name).detach().clone() for name in (*NAMES, "threshold")}
    return Inputs(**{name: tensor.to(dtype or tensor.dtype).requires_grad_() for name, tensor in tensors.items()})


def reconstruction_loss(operands: Inputs, k: int, encoder: str, impl: ops.Impl) -> Tensor:
    """Small integers for integer operands: a sum that weighs activations, reconstructions and errors differently."""
    acts = ENCODERS[encoder](operands, k, impl)
    x_hat = ops.decode(acts, operands.W_dec, operands.b_dec, impl=impl)
    weights = torch.arange(x_hat.numel(), dtype=x_hat.dtype).reshape(x_hat.shape) % 3 - 1
    return (x_hat * weights).sum() + (acts.values * (torch.arange(acts.nnz) % 5)).sum()


def error_loss(operands: Inputs, k: int, encoder: str, impl: ops.Impl) -> Tensor:
    """The summed squared error."""
    acts = ENCODERS[encoder](operands, k, impl)
    return ops.decode_error(acts, operands.W_dec, operands.b_dec, operands.x, impl=impl).sum()


def gradients(loss: Callable[..., Tensor], operands: Inputs, k: int, encoder: str, impl: ops.Impl) -> dict[str, Tensor]:
    """By each operand that takes part."""
    loss(operands, k, encoder, impl).backward()
    return {name: getattr(operands, name).grad for name in NAMES if getattr(operands, name).grad is not None}


@by_case
@by_encoder
def test_gradients_equal_the_dense_reference(encoder: str, case: Case) -> None:
    """Where arithmetic is exact, gradients on active features only are those of the dense computation."""
    got = gradients(reconstruction_loss, leaves(case.inputs()), case.k, encoder, "torch")

    expected = gradients(reconstruction_loss, leaves(case.inputs()), case.k, encoder, "reference")
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        assert gradient.dtype == expected[name].dtype
        assert torch.equal(gradient, expected[name]), name


def activation_loss(operands: Inputs, k: int, encoder: str, impl: ops.Impl) -> Tensor:
    """Activations, each with its own weight."""
    values = ENCODERS[encoder](operands, k, impl).values
    return (values * torch.linspace(-1, 1, len(values), dtype=values.dtype)).sum()


def decoding_loss(operands: Inputs, k: int, encoder: str, impl: ops.Impl) -> Tensor:
    """Reconstructions and errors of given activations, each with its own weight."""
    with torch.no_grad():
        acts = ENCODERS[encoder](operands, k, "reference")
    x_hat = ops.decode(acts, operands.W_dec, operands.b_dec, impl=impl)
    error = ops.decode_error(acts, operands.W_dec, operands.b_dec, operands.x, impl=impl)
    weights = torch.linspace(-1, 1, x_hat.numel(), dtype=x_hat.dtype).reshape(x_hat.shape)
    return (x_hat * weights).sum() + (error * weights[:, 0]).sum()


@by_rounded_case
@by_encoder
@pytest.mark.parametrize("loss", [activation_loss, decoding_loss])
def test_gradients_are_as_accurate_as_the_dense_reference(
    loss: Callable[[Inputs, int, str, ops.Impl], Tensor], encoder: str, case: Case
) -> None:
    """Rounded gradients err no more than those of dense float32 autograd, about k features being active."""
    operands = case.inputs()
    operands.threshold.add_(12)
    got = gradients(loss, leaves(operands), case.k, encoder, "torch")

    plain = gradients(loss, leaves(operands), case.k, encoder, "reference")
    exact = gradients(loss, leaves(operands, torch.float64), case.k, encoder, "reference")
    for name, gradient in got.items():
        assert_as_accurate(gradient, plain[name], exact[name])


SMALL = Case("small", n=5, d_in=4, d_sae=9, k=3, kind="normal")


def checkable(impl: ops.Impl) -> dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]]:
    """Each operation as a function of the operands that have gradients, and their names."""
    threshold = torch.full((SMALL.d_sae,), 0.25, dtype=torch.float64)
    acts = reference.encode_topk(*(getattr(SMALL.inputs(), name).double() for name in ("x", "W_enc", "b_enc")), SMALL.k)
    weights = torch.linspace(-1, 1, acts.shape[0], dtype=torch.float64)

    def with_values(values: Tensor) -> SparseActs:
        return SparseActs(acts.crow_indices, acts.col_indices, values, acts.shape)

    return {
        "encode_topk": (lambda x, W, b: ops.encode_topk(x, W, b, SMALL.k, impl=impl).values, ("x", "W_enc", "b_enc")),
        "encode_batch_topk": (lambda x, W, b: ops.encode_batch_topk(x, W, b, 2, impl=impl).values, ("x", "W_enc", "b_enc")),
        "encode_threshold": (
            lambda x, W, b, g, o: ops.encode_threshold(x, W, b, threshold, g, o, impl=impl).values,
            ("x", "W_enc", "b_enc", "gain", "offset"),
        ),
        "decode": (lambda v, W, b: ops.decode(with_values(v), W, b, impl=impl), ("values", "W_dec", "b_dec")),
        "decode_error": (
            lambda v, W, b, x: ops.decode_error(with_values(v), W, b, x, impl=impl) * weights,
            ("values", "W_dec", "b_dec", "x"),
        ),
    }


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("operation", sorted(checkable("auto")))
def test_gradcheck(operation: str, impl: ops.Impl) -> None:
    """Gradients in float64 are those of finite differences."""
    operands = SMALL.inputs(seed=1)
    values = torch.linspace(-1, 2, SMALL.n * SMALL.k)
    function, names = checkable(impl)[operation]
    arguments = [values if name == "values" else getattr(operands, name) for name in names]

    assert torch.autograd.gradcheck(function, [tensor.double().requires_grad_() for tensor in arguments])


def test_the_reference_computes_operators_too() -> None:
    """With the reference inside the operator, forward and backward are those of the other implementations."""
    operands = leaves(SMALL.inputs(), torch.float64)
    weights = ops.prepare_encoder(operands.W_enc)

    acts = autograd.encode_threshold(operands.x, weights, operands.b_enc, operands.threshold, None, None, "reference")
    acts.values.square().sum().backward()

    expected = leaves(SMALL.inputs(), torch.float64)
    acts = ops.encode_threshold(expected.x, expected.W_enc, expected.b_enc, expected.threshold, impl="reference")
    acts.values.square().sum().backward()
    for name in ("x", "W_enc", "b_enc"):
        assert torch.allclose(getattr(operands, name).grad, getattr(expected, name).grad, rtol=1e-12, atol=0)


def test_thresholds_and_frozen_operands_get_no_gradient() -> None:
    """Neither a threshold nor what does not require one is given a gradient."""
    operands = leaves(CASES[0].inputs())
    W_enc = operands.W_enc.detach()

    acts = ops.encode_threshold(operands.x, W_enc, operands.b_enc, operands.threshold)
    ops.decode(acts, operands.W_dec.detach(), operands.b_dec).sum().backward()

    assert W_enc.grad is None
    assert operands.threshold.grad is None
    assert operands.x.grad is not None
    assert operands.b_dec.grad is not None


def test_prepared_weights_carry_gradients() -> None:
    """Preparation is part of the graph: the published matrices get the same gradients as without it."""
    plain, prepared = leaves(CASES[0].inputs()), leaves(CASES[0].inputs())

    for operands, encoder, decoder in (
        (plain, plain.W_enc, plain.W_dec),
        (prepared, ops.prepare_encoder(prepared.W_enc), ops.prepare_decoder(prepared.W_dec)),
    ):
        acts = ops.encode_topk(operands.x, encoder, operands.b_enc, 7)
        ops.decode(acts, decoder, operands.b_dec).square().sum().backward()

    for name in ("x", "W_enc", "W_dec"):
        assert torch.equal(getattr(plain, name).grad, getattr(prepared, name).grad)


def test_operators_find_what_was_prepared() -> None:
    """What was derived from weights is found by their place in memory, until they are changed or gone."""
    weights = ops.prepare_decoder(torch.ones(4, 3))

    assert prepared_from(weights.rows, "decoder") is weights
    assert prepared_from(weights.rows.detach(), "decoder") is weights
    assert prepared_from(weights.rows[:3], "decoder") is not weights
    assert prepared_from(weights.rows, "encoder") is not weights
    weights.rows.add_(1)
    assert prepared_from(weights.rows, "decoder") is not weights


def sample_arguments() -> dict[str, tuple[object, ...]]:
    """Arguments of every operator, with the name of the implementation."""
    operands = leaves(CASES[0].inputs())
    rows = operands.W_enc.detach().T.contiguous().requires_grad_()
    acts = reference.encode_topk(operands.x, operands.W_enc, operands.b_enc, 7)
    entries = (acts.crow_indices, acts.col_indices, acts.values.detach().requires_grad_())
    by_feature = reference.transpose(acts)
    segments = (by_feature.feature_ptr, by_feature.rows, by_feature.values.detach())
    fixed, threshold = operands.x.detach(), operands.threshold.detach()
    return {
        "encode_topk": (operands.x, rows, operands.b_enc, 7, "auto", False),
        "encode_threshold": (operands.x, rows, operands.b_enc, threshold, operands.gain, operands.offset, "auto"),
        "encode_batch_topk": (operands.x, rows, operands.b_enc, 3.5, "auto"),
        "decode": (*entries, operands.W_dec, operands.b_dec, "auto"),
        "decode_error": (*entries, operands.W_dec, operands.b_dec, operands.x, "auto"),
        "transpose": (*(tensor.detach() for tensor in entries), acts.shape[1], "auto"),
        "sampled_dot": (*entries[:2], fixed, operands.W_dec.detach(), "auto"),
        "weight_gradient": (*segments, fixed, "auto"),
        "bias_gradient": (*segments, acts.shape[0], "auto"),
    }


@pytest.mark.parametrize("name", sorted(sample_arguments()))
def test_operators_are_registered_as_torch_wants(name: str) -> None:
    """Schema, shapes without computing, gradients and tracing pass the checks of torch.library."""
    checks = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    if name.startswith("encode"):
        # It adds all outputs up, and cannot add activations to feature indices; below, encoders are compiled instead.
        checks.remove("test_aot_dispatch_dynamic")

    torch.library.opcheck(getattr(operators, name), sample_arguments()[name], test_utils=checks)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@by_encoder
def test_compiled_without_a_break(encoder: str, backend: str) -> None:
    """torch.compile traces encode, decode and their backward as one graph, and gives the same gradients."""
    torch.compiler.reset()
    case = CASES[0]

    def loss(operands: Inputs) -> Tensor:
        return error_loss(operands, case.k, encoder, "auto")

    compiled, plain = leaves(case.inputs()), leaves(case.inputs())
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        torch.compile(loss, backend=backend, fullgraph=True)(compiled).backward()

    loss(plain).backward()
    for name in NAMES:
        got, expected = getattr(compiled, name).grad, getattr(plain, name).grad
        assert got is None if expected is None else torch.equal(got, expected)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
def test_an_sae_compiles_without_a_break(architecture: str) -> None:
    """So do encode, decode and forward of an SAE, for inputs with leading dimensions."""
    torch.compiler.reset()
    operands = CASES[0].inputs()
    cfg = SAEConfig(architecture=architecture, d_in=17, d_sae=101, k=7 if architecture == "topk" else None)
    vectors = {"b_enc": operands.b_enc} | ({"threshold": operands.threshold} if architecture == "jumprelu" else {})
    sae = SAE(cfg, W_enc=operands.W_enc, W_dec=operands.W_dec, b_dec=operands.b_dec, **vectors)
    x = operands.x[:30].reshape(2, 15, 17)
    expected = sae(x)

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(lambda x: sae.decode(sae.encode(x)), backend="aot_eager", fullgraph=True)(x)
        forward = torch.compile(sae.forward, backend="aot_eager", fullgraph=True)(x)

    assert torch.equal(compiled, expected)
    assert torch.equal(forward, expected)
