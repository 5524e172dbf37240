"""Text on a console: with colours and lines on a terminal, plain elsewhere.

Names come from outside: they are never interpreted as rich's markup, and control characters in them have no effect.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from migrations_db.states import RunStatus
from migrator.records import Kind
from migrator.redaction import without_secrets
from migrator.visible import visible

MESSAGE_CHARS = 300  # of an error message
MIN_WIDTH = 20  # columns
STATUS_STYLES = {
    RunStatus.PENDING: "",
    RunStatus.RUNNING: "cyan",
    RunStatus.DONE: "green",
    RunStatus.FAILED: "red",
    RunStatus.SKIPPED: "yellow",
}


def status_word(status: RunStatus) -> str:
    """The status for people. Runs are "left out", because "skipped" is for values."""
    return "left out" if status is RunStatus.SKIPPED else status.value


#: explanations of the ledger's codes for what was not written; README has the same table
SKIPS_MEAN = {
    "wandb_object": "an object: wandb/raw/summary.json has it, and the history if logged",
    "missing_file": "the source names it, but does not have it",
    "damaged_file": "the offline copy of the file is not as it was written",
    "link": "a link that the log does not name, or that leads to no place for files",
    "contains_key": "it contains a W&B or Neptune key that this tool uses",
    "outside": "neither in the run's directory nor where W&B stages artifacts (WANDB_DATA_DIR of the training)",
    "missing_rows": "the source counts more rows than it returns",
    "bad_row": "a row of the history without `_step`, or that cannot be read",
    "duplicate_step": "the metric has a value there already",
    "step_not_increasing": "a higher step came before it",
    "step_out_of_range": "below 0, or 1e12 and more",
    "not_a_number": "system metrics must be numbers",
    "number_out_of_range": "an integer too large for a double",
    "bad_histogram": "its edges do not rise, or do not fit its values",
    "string_set_too_large": "the tags are over 1 MiB together",
    "too_large": "a file over --max-file-size",
    "unreadable": "a part of a local log that is damaged, or a record over 64 MiB",
    "overwritten": "a later start with the same run id has taken its place in W&B",
    "refused": "Neptune did not accept it, with this code",
}


def say(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    """Print text that wraps within its indentation, without trailing spaces."""
    width = max(console.width - indent, MIN_WIDTH)
    for line in Text(visible(text), style).wrap(console, width, overflow="fold"):
        line.rstrip()
        console.print(Text(" " * indent).append_text(line), soft_wrap=True)


def heading(console: Console, text: str) -> None:
    console.print()
    say(console, text, "bold")


def new_table(console: Console, *columns: str) -> Table:
    """A table. Columns that begin with `>` contain numbers. Names are wrapped, never cut."""
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, show_edge=False)
    for column in columns:
        if column.startswith(">"):
            table.add_column(Text(column[1:]), justify="right", no_wrap=True)
        else:
            table.add_column(Text(column), overflow="fold")
    return table


def add_row(table: Table, *cells: str, indent: int = 0, style: str = "") -> None:
    """Add a row. The last cell wraps within its indentation; the first one has the style."""
    *texts, last = (Text(visible(cell), "" if number else style) for number, cell in enumerate(cells))
    table.add_row(*texts, Padding(last, (0, 0, 0, indent)))


def print_table(console: Console, table: Table) -> None:
    """Print a table without the spaces with which rich fills the last column."""
    for line in console.render_lines(table, pad=False):
        text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
        text.rstrip()
        console.print(text, soft_wrap=True)


def what_text(kind: str, reason: str, width: int) -> str:
    """Describe what happened, from a line of the ledger. Notes have a text; skips have a code, which is explained."""
    short = shortened(reason, max(width, MIN_WIDTH))
    if kind != Kind.SKIPPED:
        return f"{kind}: {short}"
    meaning = SKIPS_MEAN.get(reason.partition(":")[0])
    return f"{short}: {meaning}" if meaning else short


def path_text(path: str, width: int) -> str:
    """The ledger's path, or "old → new": each name at most half a line, in quotes if it is easily overlooked."""
    names = (shortened(name, max(width, MIN_WIDTH) // 2) for name in path.split(" → "))
    return " → ".join(name if name and name == name.strip() else f'"{name}"' for name in names)


def shortened(text: str, max_chars: int) -> str:
    """Cut the middle out of text that is too long."""
    start = max_chars // 2
    return text if len(text) <= max_chars else f"{text[:start]}…{text[start + 1 - max_chars :]}"


def message_text(text: str | None) -> str:
    words = " ".join(without_secrets(text or "no message").split())
    return words if len(words) <= MESSAGE_CHARS else f"{words[:MESSAGE_CHARS]}..."


def confirmed(question: str) -> bool:
    """Ask the user at the terminal. Return means no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Which parts are missing in runs that are done, and how to copy them. Empty: none."""
    if not left_out:
        return ""
    count, options = max(left_out.values()), " ".join(f"--include {part}" for part in left_out)
    runs = f"{counted(count, 'run')} {'is' if count == 1 else 'are'} done"
    return f"{runs} without {', '.join(left_out)}: `migrate run {options}` copies the rest"


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
