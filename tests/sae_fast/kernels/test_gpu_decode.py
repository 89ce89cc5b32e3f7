"""Decoding and the backward pass on a CUDA device: real sizes, repetition, graphs. torch, triton and pytest are enough."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sae_fast import ops, reference
from sae_fast.sparse import SparseActs
from sae_fast.testing import CASES, Case

pytestmark = pytest.mark.gpu

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def random_acts(n: int, d_sae: int, l0: int, uniform: bool = True, seed: int = 0) -> SparseActs:
    """L0 entries to a token, or between none and twice as many; a few features on most tokens."""
    generator = torch.Generator(device="cuda").manual_seed(seed)
    scores = torch.rand(n, d_sae, device="cuda", generator=generator)
    scores[:, :: max(1, d_sae // 4)] += 0.9
    values, indices = scores.topk(2 * l0 if not uniform else l0, dim=1)
    acts = SparseActs.from_topk(indices, values - 0.5, d_sae)
    if uniform:
        return acts
    kept = torch.rand(n, 1, device="cuda", generator=generator) < torch.rand(n, 2 * l0, device="cuda", generator=generator)
    return SparseActs.from_dense(torch.zeros(n, d_sae, device="cuda").scatter(1, indices, values * kept))


def weights(d_sae: int, d_out: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device="cuda").manual_seed(1)
    W_dec = torch.randn(d_sae, d_out, device="cuda", generator=generator)
    return W_dec.to(dtype), torch.randn(d_out, device="cuda", generator=generator)


def assert_accurate(got: Tensor, plain: Tensor, exact: Tensor, terms: Tensor) -> None:
    """The largest error is at most that of plain PyTorch and one rounding step of a sum of the terms' magnitudes.

    The order of a sum decides how large its partial sums become, so that of the result alone would be too strict a step.
    """
    error, of_plain = ((tensor.double() - exact).abs().max() for tensor in (got, plain))
    allowed = of_plain + torch.finfo(torch.float32).eps * terms.max()
    assert got.shape == exact.shape
    assert float(error) <= float(allowed)


SIZES = [(1, 4096, 768, 32), (7, 4096, 769, 500), (256, 16384, 2304, 64), (4096, 16384, 2304, 64), (2048, 1021, 257, 100)]
by_size = pytest.mark.parametrize(("n", "d_sae", "d_out", "l0"), SIZES)


@by_size
@by_dtype
@pytest.mark.parametrize("uniform", [True, False], ids=["topk", "ragged"])
def test_decode_is_as_accurate_as_plain_pytorch(
    n: int, d_sae: int, d_out: int, l0: int, dtype: torch.dtype, uniform: bool
) -> None:
    """Reconstructions, errors and sampled products err no more than float32 products do, from one token to thousands."""
    acts, (W_dec, b_dec) = random_acts(n, d_sae, l0, uniform), weights(d_sae, d_out, dtype)
    x = torch.randn(n, d_out, device="cuda")
    dense, wide = acts.to_dense(), W_dec.double()
    plain, exact = dense @ W_dec.float() + b_dec, dense.double() @ wide + b_dec.double()
    terms = dense.double().abs() @ wide.abs() + b_dec.double().abs()

    assert_accurate(ops.decode(acts, W_dec, b_dec, impl="triton"), plain, exact, terms)
    error = ops.decode_error(acts, W_dec, b_dec, x, impl="triton")
    plain_error, exact_error = (x - plain).square().sum(1), (x.double() - exact).square().sum(1)
    assert_accurate(error, plain_error, exact_error, (x.double().abs() + terms).square().sum(1))
    entries = (acts.row_indices(), acts.col_indices.long())
    dots = ops.sampled_dot(acts, x, W_dec, impl="triton")
    plain, exact = (x @ W_dec.float().T)[entries], (x.double() @ wide.T)[entries]
    assert_accurate(dots, plain, exact, (x.double().abs() @ wide.abs().T)[entries])


@by_size
@by_dtype
def test_sums_by_feature_are_as_accurate_as_plain_pytorch(n: int, d_sae: int, d_out: int, l0: int, dtype: torch.dtype) -> None:
    """The order by feature is torch's, and gradients of weights and biases err no more than float32 products do."""
    acts = random_acts(n, d_sae, l0, uniform=False)
    a = torch.randn(n, d_out, device="cuda").to(dtype)
    by_feature, expected = ops.transpose(acts, impl="triton"), reference.transpose(acts)
    dense, wide = acts.to_dense(), acts.to_dense().double()

    for field in ("feature_ptr", "rows", "values"):
        assert torch.equal(getattr(by_feature, field), getattr(expected, field))
    got = ops.weight_gradient(by_feature, a, impl="triton")
    assert_accurate(got, dense.T @ a.float(), wide.T @ a.double(), wide.abs().T @ a.double().abs())
    assert_accurate(ops.bias_gradient(by_feature, impl="triton"), dense.sum(0), wide.sum(0), wide.abs().sum(0))


