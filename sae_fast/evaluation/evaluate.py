"""Evaluate SAEs on batches of tokens: reconstruction, and cross entropy with each SAE spliced into the LM.

The batches are read twice. The first reading runs, for each batch, the LM as it is, once per SAE with its reconstruction, and
once per hook with zeros; the mean activation is then known, and the second reading runs once per hook with it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.evaluation.metrics import CrossEntropyStats, FeatureCounts, MeanStats, Metrics, ReconstructionStats, recovered
from sae_fast.lm.interface import Edit, LanguageModel
from sae_fast.lm.splice import places, sae_input
from sae_fast.sae import SAE

Batch = tuple[Tensor, Tensor, Tensor]
"""`(token_ids int64 [b, p], counted bool [b, p], attention_mask [b, p])`."""
Progress = Callable[[int, int | None], None]
"""Called with the number of batches done and the number in all (both readings; None where `batches` has no length)."""


Hooks = tuple[str, ...]
"""Where an SAE writes: one hook, or those of a cross-layer transcoder."""


class _Probe:
    """One SAE and what has been measured of it."""

    def __init__(self, sae: SAE) -> None:
        (place,) = places(sae)
        self.sae = sae
        self.hook_in: str = place.read
        self.hooks_out = place.writes
        self.reconstruction = ReconstructionStats(len(place.writes) * sae.cfg.d_out)
        self.features = FeatureCounts(sae.cfg.d_sae)
        self.spliced = CrossEntropyStats()

    def reconstruct(self, found: Mapping[str, Tensor], counted: Tensor) -> dict[str, Tensor]:
        """Replacements `[n, d_out]` of the counted tokens by hook, from activations `[b, p, d]`; added to the sums on the way.

        Skip terms and what a temporal SAE predicts are part of a reconstruction. An SAE of a centred stream is compared with
        the centred stream, and its replacement has the mean put back.
        """
        sae, there = self.sae, [found[hook][counted.to(found[hook].device)] for hook in self.hooks_out]
        x = sae_input(sae, found[self.hook_in], self.hook_in)
        is_temporal = sae.cfg.temporal is not None
        x = x if is_temporal else x[counted.to(x.device)]
        acts = sae.encode(x)
        y_hat, skipped = sae.decode(acts), sae.skip(x)
        y_hat = y_hat if skipped is None else y_hat + skipped
        if is_temporal:
            acts, y_hat = acts.rows(counted.to(y_hat.device)), y_hat[counted.to(y_hat.device)]
        target = [sae_input(sae, y, hook).to(y_hat.device) for y, hook in zip(there, self.hooks_out, strict=True)]
        self.features.update(acts)
        self.reconstruction.update(torch.cat(target, 1), y_hat.flatten(1))
        parts = y_hat.reshape(len(y_hat), len(self.hooks_out), -1).unbind(1)
        return {hook: part + (y.to(part) - t) for hook, part, y, t in zip(self.hooks_out, parts, there, target, strict=True)}


@torch.no_grad()
def evaluate(
    lm: LanguageModel, saes: Mapping[str, SAE], batches: Iterable[Batch], progress: Progress | None = None
) -> dict[str, Metrics]:
    """Measure each SAE on the counted tokens of `batches`; `docs/evaluation.md` defines every number.

    Args:
        lm: the language model that the SAEs belong to, on the same device as they are.
        saes: SAEs by name. They read at `cfg.hook_name`; they are compared and spliced where they write, a layer of a
            cross-layer transcoder at all its hooks at once.
        batches: `(token_ids, counted, attention_mask)` of shape `[b, p]` each. Read twice, so a list or another iterable that
            can be iterated over again, not a generator. Counted tokens must be real ones.
        progress: see `Progress`.

    Returns:
        `Metrics` by the name of the SAE.

    Raises:
        ArgumentError: no SAE, an SAE without a hook name, a generator as `batches`, no counted token, or other batches at the
            second reading.
        HookNotFoundError: the LM lacks the hook of an SAE.
        ShapeError: an SAE's width is not that of its hook, or a batch is not as described.
    """
    probes = _probes(lm, saes)
    if isinstance(batches, Iterator):
        raise ArgumentError(
            "batches",
            expected="a list, or another iterable that can be read twice",
            got=type(batches).__name__,
            advice="list(batches)",
        )
    n_batches = 2 * len(batches) if isinstance(batches, Sized) else None
    written = sorted({probe.hooks_out for probe in probes.values()})
    clean = CrossEntropyStats()
    zeroed = {hooks: CrossEntropyStats() for hooks in written}
    averaged = {hooks: CrossEntropyStats() for hooks in written}
    means = {hook: MeanStats() for hooks in written for hook in hooks}
    done = 0
    for batch in batches:
        _first_reading(lm, probes, batch, clean, zeroed, means)
        done += 1
        if progress is not None:
            progress(done, n_batches)
    if not any(probe.reconstruction.n_tokens for probe in probes.values()):
        raise ArgumentError("batches", expected="at least one counted token", got=f"none in {done} batches")
    for batch in batches:
        _second_reading(lm, batch, {hook: stats.mean for hook, stats in means.items()}, averaged)
        done += 1
        if progress is not None:
            progress(done, n_batches)
    if any(stats.n_predictions != clean.n_predictions for stats in averaged.values()):
        raise ArgumentError("batches", expected="the same batches when they are read again", got="others")
    return {name: _metrics(probe, clean, averaged[probe.hooks_out], zeroed[probe.hooks_out]) for name, probe in probes.items()}


def _probes(lm: LanguageModel, saes: Mapping[str, SAE]) -> dict[str, _Probe]:
    if not saes:
        raise ArgumentError("saes", expected="at least one SAE", got="none")
    probes = {}
    for name, sae in saes.items():
        if sae.cfg.hook_name is None:
            raise ArgumentError(f"SAE {name!r}: hook_name", expected="the hook that it reads", got=None)
        probe = probes[name] = _Probe(sae)
        for width, hook in (("d_in", probe.hook_in), *(("d_out", hook) for hook in probe.hooks_out)):
            if getattr(sae.cfg, width) != lm.d_hook(hook):
                raise ShapeError(
                    f"SAE {name!r}: {width}", expected=f"{lm.d_hook(hook)}, the width at {hook}", got=getattr(sae.cfg, width)
                )
    return probes


def _first_reading(
    lm: LanguageModel,
    probes: Mapping[str, _Probe],
    batch: Batch,
    clean: CrossEntropyStats,
    zeroed: Mapping[Hooks, CrossEntropyStats],
    means: Mapping[str, MeanStats],
) -> None:
    token_ids, counted, mask = _checked(batch)
    if not bool(counted.any()):
        return
    predicts = _predicts(counted, mask)
    found: dict[str, Tensor] = {}

    def keep_at(hook: str) -> Edit:
        def keep(activation: Tensor) -> Tensor:
            found[hook] = activation
            return activation

        return keep

    hooks = dict.fromkeys(hook for probe in probes.values() for hook in (probe.hook_in, *probe.hooks_out))
    clean_logits = lm.logits(token_ids, mask, {hook: keep_at(hook) for hook in hooks})
    clean.update(clean_logits, token_ids, predicts)
    for hook, stats in means.items():
        stats.update(found[hook][counted.to(found[hook].device)])
    for probe in probes.values():
        replacements = probe.reconstruct(found, counted)
        logits = lm.logits(token_ids, mask, {hook: _put(new, counted) for hook, new in replacements.items()})
        probe.spliced.update(logits, token_ids, predicts, clean_logits)
    for written, ablated in zeroed.items():
        edits = {hook: _put(torch.zeros(()), counted) for hook in written}
        ablated.update(lm.logits(token_ids, mask, edits), token_ids, predicts)


def _second_reading(
    lm: LanguageModel, batch: Batch, means: Mapping[str, Tensor], averaged: Mapping[Hooks, CrossEntropyStats]
) -> None:
    token_ids, counted, mask = _checked(batch)
    if not bool(counted.any()):
        return
    predicts = _predicts(counted, mask)
    for written, ablated in averaged.items():
        edits = {hook: _put(means[hook], counted) for hook in written}
        ablated.update(lm.logits(token_ids, mask, edits), token_ids, predicts)


def _put(value: Tensor, counted: Tensor) -> Edit:
    """An edit that puts `value` ([n, d], [d] or a scalar) at the counted tokens and leaves the others as they are."""

    def edit(activation: Tensor) -> Tensor:
        new = activation.clone()
        new[counted.to(new.device)] = value.to(new)
        return new

    return edit


def _predicts(counted: Tensor, mask: Tensor) -> Tensor:
    """Where the next token is predicted and counted: p is a real token and p + 1 a counted one."""
    predicts = torch.zeros_like(counted)
    predicts[:, :-1] = counted[:, 1:] & mask[:, :-1].bool()
    return predicts


def _checked(batch: Batch) -> Batch:
    token_ids, counted, mask = batch
    if counted.dtype != torch.bool or not (token_ids.shape == counted.shape == mask.shape):
        got = f"{list(token_ids.shape)}, {list(counted.shape)} {counted.dtype}, {list(mask.shape)}"
        raise ShapeError("batch", expected="token_ids, counted (bool) and attention_mask of one shape [b, p]", got=got)
    if bool((counted & ~mask.bool()).any()):
        raise ShapeError(
            "batch", expected="counted tokens that are real (attention_mask 1)", got="a counted token that is padding"
        )
    return token_ids, counted, mask


def _metrics(probe: _Probe, clean: CrossEntropyStats, averaged: CrossEntropyStats, zeroed: CrossEntropyStats) -> Metrics:
    ce_clean, ce_sae = clean.ce, probe.spliced.ce
    return Metrics(
        n_tokens=probe.reconstruction.n_tokens,
        l0=probe.features.l0,
        explained_variance=probe.reconstruction.explained_variance,
        mse=probe.reconstruction.mse,
        ce_clean=ce_clean,
        ce_sae=ce_sae,
        ce_mean_ablation=averaged.ce,
        ce_zero_ablation=zeroed.ce,
        ce_recovered=recovered(averaged.ce, ce_sae, ce_clean),
        ce_recovered_zero=recovered(zeroed.ce, ce_sae, ce_clean),
        delta_ce=None if ce_clean is None or ce_sae is None else ce_sae - ce_clean,
        kl_sae=probe.spliced.kl,
        n_predictions=clean.n_predictions,
        feature_counts=probe.features.counts,
    )
