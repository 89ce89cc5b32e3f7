"""Losses of every variant against what their papers say, in float64, by dense and by sparse computation."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_fast.errors import ConfigError, NonFiniteError
from sae_fast.training.calibration import threshold_for_l0
from sae_fast.training.variants import VARIANTS, Moment, Start, Variant

D_IN, D_OUT, D_SAE, N = 6, 5, 24, 40
HALFWAY = Moment(step=50, n_steps=100)
OPTIONS: dict[str, dict[str, Any]] = {
    "standard": dict(l1_coefficient=0.3, l1_warmup=1.0),
    "gated": dict(l1_coefficient=0.3, l1_warmup=1.0),
    "topk": dict(k=3),
    "abstopk": dict(k=3),
    "batchtopk": dict(k=2.5),
    "matryoshka": dict(k=3, group_sizes=(4.0, 8.0, 12.0)),
    "jumprelu": dict(target_l0=3.0, l0_warmup=1.0, bandwidth=0.5, initial_threshold=0.4),
    "matching_pursuit": dict(max_iterations=3),
}
by_variant = pytest.mark.parametrize("name", OPTIONS)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def variant(name: str, transcoder: bool = False, dead: int = 5, **options: Any) -> Variant:
    """One with weights that hide nothing: no bias is zero, no norm one, and the first features are dead."""
    x, y = draw(N, D_IN) + 1, draw(N, D_OUT if transcoder else D_IN, seed=1) - 1
    more = dict(hook_name_out="out", skip=True) if transcoder else {}
    kind = VARIANTS[name]
    given = dict(hook_name="in", d_sae=D_SAE, dead_after_tokens=10) | more | OPTIONS[name] | options
    sae = kind(kind.Options(**given), Start(x, y, 1.0, 1.0))
    sae = sae.double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter_name, parameter in sae.named_parameters():
            if parameter_name not in ("log_threshold", "W_dec") or name != "matching_pursuit":
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        if name == "matching_pursuit":
            sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
    sae.tokens_since_active[:dead] = 10
    return sae


def inputs(sae: Variant) -> tuple[Tensor, Tensor]:
    x = draw(N, D_IN, seed=5) + 1
    return x, draw(N, D_OUT, seed=6) if sae.is_transcoder else x


def encoded(sae: Variant, x: Tensor) -> Tensor:
    return (x if sae.is_transcoder else x - sae.b_dec) @ sae.W_enc.T + sae.b_enc


def decoded(sae: Variant, acts: Tensor, x: Tensor) -> Tensor:
    y_hat = acts @ sae.W_dec + sae.b_dec
    return y_hat if sae.W_skip is None else y_hat + x @ sae.W_skip.T


def mse(y: Tensor, y_hat: Tensor) -> Tensor:
    return ((y - y_hat) ** 2).sum(1).mean()


def keep_largest(h: Tensor, score: Tensor, k: int) -> Tensor:
    """`h` at the k largest scores of each row, zero elsewhere."""
    threshold = score.detach().sort(dim=1, descending=True).values[:, k - 1 : k]
    return h * (score.detach() >= threshold)


def auxiliary(sae: Variant, x: Tensor, residual: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Gao et al. 2024, A.2: reconstruct the error from the dead features, at most half as many as the width."""
    dead = sae.tokens_since_active >= 10
    if not dead.any():
        return torch.zeros(())
    h = encoded(sae, x)[:, dead]
    values = h if sae.architecture == "abstopk" else h.relu()
    acts = keep_largest(values, score(h), min(int(dead.sum()), D_IN // 2))
    return mse(residual.detach(), acts @ sae.W_dec[dead])


def reference(sae: Any, x: Tensor, y: Tensor) -> Tensor:
    """The objective, from the papers, half-way through training."""
    name, options = type(sae).__name__, sae.options
    if name == "Pursuit":
        return _pursuit(sae, x)
    h, norms = encoded(sae, x), sae.W_dec.norm(dim=1)
    if name == "Standard":
        acts = h.relu()
        return mse(y, decoded(sae, acts, x)) + 0.5 * options.l1_coefficient * (acts * norms).sum(1).mean()
    if name == "Gated":
        gate = h.relu()
        acts = (h > 0) * (sae.r_mag.exp() * (h - sae.b_enc) + sae.b_mag).relu()
        rebuilt = decoded(sae, gate, x)
        if options.freeze_auxiliary_decoder:
            rebuilt = gate @ sae.W_dec.detach() + sae.b_dec.detach() + (x @ sae.W_skip.detach().T if sae.is_transcoder else 0)
        return mse(y, decoded(sae, acts, x)) + 0.5 * options.l1_coefficient * (gate * norms).sum(1).mean() + mse(y, rebuilt)
    if name == "JumpReLU":
        return _jumprelu(sae, h, x, y)
    score: Callable[[Tensor], Tensor] = torch.abs if name == "AbsTopK" else torch.clone
    if name in ("TopK", "AbsTopK"):
        acts = keep_largest(h if name == "AbsTopK" else h.relu(), score(h), options.k)
        error = mse(y, decoded(sae, acts, x))
    else:
        level = h.detach().relu().flatten().sort(descending=True).values[int(options.k * N) - 1]
        acts = h.relu() * (h.detach() >= level)
        error = mse(y, decoded(sae, acts, x))
        if name == "Matryoshka":
            prefixes = [torch.arange(D_SAE) < end for end in (4, 12, 24)]
            error = torch.stack([mse(y, decoded(sae, acts * prefix, x)) for prefix in prefixes]).mean()
    return error + options.aux_coefficient * auxiliary(sae, x, y - decoded(sae, acts, x), score)


def _jumprelu(sae: Any, h: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """With surrogates whose gradients are the straight-through ones: for θ, of a jump smeared over the bandwidth."""
    theta, width = sae.log_threshold.exp(), sae.options.bandwidth
    near = ((h - theta).abs() < width / 2).detach().double()
    fires = (h > theta).detach().double()
    # -(θ/ε) and -(1/ε) times the change of θ, where h is near; the values themselves are those of the step.
    change = theta - theta.detach()
    acts = h * fires - theta.detach() / width * near * change
    steps = fires - near * change / width
    norms = sae.W_dec.norm(dim=1)
    penalty = {
        "quadratic": (steps.sum(1).mean() / 3.0 - 1) ** 2,
        "step": steps.sum(1).mean(),
        "tanh": torch.tanh(4.0 * acts * norms).sum(1).mean(),
    }[sae.options.penalty]
    dead = sae.tokens_since_active >= 10
    pull = ((theta.detach() - h).relu() * norms)[:, dead].sum(1).mean() if dead.any() else 0
    return mse(y, decoded(sae, acts, x)) + 0.5 * sae.options.l0_coefficient * penalty + 3e-3 * pull


def _pursuit(sae: Any, x: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for token in x:
        residual, used = token - sae.b_dec, set()
        for _ in range(sae.options.max_iterations):
            best = int((residual @ sae.W_dec.T).argmax())
            residual = residual - (residual @ sae.W_dec[best]).relu() * sae.W_dec[best]
            if best in used or residual.norm() < sae.options.residual_threshold:
                break
            used.add(best)
        total = total + residual.square().sum()
    return total / len(x)


@pytest.mark.parametrize("density", [0.01, 1.0], ids=["sparse", "dense"])
@pytest.mark.parametrize("transcoder", [False, True], ids=["sae", "skip-transcoder"])
@by_variant
def test_loss_and_gradients_are_the_papers(name: str, transcoder: bool, density: float) -> None:
    """Value and gradient by every parameter equal those of a dense statement of the paper, for both ways to compute."""
    if transcoder and name == "matching_pursuit":
        pytest.skip("a pursuit reconstructs its own input")
    _compare(variant(name, transcoder), density)


@pytest.mark.parametrize("density", [0.01, 1.0], ids=["sparse", "dense"])
@pytest.mark.parametrize("penalty", ["step", "tanh"])
def test_other_penalties_of_jumprelu_are_the_papers(penalty: str, density: float) -> None:
    """The step and tanh penalties too."""
    _compare(variant("jumprelu", penalty=penalty), density)


@pytest.mark.parametrize("density", [0.01, 1.0], ids=["sparse", "dense"])
@pytest.mark.parametrize("transcoder", [False, True], ids=["sae", "skip-transcoder"])
def test_a_gated_sae_may_hold_its_decoder_fixed(transcoder: bool, density: float) -> None:
    """In the third term, as the paper does."""
    _compare(variant("gated", transcoder, freeze_auxiliary_decoder=True, unit_norm_decoder=True), density)


def _compare(sae: Variant, density: float) -> None:
    sae.density.fill_(density)
    x, y = inputs(sae)
    parameters = dict(sae.named_parameters())

    loss = sae.objective(x, y, HALFWAY)
    expected = reference(sae, x, y)

    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-12)
    found = torch.autograd.grad(loss.total, list(parameters.values()), allow_unused=True)
    wanted = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)
    for parameter, a, b in zip(parameters, found, wanted, strict=True):
        a, b = (torch.zeros_like(parameters[parameter]) if grad is None else grad for grad in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=lambda text, at=parameter: f"gradient by {at}: {text}")
    assert float(sum(grad.abs().sum() for grad in wanted if grad is not None)) > 0


@by_variant
def test_what_a_loss_says_of_its_batch(name: str) -> None:
    """L0 and explained variance are those of the dense activations of the finished SAE's encoder."""
    sae = variant(name)
    x, _ = inputs(sae)

    loss = sae.objective(x, x, HALFWAY)

    assert loss.n == N
    assert 0 < loss.l0 <= D_SAE
    assert int(loss.fired.max()) <= N
    deviation = float((x - x.mean(0)).square().sum())
    assert loss.explained_variance == pytest.approx(1 - float(loss.squared_error) / deviation, rel=1e-9)


@by_variant
def test_the_finished_sae_computes_what_was_trained(name: str) -> None:
    """In the LM's units, with other scales on both sides, it reconstructs as the variant does."""
    x = 7 * draw(N, D_IN, seed=5).float() + 3
    kind = VARIANTS[name]
    sae = kind(kind.Options(hook_name="blocks.0.hook_resid_post", d_sae=D_SAE, **OPTIONS[name]), Start(x, x, 0.2, 0.2))
    sae.eval()
    scaled = 0.2 * x

    finished = sae.to_sae(lambda: [(x, x)])

    if name in ("batchtopk", "matryoshka"):
        assert finished.encode(x).l0 == pytest.approx(OPTIONS[name]["k"], abs=1 / N)
        acts = finished.encode(x).to_dense()
        torch.testing.assert_close(finished(x), sae.decoded(acts, scaled) / 0.2, rtol=1e-4, atol=1e-3)
        assert finished.cfg.metadata["running_threshold"] is None
    else:
        loss = sae.objective(scaled, scaled, HALFWAY)
        error = float((finished(x) - x).square().sum()) * 0.2**2
        assert error == pytest.approx(float(loss.squared_error), rel=1e-4)
        assert finished.encode(x).l0 == pytest.approx(loss.l0, abs=1e-6)
    assert finished.cfg.architecture == sae.architecture


def test_the_running_threshold_is_not_biased_towards_zero() -> None:
    """After few steps the estimate is of the size of what was seen, though the mean began at zero."""
    sae = variant("batchtopk")
    x, _ = inputs(sae)
    for _ in range(3):
        acts = sae.select(x - sae.b_dec)

    assert sae.about()["running_threshold"] == pytest.approx(float(acts.values.detach().min()), rel=1e-6)


@pytest.mark.parametrize("k", [0.5, 3, 7.3, 23.9])
def test_a_threshold_gives_the_wanted_l0(k: float) -> None:
    """Exactly round(k n) pre-activations lie above it, whatever order tokens come in."""
    W_enc, b_enc = draw(50, D_IN).float(), draw(50, seed=3).float()
    batches = [draw(n, D_IN, seed=n).float() * n for n in (1, 300, 20)]

    level = threshold_for_l0(lambda: batches, W_enc, b_enc, k)

    above = sum(int(((x @ W_enc.T + b_enc) > level).sum()) for x in batches)
    positive = sum(int(((x @ W_enc.T + b_enc) > 0).sum()) for x in batches)
    assert above == min(round(k * 321), positive)


def test_norms_are_kept_and_gradients_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """With unit norms the decoder's gradient has no part along its rows, and a step leaves norms of one."""
    sae = variant("topk")
    with torch.no_grad():
        sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
    x, y = inputs(sae)
    loss = sae.objective(x, y, HALFWAY)
    loss.total.backward()
    sae.after_backward()

    assert float((sae.W_dec.grad * sae.W_dec.detach()).sum(1).abs().max()) < 1e-12
    with torch.no_grad():
        sae.W_dec.add_(sae.W_dec.grad)
    sae.after_step(loss.fired, N)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))
    assert sae.tokens_since_active[loss.fired > 0].eq(0).all()
    assert sae.tokens_since_active[loss.fired == 0].ge(N).all()


