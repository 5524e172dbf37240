"""The history of a run: its Parquet exports and the live rows that are not exported yet, never sampled.

W&B exports the rows of a run to Parquet files (some hours after its end; long runs in parts) and lists the steps of
the rows that are in no file yet. This module sends `RunParquetHistory` once, downloads the files into the run's scratch
directory and leaves the rest to `LiveRows`. wandb-core sends the same two documents for `scan_history`. Doing it
ourselves saves two requests per run and two thirds of the CPU time (measured, wandb 0.31). And: exports of
a running run are not downloaded twice; whole floats and integers over 64 bits stay as they were logged; the status of
downloads is checked (wandb-core takes the error text of an expired address for data); every request has a time limit;
and files of runs whose cache names collide cannot be mixed up.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from urllib.parse import urlsplit

from migrator.errors import ErrorClass, Rejected, Retryable
from migrator.listed import RunRef
from migrator.records import HistoryColumns, HistoryRow
from migrator.sources.base import Survey
from migrator.sources.row_columns import columns_of_rows
from migrator.sources.wandb import queries
from migrator.sources.wandb.answers import run_of
from migrator.sources.wandb.client import WandbClient
from migrator.sources.wandb.columns import history_columns
from migrator.sources.wandb.downloads import Downloads
from migrator.sources.wandb.errors import Passing, retries
from migrator.sources.wandb.exports import HistoryExport, TooLarge, add_leaves, history_rows
from migrator.sources.wandb.live import Chunk, Exported, HistoryFacts, LiveRows, RowSpool, listed_steps
from migrator.values import SeriesKey

PAGE_VALUES = 10_000  # values per page
COLUMN_ROWS = 50  # fewer rows are faster as they are

log = logging.getLogger(__name__)


class RunHistory:
    """One run's history. Belongs to one thread. Nothing is requested before it is needed."""

    def __init__(
        self, client: WandbClient, downloads: Downloads, ref: RunRef, facts: HistoryFacts, scratch: Path
    ) -> None:
        self._client, self._downloads, self._ref, self._facts = client, downloads, ref, facts
        self._scratch = scratch / "history"
        self._what = f"history of {ref}"
        self._opened: tuple[Sequence[HistoryExport], LiveRows] | None = None
        self._spool: RowSpool | None = None
        self._survey: Survey | None = None
        self._bad_rows = 0  # of the exports
        self._repeats = False  # whether there are more rows than W&B counts, so some must be duplicates

    def survey(self) -> Survey:
        """Find the kinds of all series from statistics and unusual columns of the exports, and from all live rows."""
        if self._survey is None:
            exports, live = self._open()
            series: dict[SeriesKey, None] = {}
            media: set[tuple[str, str]] = set()
            for export in exports:
                export.survey(series, media)
            spool = RowSpool(self._scratch)
            numbers: set[str] = set()
            exported = sum(export.rows for export in exports)
            given = exported
            for rows in live.chunks(None):
                _survey_rows(rows, series, media, numbers)
                spool.add(rows)
                given += len(rows)
            self._spool = spool
            bad_rows = self._bad_rows + live.bad_rows
            counted = max(self._facts.row_count, self._facts.has_rows) - bad_rows if self._facts.ended else 0
            if not self._repeats:
                counted = max(counted, exported + live.counted)
            self._survey = Survey(tuple(series), frozenset(media), given, max(counted, 0), bad_rows)
        return self._survey

    def pages(self, after_step: float | None) -> Iterator[Chunk]:
        """Rows with a step above `after_step`, ascending. Rows of one step are in one page."""
        exports, live = self._open()
        exported, rest = _in_order(exports, after_step), (self._spool or live).chunks(after_step)
        pages = _paged(_merged([exported, rest]) if live.overlap else itertools.chain(exported, rest))
        yield from map(_without_repeats, pages) if self._repeats else pages

    def mixed_pages(self, after_step: float | None) -> Iterator[Chunk | HistoryColumns]:
        """Like `pages`, but as columns where no step is repeated and no rows need merging."""
        exports, live = self._open()
        apart = all(one.strict for one in exports) and all(a.last < b.first for a, b in itertools.pairwise(exports))
        if self._repeats or not apart or not live.follow:
            yield from self.pages(after_step)
            return
        for export in exports:
            for batch in export.batches(after_step):
                columns = history_columns(batch)
                if columns is None:
                    yield from _slices(history_rows(batch))
                else:
                    yield columns
        for page in _paged((self._spool or live).chunks(after_step)):
            yield (columns_of_rows(page) if len(page) >= COLUMN_ROWS else None) or page

    def close(self) -> None:
        for export in self._opened[0] if self._opened else ():
            export.close()
        if self._spool:
            self._spool.close()

    # ------------------------------------------------------------ exports

    def _open(self) -> tuple[Sequence[HistoryExport], LiveRows]:
        """The exports, downloaded and open, ordered by first step; and the rows that are not in them."""
        if self._opened is None:
            self._scratch.mkdir(parents=True, exist_ok=True)
            downloaded, listed = self._download_all()
            exports = sorted((one for one in downloaded if one.rows), key=attrgetter("first"))
            self._bad_rows = sum(one.bad_rows for one in downloaded)
            for one in downloaded:
                if not one.rows:
                    one.close()
            extent = Exported(sum(one.rows for one in exports), max((one.last for one in exports), default=-math.inf))
            self._repeats = self._facts.ended and extent.rows + len(listed) > self._facts.row_count > 0
            self._opened = exports, LiveRows(self._client, self._ref, self._facts, extent, listed)
        return self._opened

    def _download_all(self) -> tuple[list[HistoryExport], list[float]]:
        """The exports, and the steps of the rows that are not in them. If an export is too large: none, so all rows."""
        done: dict[str, HistoryExport] = {}
        try:
            for attempt in retries():
                with attempt:
                    urls, listed = self._ask()
                    for key, url in urls.items():
                        if key not in done:
                            done[key] = self._download(url, len(done))
                    for key in done.keys() - urls.keys():  # W&B has made a new export meanwhile
                        done.pop(key).close()
            return list(done.values()), listed
        except TooLarge as error:
            log.warning("%s: its rows are requested from the live history", error)
            for one in done.values():
                one.close()
            return [], []

    def _ask(self) -> tuple[dict[str, str], list[float]]:
        """New addresses of the exports by path (the signature is in the query), and the live steps."""
        ref = self._ref
        asked = {"entity": ref.entity, "project": ref.project, "runName": ref.run_id, "liveKeys": ["_step"]}
        try:
            answer = self._client.ask(queries.PARQUET_HISTORY, asked, self._what)
        except Rejected as error:
            if error.error_class is not ErrorClass.UNKNOWN:
                raise
            return {}, []  # a server too old for exports: all rows are live
        found = run_of(answer, ref).get("parquetHistory") or {}
        urls: list[str] = found.get("parquetUrls") or []
        paths = [urlsplit(url).path for url in urls]
        keys = paths if len(set(paths)) == len(urls) else urls
        return dict(zip(keys, urls, strict=True)), listed_steps(found.get("liveData") or ())

    def _download(self, url: str, number: int) -> HistoryExport:
        path = self._scratch / f"{number}.parquet"
        try:
            if self._downloads.save(lambda again: [] if again else [url], path, self._what) is None:
                raise Passing(ErrorClass.UNAVAILABLE, f"{self._what}: the address of an export has expired")
            return HistoryExport(path, self._what)
        except Rejected as error:
            if error.error_class is ErrorClass.PERMISSION:  # it may have expired: W&B sends a new one
                raise Passing(error.error_class, str(error)) from error
            raise
        except Retryable:
            path.unlink(missing_ok=True)
            raise


