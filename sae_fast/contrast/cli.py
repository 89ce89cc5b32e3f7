"""The subcommand `sae-fast contrast`: arguments in, a table and three files out."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_fast.contrast.report import Contrast, SaeContrast

ROWS = 15
EPILOG = """\
Each file holds one text a line: {"text": "…"} or {"messages": [{"role": "user", "content": "…"}, …]}, with "id" for
--paired and "spans": [[first, end], …] (characters; of a chat [message, first, end]) for --tokens span.

example:
  sae-fast contrast deceptive.jsonl honest.jsonl --model my-llama --sae saes/layer-8 --tokens role:assistant --out contrast
"""


def register(commands: Any) -> None:
    """Add `contrast` to the subcommands of an argument parser."""
    parser = commands.add_parser(
        "contrast",
        help="which features differ between two sets of texts",
        description="Compare the features of one or more SAEs between two sets of texts, with effect sizes, intervals,\n"
        "permutation p-values and false-discovery rate. Writes contrast.json, contrast.csv and contrast.html.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A.jsonl", help="the first set of texts; positive effects are stronger here")
    parser.add_argument("b", metavar="B.jsonl", help="the second set")
    parser.add_argument("--sae", action="append", required=True, metavar="SOURCE", help="an SAE; repeat for more")
    parser.add_argument("--model", required=True, metavar="SOURCE", help="the language model: a folder, or a name on the hub")
    parser.add_argument(
        "--hook", action="append", metavar="NAME", help="where the SAEs read, in their order, if not as they say"
    )
    parser.add_argument("--pool", choices=("mean", "max", "frequency"), default="mean", help="value of a text (default: mean)")
    parser.add_argument(
        "--tokens", default="all", metavar="WHICH", help="all, role:NAME[,NAME…], span or last:N (default: all)"
    )
    parser.add_argument("--paired", action="store_true", help="texts of both files with the same id belong together")
    parser.add_argument("--out", type=Path, default=Path("contrast"), metavar="FOLDER", help="default: contrast")
    parser.add_argument("--names", nargs=2, metavar=("A", "B"), help="what to call the sets (default: names of the files)")
    parser.add_argument("--alpha", type=float, default=0.05, help="false-discovery rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of permutations and bootstrap (default: %(default)s)")
    parser.add_argument("--permutations", type=int, metavar="N", help="most for one feature (default: as many as are needed)")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--min-texts", type=int, default=1, metavar="N", help="test features active in N texts or more")
    parser.add_argument("--max-tokens", type=int, default=1024, metavar="N", help="cut longer texts (default: %(default)s)")
    parser.add_argument(
        "--bos", choices=("auto", "yes", "no"), default="auto", help="BOS before each text (default: as trained)"
    )
    parser.add_argument("--fold-decoder-norm", action="store_true", help="scale decoder rows to norm one, activations likewise")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="of the language model (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="texts at once (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress, no table")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Carry out `sae-fast contrast`."""
    import sae_fast.lm
    from sae_fast.contrast.run import contrast
    from sae_fast.contrast.texts import read_texts
    from sae_fast.errors import ArgumentError

    hooks = options.hook or [None] * len(options.sae)
    if len(hooks) != len(options.sae):
        raise ArgumentError("--hook", expected=f"as many as --sae, {len(options.sae)}", got=len(hooks))
    # Before a model is loaded: a bad line should cost nothing.
    ids = [{text.id for text in read_texts(path)} for path in (options.a, options.b)]
    if ids[0] == ids[1] and None not in ids[0] and not options.paired:
        print("sae-fast: the texts of both files have the same ids; --paired would compare them in pairs", file=sys.stderr)
    saes = [
        sae_fast.load(source, device=options.device, hook_name=hook, fold_decoder_norm=options.fold_decoder_norm)
        for source, hook in zip(options.sae, hooks, strict=True)
    ]
    lm = sae_fast.lm.load(options.model, device=options.device, dtype=options.dtype)
    result = contrast(
        options.a,
        options.b,
        lm=lm,
        saes=dict(zip(_names(options.sae), saes, strict=True)),
        pooling=options.pool,
        tokens=options.tokens,
        paired=options.paired,
        names=tuple(options.names) if options.names else None,
        model_name=options.model.rstrip("/").rpartition("/")[2],
        prepend_bos={"auto": None, "yes": True, "no": False}[options.bos],
        max_tokens=options.max_tokens,
        batch_size=options.batch_size,
        alpha=options.alpha,
        seed=options.seed,
        resamples=options.resamples,
        permutations=options.permutations,
        min_texts=options.min_texts,
        progress=not options.quiet,
    )
    paths = result.write(options.out)
    if not options.quiet:
        print(summary(result))
    print(f"wrote {', '.join(str(path) for path in paths)}")


def summary(result: "Contrast") -> str:
    """The result as text for a terminal: sizes, and the most certain features of each SAE."""
    lines = []
    for side in (result.a, result.b):
        notes = "".join(
            f", {n:,} {words}" for n, words in ((side.n_empty, "left out without a token"), (side.n_cut, "cut")) if n
        )
        lines.append(f"{side.name}: {side.n_texts:,} texts, {side.n_tokens:,} tokens{notes}")
    for sae in result.saes:
        lines += ["", *_table(result, sae)]
    return "\n".join(lines)


def _table(result: "Contrast", sae: "SaeContrast") -> list[str]:
    from sae_fast.contrast.table import number

    found = f"{sae.n_found(result.alpha):,} of {len(sae):,} tested features differ"
    means = [f"{'mean ' + side.name[:10]:>15}" for side in (result.a, result.b)]
    lines = [
        f"{sae.name} ({sae.hook_name}): {found} (false-discovery rate {result.alpha:g}); {sae.n_never:,} active in no text",
        f"{'feature':>8}  {'d':>7}  {'95 % interval':^18}  {'AUC':>6}  {'  '.join(means)}  {'p':>9}  {'q':>9}",
    ]
    for row in sae.top(ROWS):
        interval = f"{number(row['d_low']):>7} to {number(row['d_high']):<7}"
        cells = [f"{number(row[name]):>{width}}" for name, width in
                 (("auc", 6), ("mean_a", 15), ("mean_b", 15), ("p", 9), ("q", 9))]  # fmt: skip
        lines.append(f"{row['feature']:>8}  {number(row['d']):>7}  {interval:<18}  {'  '.join(cells)}")
    return lines


def _names(sources: list[str]) -> list[str]:
    """The last part of each source, and as much before it as tells it from the others."""
    parts = [source.rstrip("/").split("/") for source in sources]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({n})" for n, name in enumerate(sources, 1)]
