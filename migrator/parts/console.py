"""Console output: string series `runtime/stdout` and `runtime/stderr`, one step a line."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.parts.base import Context, Cursor, Fill, Ledger, Times, bounded_text
from migrator.records import Batch, Points
from migrator.sources.base import SourceRun


def batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """All lines behind the cursor. The step is the line's number over both streams."""
    ledger = Ledger()
    times = Times(cursor.get("time_us"), context.created_at)
    next_line: int = cursor.get("line", 0)
    records: list[Points] = []
    size_bytes = 0
    fill = Fill(context.clock)

    def take(*, done: bool) -> Batch:
        nonlocal records, size_bytes
        batch = Batch(
            cursor={"line": next_line, "time_us": times.latest_us},
            records=list(records),
            ledger=ledger.take(),
            read=len(records),
            written=len(records),
            size_bytes=size_bytes,
            until_step=next_line - 1 if records else None,
            done=done,
        )
        records, size_bytes = [], 0
        fill.restart()
        return batch

    for page in run.console(next_line):
        for line in page:
            path = f"runtime/{line.stream}"
            time_us, entry = times.next(line.time)
            if entry:
                ledger.add(entry.kind, path, entry.reason)
            single = bounded_text(line.text)
            if single.note:
                ledger.add(single.note[0], path, single.note[1])
            text = str(single.value)
            records.append(Points(line.number, time_us, {path: text}))
            size_bytes += len(text)
            next_line = line.number + 1
        if fill.full(len(records), size_bytes):
            yield take(done=False)
    yield take(done=True)
