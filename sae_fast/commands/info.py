"""`sae-fast info`: what an SAE is, from headers alone."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from sae_fast.commands.output import Examples, say_json, say_pairs

if TYPE_CHECKING:
    from sae_fast.config import SAEConfig
    from sae_fast.formats import SourceInfo

SOURCE_HELP = "folder or file, hf://owner/repo/path@revision, an address of a file server, or a name that `sae-fast list` shows"

EXAMPLES = """\
examples:
  sae-fast info sae/                                             a folder of any format
  sae-fast info gpt2-small-res-jb/blocks.8.hook_resid_pre        a name of the catalogue
  sae-fast info hf://google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71
  sae-fast info https://example.org/saes/layer_3 --json
"""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "info",
        help="print what an SAE is, without reading its weights",
        description="Print architecture, sizes, hook, model, dtype, memory and files of an SAE. Only headers are read,\n"
        "also of files on the hub.",
        epilog=EXAMPLES,
        formatter_class=Examples,
    )
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON, with all of the configuration")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print what `sae_fast.formats.info` says."""
    from sae_fast.formats import info

    found = info(options.source)
    if options.json:
        say_json(_as_json(found))
    else:
        say_pairs(pairs_of(found))


def pairs_of(found: "SourceInfo") -> list[tuple[str, object]]:
    """The lines that are printed: name and value."""
    cfg = found.cfg
    rows: list[tuple[str, object]] = [
        ("path", found.path),
        ("format", found.format),
        ("architecture", _architecture(cfg)),
        ("features", f"{cfg.d_sae:,}"),
        ("d_in", cfg.d_in),
    ]
    rows += [("d_out", cfg.d_out)] if cfg.d_out != cfg.d_in else []
    rows += [("widths", " + ".join(map(str, cfg.hook_widths)))] if cfg.crosscoder else []
    rows += [
        ("hooks" if cfg.hook_names else "hook", ", ".join(cfg.hooks_read) or cfg.metadata.get("hook_name") or "not stated")
    ]
    rows += [("writes at", ", ".join(cfg.hooks_written))] if cfg.transcoder or cfg.hook_names_out else []
    rows += [
        ("model", cfg.model_name or ", ".join(map(str, cfg.metadata.get("models", ()))) or "not stated"),
        ("context size", cfg.context_size or "not stated"),
        ("BOS prepended", {True: "yes", False: "no", None: "not stated"}[cfg.prepend_bos]),
        ("b_dec subtracted", "yes" if cfg.apply_b_dec_to_input else "no"),
        ("normalisation", cfg.normalize_activations + (", input centred" if cfg.centred else "")),
        ("dtype", str(found.dtype).removeprefix("torch.")),
        ("parameters", f"{found.n_parameters:,}"),
        ("memory", f"{found.memory_bytes / 1e6:,.1f} MB"),
        ("files", _files(found)),
    ]
    return rows


def _architecture(cfg: "SAEConfig") -> str:
    kind = ("skip " if cfg.skip else "") + "transcoder" if cfg.transcoder else "crosscoder" if cfg.crosscoder else ""
    parts = [f"{cfg.architecture} {kind}".strip()]
    parts += [f"k = {cfg.k}"] if cfg.k is not None else []
    parts += [f"matryoshka groups {', '.join(map(str, cfg.group_sizes))}"] if cfg.group_sizes else []
    return ", ".join(parts)


def _files(found: "SourceInfo") -> str:
    from sae_fast.progress import size

    sizes = found.file_bytes
    total = "of unknown size" if None in sizes.values() else size(sum(n or 0 for n in sizes.values()))
    return f"{', '.join(sizes)}, {total}{' to fetch' if found.is_to_be_fetched else ''}"


def _as_json(found: "SourceInfo") -> dict[str, object]:
    return {
        "path": found.path,
        "format": found.format,
        "config": asdict(found.cfg),
        "dtype": str(found.dtype).removeprefix("torch."),
        "n_parameters": found.n_parameters,
        "memory_bytes": found.memory_bytes,
        "file_bytes": dict(found.file_bytes),
        "is_to_be_fetched": found.is_to_be_fetched,
    }
