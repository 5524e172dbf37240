"""What an inventory of local directories found and left out, completely or in part, as all commands show it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console

from migrations_db.report_types import LeftOutGroup
from migrator.commands.text import heading, say
from migrator.listed import Cause, LeftOut

EXAMPLES = 3  # paths shown per cause

#: what each cause means, and what helps
LEFT_OUT_MEANS = {
    Cause.LFS_POINTER: ("a Git LFS pointer stands in place of the log", "`git lfs pull`, then `migrate inventory`"),
    Cause.CRLF: (
        "git or an editor has converted the line ends in the log",
        "copy it again as binary, for example `git -c core.autocrlf=false clone ...`, then `migrate inventory`",
    ),
    Cause.EMPTY_LOG: (
        "the log is empty: its process died before it wrote anything, or copying it failed",
        "copy it again from where it was written; until then the files beside it are a run without history",
    ),
    Cause.NO_RUN: (
        "the log ends before it says to which run it belongs",
        "copy it again from where it was written; until then the files beside it are a run without history",
    ),
    Cause.NOT_A_LOG: ("a .wandb file that is not a W&B log", "nothing, unless it was one: then copy it again"),
    Cause.UNREADABLE: ("it cannot be read", "see `ls -lL`: get permission, or the data behind a link"),
    Cause.INCOMPLETE: ("parts of the log are damaged", "what can be read is copied; a better copy would have more"),
    Cause.NO_HISTORY: (
        "a run directory without a log, copied as a run without history",
        "if its run-*.wandb is anywhere, put it there, then `migrate inventory`",
    ),
    Cause.NO_LOG: ("a run directory without a log and without files", "nothing: there is nothing in it to copy"),
    Cause.LINK: ("a link to a directory: links are not followed", "give its target with --local, too"),
}


def meaning(cause: str) -> tuple[str, str]:
    """What a cause means, and what helps. For a cause of another version: its code."""
    known = {word.value: texts for word, texts in LEFT_OUT_MEANS.items()}
    return known.get(cause, (cause, "see the README of the version that found it"))


def grouped(left_out: Iterable[LeftOut]) -> list[LeftOutGroup]:
    """Group by cause, most frequent first, with some of the paths."""
    paths: defaultdict[str, list[str]] = defaultdict(list)
    for one in left_out:
        paths[one.cause].append(one.path)
    groups = [LeftOutGroup(cause, len(found), sorted(found)[:EXAMPLES]) for cause, found in paths.items()]
    return sorted(groups, key=lambda group: (-group.count, group.cause))


def left_out_json(groups: Iterable[LeftOutGroup]) -> list[dict[str, Any]]:
    """The list `problems` in the documents of `inventory` and `status`."""
    return [
        {
            "cause": group.cause,
            "count": group.count,
            "examples": list(group.examples),
            "meaning": meaning(group.cause)[0],
            "advice": meaning(group.cause)[1],
        }
        for group in groups
    ]


def left_out_lines(groups: Iterable[LeftOutGroup]) -> list[str]:
    """A few lines per cause. Lines that belong to the line above are indented."""
    lines = []
    for group in groups:
        means, what_helps = meaning(group.cause)
        lines.append(f"{group.count:,} {group.cause}: {means}")
        lines += [f"  {path}" for path in group.examples]
        if group.count > len(group.examples):
            lines.append(f"  ... and {group.count - len(group.examples):,} more")
        lines.append(f"  What helps: {what_helps}")
    return lines


def print_left_out(console: Console, groups: Sequence[LeftOutGroup]) -> None:
    """Print it for people: by cause, with examples and what helps."""
    if groups:
        heading(console, "Left out of the inventory, or incomplete")
    for line in left_out_lines(groups):
        text = line.lstrip()
        say(console, text, indent=2 + len(line) - len(text))
