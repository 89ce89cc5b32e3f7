"""`sae-fast convert`: an SAE in another format."""

import argparse
from pathlib import Path

from sae_fast.commands.info import SOURCE_HELP
from sae_fast.commands.output import Examples, say
from sae_fast.errors import ArgumentError

DTYPES = ("float32", "float64", "float16", "bfloat16")

EXAMPLES = """\
examples:
  sae-fast convert params.npz sae --hook-name blocks.20.hook_resid_post --model-name google/gemma-2-2b
  sae-fast convert gpt2-small-res-jb/blocks.8.hook_resid_pre sae --dtype bfloat16
"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "convert",
        help="write an SAE in another format",
        description="Read the SAE at SOURCE and write it into the folder TARGET.",
        epilog=EXAMPLES,
        formatter_class=Examples,
    )
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    parser.add_argument("target", metavar="TARGET", help="folder to write; must be new or empty")
    parser.add_argument("--format", metavar="FORMAT", default="saelens", help="format to write (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the written weights (default: as they are)")
    parser.add_argument("--hook-name", metavar="NAME", help="where the SAE reads, if its files do not say or are wrong")
    parser.add_argument("--model-name", metavar="NAME", help="the language model, if the files do not say or are wrong")
    parser.add_argument(
        "--norm-scaling-factor", metavar="FACTOR", type=float, help="factor of the training inputs, if the files do not hold it"
    )
    parser.add_argument(
        "--fold-decoder-norm", action="store_true", help="scale decoder rows to norm one and activations accordingly"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load and save; nothing is overwritten."""
    target = Path(options.target)
    if target.is_dir() and any(target.iterdir()):
        raise ArgumentError(f"{target}: the folder is not empty", advice="Name a new folder, so that nothing is overwritten")
    # Torch comes with these; mistakes on the command line are told without waiting for it.
    from sae_fast.formats import WRITABLE, load, save

    if options.format not in WRITABLE:
        raise ArgumentError("--format", expected=f"one of {', '.join(WRITABLE)}", got=repr(options.format))
    sae = load(
        options.source,
        dtype=options.dtype,
        fold_decoder_norm=options.fold_decoder_norm,
        hook_name=options.hook_name,
        model_name=options.model_name,
        norm_scaling_factor=options.norm_scaling_factor,
    )
    save(sae, target, options.format)
    say(f"wrote {sae} to {target} ({options.format})")
