"""`sae-fast eval`: how well SAEs reconstruct, and what splicing them in costs the language model."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_fast.commands.info import SOURCE_HELP
from sae_fast.commands.output import Examples, say, say_table
from sae_fast.errors import ArgumentError

if TYPE_CHECKING:
    from sae_fast.evaluation.report import EvaluationReport

EXAMPLES = """\
examples:
  sae-fast eval --model my-llama --corpus texts.jsonl --sae saes/k32 --sae saes/k64 --tokens 200000 --out evaluation
  sae-fast eval --model gpt2 --corpus texts/ --sae res-jb=gpt2-small-res-jb/blocks.8.hook_resid_pre --out evaluation

Writes evaluation.json, evaluation.html (the sparsity-fidelity frontier) and saebench/core/*.json. Every number is defined
in docs/evaluation.md.
"""

_COLUMNS = (
    ("L0", "l0", ".4g"),
    ("EXPL. VARIANCE", "explained_variance", ".4f"),
    ("DELTA CE", "delta_ce", ".4f"),
    ("CE RECOVERED", "ce_recovered", ".4f"),
    ("KL", "kl_sae", ".4f"),
    ("COSINE", "cosine", ".4f"),
    ("NORM RATIO", "norm_ratio", ".4f"),
)


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "eval",
        help="measure SAEs on texts: reconstruction, sparsity, and the cost of splicing them in",
        description="Measure one or more SAEs on the tokens of a corpus, all in one reading of it: explained variance, L0,\n"
        "cross entropy and KL divergence with the SAE spliced in, beside mean and zero ablation, with 95 % intervals.",
        epilog=EXAMPLES,
        formatter_class=Examples,
    )
    parser.add_argument("--model", required=True, metavar="SOURCE", help="the language model: a folder, or a name on the hub")
    parser.add_argument("--model-name", metavar="NAME", help="what to call it (default: the last part of SOURCE)")
    parser.add_argument(
        "--corpus", required=True, metavar="SOURCE", help="file, folder, dataset of the hub, or standard-library"
    )
    parser.add_argument(
        "--sae",
        action="append",
        required=True,
        metavar="[NAME=]SOURCE",
        help=f"an SAE, or a folder with all layers of a cross-layer transcoder; repeat for more: {SOURCE_HELP}",
    )
    parser.add_argument("--tokens", type=int, metavar="N", help="counted tokens to measure on (default: the whole corpus)")
    parser.add_argument("--out", type=Path, default=Path("evaluation"), metavar="FOLDER", help="default: %(default)s")
    parser.add_argument(
        "--card", type=Path, metavar="README", help="also write the table into this model card, a Markdown file"
    )
    corpus = parser.add_argument_group("corpus")
    corpus.add_argument("--column", default="text", metavar="NAME", help="column of the text (default: %(default)s)")
    corpus.add_argument("--split", metavar="NAME", help="split of a dataset")
    corpus.add_argument("--shuffle", action="store_true", help="read the documents in a random order")
    corpus.add_argument("--context-length", type=int, metavar="N", help="tokens of a context (default: as trained, or 128)")
    corpus.add_argument("--bos", choices=("auto", "yes", "no"), default="auto", help="BOS before each context (default: auto)")
    corpus.add_argument("--roles", default="", metavar="ROLE[,ROLE…]", help="of chats: count the messages of these roles")
    run_group = parser.add_argument_group("how it runs")
    run_group.add_argument("--hook", action="append", metavar="NAME", help="where the SAEs read, in order, if not as they say")
    run_group.add_argument("--no-prefixes", action="store_true", help="leave out the prefixes of matryoshka SAEs")
    run_group.add_argument("--seed", type=int, default=0, help="of shuffle and bootstrap (default: %(default)s)")
    run_group.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default: %(default)s)")
    run_group.add_argument("--device", default="cpu", help="default: %(default)s")
    run_group.add_argument("--dtype", default="float32", help="of the language model (default: %(default)s)")
    run_group.add_argument("--backend", default="transformers", help="or transformer_lens, nnsight (default: %(default)s)")
    run_group.add_argument("--batch-size", type=int, default=16, metavar="N", help="contexts at once (default: %(default)s)")
    run_group.add_argument("--quiet", action="store_true", help="no progress, no table")
    probing = parser.add_argument_group("k-sparse probing of labelled texts")
    probing.add_argument(
        "--probe", type=Path, metavar="FILE", help='also probe: a JSON object a line, {"text": "…", "label": "…"}'
    )
    probing.add_argument("--probe-k", default="1,2,5,10", metavar="K[,K…]", help="features of a probe (default: %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Carry out `sae-fast eval`."""
    named = named_sources(options.sae)
    hooks = options.hook or [None] * len(named)
    if len(hooks) != len(named):
        raise ArgumentError("--hook", expected=f"as many as --sae, {len(named)}", got=len(hooks))
    for name in ("tokens", "context_length", "batch_size", "resamples"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ArgumentError(f"--{name.replace('_', '-')}", expected="at least 1", got=value)
    ks = _whole_numbers(options.probe_k)
    # Torch comes with these; mistakes on the command line are told without waiting for it.
    import sae_fast.lm
    from sae_fast.corpus import open_corpus
    from sae_fast.corpus.options import local_path
    from sae_fast.evaluation.card import check_card, environment, write_card
    from sae_fast.evaluation.saebench import write_saebench
    from sae_fast.evaluation.sources import load_measured, single
    from sae_fast.evaluation.texts import evaluate_texts

    _require_device(options.device)
    labelled = None
    if options.probe is not None:
        from sae_fast.evaluation.probing import read_labelled

        labelled = read_labelled(options.probe)
    saes = {
        name: load_measured(source, options.device, hook) for (name, source), hook in zip(named.items(), hooks, strict=True)
    }
    corpus = _corpus(options, [sae.cfg.context_size for sae in single(saes).values()])
    # Before the model is loaded: what cannot work should cost nothing.
    if options.card is not None:
        check_card(options.card)
    if local_path(corpus.source) is not None or Path(corpus.source).suffix:
        open_corpus(corpus)
    if options.out.exists() and not options.out.is_dir():
        raise ArgumentError("--out", expected="a folder", got=f"{options.out}, a file")
    with _folder(options.out):
        lm = sae_fast.lm.load(options.model, backend=options.backend, device=options.device, dtype=options.dtype)
        report, found = evaluate_texts(
            lm,
            saes,
            corpus,
            model_name=options.model_name or options.model.rstrip("/").rpartition("/")[2],
            sources=named,
            batch_size=options.batch_size,
            prefixes=not options.no_prefixes,
            seed=options.seed,
            resamples=options.resamples,
            progress=not options.quiet,
        )
        probes = [] if labelled is None else _probes(options, lm, single(saes), labelled, ks, corpus.context_length)
        # Everything is measured: from here on it is written, each file whole or not at all.
        paths = report.write(options.out)
        if options.card is not None:
            paths.append(write_card(options.card, report, environment()))
        bench = write_saebench(report, found.metrics(), options.out / "saebench", options.batch_size)
        if probes:
            paths.append(_write_probes(options.out, probes))
    if not options.quiet:
        say_summary(report)
        if probes:
            _say_probes(options.probe.name, probes)
    say(f"wrote {', '.join(map(str, paths))} and {_count(len(bench), 'file')} in {bench[0].parent}")


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Make it before the hours of measuring, and take it away again where nothing was written."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException as error:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, KeyboardInterrupt):
            sys.stderr.write("\nsae-fast: interrupted; no file was left half-written\n")
            raise SystemExit(130) from None
        raise


def _probes(options: argparse.Namespace, lm: Any, saes: Any, labelled: Any, ks: list[int], context_length: int) -> list[Any]:
    from sae_fast.evaluation.probing import probe_texts

    return probe_texts(
        lm,
        saes,
        labelled,
        ks=ks,
        context_length=context_length,
        batch_size=options.batch_size,
        seed=options.seed,
        progress=not options.quiet,
    )


def _write_probes(folder: Path, probes: list[Any]) -> Path:
    from sae_fast.files import write_whole

    path = folder / "probing.json"
    write_whole(path, (json.dumps([asdict(probe) for probe in probes], ensure_ascii=False, indent=1) + "\n").encode())
    return path


def _say_probes(name: str, probes: list[Any]) -> None:
    rows = [
        (p.sae, p.label, "all" if p.k is None else str(p.k), f"{p.accuracy:.3f}", f"{p.balanced_accuracy:.3f}",
         f"{p.auc:.3f}", f"{p.base_rate:.3f}", " ".join(map(str, p.features)))
        for p in probes
    ]  # fmt: skip
    say(f"probes of {name}: {probes[0].n_train:,} texts to learn from, {probes[0].n_test:,} to test on")
    say_table(("SAE", "LABEL", "K", "ACCURACY", "BALANCED", "AUC", "BASE", "FEATURES"), rows, right=range(2, 7))


def say_summary(report: "EvaluationReport") -> None:
    """The table on the terminal: each SAE, and the ends of its intervals below."""
    say(f"{report.model}: {report.n_tokens:,} tokens of {_count(report.n_documents, 'document')} of {report.corpus}")
    rows = []
    for sae in report.saes:
        seen = f"{sae.n_dead:,} dead" if sae.n_dead is not None else f"{sae.n_not_seen:,}"
        values = [_number(sae.metrics.get(name), form) for _, name, form in _COLUMNS]
        rows.append((sae.name, f"{sae.d_sae:,}", *values, seen, f"{sae.n_dense:,}"))
        ends = [sae.intervals.get(name) for _, name, _ in _COLUMNS]
        if any(ends):
            forms = [form for _, _, form in _COLUMNS]
            rows.append(("", "", *(_range(pair, form) for pair, form in zip(ends, forms, strict=True)), "", ""))
    head = ("SAE", "FEATURES", *(words for words, _, _ in _COLUMNS), "NOT SEEN", "DENSE")
    say_table(head, rows, right=range(1, len(head)))
    for note in report.notes:
        say(note)


def named_sources(given: list[str]) -> dict[str, str]:
    """Sources by name: `NAME=SOURCE`, or the last part of the source and as much before it as tells it from the others.

    Raises `ArgumentError` where two have one name.
    """
    split = [text.split("=", 1) if "=" in text and "/" not in text.split("=", 1)[0] else ["", text] for text in given]
    unnamed = [source.rstrip("/").split("/") for name, source in split if not name]
    found: dict[str, str] = {}
    for name, source in split:
        part = source.rstrip("/").split("/")
        depths = range(1, len(part))
        depth = next((d for d in depths if sum(other[-d:] == part[-d:] for other in unnamed) == 1), len(part))
        name = name or "/".join(part[-depth:])
        if name in found:
            raise ArgumentError("--sae", expected="SAEs of different names", got=f"{name} twice", advice="Write NAME=SOURCE")
        found[name] = source
    return found


def _corpus(options: argparse.Namespace, trained_with: list[int | None]) -> Any:
    from sae_fast.corpus.options import CorpusOptions

    known = {size for size in trained_with if size is not None}
    return CorpusOptions(
        source=options.corpus,
        split=options.split,
        column=options.column,
        shuffle=options.shuffle,
        seed=options.seed,
        context_length=options.context_length or (min(known) if known else 128),
        max_tokens=options.tokens,
        prepend_bos="auto" if options.bos == "auto" else options.bos == "yes",
        roles=tuple(role for role in options.roles.split(",") if role),
    )


def _require_device(device: str) -> None:
    """Raise `ArgumentError` where torch cannot use it."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError("--device", expected="a device that torch can use", got=f"{device} ({error})") from None


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _whole_numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ArgumentError("--probe-k", expected="numbers of features, as in 1,2,5", got=repr(text))
    return [int(part) for part in parts]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _range(ends: list[float] | None, form: str) -> str:
    return (
        ""
        if ends is None
        else f"{ends[0]:{form}}-{ends[1]:{form}}"
        if ends[0] >= 0
        else f"{ends[0]:{form}} to {ends[1]:{form}}"
    )
