"""How many requests a copy sends, by the sizes of pages and groups (see `copying.pipeline`). Pure.

    W&B        the run, its history by pages or exports, system metrics, console and file lists by pages, and each file
    Neptune    creation and end, the values by groups, signed addresses by groups, and each file

Left out are requests that depend on time: tries again, and questions whether Neptune has processed what was sent.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from migrator.copying.pipeline import GROUP_BYTES, GROUP_VALUES

HISTORY_ROWS = 5_000  # rows per page of W&B's history; an export has more
CONSOLE_LINES = 2_000  # lines per page of W&B's console
LISTED_FILES = 500  # files per page of W&B's list
SIGNED_FILES = 16  # files whose addresses Neptune signs at a time
CREATED_AND_ENDED = 2  # requests of a run at Neptune besides its values


class Amounts(NamedTuple):
    """What a run has: about so many rows, values, console lines, files, and bytes without the files."""

    rows: float
    values: float
    lines: float
    files: float
    value_bytes: float


def wandb_requests(parts: frozenset[str], amounts: Amounts) -> float:
    """Requests that read these parts of a run from W&B's API."""
    requests = 1.0  # the run, with its config and summary
    if "history" in parts:
        requests += 1 + _pages(amounts.rows, HISTORY_ROWS)
    if "system" in parts:
        requests += 2  # whether there is an export, and the samples
    if "console" in parts:
        requests += _pages(amounts.lines, CONSOLE_LINES)
    if "files" in parts:
        requests += _pages(amounts.files, LISTED_FILES) + amounts.files
    return requests


def neptune_requests(amounts: Amounts) -> float:
    """Requests that write a run to Neptune."""
    groups = max(_pages(amounts.values, GROUP_VALUES), _pages(amounts.value_bytes, GROUP_BYTES))
    return CREATED_AND_ENDED + groups + ceil(amounts.files / SIGNED_FILES) + amounts.files


def _pages(count: float, size: int) -> int:
    """Even nothing takes a page."""
    return max(1, ceil(count / size))
