"""System metrics: `system/<name>`, one step a sample."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.naming import Paths
from migrator.parts.base import Context, Cursor, Fill, Ledger, Times, as_double, is_number, non_finite
from migrator.records import Batch, Kind, Points
from migrator.sources.base import SourceRun


def batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """All samples behind the cursor, numbered from 0 over the whole run."""
    ledger, paths = Ledger(), Paths()
    names: dict[str, str] = {name: paths.claim(name, f"system/{name}").name for name in cursor.get("names", ())}
    times = Times(cursor.get("time_us"), context.created_at)
    next_row: int = cursor.get("row", 0)
    noted: bool = cursor.get("noted_sampled", False)  # the ledger has SAMPLED already
    last_time: float | None = cursor.get("last_time")
    records: list[Points] = []
    read = written = 0
    fill = Fill(context.clock)

    def take(*, done: bool) -> Batch:
        nonlocal records, read, written, noted
        if next_row and run.system_is_sampled() and not noted:
            noted = True
            ledger.add(Kind.SAMPLED, "system", "W&B gave samples only")
        batch = Batch(
            cursor={
                "row": next_row,
                "time_us": times.latest_us,
                "names": list(names),
                "noted_sampled": noted,
                "last_time": last_time,
            },
            records=list(records),
            ledger=ledger.take(),
            read=read,
            written=written,
            size_bytes=16 * written,
            until_step=next_row - 1 if records else None,
            done=done,
        )
        records, read, written = [], 0, 0
        fill.restart()
        return batch

    for page in run.system(next_row - (noted and next_row > 0)):
        for row in page:
            if row.number < next_row:  # read again for its time alone
                if row.time != last_time:
                    ledger.add(Kind.KEPT, "system", "samples taken while the run was going on", next_row)
                continue
            time_us, entry = times.next(row.time)
            ledger.extend([entry])
            values: dict[str, float] = {}
            for name, raw in row.values.items():
                if raw is None:
                    continue
                read += 1
                value = non_finite(raw)
                double = as_double(value) if is_number(value) else None
                if double is None:
                    ledger.add(Kind.SKIPPED, f"system/{name}", "not_a_number")
                    continue
                path = names.get(name)
                if path is None:
                    path, reason = paths.claim(name, f"system/{name}")
                    names[name] = path
                    if reason:
                        ledger.add(Kind.RENAMED, f"system.{name} → {path}", reason)
                if isinstance(value, bool):
                    ledger.add(Kind.CONVERTED, path, "bool as 0/1")
                values[path] = double
            written += len(values)
            next_row, last_time = row.number + 1, row.time
            if values:
                records.append(Points(row.number, time_us, values))
        if fill.full(read, 0):
            yield take(done=False)
    yield take(done=True)
