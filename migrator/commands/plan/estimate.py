"""How much there is to copy, from what the inventory counted and what the runs that are done have shown. Pure.

The rows of a history give its values and bytes in proportion; each other part has what it had on average. What no run
has shown yet is not known, and is told so: a guess would be taken for a figure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from migrations_db.progress import MEASURED_RUNS
from migrations_db.report_types import Measured
from migrator.commands.plan.requests import Amounts, neptune_requests, wandb_requests
from migrator.job.pace import slower_s
from migrator.parts import OPTIONAL_PARTS

VALUE_BYTES = 16  # as the state database counts a number: what is beyond are files and texts

#: disk space that an offline file takes: for a value, by runs with five metrics in a step; and without any
OFFLINE_VALUE_BYTES = 35.0
OFFLINE_RUN_BYTES = 40_000


@dataclass(slots=True)
class Sizes:
    """Sums over some runs. `values`, `files`, `size_bytes` and the requests are about so many; None: not known.

    `rows_unknown`: runs whose rows the source has not counted.
    """

    runs: int = 0
    rows: int = 0
    rows_unknown: int = 0
    values: float | None = 0.0
    files: float | None = 0.0
    size_bytes: float | None = 0.0
    wandb_requests: float | None = 0.0
    neptune_requests: float | None = 0.0

    def add(self, other: Sizes) -> None:
        self.runs += other.runs
        self.rows += other.rows
        self.rows_unknown += other.rows_unknown
        self.values = _sum(self.values, other.values)
        self.files = _sum(self.files, other.files)
        self.size_bytes = _sum(self.size_bytes, other.size_bytes)
        self.wandb_requests = _sum(self.wandb_requests, other.wandb_requests)
        self.neptune_requests = _sum(self.neptune_requests, other.neptune_requests)


class PartSize(NamedTuple):
    """Values and bytes that a part of one run has, about."""

    values: float
    size_bytes: float


class Estimator:
    """Estimates runs of which `parts` are to be copied. `unknown`: parts that no run has shown yet."""

    def __init__(self, measured: Measured, parts: Collection[str]) -> None:
        self._measured = measured
        self._parts = parts
        known = {name for name, found in measured.parts.items() if found.runs >= MEASURED_RUNS}
        self.unknown = [name for name in parts if name not in known]

    def sizes(
        self, rows: int | None, read: int, copied_bytes: int, files: Sequence[int] | None, *, is_local: bool = False
    ) -> Sizes:
        """One run, of which so many values and bytes are copied already. `files`: their sizes, where they are known.

        `is_local`: it is read without requests.
        """
        parts = {name: self._part(name, rows) for name in self._parts}
        if "files" in parts and files is not None:
            parts["files"] = PartSize(len(files), sum(files))
        is_known = all(part or name in OPTIONAL_PARTS for name, part in parts.items())
        found = [part for part in parts.values() if part]
        of_files = parts.get("files", PartSize(0, 0))
        values = max(0.0, sum(part.values for part in found) - read) if is_known else None
        size_bytes = max(0.0, sum(part.size_bytes for part in found) - copied_bytes) if is_known else None
        amounts = None
        if values is not None and size_bytes is not None and of_files:
            lines = parts.get("console") or PartSize(0, 0)
            value_bytes = max(0.0, size_bytes - of_files.size_bytes)
            amounts = Amounts(float(rows or 0), values, lines.values, of_files.values, value_bytes)
        return Sizes(
            runs=1,
            rows=rows or 0,
            rows_unknown=int(rows is None),
            values=values,
            files=of_files.values if of_files else None,
            size_bytes=size_bytes,
            wandb_requests=0.0 if is_local else amounts and wandb_requests(frozenset(parts), amounts),
            neptune_requests=amounts and neptune_requests(amounts),
        )

    def _part(self, name: str, rows: int | None) -> PartSize | None:
        if name in self.unknown:
            return None
        measured, found = self._measured, self._measured.parts[name]
        if name == "history" and rows is not None and measured.rows:
            return PartSize(rows * measured.row_values / measured.rows, rows * measured.row_bytes / measured.rows)
        return PartSize(found.values / found.runs, found.size_bytes / found.runs)


def time_s(sizes: Sizes, measured: Measured) -> float | None:
    """At the speed of the last commands; None: not known."""
    speed = measured.speed
    if speed is None or sizes.values is None or sizes.size_bytes is None:
        return None
    return slower_s(sizes.values, sizes.size_bytes, speed.values / speed.elapsed_s, speed.size_bytes / speed.elapsed_s)


class OfflineSize(NamedTuple):
    """Disk space for offline files, and what a value takes there. `measured_runs` 0: as it usually is."""

    size_bytes: float
    value_bytes: float
    measured_runs: int


def offline_size(sizes: Sizes, measured: Measured, on_disk: int | None) -> OfflineSize | None:
    """None: not known. `on_disk`: what the offline files of all runs that are done take; None: that cannot be told."""
    if sizes.values is None or sizes.size_bytes is None:
        return None
    beyond = max(0.0, sizes.size_bytes - sizes.values * VALUE_BYTES)
    value_bytes, runs = OFFLINE_VALUE_BYTES, 0
    if on_disk and measured.written and measured.runs >= MEASURED_RUNS:
        copied = sum(part.size_bytes for part in measured.parts.values())
        logs = on_disk - max(0, copied - measured.written * VALUE_BYTES) - measured.runs * OFFLINE_RUN_BYTES
        value_bytes, runs = max(logs / measured.written, VALUE_BYTES), measured.runs
    return OfflineSize(sizes.values * value_bytes + sizes.runs * OFFLINE_RUN_BYTES + beyond, value_bytes, runs)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
