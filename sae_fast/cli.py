"""The `sae-fast` command: find, fetch, convert, train and measure sparse autoencoders, and study language models with them."""

import argparse
import os
import sys
from collections.abc import Sequence

from sae_fast import __version__
from sae_fast.attribution import cli as attribute
from sae_fast.commands import convert, evaluate, fetch, info, listing, train
from sae_fast.contrast import cli as contrast
from sae_fast.errors import SaeFastError

COMMANDS = (listing, info, fetch, convert, train, evaluate, contrast, attribute)
"""Modules with `register`, in the order of the help."""

EXAMPLES = """\
examples:
  sae-fast list --model gemma-2-2b --layer 20 --width 65536
  sae-fast info gpt2-small-res-jb/blocks.8.hook_resid_pre
  sae-fast convert gpt2-small-res-jb/blocks.8.hook_resid_pre sae

`sae-fast COMMAND --help` has more.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Errors are printed in one line, with status 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`| head`); what is left must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (SaeFastError, OSError) as error:
        print(f"sae-fast: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sae-fast: interrupted; what was fetched is kept, and the next attempt goes on from there", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sae-fast",
        description="Find, fetch, convert, train and measure sparse autoencoders (SAEs), and study language models with them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sae-fast {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
