"""System metrics: `system/<name>`, one step per sample. In a fork, steps start after the fork step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from migrator.naming import Paths
from migrator.parts.base import (
    BatchLedger,
    Context,
    Cursor,
    Fill,
    Times,
    as_double,
    in_batches,
    is_number,
    leaves_of,
    non_finite,
)
from migrator.records import Batch, Kind, Points, SystemRow
from migrator.sources.base import SourceRun


def batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """Copy all samples after the cursor, numbered from 0 over the whole run."""
    converter = _Converter(run, cursor, context)
    return in_batches(run.system(converter.first_row), converter)


def flattened(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield metrics as (name, value). Old SDKs nest them (`network: {sent, recv}`): those names are joined with `.`."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            for keys, leaf in leaves_of(value, lambda _: False):
                yield ".".join([name, *keys]), leaf
        else:
            yield name, value


class _Converter:
    """Turns rows into batches. The cursor holds the last sample's time, to notice when the source's rows change."""

    def __init__(self, run: SourceRun, cursor: Cursor, context: Context) -> None:
        self._run = run
        self._ledger, self._paths = BatchLedger(), Paths()
        self._names = {name: self._paths.take(name, f"system/{name}").name for name in cursor.get("names", ())}
        self._times = Times(cursor, context.created_at)
        self._next_row: int = cursor.get("row", 0)
        self._first_number = context.first_number
        self._last_time: float | None = cursor.get("last_time")
        self._noted: bool = cursor.get("noted_sampled", False)  # the ledger already has the SAMPLED entry
        self._fill = Fill(context.clock)
        self._begin()

    def _begin(self) -> None:
        self._records: list[Points] = []
        self._read = self._written = 0
        self._fill.restart()

    @property
    def first_row(self) -> int:
        """The row to read from. If there are samples already, the last one is read again to compare its time."""
        return self._next_row - (self._noted and self._next_row > 0)

    def is_full(self) -> bool:
        return self._fill.full(self._read, 0)

    def add(self, row: SystemRow) -> None:
        if row.number < self._next_row:
            if row.time != self._last_time:
                self._ledger.add(Kind.KEPT, "system", "samples taken while the run was going on", self._next_row)
            return
        time_us = self._times.of_row(row.time, self._ledger)
        values: dict[str, float] = {}
        for name, double in self._numbers(row):
            path = self._path(name)
            if path in values:  # a nested metric and a flat one of the same name
                self._ledger.add(Kind.SKIPPED, path, "duplicate_step")
            values.setdefault(path, double)
        self._written += len(values)
        self._next_row, self._last_time = row.number + 1, row.time
        if values:
            for at_us, some in self._times.by_series(time_us, values, self._ledger):
                self._records.append(Points(self._first_number + row.number, at_us, some))

    def _numbers(self, row: SystemRow) -> Iterator[tuple[str, float]]:
        for name, raw in flattened(row.values):
            if raw is None:
                continue
            self._read += 1
            value = non_finite(raw)
            double = as_double(value) if is_number(value) else None
            if double is None:
                self._ledger.add(Kind.SKIPPED, f"system/{name}", "not_a_number")
                continue
            if isinstance(value, bool):
                self._ledger.add(Kind.CONVERTED, self._path(name), "bool as 0/1")
            yield name, double

    def _path(self, name: str) -> str:
        path = self._names.get(name)
        if path is None:
            place = self._paths.take(name, f"system/{name}")
            self._ledger.renamed(f"system.{name}", place)
            path = self._names[name] = place.name
        return path

    def take(self, *, done: bool) -> Batch:
        """Return the batch so far and begin a new one."""
        if self._next_row and not self._noted and (why := self._run.partial("system")):
            self._noted = True
            self._ledger.add(Kind.SAMPLED, "system", why)
        batch = Batch(
            cursor={
                "row": self._next_row,
                **self._times.state(),
                "names": list(self._names),
                "noted_sampled": self._noted,
                "last_time": self._last_time,
            },
            records=[*self._records],
            ledger=self._ledger.take(),
            read=self._read,
            written=self._written,
            size_bytes=16 * self._written,
            until_step=self._records[-1].step if self._records else None,
            done=done,
        )
        self._begin()
        return batch
