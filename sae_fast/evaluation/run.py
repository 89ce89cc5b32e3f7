"""Evaluate SAEs on batches of tokens: reconstruction, and cross entropy with each SAE spliced into the LM.

The batches are read twice: for the mean activation at each hook where an SAE writes; then for everything else, with one pass of
the LM as it is, one for each SAE and prefix, and two for each hook, with zeros and with the mean.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from sae_fast.errors import ArgumentError, NonFiniteError
from sae_fast.evaluation.batches import Batch, Reading, reading
from sae_fast.evaluation.groupings import TokenClasses
from sae_fast.evaluation.metrics import MeanStats, Metrics, next_token_losses
from sae_fast.evaluation.recording import add_reconstruction, add_target, begin
from sae_fast.evaluation.result import Evaluation
from sae_fast.evaluation.subjects import Measured, Subject, put, require_fit, subjects, written_hooks
from sae_fast.evaluation.sums import Sums
from sae_fast.lm.interface import Edit, LanguageModel

Advance = Callable[[int], object]
"""Called with the number of passes of the LM made since the last call; `n_passes` tells how many there will be."""


def evaluate(
    lm: LanguageModel,
    saes: Mapping[str, Measured],
    batches: Iterable[Batch],
    progress: Advance | None = None,
    *,
    prefixes: bool = False,
) -> dict[str, Metrics]:
    """The metrics of each SAE on the counted tokens of `batches`. Arguments and errors: `measure`."""
    return measure(lm, saes, batches, prefixes=prefixes, progress=progress).metrics()


@torch.no_grad()
def measure(
    lm: LanguageModel,
    saes: Mapping[str, Measured],
    batches: Iterable[Batch],
    *,
    prefixes: bool = False,
    classes: TokenClasses | None = None,
    means: Mapping[str, Tensor] | None = None,
    progress: Advance | None = None,
) -> Evaluation:
    """Measure each SAE on the counted tokens of `batches`; `docs/evaluation.md` defines every number.

    Args:
        lm: the language model that the SAEs belong to, on the same device as they are.
        saes: SAEs by name; instead of an SAE several by name, as the layers of a cross-layer transcoder, to be measured as
            one. They are compared and spliced where they write, at all hooks at once.
        batches: see `Batch`. Read twice unless `means` is given, so a list or another iterable that can be iterated over again,
            not a generator. Counted tokens must be real ones.
        prefixes: also measure the prefixes of matryoshka SAEs, as `name[:n_features]`.
        classes: also keep the sums apart by these classes of tokens.
        means: float64 [d] by hook where an SAE writes: what mean ablation puts there, instead of the mean over `batches`. Parts
            that are to be merged need the same ones: `mean_activations` over all of them.
        progress: see `Advance`.

    Raises:
        ArgumentError: no SAE, an SAE without a hook name, a generator as `batches`, no counted token, or other batches at the
            second reading.
        HookNotFoundError: the LM lacks the hook of an SAE.
        ShapeError: an SAE's width is not that of its hook, or a batch is not as described.
        NonFiniteError: a weight is NaN, or an activation, a reconstruction or a logit is NaN or infinite.
    """
    advance = progress or (lambda n: None)
    found = subjects(saes, prefixes)
    require_fit(lm, found)
    if isinstance(batches, Iterator) and means is None:
        raise ArgumentError(
            "batches",
            expected="a list, or another iterable that can be read twice",
            got=type(batches).__name__,
            advice="list(batches)",
        )
    n_counted = None
    if means is None:
        means, n_counted = _means(lm, written_hooks(found), batches, advance)
    session = _Session(lm, found, means, classes)
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


def n_passes(saes: Mapping[str, Measured], n_batches: int, *, prefixes: bool = False, means_known: bool = False) -> int:
    """How many passes of the LM `measure` makes; `means_known`: it is given `means`."""
    return n_batches * ((not means_known) + _passes(subjects(saes, prefixes)))


class _Session:
    """The sums of an evaluation while they grow."""

    def __init__(
        self, lm: LanguageModel, found: list[Subject], means: Mapping[str, Tensor], classes: TokenClasses | None
    ) -> None:
        self.lm, self.subjects, self.classes = lm, found, classes
        self.n_batches = self.n_counted = self.n_contexts = 0
        self.references = {
            subject.target_at(hook): mean.cpu()
            for subject in found
            for hook, mean in subject.wanted({hook: means[hook] for hook in subject.writes}).items()
        }
        self.result = begin(found, means, classes)
        self.n_passes = _passes(found)

    def read(self, batch: Batch) -> None:
        """Add one batch."""
        now = reading(batch, self.n_contexts, self.classes)
        self.n_batches, self.n_contexts = self.n_batches + 1, self.n_contexts + len(now.token_ids)
        if not bool(now.counted.any()):
            return
        self.n_counted += int(now.counted.sum())
        self.result.documents.update(now.documents[now.counted.any(1)].tolist())
        found, clean = self._clean(now)
        there = {hook: activation[now.counted.to(activation.device)] for hook, activation in found.items()}
        seen: set[str] = set()
        for subject in self.subjects:
            wanted = subject.wanted(there)
            add_target(self.result, subject, now.of_tokens(), wanted, self.references, seen)
            for made in subject.reconstructions(found, now.counted):
                one = self.result.saes[made.name]
                add_reconstruction(one, made, now.of_tokens(), wanted)
                logits = subject.spliced(self.lm, now, found, made)
                self._compare(now, clean, logits, one.sums, "sae", f"SAE {made.name!r} spliced in")
        for hooks, sums in self.result.ablated.items():
            for way, values in (("zero", dict.fromkeys(hooks, torch.zeros(()))), ("mean", self.result.means)):
                edits = {hook: put(values[hook], now.counted) for hook in hooks}
                logits = self.lm.logits(now.token_ids, now.mask, edits)
                self._compare(now, clean, logits, sums, f"{way}_ablation", f"{way} ablation at {', '.join(hooks)}")

    def _clean(self, now: Reading) -> tuple[dict[str, Tensor], Tensor]:
        found: dict[str, Tensor] = {}

        def keep_at(hook: str) -> Edit:
            def keep(activation: Tensor) -> Tensor:
                found[hook] = activation
                return activation

            return keep

        hooks = dict.fromkeys(hook for subject in self.subjects for hook in (*subject.reads, *subject.writes))
        logits = self.lm.logits(now.token_ids, now.mask, {hook: keep_at(hook) for hook in hooks})
        losses, _ = next_token_losses(logits, now.token_ids, now.predicts)
        _require_finite(losses, "the language model as it is")
        self.result.clean.add(now.of_predictions(), n_predictions=torch.ones_like(losses), nll_clean=losses)
        return found, logits

    def _compare(self, now: Reading, clean: Tensor, logits: Tensor, sums: Sums, way: str, who: str) -> None:
        losses, divergences = next_token_losses(logits, now.token_ids, now.predicts, clean)
        assert divergences is not None
        _require_finite(losses + divergences, f"the language model with {who}")
        sums.add(now.of_predictions(), **{f"nll_{way}": losses, f"kl_{way}": divergences})


def _require_finite(losses: Tensor, who: str) -> None:
    if not bool(losses.isfinite().all()):
        raise NonFiniteError(f"{who}: its cross entropy is NaN or infinite")


def _passes(found: list[Subject]) -> int:
    """Passes of the LM over one batch once the means are known: as it is, with each SAE, and both ablations of each place."""
    return 1 + sum(len(subject.names) for subject in found) + 2 * len({subject.writes for subject in found})


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
    for hook, one in stats.items():
        if not bool(one.mean.isfinite().all()):
            raise NonFiniteError(f"the language model's activations at {hook} have NaN or infinite values")
    return {hook: stats[hook].mean.cpu() for hook in hooks}, n_counted


def _require_tokens(n_counted: int, n_batches: int) -> None:
    if not n_counted:
        raise ArgumentError("batches", expected="at least one counted token", got=f"none in {n_batches} batches")
