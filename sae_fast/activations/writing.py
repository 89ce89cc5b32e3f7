"""One pass of a language model over a TokenDataset into an activation store, shard by shard; a killed pass goes on."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_fast.activations.codec import StoreDtype, check_dtype, packed, row_bytes
from sae_fast.activations.store import POSITIONS, STATISTICS, STORE, VERSION, ActivationStore, dataset_fingerprint, shard_name
from sae_fast.corpus.batch import Batch, batches, check_tokens, part_contexts
from sae_fast.corpus.tokens import COUNTED, TokenDataset
from sae_fast.errors import ArgumentError, DiskFullError, MismatchError, NonFiniteError
from sae_fast.files import fingerprint, reported_full, write_whole
from sae_fast.lm.interface import LanguageModel
from sae_fast.progress import step

BEGUN = "begun.json"
"""What an unfinished store is made from."""


def store_bytes(n_tokens: int, widths: Sequence[int], dtype: StoreDtype = "bfloat16") -> int:
    """Size on disk of a store of so many counted tokens at hooks of these widths."""
    return n_tokens * (8 + sum(row_bytes(d, dtype) for d in widths))


def write_store(
    folder: Path | str,
    lm: LanguageModel,
    dataset: TokenDataset,
    hooks: Sequence[str],
    dtype: StoreDtype = "bfloat16",
    batch_size: int = 32,
    shard_tokens: int = 131072,
    model_fingerprint: str = "",
    show_progress: bool = True,
) -> ActivationStore:
    """Run `lm` once over the dataset and write the activations of all counted tokens at each hook.

    A store that is there already is opened, one that was interrupted goes on with its next shard. `shard_tokens` positions make
    a shard: what a kill loses at most. `model_fingerprint` tells this model from others of the same name.

    Raises:
        DiskFullError: the disk has less room than the store needs; nothing has been written.
        MismatchError: the folder holds activations of something else, or the LM cannot read the dataset.
        NonFiniteError: the LM gives NaN or infinity at a counted token, or a value does not fit the dtype.
        HookNotFoundError: the LM has no such hook.
    """
    folder = Path(folder)
    check_dtype(dtype)
    if not hooks or len(set(hooks)) != len(hooks):
        raise ArgumentError("hooks", expected="one or more different hooks", got=list(hooks))
    check_tokens(dataset, lm.n_ctx, lm.d_vocab)
    widths = {hook: lm.d_hook(hook) for hook in hooks}
    begun = {
        "version": VERSION,
        "hooks": widths,
        "dtype": dtype,
        "dataset": dataset_fingerprint(dataset),
        "model": model_fingerprint,
        "cut": fingerprint([batch_size, shard_tokens]),
    }
    parts = part_contexts(dataset, shard_tokens)
    if _is_finished(folder, begun):
        return ActivationStore.open(folder)
    missing = [number for number in range(len(parts)) if not (folder / _summary_name(number)).is_file()]
    _require_room(folder, store_bytes(dataset.n_counted * len(missing) // max(len(parts), 1), list(widths.values()), dtype))
    _begin(folder, begun, len(hooks))
    with step("activations", dataset.n_contexts, "contexts", enabled=show_progress) as advance:
        for number, contexts in enumerate(parts):
            if number in missing:
                _write_shard(folder, number, lm, dataset, list(hooks), dtype, list(batches(dataset, contexts, batch_size)))
            advance(len(contexts))
    _finish(folder, begun, dataset, len(parts))
    return ActivationStore.open(folder)


def _is_finished(folder: Path, begun: dict[str, object]) -> bool:
    for name in (STORE, BEGUN):
        file = folder / name
        if file.is_file():
            there = json.loads(file.read_text(encoding="utf-8"))
            differing = [key for key, value in begun.items() if there.get(key) != value]
            if differing:
                raise MismatchError(
                    f"{folder}: holds activations of something else (other {', '.join(differing)})",
                    advice="Name another folder, or remove this one if it is not needed",
                )
            return name == STORE
    return False


def _begin(folder: Path, begun: dict[str, object], n_hooks: int) -> None:
    with reported_full(folder):
        for number in range(n_hooks):
            (folder / shard_name(number, 0)).parent.mkdir(parents=True, exist_ok=True)
    write_whole(folder / BEGUN, _json(begun))


def _write_shard(
    folder: Path,
    number: int,
    lm: LanguageModel,
    dataset: TokenDataset,
    hooks: list[str],
    dtype: StoreDtype,
    contexts: list[Batch],
) -> None:
    """Rows first, the summary last: where it is, the shard is whole."""
    rows: dict[str, list[NDArray[np.generic]]] = {hook: [] for hook in hooks}
    sums: dict[str, Tensor] = {}
    for batch in contexts:
        activations = lm.activations(batch.token_ids, hooks, batch.attention_mask)
        for hook in hooks:
            x = activations[hook][batch.is_counted.to(activations[hook].device)]
            _require_finite(x, hook, batch, dataset)
            rows[hook].append(packed(x, dtype))
            for name, value in _sums(x).items():
                key = f"{hook}.{name}"
                sums[key] = sums[key] + value if key in sums else value
    for hook_number, hook in enumerate(hooks):
        write_whole(folder / shard_name(hook_number, number), np.concatenate(rows[hook]).tobytes())
    sums["n_rows"] = torch.tensor(sum(len(part) for part in rows[hooks[0]]))
    summary = folder / _summary_name(number)
    with reported_full(summary):
        save_file(sums, summary.with_name(summary.name + ".new"))
        summary.with_name(summary.name + ".new").replace(summary)


def _sums(x: Tensor) -> dict[str, Tensor]:
    x = x.double().cpu()
    return {"sum": x.sum(0), "sum_of_squares": x.square().sum(), "norm": x.norm(dim=1).sum()}


def _finish(folder: Path, begun: dict[str, object], dataset: TokenDataset, n_parts: int) -> None:
    summaries = [load_file(folder / _summary_name(number)) for number in range(n_parts)]
    totals = {key: sum((part[key] for part in summaries[1:]), summaries[0][key]) for key in summaries[0] if key != "n_rows"}
    counts = [int(part["n_rows"]) for part in summaries]
    positions = np.flatnonzero(np.asarray(dataset.kind).reshape(-1) == COUNTED).astype(np.int64)
    with reported_full(folder / POSITIONS):
        np.save(folder / POSITIONS, positions)
        save_file(totals, folder / STATISTICS)
    write_whole(folder / STORE, _json({**begun, "shards": counts, "n_rows": sum(counts)}))
    (folder / BEGUN).unlink()
    for number in range(n_parts):
        (folder / _summary_name(number)).unlink()


def _require_room(folder: Path, n_bytes: int) -> None:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if n_bytes > free:
        raise DiskFullError(
            f"{folder}: the activations need {n_bytes / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free",
            advice="Take fewer tokens or hooks, store them as int8, or name another disk",
        )


def _require_finite(x: Tensor, hook: str, batch: Batch, dataset: TokenDataset) -> None:
    finite = torch.isfinite(x).all(1)
    if bool(finite.all()):
        return
    row = int((~finite).nonzero()[0, 0])
    context = batch.contexts[int(batch.is_counted.nonzero()[row, 0])]
    raise NonFiniteError(
        f"The model gives NaN or infinity at {hook}, first in context {context:,} (document "
        f"{dataset.documents[dataset.document[context]]})",
        advice="Its weights may be damaged, or float16 too narrow: load it as float32",
    )


def _summary_name(number: int) -> str:
    return f"summary-{number:05}.safetensors"


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