@pytest.mark.parametrize("case", [case for case in CASES if case.dtype != torch.float64], ids=str)
def test_awkward_sizes_equal_the_reference(case: Case) -> None:
    """Where arithmetic is exact the kernels give the reference's numbers."""
    operands = case.inputs()
    acts = reference.encode_threshold(operands.x, operands.W_enc, operands.b_enc, operands.threshold - 4).to("cuda")
    W_dec, b_dec, x = operands.W_dec.cuda(), operands.b_dec.cuda(), operands.x.cuda()
    by_feature = ops.transpose(acts, impl="triton")

    pairs: list[tuple[Tensor, Tensor]] = [
        (ops.decode(acts, W_dec, b_dec, impl="triton"), reference.decode(acts.to("cpu"), operands.W_dec, operands.b_dec)),
        (ops.sampled_dot(acts, x, W_dec, impl="triton"), reference.sampled_dot(acts.to("cpu"), operands.x, operands.W_dec)),
        (ops.weight_gradient(by_feature, x, impl="triton"), acts.to_dense().cpu().T @ operands.x.float()),
        (ops.bias_gradient(by_feature, impl="triton"), acts.to_dense().cpu().sum(0)),
    ]
    for got, expected in pairs:
        assert torch.equal(got.cpu(), expected)


def test_the_dense_way_is_as_accurate() -> None:
    """Above the break-even L0 matrix units compute the reconstruction, without rounding the activations."""
    acts, (W_dec, b_dec) = random_acts(512, 4096, 300), weights(4096, 768, torch.bfloat16)

    x_hat = ops.decode(acts, W_dec, b_dec, impl="triton")

    dense, wide = acts.to_dense(), acts.to_dense().double()
    exact = wide @ W_dec.double() + b_dec.double()
    assert_accurate(x_hat, dense @ W_dec.float() + b_dec, exact, wide.abs() @ W_dec.double().abs() + b_dec.double().abs())


def test_large_addresses() -> None:
    """Offsets beyond 2^31 elements in the weights and in their gradient."""
    n, d_sae, d_out = 40_000, 1 << 20, 4096
    if torch.cuda.get_device_properties(0).total_memory < 60 << 30:
        pytest.skip("needs 60 GB of device memory")
    W_dec = torch.zeros(d_sae, d_out, dtype=torch.bfloat16, device="cuda")
    W_dec[-1], W_dec[5] = 2, 3
    features = torch.tensor([[5, d_sae - 1]], device="cuda").expand(n, 2)
    acts = SparseActs.from_topk(features, torch.ones(n, 2, device="cuda"), d_sae)

    x_hat = ops.decode(acts, W_dec, torch.zeros(d_out, device="cuda"), impl="triton")
    assert bool((x_hat == 5).all())
    assert torch.equal(ops.sampled_dot(acts, x_hat, W_dec, impl="triton")[-2:], torch.tensor([61440.0, 40960.0], device="cuda"))
    del W_dec
    gradient = ops.weight_gradient(ops.transpose(acts), x_hat, impl="triton")
    assert torch.equal(gradient[-1], torch.full((d_out,), 5.0 * n, device="cuda"))
    assert int(gradient.count_nonzero()) == 2 * d_out


