"""Training steps on a CUDA device: gradients, torch.compile, CUDA graphs. torch, triton and pytest are enough."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae_fast import ops

pytestmark = pytest.mark.gpu

N, D_IN, D_SAE, K = 2048, 768, 8192, 32
NAMES = ("x", "W_enc", "b_enc", "W_dec", "b_dec")
Operands = dict[str, Tensor]


def operands(dtype: torch.dtype) -> Operands:
    generator = torch.Generator(device="cuda").manual_seed(0)

    def draw(*shape: int, unit: float = 1.0, narrow: bool = True) -> Tensor:
        tensor = torch.randn(shape, device="cuda", generator=generator) * unit
        return tensor.to(dtype) if narrow else tensor

    return {
        "x": draw(N, D_IN),
        "W_enc": draw(D_SAE, D_IN, unit=D_IN**-0.5).T,
        "b_enc": draw(D_SAE, unit=0.1, narrow=False),
        "W_dec": draw(D_SAE, D_IN, unit=D_IN**-0.5),
        "b_dec": draw(D_IN, narrow=False),
    }


def topk_loss(o: Operands, impl: ops.Impl) -> Tensor:
    acts = ops.encode_topk(o["x"], o["W_enc"], o["b_enc"], K, impl=impl)
    return ops.decode_error(acts, o["W_dec"], o["b_dec"], o["x"], impl=impl).mean()


def threshold_loss(o: Operands, impl: ops.Impl) -> Tensor:
    threshold = torch.full((D_SAE,), 2.5, device="cuda")
    acts = ops.encode_threshold(o["x"], o["W_enc"], o["b_enc"], threshold, impl=impl)
    x_hat = ops.decode(acts, o["W_dec"], o["b_dec"], impl=impl)
    return (o["x"] - x_hat).square().sum(1).mean() + acts.values.sum() / N


def batch_topk_loss(o: Operands, impl: ops.Impl) -> Tensor:
    acts = ops.encode_batch_topk(o["x"], o["W_enc"], o["b_enc"], K, impl=impl)
    return ops.decode_error(acts, o["W_dec"], o["b_dec"], o["x"], impl=impl).mean()


LOSSES = {"topk": topk_loss, "threshold": threshold_loss, "batch_topk": batch_topk_loss}
by_loss = pytest.mark.parametrize("loss", LOSSES)


def gradients(loss: Callable[[Operands, ops.Impl], Tensor], o: Operands, impl: ops.Impl) -> Operands:
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in o.items()}
    loss(leaves, impl).backward()
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


@by_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_gradients_by_kernels_are_those_of_pytorch(loss: str, dtype: torch.dtype) -> None:
    """Against the same features' dense autograd: relative errors of each gradient stay within a few rounding steps."""
    o = operands(dtype)
    got = gradients(LOSSES[loss], o, "triton")

    expected = gradients(LOSSES[loss], o, "torch")
    for name in NAMES:
        difference = (got[name].double() - expected[name].double()).norm() / expected[name].double().norm()
        assert difference < 64 * torch.finfo(dtype).eps, name


def test_decoder_gradients_are_those_of_dense_autograd() -> None:
    """Gradients by activations, W_dec and b_dec, against float64: a relative error of a few rounding steps."""
    o = operands(torch.float32)
    acts = ops.encode_topk(o["x"], o["W_enc"], o["b_enc"], K)
    grad = torch.randn(N, D_IN, device="cuda")
    leaves = [o["W_dec"].requires_grad_(), o["b_dec"].requires_grad_(), acts.values.requires_grad_()]

    got = torch.autograd.grad(ops.decode(acts, leaves[0], leaves[1], impl="triton"), leaves, grad)

    dense, wide = acts.to_dense().detach().double(), grad.double()
    by_acts = (wide @ o["W_dec"].detach().double().T)[acts.row_indices(), acts.col_indices.long()]
    for gradient, exact in zip(got, (dense.T @ wide, wide.sum(0), by_acts), strict=True):
        assert (gradient.double() - exact).norm() < 8 * torch.finfo(torch.float32).eps * exact.norm()


@by_loss
def test_training_steps_run_again_to_the_same_bits(loss: str) -> None:
    """Forward and backward twice on the same inputs give identical gradients."""
    o = operands(torch.bfloat16)
    first = gradients(LOSSES[loss], o, "triton")

    for _ in range(5):
        again = gradients(LOSSES[loss], o, "triton")
        assert all(torch.equal(first[name], again[name]) for name in NAMES)


@by_loss
def test_compiled_training_step(loss: str) -> None:
    """torch.compile with its default backend takes a step as one graph, and gives the gradients of the plain step."""
    o = operands(torch.bfloat16)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = gradients(torch.compile(LOSSES[loss], fullgraph=True), o, "auto")

    expected = gradients(LOSSES[loss], o, "auto")
    for name in NAMES:
        difference = (compiled[name].double() - expected[name].double()).norm() / expected[name].double().norm()
        assert difference < 64 * torch.finfo(torch.bfloat16).eps, name


def test_topk_never_waits_for_the_device() -> None:
    """A top-k step, forward and backward, copies nothing to the host."""
    o = operands(torch.bfloat16)
    gradients(topk_loss, o, "triton")
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in o.items()}

    torch.cuda.set_sync_debug_mode("error")
    try:
        topk_loss(leaves, "triton").backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_topk_step_replays_as_a_graph() -> None:
    """Encode, decode and their backward are captured into one CUDA graph, which follows inputs changed in place."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in operands(torch.bfloat16).items()}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            topk_loss(leaves, "triton").backward()
    torch.cuda.current_stream().wait_stream(stream)
    for leaf in leaves.values():
        leaf.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        topk_loss(leaves, "triton").backward()
    with torch.no_grad():
        leaves["x"].copy_(leaves["x"].roll(1, 0) * 0.5)
    graph.replay()
    got = {name: leaf.grad.clone() for name, leaf in leaves.items() if leaf.grad is not None}

    expected = gradients(topk_loss, leaves, "triton")
    assert all(torch.equal(got[name], expected[name]) for name in NAMES)
