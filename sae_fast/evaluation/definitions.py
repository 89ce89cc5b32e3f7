"""What every number of an evaluation's page means."""

from sae_fast.evaluation.report import EvaluationReport

_DEFINITIONS = {
    "l0": ("L0", "Mean number of features with a non-zero activation, per token."),
    "explained_variance": (
        "explained variance",
        "1 − Σ‖y − ŷ‖² / Σ‖y − ȳ‖²: y where the SAE writes, ŷ its reconstruction, ȳ the mean of y. 1 is perfect.",
    ),
    "delta_ce": (
        "ΔCE",
        "Cross entropy of the next token with the reconstruction spliced in, minus that of the model as it is, in nats.",
    ),
    "ce_recovered": (
        "CE recovered",
        "(CE with the mean activation − CE with the SAE) / (CE with the mean activation − CE of the model as it is).",
    ),
    "ce_recovered_zero": ("CE recovered, zero", "The same with zeros for the mean activation, which flatters every SAE."),
    "kl_sae": (
        "KL",
        "Mean KL divergence of the next-token distribution with the SAE from that of the model as it is, in nats.",
    ),
    "kl_recovered": ("KL recovered", "1 − KL with the SAE / KL with the mean activation."),
    "mse": ("MSE", "Mean over tokens of ‖y − ŷ‖², summed over dimensions."),
    "cosine": ("cosine", "Mean over tokens of the cosine between y and ŷ."),
    "norm_ratio": ("norm ratio", "Mean over tokens of ‖ŷ‖ / ‖y‖. Below 1, reconstructions are too short (shrinkage)."),
    "relative_reconstruction_bias": (
        "bias γ",
        "Σ‖ŷ‖² / Σ y·ŷ (Rajamanoharan et al. 2024): ŷ divided by it fits y best. Below 1: shrinkage.",
    ),
    "l1": ("L1", "Mean over tokens of the sum of |activation|."),
    "n_dead": (
        "not seen",
        "Features active on no counted token; called dead only where at least 1,000,000 tokens were counted.",
    ),
    "n_dense": ("dense", "Features active on more than a tenth of the tokens."),
}


def definitions(report: EvaluationReport) -> str:
    """HTML of the section that the headings' question marks lead to."""
    entries = dict(_DEFINITIONS)
    drawn = (
        f"Percentile bootstrap: documents, dealt out to {report.n_blocks:,} blocks, are drawn again {report.resamples:,} "
        "times; every SAE meets the same draws."
    )
    entries["intervals"] = ("95 % interval", drawn if report.n_blocks > 1 else "Not given: all texts are of one document.")
    alone = (
        "As if the tokens of that position or class were all there are; ΔCE is that of predicting them. Position 0 begins a "
        "context. Below each number its 95 % interval, by drawing 100 blocks of documents again."
    )
    entries["breakdowns"] = ("position, class", alone)
    if any(sae.by_hook for sae in report.saes):
        whole = (
            "What writes at several hooks is measured over all of them side by side, and at each. Layers measured as one are "
            "spliced in together: their outputs at a hook are summed, and each reads what earlier ones have written."
        )
        entries["hooks"] = ("hook, layer", whole)
    items = "\n".join(f'<dt id="{name}">{words}</dt><dd>{text}</dd>' for name, (words, text) in entries.items())
    return f'<section>\n<h2>What the numbers mean</h2>\n<dl class="definitions">\n{items}\n</dl>\n</section>'
