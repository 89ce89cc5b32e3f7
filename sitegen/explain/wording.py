"""The text of a label: short, in one form."""

from collections.abc import Iterable

MAX_LABEL = 60
"""Characters of a label."""
MAX_QUOTED = 24
"""Characters of one quoted text."""


def quoted(text: str) -> str:
    """Quote a token's text; line ends and tabs are made visible, long texts cut."""
    visible = text.replace("\r", "").replace("\n", "↵").replace("\t", "⇥")
    if visible and not visible.strip(" "):
        return f"{len(visible)} space{'s' if len(visible) > 1 else ''}"
    if len(visible) > MAX_QUOTED:
        visible = visible[: MAX_QUOTED - 1] + "…"
    return f"`{visible}`"


def listed(parts: Iterable[str], before: str = "", after: str = "") -> str:
    """Return `before a, b, c after` with as many of the different parts as a label holds."""
    parts = list(dict.fromkeys(parts))
    kept = parts[:1]
    for part in parts[1:]:
        if len(before) + len(", ".join([*kept, part])) + len(after) + len(", …") > MAX_LABEL:
            break
        kept.append(part)
    more = ", …" if len(kept) < len(parts) else ""
    return short(before + ", ".join(kept) + more + after)


def short(text: str) -> str:
    """Cut a label to `MAX_LABEL` characters."""
    return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 1] + "…"
