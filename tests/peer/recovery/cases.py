"""What is compared: each variant with its peer, over settings of its sparsity that reach the same explained variance."""

from dataclasses import dataclass
from typing import Any

Settings = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Case:
    """One variant on one planted dictionary."""

    name: str
    planted: str
    peer: str
    """`sae-lens`, `sparsify` or `paper`"""
    architecture: str
    ours: Settings
    theirs_architecture: str
    theirs: Settings
    seeds: int = 3
    """eight where both libraries do the same but for their random numbers, so that three would leave it to chance"""

    def settings(self, who: str) -> tuple[str, Settings]:
        """(architecture, options of each training) of `sae_fast` or the peer."""
        return (self.architecture, self.ours) if who == "sae_fast" else (self.theirs_architecture, self.theirs)


AT_ZERO = {"start_at_mean": False}
"""As sae-lens's biases begin."""


def _sweep(name: str, values: tuple[float, ...], **fixed: Any) -> Settings:
    return tuple({**fixed, name: value} for value in values)


def _same(name: str, peer: str, planted: str, values: tuple[float, ...], seeds: int = 3) -> Case:
    """One option alone, called the same by both."""
    architecture = name.split()[0].replace("-", "_")
    return Case(name, planted, peer, architecture, _sweep("k", values), architecture, _sweep("k", values), seeds)


def _matryoshka(name: str, planted: str) -> Case:
    groups, ends = (16, 16, 32, 64), [16, 32, 64, 128]
    ks = (3.0, 5.0, 7.0)
    ours, theirs = _sweep("k", ks, group_sizes=groups), _sweep("k", ks, matryoshka_widths=ends)
    return Case(name, planted, "sae-lens", "matryoshka", ours, "matryoshka_batchtopk", theirs)


def _l1(name: str, seeds: int = 3) -> Case:
    coefficients = (1.5, 2.0)
    theirs = _sweep("l1_coefficient", coefficients, l1_warm_up_steps=50)
    return Case(name, "flat", "sae-lens", name, _sweep("l1_coefficient", coefficients, **AT_ZERO), name, theirs, seeds)


def _jumprelu(penalty: str, ours: Settings, theirs: Settings) -> Case:
    return Case(f"jumprelu {penalty}", "flat", "sae-lens", "jumprelu", ours, "jumprelu", theirs)


ANTHROPIC = {
    "l0_warm_up_steps": 300,
    "jumprelu_bandwidth": 2.0,
    "jumprelu_init_threshold": 0.1,
    "jumprelu_ste_to_input": True,
    "pre_act_loss_coefficient": 3e-6,
}
"""What sae-lens says is Anthropic's setup. Its defaults do worse here with every penalty: thresholds hardly move."""
KS = (5, 7)

CASES: tuple[Case, ...] = (
    _same("topk", "sae-lens", "flat", KS),
    _same("abstopk", "sae-lens", "flat", KS),
    _same("batchtopk", "sae-lens", "flat", (4.0, 6.0, 8.0)),
    _matryoshka("matryoshka hierarchical", "hierarchical"),
    Case(
        "matching_pursuit",
        "flat",
        "sae-lens",
        "matching_pursuit",
        _sweep("max_iterations", KS, **AT_ZERO),
        "matching_pursuit",
        _sweep("max_iterations", KS),
    ),
    _l1("standard", seeds=8),
    _l1("gated"),
    _jumprelu(
        "step",
        _sweep("l0_coefficient", (1.0, 1.6), penalty="step"),
        _sweep("l0_coefficient", (0.5, 0.7), **ANTHROPIC),
    ),
    _jumprelu(
        "tanh",
        _sweep("l0_coefficient", (0.5, 0.7), penalty="tanh"),
        _sweep("l0_coefficient", (0.4, 0.6), jumprelu_sparsity_loss_mode="tanh", **ANTHROPIC),
    ),
    _jumprelu(
        "quadratic",
        _sweep("target_l0", (5.0, 8.0)),
        _sweep("target_l0", (5.0, 8.0), jumprelu_sparsity_loss_mode="quadratic", l0_coefficient=0.1, **ANTHROPIC),
    ),
    Case("transcoder", "transcoder", "sparsify", "topk", _sweep("k", KS), "transcoder", _sweep("k", KS)),
    Case("skip transcoder", "transcoder", "sparsify", "topk", _sweep("k", KS, skip=True), "skip_transcoder", _sweep("k", KS)),
    Case(
        "jumprelu transcoder",
        "transcoder",
        "paper",
        "jumprelu",
        _sweep("l0_coefficient", (0.6, 1.2), penalty="step"),
        "jumprelu_transcoder",
        _sweep("coefficient", (1.0, 8.0), bandwidth=0.1),
    ),
    Case(
        "clt",
        "layers",
        "paper",
        "clt",
        _sweep("l0_coefficient", (0.5, 1.0)),
        "clt",
        _sweep("coefficient", (1.0, 2.0), bandwidth=2.0),
    ),
    Case(
        "crosscoder",
        "crosscoder",
        "paper",
        "crosscoder",
        _sweep("l1_coefficient", (1.0, 2.0), l1_warmup=0.3),
        "crosscoder",
        _sweep("coefficient", (1.0, 2.0)),
    ),
    Case(
        "batchtopk_crosscoder",
        "crosscoder",
        "paper",
        "batchtopk_crosscoder",
        _sweep("k", (4.0, 5.0)),
        "batchtopk_crosscoder",
        _sweep("k", (5.0, 7.0, 10.0)),
    ),
)
LARGE: tuple[Case, ...] = (
    _same("topk large", "sae-lens", "large", (12,), seeds=1),
    _same("batchtopk large", "sae-lens", "large", (12.0,), seeds=1),
)
"""Width 256, 2,048 features: too long for the tests."""


def case(name: str) -> Case:
    """By name."""
    return next(one for one in (*CASES, *LARGE) if one.name == name)
