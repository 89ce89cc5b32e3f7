"""A training step of a TopK SAE, by `sae_fast.training` and as SAELens takes it: loss, gradients, clipping, Adam.

`eager` is SAELens 6.54's TopK step in plain PyTorch, for machines where it is not installed: addmm, topk, scatter, addmm, mean
squared error, gradients clipped to norm one, Adam; under bfloat16 by autocast, as its `autocast` option does. Both begin with
the same weights on the same tokens, and the loss of their first step must be that of float64.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders import arithmetic
from benchmarks.correct import WrongResultError
from benchmarks.measure import Budget, Entry, Report
from benchmarks.operands import Operands, Precision, make
from benchmarks.sizes import Size
from benchmarks.timing import extra_memory, time_in_turns
from sae_fast.training.trainer import Trainer, TrainOptions
from sae_fast.training.variants import VARIANTS, Start

OPERATION = "training step"
LR = 3e-4
TOLERANCE = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}
"""Of the first loss, relative to that of float64."""

Step = Callable[[Tensor], float]


def measure_training(sizes: tuple[Size, ...], device: torch.device, budget: Budget, report: Report = print) -> list[Entry]:
    """One entry for each size, precision and contender."""
    precisions: tuple[Precision, ...] = ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32",)
    entries: list[Entry] = []
    for size in sizes:
        for precision in precisions:
            known = {"size": size.name, "precision": precision, "operation": OPERATION}
            if budget.is_spent():
                entries.append(known | {"left_out": "out of time"})
                continue
            try:
                with arithmetic(precision):
                    entries += _one_size(known, make(size, "fp32", device), precision, budget, report)
            except torch.OutOfMemoryError:
                entries.append(known | {"left_out": "out of memory"})
    return entries


def _one_size(known: Entry, o: Operands, precision: Precision, budget: Budget, report: Report) -> list[Entry]:
    exact = _exact_loss(o)
    steps: dict[str, Step] = {"eager": _dense_step(o, precision)}
    # In float32 sae_fast's products are exact whatever torch is set to: under TF32 there is only the other.
    steps |= {} if precision == "tf32" else {"sae_fast": _sparse_step(o, precision)}
    entries = []
    for name, step in steps.items():
        error = abs(step(o.x[0]) - exact) / exact
        if error > TOLERANCE[precision]:
            raise WrongResultError(f"{OPERATION}, {name}, {precision}: the first loss is off by {error:.2e}")
        with extra_memory(o.rows.device) as extra:
            step(o.x[1])
        checked = {"checked": True, "error": error, "mismatches": 0, "recall": None}
        entries.append(known | {"contender": name, **checked, "extra_bytes": extra[0] if extra else None})
    times = time_in_turns(dict(steps), o.x, budget.each, budget.rounds)
    for entry in entries:
        found = times[entry["contender"]]
        entry |= {"ms": found.median, "ms_spread": found.spread, "runs": len(found.ms)}
        entry["tokens_per_s"] = o.size.tokens / found.median * 1e3
        report(f"{o.size.name:22} {precision:5} {OPERATION:18} {entry['contender']:22} {found.median:10.3f} ms")
    return entries


def _exact_loss(o: Operands) -> float:
    """Mean squared error of the first batch, its products summed in float64."""
    total = 0.0
    for x in o.x[0].double().split(256):
        h = (x - o.b_dec.double()) @ o.rows.double().T + o.b_enc.double()
        values, indices = h.topk(o.size.k, dim=1)
        acts = torch.zeros_like(h).scatter(1, indices, values.relu())
        total += float((x - acts @ o.W_dec.double() - o.b_dec.double()).square().sum())
    return total / len(o.x[0])


def _sparse_step(o: Operands, precision: Precision) -> Step:
    kind: Any = VARIANTS["topk"]
    sample = o.x[0][:256].cpu()
    options = kind.Options(hook_name="x", d_sae=o.size.d_sae, k=o.size.k, unit_norm_decoder=False)
    variant = kind(options, Start(sample, sample, 1.0, 1.0)).to(o.rows.device)
    with torch.no_grad():
        for name, value in {"W_enc": o.rows, "W_dec": o.W_dec, "b_enc": o.b_enc, "b_dec": o.b_dec}.items():
            getattr(variant, name).copy_(value)
    half = precision == "bf16"
    train = TrainOptions(
        tokens=10**12, batch_tokens=len(o.x[0]), lr=LR, warmup=0.0, decay=0.0, precision="bfloat16" if half else "float32"
    )
    trainer, losses = Trainer({"x": variant}, train), [0.0]

    def step(x: Tensor) -> float:
        trainer.run(lambda _: iter([{"x": x}]), trainer.step + 1, lambda metrics: losses.append(metrics["x"].loss))
        return losses.pop()

    return step


def _dense_step(o: Operands, precision: Precision) -> Step:
    W_enc, W_dec, b_enc, b_dec = (nn.Parameter(t.clone()) for t in (o.W_enc, o.W_dec, o.b_enc, o.b_dec))
    parameters = [W_enc, W_dec, b_enc, b_dec]
    optimizer = torch.optim.Adam(parameters, lr=LR)

    def step(x: Tensor) -> float:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            h = (x - b_dec) @ W_enc + b_enc
            values, indices = torch.topk(h, k=o.size.k, dim=-1)
            acts = torch.zeros_like(h).scatter(-1, indices, values.relu())
            loss = (acts @ W_dec + b_dec - x).square().sum(-1).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step
