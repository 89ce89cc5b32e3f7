"""What commands write on standard output: lines, aligned pairs and tables, JSON."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence


def say(text: str) -> None:
    """One line on standard output."""
    sys.stdout.write(f"{text}\n")


def say_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """A name and a value on each line, aligned."""
    for name, value in pairs:
        say(f"{name:<18}{value}")


def say_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """A table with aligned columns; those numbered in `right` are set flush right."""
    table = [tuple(head), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        say("  ".join(cells).rstrip())


def say_json(value: object) -> None:
    """A value as JSON, indented; what JSON has no form for is written as text."""
    say(json.dumps(value, indent=1, ensure_ascii=False, default=str))


class Examples(argparse.RawDescriptionHelpFormatter):
    """Help whose description and examples keep their lines."""
