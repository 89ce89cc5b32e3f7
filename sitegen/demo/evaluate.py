"""Evaluate the demo on held-out files of the standard library and write the numbers into its model card.

    python -m sitegen.demo.evaluate

The table between the markers of `sitegen/demo/README.md` and `metrics.json` beside it come from here.
"""

import json
import platform
import sys
from pathlib import Path

import numpy as np
import torch

import sae_fast
import sae_fast.lm
from sae_fast.corpus import standard_library
from sae_fast.evaluation import evaluate
from sitegen.demo.train_lm import token_stream
from sitegen.demo.train_saes import CONTEXT, contexts

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- metrics -->", "<!-- /metrics -->"
BATCH = 64


def batches(stream: np.ndarray, bos: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Cut the held-out stream into contexts: BOS, then 127 tokens; nothing but BOS is left out of the count."""
    starts = np.arange(0, len(stream) - CONTEXT + 2, CONTEXT - 1)
    token_ids = contexts(stream, starts, bos)
    return [(ids, ids != bos, torch.ones_like(ids)) for ids in token_ids.split(BATCH)]


def main() -> None:
    lm = sae_fast.lm.load(FOLDER / "lm", dtype="float32")
    assert lm.bos_token_id is not None
    saes = {folder.name: sae_fast.load(folder, dtype=torch.float32) for folder in sorted((FOLDER / "saes").iterdir())}
    stream = token_stream(lm.tokenizer, standard_library.documents("held_out"))
    results = evaluate(lm, saes, batches(stream, lm.bos_token_id))
    lm_metrics = json.loads((FOLDER / "lm" / "metrics.json").read_text())
    rows = []
    metrics: dict[str, object] = {"lm": lm_metrics, "saes": {}}
    for name, sae in saes.items():
        result = results[name]
        dead = int((result.feature_counts == 0).sum()) / sae.cfg.d_sae
        rows.append(
            f"| `{name}` | `{sae.cfg.hook_name}` | {result.l0:.1f} | {result.explained_variance:.3f} "
            f"| {result.delta_ce:.3f} | {result.ce_recovered:.3f} | {result.ce_recovered_zero:.3f} | {dead:.1%} |"
        )
        metrics["saes"][name] = {  # type: ignore[index]
            "l0": result.l0,
            "explained_variance": result.explained_variance,
            "delta_ce_nats": result.delta_ce,
            "ce_clean_nats": result.ce_clean,
            "ce_recovered_mean_ablation": result.ce_recovered,
            "ce_recovered_zero_ablation": result.ce_recovered_zero,
            "never_active_share": dead,
            "n_tokens": result.n_tokens,
        }
    n_tokens = next(iter(results.values())).n_tokens
    versions = f"Python {sys.version.split()[0]}, torch {torch.__version__}, {platform.machine()}"
    lm_loss, bigram_loss = lm_metrics["held_out_loss_nats"], lm_metrics["bigram_loss_nats"]
    table = [
        f"Language model: held-out loss {lm_loss:.3f} nats per token; bigram baseline {bigram_loss:.3f} nats.",
        "",
        f"SAEs, on {n_tokens:,} held-out tokens ({versions}):",
        "",
        "| SAE | hook | L0 | explained variance | ΔCE (nats) | CE recovered (mean ablation) | (zero ablation) | never active |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
        *rows,
    ]
    card = FOLDER / "README.md"
    text = card.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    card.write_text(f"{before}{BEGIN}\n" + "\n".join(table) + f"\n{END}{after}", encoding="utf-8")
    (FOLDER / "metrics.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    main()
