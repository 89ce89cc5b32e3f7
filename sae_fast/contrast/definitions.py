"""What every number of a contrast page means, in the words of that contrast."""

from html import escape

from sae_fast.contrast.report import Contrast

POOLED = {
    "mean": "mean activation over the chosen tokens of the text",
    "max": "activation of largest magnitude among the chosen tokens of the text",
    "frequency": "share of the chosen tokens of the text on which the feature is active",
}


def definitions(contrast: Contrast, labels: bool) -> str:
    """HTML of the section that the page's dotted links lead to; `labels`: whether the tables show any."""
    entries = _of_values(contrast) | _of_certainty(contrast)
    if labels:
        entries["label"] = ("label", "The feature’s automatic label on this site, where it has one.")
    items = "\n".join(f'<dt id="{name}">{words}</dt><dd>{text}</dd>' for name, (words, text) in entries.items())
    return f'<section>\n<h2>What the numbers mean</h2>\n<dl class="definitions">\n{items}\n</dl>\n</section>'


def _of_values(contrast: Contrast) -> dict[str, tuple[str, str]]:
    a, b = escape(contrast.a.name), escape(contrast.b.name)
    spread = "of the differences within pairs" if contrast.paired else "pooled over the two sets"
    value = POOLED.get(contrast.pool, escape(contrast.pool))
    drawn = "pairs" if contrast.paired else "texts of each set"
    auc = f"Probability that a text of {a} has a larger value than one of {b}, ties counted half: the area under the ROC curve."
    if contrast.paired:
        auc = f"Share of pairs in which the text of {a} has the larger value, ties counted half."
    effect = f"Mean of {a} minus mean of {b}, in standard deviations {spread} (Cohen’s d). Positive: stronger in {a}."
    return {
        "pooled": ("value of a text", f"The {value}. Statistics are over texts: tokens of one text are not independent."),
        "effect": ("d", f"{effect} ∞: a difference without any spread."),
        "interval": ("95 % interval", f"Percentile bootstrap of d: {drawn} drawn again {contrast.resamples:,} times."),
        "auc": ("AUC", auc),
        "mean-a": (f"mean {a}", f"Mean value over the texts of {a}, texts without the feature included."),
        "mean-b": (f"mean {b}", f"The same over the texts of {b}."),
        "n-a": (f"texts {a}", f"Texts of {a} ({contrast.a.n_texts:,}) in which the feature is active at a chosen token."),
        "n-b": (f"texts {b}", f"The same in {b} ({contrast.b.n_texts:,})."),
        "density": ("density", "Chosen tokens of both sets on which the feature is active, over all chosen tokens."),
    }


def _of_certainty(contrast: Contrast) -> dict[str, tuple[str, str]]:
    exchange = "the labels of the texts may be permuted"
    if contrast.paired:
        exchange = "the sign of each pair’s difference may be flipped"
    p = (
        f"If nothing differs, {exchange}; p is the share of such exchanges with a difference at least as large, in either "
        "direction. Features that chance reaches often are decided after fewer exchanges."
    )
    q = (
        "p adjusted for the number of tested features of this SAE by Benjamini and Hochberg’s procedure. Of all features with "
        f"q ≤ {contrast.alpha:g} (found), at most {100 * contrast.alpha:g} % are expected to be false."
    )
    return {
        "p": ("p", p),
        "q": ("q, false-discovery rate", q),
        "never": ("active in no text", "Such features are not tested, and p is not corrected for them."),
    }
