"""`sae-fast fetch`: bring SAEs here, or into a mirror for machines without a network."""

import argparse
from pathlib import Path

from sae_fast.commands.output import Examples, say

EXAMPLES = """\
examples:
  sae-fast fetch gpt2-small-res-jb/blocks.8.hook_resid_pre
  sae-fast fetch hf://google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71 --mirror /media/stick/saes

On a machine without a network, set SAE_FAST_MIRROR to a copy of that folder; the same names lead there.
"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "fetch",
        help="fetch SAEs into the cache, or into a mirror for machines without a network",
        description="Fetch exactly the files that SAEs need, checked against the hub's hashes.",
        epilog=EXAMPLES,
        formatter_class=Examples,
    )
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="name of the catalogue, or hf://owner/repo/path@revision")
    parser.add_argument("--mirror", metavar="DIR", type=Path, help="folder to copy them into, as DIR/owner/repo/path")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Fetch one after the other, and say where the files are."""
    from sae_fast.formats import fetch
    from sae_fast.progress import size

    for source in options.sources:
        files = fetch(source, options.mirror)
        say(f"{source}: {len(files)} files, {size(sum(file.stat().st_size for file in files))}")
        for file in files if options.mirror else ():
            say(f"  {file}")