def test_an_exploding_loss_stops() -> None:
    """NaN in the activations is an error, not a weight."""
    sae = variant("topk")

    with pytest.raises(NonFiniteError, match="the loss of step 50 is nan"):
        sae.loss(torch.full((2, D_IN), float("nan")), torch.zeros(2, D_IN), HALFWAY)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("topk", dict(k=0), "k: expected at least 1"),
        ("topk", dict(k=3, expansion=2.0), "d_sae or expansion"),
        ("topk", dict(k=3, skip=True), "only a transcoder has a skip"),
        ("batchtopk", dict(k=0.0), "positive number"),
        ("jumprelu", dict(), "target_l0"),
        ("jumprelu", dict(target_l0=3.0, bandwidth=0.0), "bandwidth"),
        ("matching_pursuit", dict(max_iterations=2, hook_name_out="out"), "no hook_name_out"),
        ("gated", dict(l1_coefficient=1.0, freeze_auxiliary_decoder=True), "unit_norm_decoder = true"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    """Each says which key, what was expected and what was given."""
    with pytest.raises(ConfigError, match=message):
        VARIANTS[name].Options(**(dict(hook_name="in", d_sae=8) | options))


@pytest.mark.parametrize("name", ["topk", "abstopk", "batchtopk"])
def test_transcoders_that_choose_by_size_begin_otherwise(name: str) -> None:
    """SAEs keep decoder rows at norm one and begin near the data, they do not; either can be asked to do as the other."""

    def start(**options: Any) -> tuple[bool, bool]:
        given: Any = VARIANTS[name].Options(**(dict(hook_name="in", d_sae=8, k=3) | options))
        return given.unit_norm_decoder, given.start_from_data

    assert (start(), start(hook_name_out="out")) == ((True, True), (False, False))
    assert start(unit_norm_decoder=False, start_from_data=False) == (False, False)
    assert start(hook_name_out="out", unit_norm_decoder=True, start_from_data=True) == (True, True)


def test_the_bias_of_the_decoder_begins_at_the_mean_or_at_zero() -> None:
    """The mean of the target, in scaled units."""
    x = draw(N, D_IN) + 1

    def bias(**options: Any) -> Tensor:
        given = VARIANTS["topk"].Options(**(dict(hook_name="in", d_sae=8, k=3) | options))
        return VARIANTS["topk"](given, Start(x, x, 2.0, 2.0)).b_dec.detach()

    torch.testing.assert_close(bias(), 2 * x.mean(0).float())
    assert not bool(bias(start_at_mean=False).any())


def test_decoder_rows_of_matching_pursuit_begin_with_norm_one() -> None:
    """Its values are right from the first step on, though its norms are free."""
    x = draw(N, D_IN).float()
    options = VARIANTS["matching_pursuit"].Options(hook_name="in", d_sae=8, max_iterations=3)  # type: ignore[call-arg]
    sae = VARIANTS["matching_pursuit"](options, Start(x, x, 1.0, 1.0))
    torch.testing.assert_close(sae.W_dec.detach().norm(dim=1), torch.ones(8))


@pytest.mark.parametrize("sizes", [(4.0, 8.0), (0.5, 0.6), (), (12.5, 11.5)])
def test_groups_must_make_up_the_dictionary(sizes: tuple[float, ...]) -> None:
    """Matryoshka groups sum to d_sae, or their shares to one."""
    with pytest.raises(ConfigError, match="sum to d_sae = 24"):
        VARIANTS["matryoshka"].Options(hook_name="in", d_sae=24, k=3, group_sizes=sizes).sizes(24)  # type: ignore[attr-defined]


def test_shares_of_groups_are_rounded_to_the_whole() -> None:
    """Shares give whole groups that leave nothing out."""
    options: Any = VARIANTS["matryoshka"].Options(hook_name="in", d_sae=25, k=3, group_sizes=(0.1, 0.3, 0.6))

    assert options.sizes(25) == (2, 8, 15)


def finite_differences(sae: Any, x: Tensor, samples: int) -> Iterator[float]:
    """The change of the objective with each threshold, smoothed by moving all pre-activations' θ within the bandwidth."""
    width = sae.options.bandwidth
    for feature in range(D_SAE):
        h = encoded(sae, x).detach()[:, feature]
        theta = sae.log_threshold.exp().detach()[feature]
        shifts = torch.linspace(-width / 2, width / 2, samples, dtype=torch.float64)
        counts = (h[:, None] > theta + shifts).double().sum(0)
        yield float((counts[-1] - counts[0]) / width)


def test_the_gradient_of_l0_is_that_of_the_smoothed_count() -> None:
    """The straight-through gradient of Σ 1[h > θ] equals the slope of the count over the bandwidth."""
    sae = variant("jumprelu", dead=0, penalty="step", l0_coefficient=2.0)
    x, _ = inputs(sae)
    theta_grad = torch.autograd.grad(sae.penalty(*_penalty_inputs(sae, x)), sae.log_threshold)[0]

    slopes = torch.tensor(list(finite_differences(sae, x, 4001)), dtype=torch.float64)
    expected = slopes / N * sae.log_threshold.exp().detach()
    torch.testing.assert_close(theta_grad, expected, rtol=1e-9, atol=1e-9)


def _penalty_inputs(sae: Any, x: Tensor) -> tuple[Any, ...]:
    sae.density.fill_(0.01)
    near, threshold, entries = sae.near(sae.centred(x), sae.log_threshold.exp())
    return near, near, threshold, entries, N
