"""What is computed for a feature, and how much of it."""

from dataclasses import dataclass, fields

from sitegen.errors import ReleaseError


@dataclass(frozen=True)
class FactOptions:
    """Sizes of the facts; 0 leaves a fact out. Definitions: `docs/facts.md`."""

    examples: int = 20
    """Top examples, one per context, repeated text folded."""
    window: int = 64
    """Tokens of an example."""
    before: int = 32
    """Tokens of an example before its peak."""
    intervals: int = 5
    """Equal-width bands of |activation|."""
    per_interval: int = 5
    """Examples of each band."""
    logits: int = 10
    """Most promoted tokens, and most suppressed ones."""
    normed_logits: bool = False
    """Fold the final norm's weight into W_U and remove its mean over the vocabulary."""
    neighbours: int = 10
    """Nearest features by cosine of decoder rows."""
    coactive: int = 10
    """Features by phi coefficient."""
    min_together: int = 5
    """Tokens on which two features must both be active to be listed as co-active."""
    top_tokens: int = 10
    """Tokens by activation mass."""
    bins: int = 50
    """Bins of the activation histogram and of the logit histogram."""
    labels: bool = True
    """Look for a label by rule."""
    label_tokens: int = 2_000_000
    """Tokens, in whole documents, that labels are chosen and measured on."""
    pair_bytes: int = 512 * 2**20
    """Bytes of the co-activation counts held at once; more features than fit take several passes over the index."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if not isinstance(value, bool) and value < 0:
                raise ReleaseError(f"Fact option {option.name} is {value}, expected 0 or more.")
        if self.bins < 1:
            raise ReleaseError(f"Fact option bins is {self.bins}, expected 1 or more.")
        if not self.before < self.window:
            raise ReleaseError(
                f"Fact options before = {self.before}, window = {self.window}: expected before < window, to show the peak."
            )
