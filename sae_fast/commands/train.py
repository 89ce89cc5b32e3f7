"""`sae-fast train`: from a language model and texts to trained SAEs."""

import argparse
import sys
from pathlib import Path

from sae_fast.commands.output import Examples, say
from sae_fast.errors import ArgumentError, StoppedError

INTERRUPTED = 130

EXAMPLES = """\
examples:
  sae-fast train --new config.toml          a commented configuration of every key, to start from
  sae-fast train config.toml --estimate     tokens, disk, memory and time, before anything begins
  sae-fast train config.toml                train, or go on where it was stopped
  torchrun --nproc-per-node 2 -m sae_fast.cli train config.toml

Everything goes into the output folder: SAEs in saes/, curves in report.html, numbers in metrics.jsonl and run.json.
Ctrl-C saves a checkpoint; the same command goes on from there.
"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "train",
        help="train SAEs",
        description="Train the SAEs that CONFIG describes: tokens, activations, training, thresholds and results.",
        epilog=EXAMPLES,
        formatter_class=Examples,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="TOML file")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--new", action="store_true", help="write a commented CONFIG to start from, and stop")
    what.add_argument("--estimate", action="store_true", help="print tokens, disk, memory and time of a step, and stop")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write a configuration, estimate, or train."""
    if options.new:
        return _write_new(options.config)
    # Torch comes with these; mistakes on the command line are told without waiting for it.
    from sae_fast.training.config import RunConfig

    config = RunConfig.load(options.config)
    if options.estimate:
        from sae_fast.training.estimate import estimate

        return say(estimate(config).table())
    from sae_fast.training.distributed import leave
    from sae_fast.training.run import train

    try:
        saes = train(config, show_progress=not options.quiet)
    except StoppedError as stopped:
        sys.stderr.write(f"sae-fast: {stopped}\n")
        leave(INTERRUPTED)
        raise SystemExit(INTERRUPTED) from None
    except KeyboardInterrupt:
        sys.stderr.write(f"sae-fast: interrupted before training began; finished parts are in {config.output.folder}\n")
        raise SystemExit(INTERRUPTED) from None
    folder = Path(config.output.folder)
    for name in saes:
        say(f"wrote {folder / 'saes' / name}")
    if saes:
        say(f"report: {folder / 'report.html'}")
    leave()
    return None


def _write_new(path: Path) -> None:
    from sae_fast.training.template import TEMPLATE

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=path))
    except FileExistsError:
        raise ArgumentError(f"{path} exists already", advice="Name another file, or remove it first") from None
    say(f"wrote {path}; fill in the sources, then: sae-fast train {path} --estimate")
