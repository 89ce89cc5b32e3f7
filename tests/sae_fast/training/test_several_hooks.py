"""Cross-layer transcoders and crosscoders against their papers, in float64, and the SAEs that come out."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sae_fast.training.variants import VARIANTS, Moment, Start

D, L, F, N = 5, 3, 12, 30
READS, WRITES = tuple(f"in.{i}" for i in range(L)), tuple(f"out.{i}" for i in range(L))
HALFWAY = Moment(step=50, n_steps=100)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noisy(variant: Any) -> Any:
    generator = torch.Generator().manual_seed(2)
    variant = variant.double()
    with torch.no_grad():
        for parameter in variant.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return variant


def clt(**options: Any) -> Any:
    start = Start(draw(N, L * D, seed=0) + 1, draw(N, L * D, seed=1) - 1, 1.0, 1.0, (D,) * L)
    given: dict[str, Any] = {"hook_names": READS, "hook_names_out": WRITES, "d_sae": F, "l0_warmup": 1.0, "bandwidth": 0.5}
    kind = VARIANTS["clt"]
    return noisy(kind(kind.Options(**given | {"dead_coefficient": 0.0} | options), start))


def clt_outputs(variant: Any, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """(ŷ of each layer, Σ tanh(c a ‖d‖)) as the paper writes them."""
    outputs = [layer.b_dec.expand(len(x), D) for layer in variant.layers]
    penalty = torch.zeros((), dtype=torch.float64)
    for number, layer in enumerate(variant.layers):
        theta, width = layer.log_threshold.exp(), layer.options.bandwidth
        h = x[:, number * D : (number + 1) * D] @ layer.W_enc.T + layer.b_enc
        near = ((h - theta).abs() < width / 2).detach().double()
        acts = h * (h > theta).detach().double() - theta.detach() / width * near * (theta - theta.detach())
        for later in range(number, L):
            rows = layer.W_dec[:, (later - number) * D : (later - number + 1) * D]
            outputs[later] = outputs[later] + acts @ rows
        penalty = penalty + torch.tanh(4.0 * acts * layer.W_dec.norm(dim=1)).sum(1).mean()
    return outputs, penalty


@pytest.mark.parametrize("density", [0.01, 1.0], ids=["sparse", "dense"])
def test_a_cross_layer_transcoder_is_the_papers(density: float) -> None:
    """Every layer's output sums what it and all earlier layers write; value and all gradients."""
    variant = clt()
    for layer in variant.layers:
        layer.density.fill_(density)
    x, y = draw(N, L * D, seed=5) + 1, draw(N, L * D, seed=6)

    loss = variant.objective(x, y, HALFWAY)

    outputs, penalty = clt_outputs(variant, x)
    expected = sum(((y[:, i * D : (i + 1) * D] - outputs[i]) ** 2).sum(1).mean() for i in range(L)) + 0.5 * 2.0 * penalty
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-12)
    parameters = dict(variant.named_parameters())
    found = torch.autograd.grad(loss.total, list(parameters.values()))
    wanted = torch.autograd.grad(expected, list(parameters.values()))
    for name, a, b in zip(parameters, found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=lambda text, at=name: f"gradient by {at}: {text}")


def test_its_layers_as_saes_add_up_to_what_was_trained() -> None:
    """In the LM's units, each hook with a scale of its own."""
    scales = torch.tensor([0.5, 2.0, 0.25]).double().repeat_interleave(D)
    x, y = draw(N, L * D, seed=5).float() + 1, draw(N, L * D, seed=6).float()
    kind = VARIANTS["clt"]
    options = kind.Options(hook_names=READS, hook_names_out=WRITES, d_sae=F)  # type: ignore[call-arg]
    variant: Any = kind(options, Start(x, y, scales, 1 / scales, (D,) * L))
    variant.eval()

    saes = variant.to_saes(lambda: [(x, y)])

    assert [sae.cfg.hook_names_out for sae in saes.values()] == [WRITES, WRITES[1:], WRITES[2:]]
    total = torch.zeros(N, L, D)
    for number, sae in enumerate(saes.values()):
        total[:, number:] += sae(x[:, number * D : (number + 1) * D])
    y_hat = variant.objective(variant.scaled(x), variant.scaled_target(y), HALFWAY).y_hat
    torch.testing.assert_close(total.flatten(1), (y_hat * scales).float(), rtol=1e-4, atol=1e-5)


def test_features_of_all_layers_are_counted() -> None:
    """Fired and dead features are those of the layers in order; a step keeps each layer's own count."""
    variant = clt(dead_after_tokens=N)
    loss = variant.objective(draw(N, L * D, seed=5) + 1, draw(N, L * D, seed=6), HALFWAY)

    variant.after_step(loss.fired, N)

    assert loss.fired.shape == variant.dead.shape == (L * F,)
    assert torch.equal(variant.dead, loss.fired == 0)


@pytest.mark.parametrize("density", [0.01, 1.0], ids=["sparse", "dense"])
def test_a_crosscoder_is_the_papers(density: float) -> None:
    """`Σ_hooks ‖y - ŷ‖² + λ Σ a Σ_hooks ‖d_hook‖`; the encoder sums over hooks and subtracts nothing."""
    x = draw(N, L * D, seed=5) + 1
    kind = VARIANTS["crosscoder"]
    options = kind.Options(hook_names=READS, d_sae=F, l1_coefficient=0.3, l1_warmup=1.0)  # type: ignore[call-arg]
    variant = noisy(kind(options, Start(x, x, 1.0, 1.0, (D,) * L)))
    variant.density.fill_(density)

    loss = variant.objective(x, x, HALFWAY)

    by_hook = [slice(i * D, (i + 1) * D) for i in range(L)]
    acts = (sum(x[:, own] @ variant.W_enc[:, own].T for own in by_hook) + variant.b_enc).relu()
    norms = sum(variant.W_dec[:, own].norm(dim=1) for own in by_hook)
    errors = [((x[:, own] - acts @ variant.W_dec[:, own] - variant.b_dec[own]) ** 2).sum(1).mean() for own in by_hook]
    expected = sum(errors) + 0.5 * 0.3 * (acts * norms).sum(1).mean()
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-12)
    parameters = list(variant.parameters())
    for a, b in zip(torch.autograd.grad(loss.total, parameters), torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["crosscoder", "batchtopk_crosscoder"])
def test_a_finished_crosscoder_reads_activations_side_by_side(name: str) -> None:
    """In the LM's units, whatever the hooks' scales; it names its hooks and their widths."""
    scales = torch.tensor([0.5, 2.0, 0.25]).double().repeat_interleave(D)
    x = draw(N, L * D, seed=5).float() + 1
    kind = VARIANTS[name]
    given: dict[str, Any] = {"l1_coefficient": 0.3} if name == "crosscoder" else {"k": 2.0}
    variant: Any = kind(kind.Options(hook_names=READS, d_sae=F, **given), Start(x, x, scales, scales, (D,) * L))
    variant.eval()

    sae = variant.to_sae(lambda: [(x, x)])

    assert (sae.cfg.hook_names, sae.cfg.hook_widths) == (READS, (D,) * L)
    acts = sae.encode(x)
    y_hat = (variant.decoded(acts.to_dense(), variant.scaled(x)) / scales.float()).detach()
    torch.testing.assert_close(sae.decode(acts), y_hat, rtol=1e-4, atol=1e-5)
    dense = (variant.scaled(x) @ variant.W_enc.T + variant.b_enc).detach().relu()
    torch.testing.assert_close(acts.to_dense(), dense * (acts.to_dense() > 0), rtol=1e-4, atol=1e-5)