# ---------------------------------------------------------------- order and pages


def _in_order(exports: Sequence[HistoryExport], after_step: float | None) -> Iterator[Chunk]:
    """The rows of all exports, ascending. Overlapping files are merged row by row, others are read one by one."""
    together: list[HistoryExport] = []
    reach = -math.inf
    for export in exports:
        if after_step is not None and export.last <= after_step:
            continue
        if together and export.first >= reach:
            yield from _merged([one.chunks(after_step) for one in together])
            together = []
        together.append(export)
        reach = max(reach, export.last)
    yield from _merged([one.chunks(after_step) for one in together])


def _merged(streams: Sequence[Iterator[Chunk]]) -> Iterator[Chunk]:
    """Merge ascending streams into one. For equal steps, the earlier stream comes first.

    A chunk ends where any stream begins a new chunk, so no chunk is larger than the current chunks of all streams.
    """
    if len(streams) == 1:
        yield from streams[0]
        return
    begun = 0

    def rows_of(stream: Iterator[Chunk]) -> Iterator[HistoryRow]:
        nonlocal begun
        for chunk in stream:
            begun += 1
            yield from chunk

    rows = heapq.merge(*map(rows_of, streams), key=attrgetter("step"))
    for _, same in itertools.groupby(rows, lambda _: begun):
        yield list(same)


def _paged(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Regroup rows into pages of about PAGE_VALUES. Rows of one step stay in one page."""
    held: Chunk = []  # the previous chunk: the next one may begin with more rows of its last step
    for chunk in chunks:
        if held and held[-1].step == chunk[0].step:
            cut = len(held)
            while cut and held[cut - 1].step == chunk[0].step:
                cut -= 1
            held, chunk = held[:cut], held[cut:] + chunk
        yield from _slices(held)
        held = chunk
    yield from _slices(held)


def _without_repeats(page: Chunk) -> Chunk:
    """Drop rows that are repeated in two exports, or in an export and the live history. One step is in one page."""
    kept: Chunk = []
    for _, rows in itertools.groupby(page, attrgetter("step")):
        of_step: Chunk = []
        for row in rows:
            if row not in of_step:
                of_step.append(row)
        kept += of_step
    return kept


def _slices(rows: Chunk) -> Iterator[Chunk]:
    start = 0
    while start < len(rows):
        end = min(start + max(1, PAGE_VALUES // max(len(rows[start].values), 1)), len(rows))
        while end < len(rows) and rows[end].step == rows[end - 1].step:
            end += 1
        yield rows[start:end]
        start = end


def _survey_rows(
    rows: Iterable[HistoryRow], series: dict[SeriesKey, None], media: set[tuple[str, str]], numbers: set[str]
) -> None:
    """Add the series and media files of `rows`. `numbers`: keys known to have numbers, for a fast path."""
    for row in rows:
        for key, value in row.values.items():
            if key in numbers and type(value) in (float, int):
                continue
            add_leaves(key, value, row.step, series, media)
            if type(value) in (float, int):
                numbers.add(key)
