"""Runs under torchrun: `distributed_steps.py FOLDER MODE:CASE...` trains each case a few steps and writes what came of it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_fast.training.distributed import joined, leave
from sae_fast.training.layout import ALONE, Layout, layout
from sae_fast.training.trainer import StepMetrics, Trainer, TrainOptions
from sae_fast.training.variants import VARIANTS, Start, Variant
from sae_fast.training.variants.batchtopk import REACH

D, D_OUT, D_SAE, BATCH, STEPS = 8, 6, 32, 64, 12
# With norms held at one, the gradient of a dead feature's row is nothing but rounding, which Adam makes steps of.
JUMPRELU: dict[str, Any] = dict(architecture="jumprelu", l0_warmup=0.0, bandwidth=0.5, unit_norm_decoder=False)
ONE_HOOK: dict[str, dict[str, Any]] = {
    "standard": dict(architecture="standard", l1_coefficient=0.1),
    "gated": dict(architecture="gated", l1_coefficient=0.1),
    "topk": dict(architecture="topk", k=3),
    "abstopk": dict(architecture="abstopk", k=3),
    "batchtopk": dict(architecture="batchtopk", k=2.5),
    "matryoshka": dict(architecture="matryoshka", k=3, group_sizes=(5.0, 9.0, 18.0)),
    "jumprelu": dict(**JUMPRELU, target_l0=3.0, l0_coefficient=2.0),
    "jumprelu-step": dict(**JUMPRELU, penalty="step", l0_coefficient=0.2),
    "jumprelu-tanh": dict(**JUMPRELU, penalty="tanh", l0_coefficient=0.2),
}
CASES: dict[str, dict[str, Any]] = {
    **ONE_HOOK,
    **{f"{name}-transcoder": given | dict(hook_name_out="y", skip=True) for name, given in ONE_HOOK.items()},
    "gated-frozen": ONE_HOOK["gated"] | dict(unit_norm_decoder=True, freeze_auxiliary_decoder=True),
    "standard-power": ONE_HOOK["standard"] | dict(lp_norm=1.5),
    "batchtopk-uneven": ONE_HOOK["batchtopk"] | dict(uneven=True),
    "batchtopk-parts": ONE_HOOK["batchtopk"] | dict(accumulate=2),
    "jumprelu-parts": ONE_HOOK["jumprelu"] | dict(accumulate=2),
    "crosscoder": dict(architecture="crosscoder", hook_names=("x", "y"), l1_coefficient=0.1),
    "batchtopk_crosscoder": dict(architecture="batchtopk_crosscoder", hook_names=("x", "y"), k=2.5),
    "matching_pursuit": dict(architecture="matching_pursuit", max_iterations=3),
    "clt": dict(architecture="clt", hook_names=("x", "x2"), hook_names_out=("x2", "x"), penalty="quadratic", target_l0=3.0),
}


def rows(n: int, seed: int) -> dict[str, Tensor]:
    """Activations at three hooks."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator) @ torch.diag(torch.linspace(0.5, 3, D)) + 1
    return {"x": x, "y": x[:, :D_OUT].sin() * 2, "x2": x.flip(1).contiguous()}


def variant(case: str, place: Layout) -> Variant:
    """With some features that never fire at the start; uneven: one half fires much more."""
    given = {"d_sae": D_SAE, "dead_after_tokens": 2 * BATCH} | CASES[case]
    kind = VARIANTS[given.pop("architecture")]
    given.pop("accumulate", None)
    is_uneven = given.pop("uneven", False)
    options = kind.Options(**({} if "hook_names" in given else {"hook_name": "x"}), **given)
    sample = rows(500, 99)
    x, y = (torch.cat([sample[hook] for hook in hooks], 1) for hooks in (options.reads, options.writes))
    made = kind(options, Start(x, y, 0.5, 0.5, tuple(sample[hook].shape[1] for hook in options.writes), place))
    with torch.no_grad():
        for name, bias in made.named_parameters():
            if name.endswith("b_enc"):
                first = place.own_features(D_SAE).start
                bias[-first % 3 :: 3] = -3.0
                if is_uneven:
                    bias[: max(0, D_SAE // 2 - first)] += 3.0
    return made.distributed()


def trained(case: str, place: Layout, steps: int = STEPS, state: dict[str, Tensor] | None = None) -> tuple[Trainer, Tensor]:
    """(after some steps, curve [steps, n_metrics] of loss, L0, explained variance, dead features and terms)."""
    torch.set_num_threads(1)
    given: dict[str, Any] = {"accumulate": CASES[case].get("accumulate", 1), "lr": 1e-2, "warmup": 0.0}
    options = TrainOptions(tokens=STEPS * BATCH, batch_tokens=BATCH, **given)
    trainer, seen = Trainer({"a": variant(case, place)}, options), []
    if state is not None:
        trainer.load_state(state)

    def batches(first: int) -> Iterator[dict[str, Tensor]]:
        while True:
            yield {hook: x[place.rows.rank :: place.rows.size] for hook, x in rows(BATCH, first).items()}
            first += 1

    def note(metrics: Any) -> None:
        found: StepMetrics = metrics["a"]
        terms = [found.terms.get(term, 0.0) for term in ("mse", "aux", "l1", "sparsity", "dead", "mse_prefix_1")]
        seen.append([found.loss, found.l0, found.explained_variance, float(found.n_dead), *terms])

    trainer.run(batches, steps, report=note)
    return trainer, torch.tensor(seen, dtype=torch.float64)


def results(case: str, place: Layout = ALONE) -> dict[str, Tensor]:
    """The curve and the state at the end; a run that was taken up half way has the same bits, and so has the whole variant."""
    trainer, curve = trained(case, place)
    if "uneven" in CASES[case]:
        # One process has more of the largest than it looks at first; where rows are spread, each has about its share.
        assert (trainer.variants["a"].reach > REACH) == (place.mesh is not None)
    state = {key: value.clone().contiguous() for key, value in trainer.state().items()}
    half = {key: value.clone() for key, value in trained(case, place, STEPS // 2)[0].state().items()}
    again = trained(case, place, state=half)[0].state()
    assert all(torch.equal(value, again[key]) for key, value in state.items()), f"{case}: other bits after a resume"
    whole = trainer.variants["a"].whole()
    assert (whole is not None) == (place.mesh is None or place.everyone.is_first)
    if whole is not None:
        assert all(torch.equal(value, state[f"a/weights/{name}"]) for name, value in whole.state_dict().items())
    return {"curve": curve, **state}


def main(folder: Path, tasks: list[str]) -> None:
    """A mode is data, features, or a number of processes that share the features."""
    with joined("cpu") as (ranks, _):
        for task in tasks:
            mode, _, case = task.partition(":")
            shared = mode == "features" if mode in ("data", "features") else int(mode)
            answer = results(case, layout(ranks, shared, "cpu"))
            if ranks.is_first:
                save_file(answer, folder / f"{mode}-{case}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    leave()
