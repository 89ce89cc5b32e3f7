"""The subcommand `sae-fast attribute`: effects of features on a token's logit as a table, and the graph as a file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from sae_fast.attribution.effects import Effects
    from sae_fast.attribution.metrics import Metric
    from sae_fast.lm.interface import LanguageModel

EPILOG = """\
examples:
  sae-fast attribute --model my-gpt2 --sae saes/layer-8 --prompt "The cat sat on the" --target " mat"
  sae-fast attribute --model my-gpt2 --sae saes/layer-8 --prompt "…" --target " mat" --versus " hat" --method ablation --top 50
  sae-fast attribute --model my-gpt2 --sae tc/0 --sae tc/1 --sae tc/2 --prompt "…" --target " mat" --graph graphs/mat.json
"""


def register(commands: Any) -> None:
    """Add `attribute` to the subcommands of an argument parser."""
    parser = commands.add_parser(
        "attribute",
        help="what a feature does to a token's logit in a prompt, and a graph of features",
        description="Effect of each active feature on the logit of a token at the end of a prompt; with --graph, also the\n"
        "graph of direct effects between features, errors, tokens and logits, as circuit-tracer's viewers read it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="SOURCE", help="the language model: a folder, or a name on the hub")
    parser.add_argument("--sae", action="append", required=True, metavar="SOURCE", help="an SAE or transcoder; repeat for more")
    parser.add_argument(
        "--hook", action="append", metavar="NAME", help="where the SAEs read, in their order, if not as they say"
    )
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the text whose next token is meant")
    parser.add_argument("--target", metavar="TOKEN", help="text of one token (default: the most probable)")
    parser.add_argument("--versus", metavar="TOKEN", help="attribute the logit difference to this token")
    parser.add_argument(
        "--method", choices=("gradient", "integrated", "ablation"), default="gradient", help="default: gradient"
    )
    parser.add_argument("--steps", type=int, default=16, metavar="N", help="of integrated gradients (default: %(default)s)")
    parser.add_argument("--top", type=int, metavar="N", help="ablate only the N steepest features of each SAE")
    parser.add_argument("--rows", type=int, default=15, metavar="N", help="of each table (default: %(default)s)")
    parser.add_argument("--graph", type=Path, metavar="FILE", help="write the pruned graph as JSON")
    parser.add_argument("--node-threshold", type=float, default=0.8, metavar="SHARE", help="default: %(default)s")
    parser.add_argument("--edge-threshold", type=float, default=0.98, metavar="SHARE", help="default: %(default)s")
    parser.add_argument("--scan", default="", help="name that viewers look features up by")
    parser.add_argument("--no-freeze", action="store_true", help="plain gradients: attention patterns and norms not held")
    parser.add_argument(
        "--bos", choices=("auto", "yes", "no"), default="auto", help="BOS before the prompt (default: as trained)"
    )
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="of the language model (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="copies at once (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Carry out `sae-fast attribute`."""
    import sae_fast.lm
    from sae_fast.attribution.edges import attribution_graph
    from sae_fast.attribution.effects import attribute
    from sae_fast.errors import ArgumentError

    hooks = options.hook or [None] * len(options.sae)
    if len(hooks) != len(options.sae):
        raise ArgumentError("--hook", expected=f"as many as --sae, {len(options.sae)}", got=len(hooks))
    saes = [
        sae_fast.load(source, device=options.device, hook_name=hook) for source, hook in zip(options.sae, hooks, strict=True)
    ]
    lm = sae_fast.lm.load(options.model, device=options.device, dtype=options.dtype)
    said = {sae.cfg.prepend_bos for sae in saes} - {None}
    prepend_bos = {"auto": said.pop() if len(said) == 1 else None, "yes": True, "no": False}[options.bos]
    token_ids, _ = lm.tokenize(options.prompt, prepend_bos)
    metric, words, targets = _metric(lm, token_ids, options)
    print(words)
    effects = attribute(
        lm, saes, token_ids, metric, options.method, steps=options.steps, top=options.top, batch_size=options.batch_size,
        progress=True,
    )  # fmt: skip
    for found in effects.values():
        print("\n".join(_table(lm, token_ids, found, options.rows)))
    if options.graph is not None:
        graph = attribution_graph(
            lm, saes, token_ids, targets, freeze=not options.no_freeze, batch_size=options.batch_size, progress=True
        )
        pruned = graph.prune(options.node_threshold, options.edge_threshold)
        path = pruned.save(options.graph, scan=options.scan)
        print(f"\nwrote {path}: {len(pruned):,} of {len(graph):,} nodes, {len(pruned.edges()):,} edges")


def _metric(lm: "LanguageModel", token_ids: "Tensor", options: argparse.Namespace) -> "tuple[Metric, str, list[int] | None]":
    """(the metric, what it is in words, target tokens of the graph)."""
    from sae_fast.attribution.metrics import logit, logit_difference

    logits = lm.logits(token_ids)[0, -1].float()
    probabilities = logits.softmax(-1)
    target = int(logits.argmax()) if options.target is None else _token(lm, options.target, "--target")

    def named(token: int) -> str:
        return f"{lm.tokenizer.decode([token])!r} (logit {float(logits[token]):.3f}, p {float(probabilities[token]):.3f})"

    if options.versus is None:
        return logit(target), f"logit of {named(target)}", None if options.target is None else [target]
    other = _token(lm, options.versus, "--versus")
    return logit_difference(target, other), f"logit of {named(target)} minus that of {named(other)}", [target, other]


def _token(lm: "LanguageModel", text: str, option: str) -> int:
    from sae_fast.errors import ArgumentError

    ids = lm.tokenizer(text, add_special_tokens=False).input_ids
    if len(ids) != 1:
        pieces = ", ".join(repr(lm.tokenizer.decode([token])) for token in ids)
        advice = "A leading space often matters"
        raise ArgumentError(
            option, expected="the text of one token", got=f"{text!r}, which is {len(ids)}: {pieces}", advice=advice
        )
    return int(ids[0])


def _table(lm: "LanguageModel", token_ids: "Tensor", found: "Effects", n: int) -> list[str]:
    errors = float(found.error.sum())
    sums = f"effects sum to {found.total - errors:+.4f}, errors to {errors:+.4f} ({found.method})"
    lines = [
        "",
        f"{found.hook_name}: {found.effect.numel():,} active features, {sums}",
        f"{'position':>8}  {'token':<14}  {'feature':>8}  {'activation':>10}  {'effect':>9}",
    ]
    for position, feature, activation, effect in found.top(n):
        token = repr(lm.tokenizer.decode([int(token_ids[0, position])]))
        lines.append(f"{position:>8}  {token[:14]:<14}  {feature:>8}  {activation:>10.4f}  {effect:>+9.4f}")
    return lines
