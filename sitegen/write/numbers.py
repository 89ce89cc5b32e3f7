"""Numbers as the pages show them: three significant digits. `site_templates/assets/js/format.js` does the same."""

_MINUS = "\N{MINUS SIGN}"
_NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"
ABSENT = "–"
SMALLEST_PLAIN = 1e-4
"""Smaller numbers are shown with an exponent."""


def significant(value: float | None, digits: int = 3) -> str:
    """Show a number with three significant digits, a dash where there is none."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10**digits - 0.5:
        text = f"{value:,.0f}"
    elif size < SMALLEST_PLAIN:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{value:#.{digits}g}".rstrip(".")
    return text.replace("-", _MINUS)


def percent(value: float | None) -> str:
    """Show a share in percent with three significant digits."""
    return ABSENT if value is None else f"{significant(100 * value)}{_NARROW_SPACE}%"


def count(value: int | None) -> str:
    """Show a whole number with separators."""
    return ABSENT if value is None else f"{value:,}"
