"""Results in SAEBench's JSON, so that its plots read them.

The form is that of `CoreEvalOutput` in `sae_bench/evals/core/eval_output.py` of https://github.com/adamkarvonen/SAEBench
(version 0.6). Its plots know the files by `core` in the path and `_eval_results.json` at the end. SAEBench ablates with
zeros, so the scores here are those against zero ablation. What we do not compute is -1, as SAELens writes it.
"""

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_fast import __version__
from sae_fast.evaluation.metrics import Metrics
from sae_fast.evaluation.report import EvaluationReport, SaeReport
from sae_fast.files import write_whole

NOT_COMPUTED = -1.0
_TRAINERS = {"batchtopk": "batch_topk"}
"""Architectures that SAEBench's plots know by another name."""


def write_saebench(report: EvaluationReport, metrics: Mapping[str, Metrics], folder: Path, batch_size: int) -> list[Path]:
    """Write `<folder>/core/<model>_<sae>_eval_results.json` of each SAE; return the paths. `metrics` by the SAE's name."""
    (folder / "core").mkdir(parents=True, exist_ok=True)
    paths = []
    for sae in report.saes:
        name = "_".join(part for part in (report.model, sae.name) if part)
        safe = "".join(c if c.isalnum() or c in "-._" else "-" for c in name).strip("-")
        paths.append(folder / "core" / f"{safe}_eval_results.json")
        content = core_output(report, sae, metrics[sae.name], batch_size)
        write_whole(paths[-1], (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    return paths


def core_output(report: EvaluationReport, sae: SaeReport, metrics: Metrics, batch_size: int) -> dict[str, Any]:
    """The content of one file."""
    architecture = _TRAINERS.get(sae.architecture, sae.architecture)
    return {
        "eval_type_id": "core",
        "eval_config": _config(report, batch_size),
        "eval_id": str(uuid.uuid4()),
        "datetime_epoch_millis": int(1000 * time.time()),
        "eval_result_metrics": _metrics(sae, metrics),
        "eval_result_details": [],
        "sae_bench_commit_hash": f"sae_fast {__version__}",
        "sae_lens_id": sae.name,
        "sae_lens_release_id": report.model or "custom",
        "sae_lens_version": None,
        "sae_cfg_dict": {
            "model_name": report.model,
            "architecture": architecture,
            "d_in": sae.d_in,
            "d_sae": sae.d_sae,
            "hook_name": sae.hook_name,
            "context_size": report.context_length,
        }
        | ({"k": sae.k} if sae.k else {}),
        "eval_result_unstructured": {"sae_fast": {"metrics": sae.metrics, "intervals": sae.intervals}},
    }


def _config(report: EvaluationReport, batch_size: int) -> dict[str, Any]:
    n_batches = -(-report.n_tokens // (batch_size * report.context_length))
    computed = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics", "featurewise_density_statistics")
    return {
        "model_name": report.model,
        "llm_dtype": report.dtype or "float32",
        "batch_size_prompts": batch_size,
        "n_eval_reconstruction_batches": n_batches,
        "n_eval_sparsity_variance_batches": n_batches,
        "dataset": report.corpus,
        "context_size": report.context_length,
        **{f"compute_{name}": True for name in computed},
        "compute_featurewise_weight_based_metrics": False,
        "exclude_special_tokens_from_reconstruction": True,
        "verbose": False,
    }


def _metrics(sae: SaeReport, metrics: Metrics) -> dict[str, dict[str, float]]:
    def value(name: str) -> float:
        found = sae.metrics.get(name)
        return NOT_COMPUTED if found is None else found

    def renamed(**names: str) -> dict[str, float]:
        return {theirs: value(ours) for theirs, ours in names.items()}

    return {
        "model_behavior_preservation": renamed(
            kl_div_score="kl_recovered_zero", kl_div_with_ablation="kl_zero_ablation", kl_div_with_sae="kl_sae"
        ),
        "model_performance_preservation": renamed(
            ce_loss_score="ce_recovered_zero",
            ce_loss_with_ablation="ce_zero_ablation",
            ce_loss_with_sae="ce_sae",
            ce_loss_without_sae="ce_clean",
        ),
        "reconstruction_quality": renamed(explained_variance="explained_variance", mse="mse", cossim="cosine")
        | {"explained_variance_legacy": NOT_COMPUTED},
        "shrinkage": renamed(
            l2_norm_in="norm_in",
            l2_norm_out="norm_out",
            l2_ratio="norm_ratio",
            relative_reconstruction_bias="relative_reconstruction_bias",
        ),
        "sparsity": renamed(l0="l0", l1="l1"),
        "token_stats": {
            "total_tokens_eval_reconstruction": metrics.n_predictions,
            "total_tokens_eval_sparsity_variance": metrics.n_tokens,
        },
        "misc_metrics": _density(metrics.feature_counts, metrics.n_tokens),
    }


def _density(counts: Tensor, n_tokens: int) -> dict[str, float]:
    density = counts.double() / max(n_tokens, 1)
    total = max(float(density.sum()), torch.finfo(torch.float64).tiny)
    found = {}
    for percent, threshold in ((1, 0.01), (10, 0.1)):
        above = density > threshold
        found[f"freq_over_{percent}_percent"] = float(above.double().mean())
        found[f"normalized_freq_over_{percent}_percent"] = float(density[above].sum()) / total
    weights = dict.fromkeys(("average_max_encoder_cosine_sim", "average_max_decoder_cosine_sim"), NOT_COMPUTED)
    return found | weights | {"frac_alive": float((counts > 0).double().mean())}
