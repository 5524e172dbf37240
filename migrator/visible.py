"""Output to the terminal. Names and messages of servers come from outside and may contain escape sequences."""

from __future__ import annotations

import sys
from typing import TextIO


def visible(text: str, *, lines: bool = False) -> str:
    r"""`text` with control characters as Python writes them, such as \x1b, because a terminal would execute them.

    `lines`: keep line ends and tabs.
    """
    kept = "\n\t" if lines else ""
    return "".join(char if char.isprintable() or char in kept else repr(char)[1:-1] for char in text)


def tell(message: str, stream: TextIO | None = None) -> None:
    """Print a message for the user (`stream` None: on stderr)."""
    print(visible(message, lines=True), file=stream or sys.stderr, flush=True)
