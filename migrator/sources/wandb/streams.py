"""The system metrics and console lines of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import dropwhile
from typing import Any

from migrator.errors import ErrorClass, Rejected, Retryable, Throttled
from migrator.listed import RunRef
from migrator.records import ConsoleLine, SystemRow
from migrator.sources.paging import output_lines, pages
from migrator.sources.wandb import connections, queries
from migrator.sources.wandb.answers import Json, fewer, nodes, number, parsed, run_of
from migrator.sources.wandb.artifacts import RunArtifacts
from migrator.sources.wandb.client import WandbClient
from migrator.sources.wandb.errors import retries
from migrator.sources.wandb.exports import ParquetTable, TooLarge, as_time, plain_rows
from migrator.sources.wandb.files import RunFiles
from migrator.sources.wandb_facts import iso_time

log = logging.getLogger(__name__)

PREFIX = "system."
SAMPLES = (2**31 - 1, 1_000_000, 100_000, 10_000)  # GraphQL Int; the smaller ones are for servers that refuse more
PAGE_VALUES = 20_000  # numbers
PAGE_LINES = 2_000  # lines per request; servers may return fewer
OUTPUT_LOG = "output.log"


class SystemMetrics:
    """One run's system metrics: W&B's own export if there is one, otherwise `events`, which may be only samples."""

    def __init__(self, client: WandbClient, ref: RunRef, artifacts: RunArtifacts, ended: bool) -> None:
        """`ended`: the run has ended. Until then, an export is incomplete (a resumed run has one of its first part)."""
        self._client, self._ref, self._artifacts, self._ended = client, ref, artifacts, ended
        self.partial: str | None = None
        self._export: list[ParquetTable] | None = None

    def pages(self, first_row: int) -> Iterator[list[SystemRow]]:
        """Rows from number `first_row` on."""
        page: list[SystemRow] = []
        values_in_page = 0
        for row, (time, values) in enumerate(self._rows()):
            if row >= first_row:
                kept = {key.removeprefix(PREFIX): value for key, value in values.items() if not key.startswith("_")}
                page.append(SystemRow(row, as_time(time), kept))
                values_in_page += len(kept)
                if values_in_page >= PAGE_VALUES:
                    yield page
                    page, values_in_page = [], 0
        if page:
            yield page

    def _rows(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        tables = self._exported()
        for table in tables or ():
            for batch in table.batches():
                yield from zip(*plain_rows(batch), strict=True)
        if tables is None:
            texts = self._events()
            self.partial = "W&B returned only samples" if texts else None
            for text in texts:
                row = parsed(text)
                yield row.get("_timestamp"), row

    def _exported(self) -> list[ParquetTable] | None:
        if self._export is None and self._ended:
            try:
                for attempt in retries():
                    with attempt:  # if a file is unreadable, it is fetched again
                        paths = self._artifacts.events_export()
                        if paths is None:
                            return None
                        self._export = [ParquetTable(path, f"system metrics of {self._ref}") for path in paths]
            except (Rejected, TooLarge) as error:  # a server that has no artifacts or does not show them: use samples
                log.warning("%s: no export of system metrics: %s", self._ref, error)
        return self._export

    def _events(self) -> list[Any]:
        """All rows, or the maximum that the server returns."""
        ref = self._ref
        last: Exception | None = None
        for samples in SAMPLES:
            asked = {"entity": ref.entity, "project": ref.project, "name": ref.run_id, "samples": samples}
            try:
                data = self._client.ask(queries.EVENTS, asked, f"system metrics of {ref}")
            except (Retryable, Rejected) as error:
                if isinstance(error, Throttled) or error.error_class in (ErrorClass.NOT_FOUND, ErrorClass.PERMISSION):
                    raise
                last = error  # perhaps too many for this server
                continue
            return list(run_of(data, ref).get("events") or ())
        assert last is not None
        raise last

    def close(self) -> None:
        for table in self._export or ():
            table.close()


class ConsoleLog:
    """One run's output: W&B's console log or, if there is none, `output.log`."""

    def __init__(self, client: WandbClient, ref: RunRef, files: RunFiles, ended: bool) -> None:
        self._client, self._ref, self._files, self._ended = client, ref, files, ended
        self.partial: str | None = None
        self._counted: int | None = None  # lines, as the server counts them

    def pages(self, first_line: int) -> Iterator[list[ConsoleLine]]:
        """Lines from number `first_line` on."""
        given, seen = 0, False
        try:
            for lines in self._logged():
                seen = True
                given += len(lines)
                if page := [line for line in lines if line.number >= first_line]:
                    yield page
        except Rejected as error:
            if seen or error.error_class is not ErrorClass.UNKNOWN:
                raise  # UNKNOWN: a W&B server before 0.77 does not know this request
        if not seen:
            yield from self._from_file(first_line)
        elif self._ended:
            self.partial = fewer("lines", given, self._counted)

    def _logged(self) -> Iterator[list[ConsoleLine]]:
        """Pages of lines. Repeated lines are left out; lines without a number get the next one."""
        ref, next_number = self._ref, 0

        def ask(cursor: str | None, at_most: int) -> Json:
            asked = {"entity": ref.entity, "project": ref.project, "runName": ref.run_id}
            page = asked | {"first": at_most, "after": cursor}
            run = run_of(self._client.ask(queries.CONSOLE_PAGE, page, f"console of {ref}"), ref)
            self._counted = number(run.get("logLineCount"))
            return run.get("logLines") or {}

        for page in connections.pages(ask, PAGE_LINES):
            lines = []
            for node in nodes(page):
                line = _line(node, next_number)
                if line.number >= next_number:
                    lines.append(line)
                    next_number = line.number + 1
            if lines:
                yield lines

    def _from_file(self, first_line: int) -> Iterator[list[ConsoleLine]]:
        saved = self._files.fetch(OUTPUT_LOG)
        if saved is None:
            return
        try:
            with saved.path.open("rb") as file:
                lines = output_lines(file, 0)
                yield from pages(dropwhile(lambda sized: sized[0].number < first_line, lines))
        finally:
            self._files.release(saved)


def _line(node: dict[str, Any], default: int) -> ConsoleLine:
    time, at = iso_time(node.get("timestamp")), number(node.get("number"))
    stream = "stderr" if node.get("level") == "error" else "stdout"
    return ConsoleLine(
        default if at is None else at, time.timestamp() if time else None, stream, node.get("line") or ""
    )