OPERATIONS: dict[str, Callable[[SparseActs, Tensor, Tensor, Tensor], Tensor]] = {
    "decode": lambda acts, W, b, x: ops.decode(acts, W, b, impl="triton"),
    "decode_error": lambda acts, W, b, x: ops.decode_error(acts, W, b, x, impl="triton"),
    "sampled_dot": lambda acts, W, b, x: ops.sampled_dot(acts, x, W, impl="triton"),
    "weight_gradient": lambda acts, W, b, x: ops.weight_gradient(ops.transpose(acts), x, impl="triton"),
    "bias_gradient": lambda acts, W, b, x: ops.bias_gradient(ops.transpose(acts), impl="triton"),
}
by_operation = pytest.mark.parametrize("operation", OPERATIONS)


@by_operation
@pytest.mark.parametrize("n", [3, 8192])
def test_runs_again_to_the_same_bits(operation: str, n: int) -> None:
    """Twenty runs on the same inputs give identical output: nothing races, and no order is left to chance."""
    acts, (W_dec, b_dec) = random_acts(n, 8192, 48, uniform=False), weights(8192, 1024, torch.bfloat16)
    x = torch.randn(n, 1024, device="cuda")

    first = OPERATIONS[operation](acts, W_dec, b_dec, x)

    for _ in range(20):
        assert torch.equal(OPERATIONS[operation](acts, W_dec, b_dec, x), first)


@by_operation
def test_never_waits_for_the_device(operation: str) -> None:
    """No operation copies to the host, whatever the lengths of the rows."""
    acts, (W_dec, b_dec) = random_acts(512, 4096, 32, uniform=False), weights(4096, 768, torch.bfloat16)
    x = torch.randn(512, 768, device="cuda")
    OPERATIONS[operation](acts, W_dec, b_dec, x)

    torch.cuda.set_sync_debug_mode("error")
    try:
        OPERATIONS[operation](acts, W_dec, b_dec, x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@by_operation
def test_replays_as_a_graph(operation: str) -> None:
    """Captured once, a CUDA graph gives what a call gives, also for values that were changed in place."""
    acts, (W_dec, b_dec) = random_acts(512, 4096, 32), weights(4096, 768, torch.bfloat16)
    x = torch.randn(512, 768, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        OPERATIONS[operation](acts, W_dec, b_dec, x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = OPERATIONS[operation](acts, W_dec, b_dec, x)
    acts.values.mul_(2)
    x.mul_(3)

    graph.replay()

    assert torch.equal(out, OPERATIONS[operation](acts, W_dec, b_dec, x))


def test_values_of_any_dtype_and_layout() -> None:
    """Values in bfloat16 and vectors that are not contiguous are taken as they are."""
    acts, (W_dec, b_dec) = random_acts(64, 512, 8), weights(512, 96, torch.float32)
    narrow = replace(acts, values=acts.values.to(torch.bfloat16))
    x = torch.randn(96, 64, device="cuda").T

    x_hat = ops.decode(narrow, W_dec, b_dec[None].expand(3, -1)[1], impl="triton")
    error = ops.decode_error(narrow, W_dec, b_dec, x, impl="triton")

    exact = narrow.to_dense().double() @ W_dec.double() + b_dec.double()
    terms = narrow.to_dense().double().abs() @ W_dec.double().abs() + b_dec.double().abs()
    assert_accurate(x_hat, narrow.to_dense().float() @ W_dec + b_dec, exact, terms)
    assert torch.allclose(error.double(), (x.double() - exact).square().sum(1), rtol=1e-5)
