"""Compares series that are read back: by their ends, by digests, or point by point with the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from migrator.copying.comparison import RunComparison, is_same
from migrator.copying.digests import FILES, FLOATS, HASHES, SeriesDigest, series_digest
from migrator.copying.findings import How, Level, Result
from migrator.copying.points import Column, column_of, differing, joined
from migrator.copying.verify_words import points_told, told
from migrator.destinations.base import ReadBack, ReadSeries, SeriesPage, SeriesRef

POINTS_AT_A_TIME = 1_000_000  # that are held in memory to be compared one by one


def compare_series(comparisons: Sequence[RunComparison], project: str, back: ReadBack, how: How) -> None:
    """Add findings about series to the results."""
    by_key = {comparison.run.key: comparison for comparison in comparisons if comparison.run}
    foreign = [
        SeriesRef(comparison.run, path)
        for comparison in comparisons
        if comparison.run
        for path in comparison.foreign_series
    ]
    for ref, count in _counted(back, project, foreign):
        by_key[ref.run.key].result.differs(ref.path, "nothing: not written by this copy", f"{count} points")
    wanted = [
        SeriesRef(comparison.run, path) for comparison in comparisons if comparison.run for path in comparison.series
    ]
    if how.level is Level.COUNTS:
        _compare_ends(by_key, wanted, project, back)
        return
    for group in [wanted] if how.level is Level.DIGESTS else _groups(by_key, wanted):
        _compare_all(by_key, group, project, back)


def _groups(by_key: Mapping[str, RunComparison], wanted: Sequence[SeriesRef]) -> Iterator[Sequence[SeriesRef]]:
    """Series whose points fit into memory together."""
    group: list[SeriesRef] = []
    points = 0
    for ref in wanted:
        count = by_key[ref.run.key].series[ref.path].count
        if group and points + count > POINTS_AT_A_TIME:
            yield group
            group, points = [], 0
        group.append(ref)
        points += count
    yield group


def _compare_all(
    by_key: Mapping[str, RunComparison], wanted: Sequence[SeriesRef], project: str, back: ReadBack
) -> None:
    """Compare all points: one by one where the source was read, by digests elsewhere."""
    found: dict[tuple[str, str], SeriesDigest] = {}
    columns: dict[tuple[str, str], list[Column]] = {}
    for page in back.pages(project, wanted):
        name = page.series.run.key, page.series.path
        comparison = by_key[name[0]]
        digest, column = _read(comparison, page)
        found.setdefault(name, SeriesDigest()).add(digest)
        if column is not None:
            columns.setdefault(name, []).append(column)
    for ref in wanted:
        comparison, name = by_key[ref.run.key], (ref.run.key, ref.path)
        want, got = comparison.series[ref.path], found.get(name, SeriesDigest())
        comparison.result.points += want.count
        if comparison.has_points(ref.path):
            _compare_points(comparison, ref.path, want, got, joined(columns.get(name, ())))
        else:
            _compare_digests(comparison.result, ref.path, comparison.wanted[ref.path][0], want, got)


def _counted(back: ReadBack, project: str, series: Sequence[SeriesRef]) -> Iterator[tuple[SeriesRef, str]]:
    """Yield the series that have points of their own, with the number of points."""
    counts: dict[tuple[str, str], int] = {}
    for page in back.pages(project, series) if series else ():
        name = page.series.run.key, page.series.path
        counts[name] = counts.get(name, 0) + len(page.steps)
    for ref in series:
        if count := counts.get((ref.run.key, ref.path)):
            yield ref, f"{count:,}"


def _read(comparison: RunComparison, page: SeriesPage) -> tuple[SeriesDigest, Column | None]:
    """The digest of some points and, if they are compared with the source, the points."""
    path = page.series.path
    kind = comparison.wanted[path][0]
    if kind == FILES:
        files = comparison.series_files.setdefault(path, [])
        files += zip(page.steps.tolist(), page.values, strict=True)  # type: ignore[arg-type]
    column = column_of(kind, page.steps, page.times_ms * 1000, page.values) if comparison.has_points(path) else None
    if isinstance(page.values, np.ndarray):
        return series_digest(page.steps, page.times_ms, page.values), column
    hashes = column.bits if column else np.fromiter(map(HASHES[kind], page.values), np.uint64, len(page.values))
    return series_digest(page.steps, page.times_ms, hashes), column


def _compare_ends(
    by_key: Mapping[str, RunComparison], wanted: Sequence[SeriesRef], project: str, back: ReadBack
) -> None:
    """Compare counts and first steps of series of numbers. For others, only the last step is known without points."""
    numbers = [ref for ref in wanted if by_key[ref.run.key].wanted[ref.path][0] == FLOATS]
    heads = {(one.series.run.key, one.series.path): one for one in back.heads(project, numbers)}
    for ref in wanted:
        comparison = by_key[ref.run.key]
        want, series, head = comparison.series[ref.path], ref.run.values[ref.path], heads.get((ref.run.key, ref.path))
        kind = comparison.wanted[ref.path][0]
        assert isinstance(series, ReadSeries)
        if want.refused:
            comparison.result.cannot(ref.path, told(want, kind), "some of its points were refused: use --level digests")
            continue
        count = want.count if head is None or head.points is None else head.points
        first = want.first if head is None else head.first_step
        last = want.last if series.last_step is None else series.last_step
        if kind == FLOATS and head is None:
            comparison.result.differs(ref.path, told(want, kind), "no points")
        elif (count, first, last) != (want.count, want.first, want.last):
            comparison.result.differs(ref.path, told(want, kind), points_told(count, first, last))
        elif kind == FLOATS and not (want.nan or want.infinite) and _extremes_differ(want, series):
            comparison.result.differs(ref.path, f"{want.low} to {want.high}", f"{series.low} to {series.high}")
        elif head is not None and head.points is None:
            comparison.result.cannot(ref.path, told(want, kind), "Neptune does not say how many points there are")


def _extremes_differ(want: SeriesDigest, got: ReadSeries) -> bool:
    return (got.low is not None and got.low != want.low) or (got.high is not None and got.high != want.high)


def _compare_points(
    comparison: RunComparison, path: str, want: SeriesDigest, got: SeriesDigest, column: Column
) -> None:
    """Compare points that were read back with those of the source, of which `want` was copied."""
    assert comparison.source is not None
    kind, now = comparison.source.digests[path]
    differences = differing(comparison.source.points.column(path), column)
    refused = max(want.refused, comparison.result.expected.refused.get(path, 0))
    if differences is None or (not differences.others and differences.missing <= refused):
        if kind == FILES and not is_same(now, want):  # only the sizes are compared here
            comparison.source_moved(path)
    elif is_same(now, want):
        comparison.result.differs(path, differences.want, differences.got)
    else:
        comparison.source_moved(path)
        _compare_digests(comparison.result, path, kind, want, got)


def _compare_digests(result: Result, path: str, kind: str, want: SeriesDigest, got: SeriesDigest) -> None:
    said = [points_told(got.count, got.first, got.last)]
    if want.refused and want.count - want.refused <= got.count <= want.count:
        if (got.hash1, got.hash2) != (want.hash1, want.hash2):
            why = f"{said[0]}; Neptune refused some and did not say which"
            result.cannot(path, told(want, kind), why)
        return
    if (got.count, got.hash1, got.hash2) == (want.count, want.hash1, want.hash2):
        off_ms = min(abs(got.cut_ms - want.cut_ms), abs(got.cut_ms - want.rounded_ms))
        if off_ms > want.count:
            result.differs(path, told(want, kind), f"the same points at other times: {off_ms:,} ms off in all")
        elif off_ms:
            result.cannot(path, told(want, kind), f"times are {off_ms:,} ms off in all, under 1 ms each on average")
        return
    if (got.count, got.first, got.last) == (want.count, want.first, want.last):
        said = ["the same number of points, but different values or steps"]
    result.differs(path, told(want, kind), said[0])
