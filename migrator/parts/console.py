"""Console output: string series `runtime/stdout` and `runtime/stderr`, one step per line.

In a fork, steps start after the fork step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from migrator.naming import hex_digest
from migrator.parts.base import BatchLedger, Context, Cursor, Fill, Times, bounded_text, in_batches
from migrator.records import Batch, ConsoleLine, Kind, Points
from migrator.sources.base import SourceRun

CHANGING_LINES = 32  # last lines of an active run that may still change: the height of W&B's terminal


def batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """Copy all lines after the cursor. The step of a line is its number, counted over both streams."""
    converter = _Converter(run, cursor, context)
    return in_batches(run.console(converter.first_line), converter)


class _Converter:
    """Turns lines into batches.

    The cursor holds hashes of the last lines, because an active run may still overwrite them (progress bars do).
    """

    def __init__(self, run: SourceRun, cursor: Cursor, context: Context) -> None:
        self._run = run
        self._context = context
        self._ledger = BatchLedger()
        self._times = Times(cursor, context.created_at)
        self._next_line: int = cursor.get("line", 0)
        self._first_number = context.first_number
        self._known: dict[int, str] = dict(cursor.get("last", ()))
        self._last = deque(self._known.items(), CHANGING_LINES)
        self._fill = Fill(context.clock)
        self._begin()

    def _begin(self) -> None:
        self._records: list[Points] = []
        self._read = 0
        self._size_bytes = 0
        self._fill.restart()

    @property
    def first_line(self) -> int:
        """The line to read from: the oldest one that may have changed."""
        return min(self._known, default=self._next_line)

    def is_full(self) -> bool:
        return self._fill.full(self._read, self._size_bytes)

    def add(self, line: ConsoleLine) -> None:
        path = f"runtime/{line.stream}"
        text_hash = hex_digest(line.text, 12)
        if line.number < self._next_line:
            if self._known.get(line.number) != text_hash:
                self._ledger.add(Kind.KEPT, path, "a line that has changed since it was copied")
            return
        self._last.append((line.number, text_hash))
        self._next_line = line.number + 1
        self._read += 1
        if self._context.withholds(line.text):
            self._ledger.add(Kind.SKIPPED, path, "contains_key")
            return
        time_us = self._times.of_row(line.time, self._ledger, path)
        single = bounded_text(line.text)
        self._ledger.note(path, single.note)
        text = str(single.value)
        for at_us, value in self._times.by_series(time_us, {path: text}, self._ledger):
            self._records.append(Points(self._first_number + line.number, at_us, value))
        self._size_bytes += len(text)

    def take(self, *, done: bool) -> Batch:
        """Return the batch so far and begin a new one."""
        if done and (why := self._run.partial("console")):
            self._ledger.add(Kind.SAMPLED, "console", why)
        batch = Batch(
            cursor={"line": self._next_line, "last": [*self._last], **self._times.state()},
            records=[*self._records],
            ledger=self._ledger.take(),
            read=self._read,
            written=len(self._records),
            size_bytes=self._size_bytes,
            until_step=self._records[-1].step if self._records else None,
            done=done,
        )
        self._begin()
        return batch
