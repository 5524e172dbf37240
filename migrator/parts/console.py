"""Console output: string series `runtime/stdout` and `runtime/stderr`, one step a line."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from migrator.naming import hex_digest
from migrator.parts.base import Context, Cursor, Fill, Ledger, Times, bounded_text
from migrator.records import Batch, Kind, Points
from migrator.sources.base import SourceRun

CHANGING_LINES = 32  # the last ones of a run that goes on: W&B's terminal has so many


def batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """All lines behind the cursor. The step is the line's number over both streams.

    The cursor knows the last lines by their hashes: a run that goes on may write into them (progress bars do).
    """
    ledger = Ledger()
    times = Times(cursor.get("time_us"), context.created_at)
    next_line: int = cursor.get("line", 0)
    known: dict[int, str] = dict(cursor.get("last", ()))
    last = deque(known.items(), CHANGING_LINES)
    records: list[Points] = []
    size_bytes = 0
    fill = Fill(context.clock)

    def take(*, done: bool) -> Batch:
        nonlocal records, size_bytes
        batch = Batch(
            cursor={"line": next_line, "time_us": times.latest_us, "last": [*last]},
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

    for page in run.console(min(known, default=next_line)):
        for line in page:
            path = f"runtime/{line.stream}"
            text_hash = hex_digest(line.text, 12)
            if line.number < next_line:
                if known.get(line.number) != text_hash:
                    ledger.add(Kind.KEPT, path, "a line that has changed since it was copied")
                continue
            last.append((line.number, text_hash))
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
