"""The `sae-fast` command: a look at SAEs on disk, and conversion between formats."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sae_fast import __version__
from sae_fast.errors import ArgumentError, SaeFastError

FORMATS = ("saelens", "gemma_scope")
DTYPES = ("float32", "float64", "float16", "bfloat16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. Errors are printed in one line, with status 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (SaeFastError, OSError) as error:
        print(f"sae-fast: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sae-fast", description="Look at and convert sparse autoencoders (SAEs).")
    parser.add_argument("--version", action="version", version=f"sae-fast {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    info = commands.add_parser(
        "info",
        help="print what an SAE is, without reading its weights",
        description="Print architecture, sizes, hook, model, dtype and memory of an SAE. Only headers are read.",
    )
    info.add_argument("source", metavar="SOURCE", help="folder or file of an SAE, in any format that sae-fast reads")
    info.set_defaults(run=_info)

    convert = commands.add_parser(
        "convert",
        help="write an SAE in another format",
        description="Read the SAE at SOURCE and write it into the folder TARGET.",
    )
    convert.add_argument("source", metavar="SOURCE", help="folder or file of an SAE, in any format that sae-fast reads")
    convert.add_argument("target", metavar="TARGET", help="folder to write; must be new or empty")
    convert.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="format to write (default: %(default)s)")
    convert.add_argument("--dtype", choices=DTYPES, help="dtype of the written weights (default: as they are)")
    convert.add_argument("--hook-name", metavar="NAME", help="where the SAE reads, if its files do not say or are wrong")
    convert.add_argument("--model-name", metavar="NAME", help="the language model, if the files do not say or are wrong")
    convert.add_argument(
        "--fold-decoder-norm", action="store_true", help="scale decoder rows to norm one and activations accordingly"
    )
    convert.set_defaults(run=_convert)
    return parser


def _info(options: argparse.Namespace) -> None:
    from sae_fast.formats import info

    source = info(options.source)
    cfg = source.cfg
    rows: list[tuple[str, object]] = [
        ("path", source.path),
        ("format", source.format),
        ("architecture", cfg.architecture if cfg.k is None else f"{cfg.architecture}, k = {cfg.k}"),
        ("features", f"{cfg.d_sae:,}"),
        ("d_in", cfg.d_in),
        ("hook", cfg.hook_name or "not stated"),
        ("model", cfg.model_name or "not stated"),
        ("context size", cfg.context_size or "not stated"),
        ("BOS prepended", {True: "yes", False: "no", None: "not stated"}[cfg.prepend_bos]),
        ("b_dec subtracted", "yes" if cfg.apply_b_dec_to_input else "no"),
        ("normalisation", cfg.normalize_activations),
        ("dtype", str(source.dtype).removeprefix("torch.")),
        ("parameters", f"{source.n_parameters:,}"),
        ("memory", f"{source.memory_bytes / 1e6:,.1f} MB"),
    ]
    for name, value in rows:
        print(f"{name:<18}{value}")


def _convert(options: argparse.Namespace) -> None:
    from sae_fast.formats import load, save

    target = Path(options.target)
    if target.is_dir() and any(target.iterdir()):
        raise ArgumentError(f"{target}: the folder is not empty", advice="Name a new folder, so that nothing is overwritten")
    sae = load(
        options.source,
        dtype=options.dtype,
        fold_decoder_norm=options.fold_decoder_norm,
        hook_name=options.hook_name,
        model_name=options.model_name,
    )
    save(sae, target, options.format)
    print(f"wrote {sae} to {target} ({options.format})")


if __name__ == "__main__":
    sys.exit(main())
