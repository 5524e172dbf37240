"""The door to the terminal: names and servers' words come from outside, and may hold escape sequences."""

from __future__ import annotations

import sys
from typing import TextIO


def visible(text: str, *, lines: bool = False) -> str:
    r"""`text` with control characters as Python writes them, such as \x1b: a terminal would obey them.

    `lines`: line ends and tabs stay.
    """
    kept = "\n\t" if lines else ""
    return "".join(char if char.isprintable() or char in kept else repr(char)[1:-1] for char in text)


def tell(message: str, stream: TextIO | None = None) -> None:
    """Print a message for people (None: on stderr)."""
    print(visible(message, lines=True), file=stream or sys.stderr, flush=True)
