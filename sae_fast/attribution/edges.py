"""Edges between features, errors, tokens and logits of a prompt: an attribution graph.

At each hook where SAEs write, what is there is replaced by a constant with the same value: a path ends there, and goes on
through the nodes that stand for it. So an edge is a *direct* effect: activation of the source times the derivative of the
target's activation along the source's vector. With `freeze` the derivative is that of a model whose attention patterns and
norms are held (`frozen.py`); it is then exact for any size of change where every MLP in between has a transcoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae_fast.attribution.frozen import Frozen, frozen
from sae_fast.attribution.graph import Graph, Node, layer_numbers
from sae_fast.attribution.passes import Runner
from sae_fast.attribution.prompt import Active, Prompt, read
from sae_fast.errors import ArgumentError, ShapeError
from sae_fast.lm.interface import Edit, LanguageModel
from sae_fast.lm.places import SAEs, sae_input
from sae_fast.normalisation import LAYER_NORM_EPSILON
from sae_fast.progress import Advance, step

STREAM = "blocks.0.hook_resid_pre"
"""Where the nodes of tokens stand: embedding and position together, before the first block."""


def attribution_graph(
    lm: LanguageModel,
    saes: SAEs,
    token_ids: Tensor,
    targets: Sequence[int] | None = None,
    *,
    max_logits: int = 10,
    probability: float = 0.95,
    freeze: bool = True,
    max_features: int = 7500,
    batch_size: int = 32,
    progress: bool = False,
) -> Graph:
    """The graph of direct linear effects for a prompt, its last token's logits at the end.

    Args:
        lm: the language model.
        saes: SAEs at several hooks: residual streams, outputs of attention or MLP, transcoders, skip transcoders. The skip term
            of a transcoder is a path of its own, not a constant.
        token_ids: int64 `[pos]` or `[1, pos]`, one prompt.
        targets: ids of the tokens whose logits are nodes; None: the most probable ones.
        max_logits: at most so many.
        probability: fewer, where they reach this probability together.
        freeze: hold attention patterns and norms; False: plain gradients at the prompt.
        max_features: features with the largest gradient × activation (on the chosen logits) are nodes; what the others write is
            counted with the errors, so that sums stay whole.
        batch_size: targets differentiated at once; each costs a copy of the prompt in memory.
        progress: show progress on standard error.

    Raises:
        ArgumentError: features that are no linear read-out (matching_pursuit, temporal), or a model that cannot be held.
        HookNotFoundError, ShapeError: as for `attribute`.
    """
    prompt = read(lm, saes, token_ids)
    for site in prompt.sites:
        if site.place.sae.cfg.architecture in ("matching_pursuit", "temporal"):
            kind = site.place.sae.cfg.architecture
            raise ArgumentError(f"the SAE at {site.place.name}", expected="features that are linear read-outs", got=kind)
    with torch.no_grad():
        logits = lm.logits(prompt.token_ids)[0, -1].float()
    chosen = _chosen(logits, targets, max_logits, probability)
    prompt, rest = _largest(lm, prompt, chosen, logits, max_features)
    recorded = _record(lm, prompt, min(batch_size, sum(site.n for site in prompt.sites) + len(chosen)), freeze)
    return _Builder(lm, prompt, rest, recorded, chosen, logits).build(progress)


@dataclass(eq=False)
class _Recorded:
    """A pass over copies of the prompt, cut at the hooks where SAEs write."""

    batch: int
    reads: dict[str, Tensor] = field(default_factory=dict)
    """`[batch, pos, d_in]` by hook, differentiable."""
    leaves: dict[str, Tensor] = field(default_factory=dict)
    """`[batch, pos, d_out]` by hook where SAEs write, and at `STREAM`."""
    logits: Tensor = field(default_factory=lambda: torch.zeros(0))
    """`[batch, d_vocab]` at the last position, before soft-capping."""

    def gradients(self, target: Tensor) -> dict[str, Tensor]:
        """Of the sum of a number a copy, by leaf."""
        found = torch.autograd.grad(target.sum(), list(self.leaves.values()), retain_graph=True, allow_unused=True)
        pairs = zip(self.leaves.items(), found, strict=True)
        return {hook: torch.zeros_like(leaf) if gradient is None else gradient for (hook, leaf), gradient in pairs}


def _record(lm: LanguageModel, prompt: Prompt, batch: int, freeze: bool) -> _Recorded:
    found = _Recorded(batch)
    reads = {site.place.read for site in prompt.sites}
    hooks = dict.fromkeys([STREAM, *reads, *prompt.output])

    def at(hook: str, state: Frozen | None) -> Edit:
        def edit(y: Tensor) -> Tensor:
            if hook == STREAM:
                y = found.leaves["tokens"] = y.detach().requires_grad_()
            if hook in reads:
                found.reads[hook] = y
            return _cut(prompt, found, hook, y, state) if hook in prompt.output else y

        return edit

    def run(state: Frozen | None) -> Tensor:
        edits = {hook: at(hook, state) for hook in hooks}
        logits = lm.logits(prompt.token_ids.expand(batch, -1), edits=edits, grad=True)[:, -1].float()
        found.reads |= {hook: _linear(hook, value, state) for hook, value in found.reads.items()}
        return logits

    if freeze:
        with frozen(lm) as state:
            logits = run(state)
    else:
        logits = run(None)
    cap = lm.unembed().softcap
    found.logits = logits if cap is None else cap * torch.atanh((logits / cap).clamp(-1 + 1e-7, 1 - 1e-7))
    return found


def _linear(hook: str, value: Tensor, state: Frozen | None) -> Tensor:
    """What an SAE reads, as a linear function of the stream where norms are held."""
    return value if state is None or not hook.endswith("hook_normalized") else state.held(value)


def _cut(prompt: Prompt, found: _Recorded, hook: str, y: Tensor, state: Frozen | None) -> Tensor:
    """The same values as a leaf; skip terms of transcoders stay connected to what they read."""
    new = found.leaves[hook] = y.detach().requires_grad_()
    for site in prompt.sites:
        sae = site.place.sae
        if hook == site.place.writes[0] and sae.W_skip is not None:
            read = _linear(site.place.read, found.reads[site.place.read], state)
            x = sae_input(sae, read, site.place.read)
            skipped = (x.to(sae.b_dec.dtype) @ sae.W_skip.to(sae.b_dec.dtype).T).to(new)
            new = new + (skipped - skipped.detach())
    if state is not None:
        state.keep(new)
    return new


@dataclass(frozen=True, eq=False)
class _Builder:
    lm: LanguageModel
    prompt: Prompt
    rest: dict[str, Tensor]
    """`[pos, d_out]` by hook: errors, and what features beyond the limit write."""
    recorded: _Recorded
    chosen: list[int]
    logits: Tensor

    def build(self, progress: bool) -> Graph:
        nodes = self._nodes()
        n, n_features = len(nodes), sum(site.n for site in self.prompt.sites)
        adjacency, constant = torch.zeros(n, n), torch.zeros(n)
        with step("edges", n_features + len(self.chosen), "targets", progress) as advance:
            first = 0
            for site in self.prompt.sites:
                self._rows_of(site, first, adjacency, constant, advance)
                first += site.n
            self._rows_of_logits(adjacency, constant, advance)
        blocks = {name.split(".")[1] for name in self.lm.hook_names() if name.startswith("blocks.")}
        ids = self.prompt.token_ids[0].tolist()
        return Graph(
            nodes=tuple(nodes),
            adjacency=adjacency,
            constant=constant,
            token_ids=tuple(ids),
            tokens=tuple(self.lm.tokenizer.decode([token]) for token in ids),
            target_texts={token: self.lm.tokenizer.decode([token]) for token in self.chosen},
            layers={number: hook for hook, number in self._numbers().items()},
            n_layers=len(blocks),
        )

    def _numbers(self) -> dict[str, int]:
        names = dict.fromkeys([*(site.place.name for site in self.prompt.sites), *self.prompt.output])
        order = {hook: i for i, hook in enumerate(self.lm.hook_names())}
        blocks = [name for name in order if name.startswith("blocks.")]
        return layer_numbers(
            sorted(names, key=lambda hook: order.get(hook, len(order))), len({b.split(".")[1] for b in blocks})
        )

    def _nodes(self) -> list[Node]:
        numbers, n_pos = self._numbers(), self.prompt.n_pos
        nodes = []
        for site in self.prompt.sites:
            columns = (site.position.tolist(), site.feature.tolist(), site.value.tolist())
            nodes += [Node("feature", numbers[site.place.name], p, f, value) for p, f, value in zip(*columns, strict=True)]
        nodes += [Node("error", numbers[hook], p, -1) for hook in self.prompt.output for p in range(n_pos)]
        nodes += [Node("token", -1, p, token) for p, token in enumerate(self.prompt.token_ids[0].tolist())]
        probabilities = self.logits.softmax(-1)
        last = max([*numbers.values(), len({n for n in self.lm.hook_names() if n.endswith("hook_resid_post")})]) + 1
        nodes += [Node("logit", last, n_pos - 1, t, probability=float(probabilities[t])) for t in self.chosen]
        return nodes

    def _rows_of(self, site: Active, first: int, adjacency: Tensor, constant: Tensor, advance: Advance) -> None:
        x = sae_input(site.place.sae, self.recorded.reads[site.place.read], site.place.read)
        vectors = read_vectors(site)
        for chunk in torch.arange(site.n).split(self.recorded.batch):
            copies = torch.arange(len(chunk))
            there = x[copies.to(x.device), site.position[chunk].to(x.device)]
            self._fill((there.to(vectors) * vectors[chunk]).sum(), first + chunk, adjacency, constant)
            advance(len(chunk))

    def _rows_of_logits(self, adjacency: Tensor, constant: Tensor, advance: Advance) -> None:
        centred = self.recorded.logits - self.recorded.logits.mean(-1, keepdim=True)
        for chunk in torch.arange(len(self.chosen)).split(self.recorded.batch):
            tokens = torch.tensor(self.chosen)[chunk].to(centred.device)
            there = centred[torch.arange(len(chunk), device=centred.device), tokens]
            self._fill(there.sum(), len(adjacency) - len(self.chosen) + chunk, adjacency, constant)
            advance(len(chunk))

    def _fill(self, target: Tensor, rows: Tensor, adjacency: Tensor, constant: Tensor) -> None:
        """Edges into the targets `rows`, the i-th of which is a function of the i-th copy of the prompt."""
        if not target.requires_grad:
            return
        gradients = {hook: value[: len(rows)].float() for hook, value in self.recorded.gradients(target).items()}
        columns, total = [], torch.zeros(len(rows))
        columns += [site.value * site.project(gradients) for site in self.prompt.sites]
        for hook, output in self.prompt.output.items():
            effect = (gradients[hook].to(output) * self.rest[hook]).sum(-1)
            whole = (gradients[hook].to(output) * self._without_skip(hook)).sum((-1, -2))
            columns.append(effect)
            total = total + (whole - effect.sum(-1)).cpu()
        features = sum(column.sum(-1).cpu() for column in columns[: len(self.prompt.sites)])
        stream = self.recorded.leaves["tokens"][: len(rows)].detach().float()
        columns.append((gradients["tokens"] * stream).sum(-1))
        filled = torch.cat([column.float().cpu() for column in columns], dim=1)
        adjacency[rows, : filled.shape[1]] = filled
        constant[rows] = (total - features).float()

    def _without_skip(self, hook: str) -> Tensor:
        """`[pos, d_out]`: what is at a hook but for skip terms, which reach it by a path of their own."""
        left = self.prompt.output[hook]
        for site in self.prompt.sites:
            sae = site.place.sae
            if hook == site.place.writes[0] and sae.W_skip is not None:
                x = sae_input(sae, self.recorded.reads[site.place.read][0], site.place.read).detach()
                left = left - (x.to(sae.b_dec.dtype) @ sae.W_skip.to(sae.b_dec.dtype).T).to(left)
        return left


def read_vectors(site: Active) -> Tensor:
    """`[n, d_in]`: derivative of each active feature's activation with respect to what the SAE reads at the position.

    The selection (which features are active) is held, and so is the divisor of an input normalisation.
    """
    sae, cfg = site.place.sae, site.place.sae.cfg
    there = site.feature.to(sae.device)
    vectors = sae.W_enc[:, there].T.to(device=site.feature.device, dtype=sae.b_dec.dtype)
    if cfg.architecture == "gated":
        vectors = vectors * sae.tensors()["r_mag"][there].exp()[:, None].to(vectors)
    if cfg.rescale_acts_by_decoder_norm:
        norms = sae.W_dec[there].flatten(1).to(vectors).norm(dim=1, keepdim=True)
        vectors = vectors * torch.where(norms > 0, norms, 1)
    if cfg.normalize_activations == "constant_scalar_rescale":
        return vectors * cfg.input_scale
    if cfg.normalize_activations == "none" or site.scale is None:
        return vectors
    if cfg.normalize_activations == "layer_norm":
        return (vectors - vectors.mean(-1, keepdim=True)) / (site.scale + LAYER_NORM_EPSILON)
    return vectors / torch.where(site.scale > 0, site.scale, 1)


def _chosen(logits: Tensor, targets: Sequence[int] | None, max_logits: int, probability: float) -> list[int]:
    if targets is not None:
        if not targets or not all(0 <= token < len(logits) for token in targets):
            raise ShapeError("targets", expected=f"token ids from 0 to {len(logits) - 1}", got=list(targets))
        return list(dict.fromkeys(targets))
    if max_logits < 1 or not 0 < probability <= 1:
        raise ArgumentError(
            "max_logits and probability", expected="at least 1, and above 0 to 1", got=(max_logits, probability)
        )
    shares, tokens = logits.softmax(-1).topk(min(max_logits, len(logits)))
    n = int((shares.cumsum(0) < probability).sum()) + 1
    return tokens[:n].tolist()


def _largest(
    lm: LanguageModel, prompt: Prompt, chosen: list[int], logits: Tensor, max_features: int
) -> tuple[Prompt, dict[str, Tensor]]:
    """The prompt with its most effective features alone, and the errors with what the others write."""
    rest = dict(prompt.error)
    if sum(site.n for site in prompt.sites) <= max_features:
        return prompt, rest
    weights = logits.softmax(-1)[chosen]
    gradients = Runner(lm, prompt, lambda out: out[:, -1, chosen].float() @ weights, 1).gradients({}, 1)
    slopes = [site.value * site.project({hook: g[0].float() for hook, g in gradients.items()}) for site in prompt.sites]
    cutoff = torch.cat(slopes).abs().topk(max_features).values[-1]
    sites = []
    for site, slope in zip(prompt.sites, slopes, strict=True):
        keep = slope.abs() >= cutoff
        for hook, value in site.written(site.value * ~keep, prompt.n_pos).items():
            rest[hook] = rest[hook] + value.to(rest[hook])
        sites.append(site.only(keep))
    return Prompt(prompt.token_ids, tuple(sites), prompt.output, prompt.error), rest
