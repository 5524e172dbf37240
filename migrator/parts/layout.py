"""Which series of a run's history goes to which path. Only grows: a path, once assigned, stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from migrator.naming import Paths, metric_base
from migrator.parts.base import BatchLedger
from migrator.records import Kind
from migrator.values import SeriesKey, SeriesKind

_SUFFIX = {
    SeriesKind.NUMBER: "number",
    SeriesKind.TEXT: "text",
    SeriesKind.HISTOGRAM: "histogram",
    SeriesKind.FILE: "file",
}
_PRECEDENCE = list(SeriesKind)


class Layout:
    """Paths by series. Series in `known` (an earlier value of `series`) get the same paths again, without notes."""

    def __init__(self, known: Iterable[Iterable[str]], namespace: str | None) -> None:
        self._namespace = namespace
        self._paths = Paths()
        self._by_series: dict[SeriesKey, str] = {}
        self._primary: set[str] = set()
        self._told: set[str] = set()  # keys already noted as moved out of a reserved place
        ignored = BatchLedger()
        for key, slot, kind in known:
            self.path(SeriesKey(key, slot, SeriesKind(kind)), ignored)

    @property
    def series(self) -> list[SeriesKey]:
        """All known series, in the order in which they got their paths. Can be stored as JSON."""
        return list(self._by_series)

    def learn(self, surveyed: Iterable[SeriesKey], ledger: BatchLedger) -> None:
        """Assign paths to all surveyed series: for each key, its kinds in order of precedence."""
        for series in _by_precedence(surveyed):
            self.path(series, ledger)

    def path(self, series: SeriesKey, ledger: BatchLedger) -> str:
        """The path of a series. A new series gets one now, and a note if the path is not simply its key."""
        path = self._by_series.get(series)
        if path is None:
            path = self._by_series[series] = self._claim(series, ledger)
        return path

    def _claim(self, series: SeriesKey, ledger: BatchLedger) -> str:
        wanted, reason = metric_base(series.key, self._namespace)
        name = source_key = series.key
        if series.slot:
            wanted, source_key = f"{wanted}/{series.slot}", f"{series.key}/{series.slot}"
            name = source_key
            reason = None if series.key in self._told else reason
        elif series.key in self._primary:
            wanted = f"{wanted}/{_SUFFIX[series.kind]}"
            source_key = f"{series.key}/{_SUFFIX[series.kind]}"
            reason = "another kind of value has the key's path"
        else:
            self._primary.add(series.key)
        if reason:
            self._told.add(series.key)
        path, changed = self._paths.take(source_key, wanted)
        if changed or reason:
            ledger.add(Kind.RENAMED, f"{name} → {path}", changed or reason or "")
        return path


def _by_precedence(surveyed: Iterable[SeriesKey]) -> Iterator[SeriesKey]:
    by_key: dict[str, list[SeriesKey]] = {}
    for series in surveyed:
        by_key.setdefault(series.key, []).append(series)
    for group in by_key.values():
        yield from sorted(
            (series for series in group if not series.slot), key=lambda series: _PRECEDENCE.index(series.kind)
        )
        yield from (series for series in group if series.slot)
