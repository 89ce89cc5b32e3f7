"""Evaluate SAEs on batches of tokens: reconstruction, and cross entropy with each SAE spliced into the LM.

The batches are read twice: for the mean activation at each hook where an SAE writes; then for everything else, with one pass of
the LM as it is, one for each SAE, and two for each hook, with zeros and with the mean.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from sae_fast.config import THRESHOLD_ARCHITECTURES
from sae_fast.errors import ArgumentError, NonFiniteError, ShapeError
from sae_fast.evaluation.batches import Batch, Reading, n_cells, reading
from sae_fast.evaluation.groupings import TokenClasses
from sae_fast.evaluation.metrics import FeatureCounts, MeanStats, Metrics, as_double, next_token_losses
from sae_fast.evaluation.result import Evaluation, SaeSums
from sae_fast.evaluation.sums import Sums
from sae_fast.lm.interface import Edit, LanguageModel
from sae_fast.lm.splice import Place, places, sae_input
from sae_fast.sae import SAE
from sae_fast.sparse import SparseActs

Advance = Callable[[int], object]
"""Called with the number of passes of the LM made since the last call; `n_passes` tells how many there will be."""


def evaluate(
    lm: LanguageModel, saes: Mapping[str, SAE], batches: Iterable[Batch], progress: Advance | None = None
) -> dict[str, Metrics]:
    """The metrics of each SAE on the counted tokens of `batches`. Arguments and errors: `measure`."""
    return measure(lm, saes, batches, progress=progress).metrics()


@torch.no_grad()
def measure(
    lm: LanguageModel,
    saes: Mapping[str, SAE],
    batches: Iterable[Batch],
    *,
    classes: TokenClasses | None = None,
    means: Mapping[str, Tensor] | None = None,
    progress: Advance | None = None,
) -> Evaluation:
    """Measure each SAE on the counted tokens of `batches`; `docs/evaluation.md` defines every number.

    Args:
        lm: the language model that the SAEs belong to, on the same device as they are.
        saes: SAEs by name. They read at `cfg.hook_name`; they are compared and spliced where they write, a layer of a
            cross-layer transcoder at all its hooks at once. `with_prefixes` adds the prefixes of matryoshka SAEs.
        batches: see `Batch`. Read twice unless `means` is given, so a list or another iterable that can be iterated over again,
            not a generator. Counted tokens must be real ones.
        classes: also keep the sums apart by these classes of tokens.
        means: float64 [d] by hook where an SAE writes: what mean ablation puts there, instead of the mean over `batches`. Parts
            that are to be merged need the same ones: `mean_activations` over all of them.
        progress: see `Advance`.

    Raises:
        ArgumentError: no SAE, an SAE without a hook name, a generator as `batches`, no counted token, or other batches at the
            second reading.
        HookNotFoundError: the LM lacks the hook of an SAE.
        ShapeError: an SAE's width is not that of its hook, or a batch is not as described.
        NonFiniteError: an SAE's reconstruction is not finite.
    """
    advance = progress or (lambda n: None)
    probes = _probes(lm, saes)
    if isinstance(batches, Iterator) and means is None:
        raise ArgumentError(
            "batches",
            expected="a list, or another iterable that can be read twice",
            got=type(batches).__name__,
            advice="list(batches)",
        )
    n_counted = None
    if means is None:
        hooks = list(dict.fromkeys(hook for probe in probes.values() for hook in probe.place.writes))
        means, n_counted = _means(lm, hooks, batches, advance)
    session = _Session(lm, probes, means, classes)
    for batch in batches:
        session.read(batch)
        advance(session.n_passes)
    if n_counted not in (None, session.n_counted):
        raise ArgumentError("batches", expected="the same batches when they are read again", got="others")
    _require_tokens(session.n_counted, session.n_batches)
    return session.result


@torch.no_grad()
def mean_activations(
    lm: LanguageModel, hooks: Iterable[str], batches: Iterable[Batch], progress: Advance | None = None
) -> dict[str, Tensor]:
    """Mean activation float64 [d] at each hook over the counted tokens of `batches`."""
    return _means(lm, list(hooks), batches, progress or (lambda n: None))[0]


def n_passes(saes: Mapping[str, SAE], n_batches: int) -> int:
    """How many passes of the LM `measure` makes."""
    return n_batches * (1 + _passes([places(sae)[0] for sae in saes.values()]))


def with_prefixes(saes: Mapping[str, SAE]) -> dict[str, SAE]:
    """The SAEs, each matryoshka SAE followed by its prefixes as SAEs of their own, named `name[:n_features]`.

    Only of architectures with thresholds: where features compete for k places, a prefix is another SAE than what was trained,
    and is left out.
    """
    found: dict[str, SAE] = {}
    for name, sae in saes.items():
        found[name] = sae
        if sae.cfg.group_sizes is not None and sae.cfg.architecture in THRESHOLD_ARCHITECTURES:
            for n_groups in range(1, len(sae.cfg.group_sizes)):
                part = sae.prefix(n_groups)
                found[f"{name}[:{part.cfg.d_sae}]"] = part
    return found


class _Probe:
    """One SAE, where it reads and writes."""

    def __init__(self, sae: SAE, place: Place) -> None:
        self.sae, self.place = sae, place
        self.target = " ".join((*place.writes, "centred" if sae.cfg.centred else "")).rstrip()

    def reconstruct(self, found: Mapping[str, Tensor], counted: Tensor) -> tuple[SparseActs, Tensor, Tensor, dict[str, Tensor]]:
        """(activations, y and ŷ `[n, d_out of all hooks]`, replacements `[n, d_out]` by hook) of the counted tokens.

        Skip terms and what a temporal SAE predicts are part of a reconstruction. An SAE of a centred stream is compared with
        the centred stream, and its replacement has the mean put back.
        """
        sae, hooks = self.sae, self.place.writes
        there = [found[hook][counted.to(found[hook].device)] for hook in hooks]
        x = sae_input(sae, found[self.place.read], self.place.read)
        is_temporal = sae.cfg.temporal is not None
        x = x if is_temporal else x[counted.to(x.device)]
        acts = sae.encode(x)
        y_hat, skipped = sae.decode(acts), sae.skip(x)
        y_hat = y_hat if skipped is None else y_hat + skipped
        if is_temporal:
            acts, y_hat = acts.rows(counted.to(y_hat.device)), y_hat[counted.to(y_hat.device)]
        target = [sae_input(sae, y, hook).to(y_hat.device) for y, hook in zip(there, hooks, strict=True)]
        parts = y_hat.reshape(len(y_hat), len(hooks), -1).unbind(1)
        replacements = {hook: part + (y.to(part) - t) for hook, part, y, t in zip(hooks, parts, there, target, strict=True)}
        return acts, torch.cat(target, 1), y_hat.flatten(1), replacements

    def reference(self, means: Mapping[str, Tensor]) -> Tensor:
        """float64 [d_out of all hooks]: what the spread of y is summed about."""
        return torch.cat([as_double(sae_input(self.sae, means[hook], hook)).cpu() for hook in self.place.writes])


class _Session:
    """The sums of an evaluation while they grow."""

    def __init__(
        self, lm: LanguageModel, probes: Mapping[str, _Probe], means: Mapping[str, Tensor], classes: TokenClasses | None
    ) -> None:
        cells = n_cells(classes)
        self.lm, self.probes, self.classes = lm, probes, classes
        self.n_batches = self.n_counted = self.n_contexts = 0
        self.references = {probe.target: probe.reference(means) for probe in probes.values()}
        self.result = Evaluation(
            means=dict(means),
            saes={
                name: SaeSums(probe.place.writes, probe.target, Sums(cells), FeatureCounts(probe.sae.cfg.d_sae))
                for name, probe in probes.items()
            },
            targets={probe.target: Sums(cells) for probe in probes.values()},
            clean=Sums(cells),
            ablated={hooks: Sums(cells) for hooks in dict.fromkeys(probe.place.writes for probe in probes.values())},
            class_names=() if classes is None else classes.names,
        )
        self.n_passes = _passes([probe.place for probe in probes.values()])

    def read(self, batch: Batch) -> None:
        """Add one batch."""
        now = reading(batch, self.n_contexts, self.classes)
        self.n_batches, self.n_contexts = self.n_batches + 1, self.n_contexts + len(now.token_ids)
        if not bool(now.counted.any()):
            return
        self.n_counted += int(now.counted.sum())
        self.result.documents.update(now.documents[now.counted.any(1)].tolist())
        found, clean_logits = self._clean(now)
        seen: set[str] = set()
        for name, probe in self.probes.items():
            acts, y, y_hat, replacements = probe.reconstruct(found, now.counted)
            if probe.target not in seen:
                seen.add(probe.target)
                _add_target(self.result.targets[probe.target], now, y, self.references[probe.target])
            _add_reconstruction(self.result.saes[name], name, now, acts, y, y_hat)
            self._splice(now, clean_logits, self.result.saes[name].sums, "sae", replacements)
        for hooks, sums in self.result.ablated.items():
            self._splice(now, clean_logits, sums, "zero_ablation", dict.fromkeys(hooks, torch.zeros(())))
            self._splice(now, clean_logits, sums, "mean_ablation", {hook: self.result.means[hook] for hook in hooks})

    def _clean(self, now: Reading) -> tuple[dict[str, Tensor], Tensor]:
        found: dict[str, Tensor] = {}

        def keep_at(hook: str) -> Edit:
            def keep(activation: Tensor) -> Tensor:
                found[hook] = activation
                return activation

            return keep

        hooks = dict.fromkeys(hook for p in self.probes.values() for hook in (p.place.read, *p.place.writes))
        logits = self.lm.logits(now.token_ids, now.mask, {hook: keep_at(hook) for hook in hooks})
        losses, _ = next_token_losses(logits, now.token_ids, now.predicts)
        self.result.clean.add(now.of_predictions(), n_predictions=torch.ones_like(losses), nll_clean=losses)
        return found, logits

    def _splice(self, now: Reading, clean: Tensor, sums: Sums, way: str, replacements: Mapping[str, Tensor]) -> None:
        edits = {hook: _put(new, now.counted) for hook, new in replacements.items()}
        losses, divergences = next_token_losses(
            self.lm.logits(now.token_ids, now.mask, edits), now.token_ids, now.predicts, clean
        )
        assert divergences is not None
        sums.add(now.of_predictions(), **{f"nll_{way}": losses, f"kl_{way}": divergences})


def _add_target(sums: Sums, now: Reading, y: Tensor, reference: Tensor) -> None:
    wide = as_double(y)
    shift = wide - reference.to(wide.device)
    norm = wide.norm(dim=1)
    sums.add(
        now.of_tokens(),
        n=torch.ones_like(norm),
        n_directed=norm > 0,
        shift=shift,
        deviation=shift.square().sum(1),
        energy=wide.square().sum(1),
        norm_in=norm,
    )


def _add_reconstruction(one: SaeSums, name: str, now: Reading, acts: SparseActs, y: Tensor, y_hat: Tensor) -> None:
    y, y_hat = as_double(y), as_double(y_hat)
    error, dot = (y - y_hat).square().sum(1), (y * y_hat).sum(1)
    if not bool(error.isfinite().all()):
        raise NonFiniteError(f"SAE {name!r}: its reconstruction has NaN or infinite values")
    norm_in, norm_out = y.norm(dim=1), y_hat.norm(dim=1)
    both = norm_in * norm_out
    one.features.update(acts)
    one.sums.add(
        now.of_tokens(),
        error=error,
        dot=dot,
        energy_out=y_hat.square().sum(1),
        norm_out=norm_out,
        cosine=torch.where(both > 0, dot / both, 0.0),
        norm_ratio=torch.where(norm_in > 0, norm_out / norm_in, 0.0),
        l0=_per_token(acts, acts.values != 0).to(y.device),
        l1=_per_token(acts, as_double(acts.values).abs()).to(y.device),
    )


def _per_token(acts: SparseActs, values: Tensor) -> Tensor:
    """float64 [n]: sums over the stored entries of each token."""
    running = torch.nn.functional.pad(values.double().cumsum(0), (1, 0))
    return running[acts.crow_indices[1:].to(running.device)] - running[acts.crow_indices[:-1].to(running.device)]


def _probes(lm: LanguageModel, saes: Mapping[str, SAE]) -> dict[str, _Probe]:
    if not saes:
        raise ArgumentError("saes", expected="at least one SAE", got="none")
    probes = {}
    for name, sae in saes.items():
        if sae.cfg.hook_name is None:
            raise ArgumentError(f"SAE {name!r}: hook_name", expected="the hook that it reads", got=None)
        (place,) = places(sae)
        probes[name] = _Probe(sae, place)
        for width, hook in (("d_in", place.read), *(("d_out", hook) for hook in place.writes)):
            if getattr(sae.cfg, width) != lm.d_hook(hook):
                raise ShapeError(
                    f"SAE {name!r}: {width}", expected=f"{lm.d_hook(hook)}, the width at {hook}", got=getattr(sae.cfg, width)
                )
    return probes


def _passes(found: Iterable[Place]) -> int:
    """Passes of the LM over one batch once the means are known: as it is, with each SAE, and both ablations of each place."""
    written = [place.writes for place in found]
    return 1 + len(written) + 2 * len(set(written))


def _means(lm: LanguageModel, hooks: list[str], batches: Iterable[Batch], advance: Advance) -> tuple[dict[str, Tensor], int]:
    """(mean activation at each hook, number of counted tokens)."""
    stats = {hook: MeanStats() for hook in hooks}
    n_batches = n_counted = 0
    for batch in batches:
        now = reading(batch, 0, None)
        n_batches, n_counted = n_batches + 1, n_counted + int(now.counted.sum())
        if bool(now.counted.any()):
            for hook, activation in lm.activations(now.token_ids, hooks, now.mask).items():
                stats[hook].update(activation[now.counted.to(activation.device)])
        advance(1)
    _require_tokens(n_counted, n_batches)
    return {hook: stats[hook].mean.cpu() for hook in hooks}, n_counted


def _require_tokens(n_counted: int, n_batches: int) -> None:
    if not n_counted:
        raise ArgumentError("batches", expected="at least one counted token", got=f"none in {n_batches} batches")


def _put(value: Tensor, counted: Tensor) -> Edit:
    """An edit that puts `value` ([n, d], [d] or a scalar) at the counted tokens and leaves the others as they are."""

    def edit(activation: Tensor) -> Tensor:
        new = activation.clone()
        new[counted.to(new.device)] = value.to(new)
        return new

    return edit
