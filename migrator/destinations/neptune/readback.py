"""Reads back from Neptune, on the connection that also writes: runs by id, single values, series, stored files.

    run ids --search--> Neptune's own ids --query--> attributes: single values, and a summary of each series
    series of several runs --pages, the newest points first--> points
    files --signed addresses--> one byte (for the size), or the whole file (for the md5)

Endpoints and their limits are those of neptune-query 1.14, which sends the same requests; see `Connection.ask`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import numpy as np
from neptune_api.api.retrieval import (
    get_multiple_float_series_values_proto,
    get_series_values_proto,
    query_attributes_within_project_proto,
    search_leaderboard_entries_proto,
)
from neptune_api.models import (
    FloatTimeSeriesValuesRequest,
    QueryAttributesBodyDTO,
    SearchLeaderboardEntriesParamsDTO,
    SeriesValuesRequest,
)
from neptune_api.proto.neptune_pb.api.v1.model.attributes_pb2 import ProtoQueryAttributesResultDTO
from neptune_api.proto.neptune_pb.api.v1.model.leaderboard_entries_pb2 import ProtoLeaderboardEntriesSearchResultDTO
from neptune_api.proto.neptune_pb.api.v1.model.series_values_pb2 import (
    ProtoFloatSeriesValuesResponseDTO,
    ProtoSeriesValuesResponseDTO,
)

from migrator.destinations.base import (
    ReadFile,
    ReadOther,
    ReadRun,
    ReadSeries,
    ReadValue,
    SeriesHead,
    SeriesPage,
    SeriesRef,
    Stored,
)
from migrator.destinations.neptune.connection import Connection
from migrator.destinations.neptune.errors import patiently
from migrator.destinations.neptune.float_points import float_points
from migrator.errors import RunError, TooLong
from migrator.records import Histogram, PointKind

RUNS_AT_A_TIME = 100  # ids per search
VALUES_AT_A_TIME = 10_000  # Neptune: values per page of attributes
SERIES_AT_A_TIME = 1_000  # Neptune: at most 2,000 series per request
POINTS_AT_A_TIME = 250_000  # of all series of a request together: 8 MB
SHRINK = 8  # factor by which a page shrinks if the answer is too long
FILES_AT_A_TIME = 100  # addresses signed per request
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KINDS = {
    "floatSeries": PointKind.FLOATS,
    "stringSeries": PointKind.TEXTS,
    "histogramSeries": PointKind.HISTOGRAMS,
    "fileRefSeries": PointKind.FILES,
}
#: the field of a ProtoAttributeDTO that holds the value, by type
FIELDS = {
    "int": "int_properties",
    "float": "float_properties",
    "string": "string_properties",
    "bool": "bool_properties",
    "datetime": "datetime_properties",
    "stringSet": "string_set_properties",
    "fileRef": "file_ref_properties",
    "floatSeries": "float_series_properties",
    "stringSeries": "string_series_properties",
    "histogramSeries": "histogram_series_properties",
    "fileRefSeries": "file_ref_series_properties",
}

Span = tuple[float | None, float | None]
WHOLE: Span = (None, None)

T = TypeVar("T")


class NeptuneReadBack:
    """Reads from one Neptune server. `downloads` reads several files at a time."""

    def __init__(self, connection: Connection, downloads: Executor) -> None:
        self._connection, self._downloads = connection, downloads

    def close(self) -> None:
        self._connection.close()

    # ------------------------------------------------------------ runs

    def runs(self, project: str, run_ids: Sequence[str]) -> dict[str, ReadRun]:
        found: dict[str, ReadRun] = {}
        for some in _batched(run_ids, RUNS_AT_A_TIME):
            keys = self._keys(project, some)
            by_key = {key: ReadRun(run_id, key) for run_id, key in keys.items()}
            if by_key:
                self._fill(project, by_key)
            found |= {run.run_id: run for run in by_key.values()}
        return found

    def _keys(self, project: str, run_ids: Sequence[str]) -> dict[str, str]:
        """Neptune's own ids by run id."""
        query = " OR ".join(f'(`sys/custom_run_id`:string == "{_escaped(run_id)}")' for run_id in run_ids)
        body = {
            "attributeFilters": [{"path": "sys/custom_run_id"}, {"path": "sys/id"}],
            "pagination": {"limit": VALUES_AT_A_TIME, "offset": 0},
            "experimentLeader": False,
            "sorting": {"dir": "descending", "sortBy": {"name": "sys/creation_time", "type": "datetime"}},
            "query": {"query": query},
        }
        answer = self._ask(
            search_leaderboard_entries_proto,
            f"look for runs in {project}",
            project_identifier=project,
            type=["run"],
            body=SearchLeaderboardEntriesParamsDTO.from_dict(body),
        )
        entries = ProtoLeaderboardEntriesSearchResultDTO.FromString(answer).entries
        rows = [{one.name: one.string_properties.value for one in entry.attributes} for entry in entries]
        return {row["sys/custom_run_id"]: row["sys/id"] for row in rows if row.get("sys/custom_run_id") in run_ids}

    def _fill(self, project: str, by_key: dict[str, ReadRun]) -> None:
        """Add all attributes to the runs."""
        body: dict[str, Any] = {"experimentIdsFilter": [f"{project}/{key}" for key in by_key]}
        token, limit = "", VALUES_AT_A_TIME
        while True:
            page = {"limit": limit} | ({"nextPageToken": token} if token else {})
            try:
                answer = self._ask(
                    query_attributes_within_project_proto,
                    f"read attributes of {project}",
                    project_identifier=project,
                    body=QueryAttributesBodyDTO.from_dict(body | {"nextPage": page}),
                )
            except TooLong:  # long texts
                if limit == 1:
                    raise
                limit = max(1, limit // SHRINK)
                continue
            result = ProtoQueryAttributesResultDTO.FromString(answer)
            for entry in result.entries:
                values = by_key[entry.experimentShortId].values
                values.update({one.name: _value(one) for one in entry.attributes})
            token = result.nextPage.nextPageToken
            if not token:
                return

    # ------------------------------------------------------------ series

    def heads(self, project: str, series: Sequence[SeriesRef]) -> Iterator[SeriesHead]:
        for some in _batched(series, SERIES_AT_A_TIME):
            for number, found in self._floats(project, _questions(project, some), limit=1, order="ascending"):
                if found.values:
                    [first] = _steps(found.values[:1]).tolist()
                    yield SeriesHead(some[number], found.total_item_count or None, first)

    def pages(self, project: str, series: Sequence[SeriesRef], span: Span = WHOLE) -> Iterator[SeriesPage]:
        """`span`: the first and last step wanted, both included."""
        floats = [one for one in series if _kind(one) is PointKind.FLOATS]
        others = [one for one in series if _kind(one) is not PointKind.FLOATS]
        for some in _batched(floats, SERIES_AT_A_TIME):
            yield from self._float_pages(project, some, span)
        for some in _batched(others, SERIES_AT_A_TIME):
            yield from self._other_pages(project, some, span)

    def _float_pages(self, project: str, series: Sequence[SeriesRef], span: Span) -> Iterator[SeriesPage]:
        questions = _questions(project, series)
        while questions:
            limit = max(1, POINTS_AT_A_TIME // len(questions))
            further: dict[int, float] = {}
            for number, found in self._floats(project, questions, limit=limit, order="descending", span=span):
                steps, times, values = float_points(found)
                if not len(steps):
                    continue
                yield SeriesPage(series[number], _micro(steps), times, values)
                if len(steps) >= limit or found.total_item_count > len(steps):
                    further[number] = float(steps[-1])
            questions = [
                question | {"afterStep": further[number]}
                for question in questions
                if (number := int(question["requestId"])) in further
            ]

    def _floats(
        self, project: str, questions: Sequence[dict[str, Any]], *, limit: int, order: str, span: Span = WHOLE
    ) -> Iterator[tuple[int, Any]]:
        """Yield (number of the question, ProtoFloatSeriesValuesDTO) for each series that exists."""
        body = {
            "requests": questions,
            "stepRange": {"from": span[0], "to": span[1]},
            "order": order,
            "perSeriesPointsLimit": limit,
        }
        answer = self._ask(
            get_multiple_float_series_values_proto,
            f"read series of {project}",
            body=FloatTimeSeriesValuesRequest.from_dict(body),
        )
        for one in ProtoFloatSeriesValuesResponseDTO.FromString(answer).series:
            yield int(one.requestId), one.series

    def _other_pages(self, project: str, series: Sequence[SeriesRef], span: Span) -> Iterator[SeriesPage]:
        questions = _questions(project, series)
        while questions:
            tokens: dict[int, Any] = {}
            seen: set[int] = set()
            for one in self._others(project, questions, span):
                number, points = int(one.requestId), one.seriesValues.values
                seen.add(number)
                if points:
                    times = np.fromiter((point.timestamp_millis for point in points), np.int64, len(points))
                    values = [_point(point.object) for point in points]
                    yield SeriesPage(series[number], _steps(points), times, values)  # type: ignore[arg-type]
                if one.HasField("searchAfter"):
                    tokens[number] = one.searchAfter
            if not tokens:
                return
            questions = list(_following(questions, seen, tokens))

    def _others(self, project: str, questions: Sequence[dict[str, Any]], span: Span) -> Iterator[Any]:
        """Yield a ProtoSeriesValuesDTO for each series that exists and was reached."""
        body = {"requests": questions, "stepRange": {"from": span[0], "to": span[1]}, "order": "descending"}
        try:
            answer = self._ask(
                get_series_values_proto,
                f"read series of {project}",
                use_deprecated_string_fields=False,
                body=SeriesValuesRequest.from_dict(body),
            )
        except TooLong:  # long texts
            if len(questions) == 1:
                raise
            half = len(questions) // 2
            yield from self._others(project, questions[:half], span)
            yield from self._others(project, questions[half:], span)
            return
        yield from ProtoSeriesValuesResponseDTO.FromString(answer).series

    # ------------------------------------------------------------ files

    def stored(self, project: str, files: Sequence[ReadFile], *, content: bool) -> Iterator[Stored]:
        look = self._content if content else self._size
        for some in _batched(files, FILES_AT_A_TIME):
            addresses = patiently(partial(self._connection.addresses, project, [file.address for file in some]))
            yield from self._downloads.map(partial(look, project), some, addresses)

    def _size(self, project: str, file: ReadFile, address: str | None) -> Stored:
        return self._look(
            project, file, address, lambda url, what: Stored(self._connection.storage.stored_size(url, what))
        )

    def _content(self, project: str, file: ReadFile, address: str | None) -> Stored:
        def look(url: str, what: str) -> Stored:
            return Stored(*(self._connection.storage.stored_content(url, what) or (None,)))

        return self._look(project, file, address, look)

    def _look(self, project: str, file: ReadFile, address: str | None, look: Callable[[str, str], Stored]) -> Stored:
        """Return what `look` finds. Repeats with a new address if the first one may have expired."""
        unused = [address]

        def once() -> Stored:
            url = unused.pop() if unused else self._connection.addresses(project, [file.address])[0]
            return look(url, f"read {file.address}") if url else Stored(None)

        try:
            return patiently(once)
        except RunError as error:
            return Stored(None, problem=str(error))

    def _ask(self, endpoint: Any, what: str, **arguments: Any) -> bytes:
        return patiently(lambda: self._connection.ask(endpoint, what, **arguments))


def _batched(things: Sequence[T], count: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(things), count):
        yield things[start : start + count]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _kind(one: SeriesRef) -> PointKind:
    value = one.run.values[one.path]
    assert isinstance(value, ReadSeries)
    return value.kind


def _questions(project: str, series: Sequence[SeriesRef]) -> list[dict[str, Any]]:
    """Ask only for a run's own points: in a fork, inherited points belong to the parent."""
    return [
        {
            "requestId": str(number),
            "series": {
                "holder": {"identifier": f"{project}/{one.run.key}", "type": "experiment"},
                "attribute": one.path,
                "lineage": "NONE",
                "lineageEntityType": "RUN",
            }
            | ({"includePreview": False} if _kind(one) is PointKind.FLOATS else {}),
        }
        for number, one in enumerate(series)
    ]


def _following(questions: Sequence[dict[str, Any]], seen: set[int], tokens: dict[int, Any]) -> Iterator[dict[str, Any]]:
    """The questions for the next page: series that have more points, or that were not reached yet."""
    for question in questions:
        number = int(question["requestId"])
        if number not in seen or (number in tokens and tokens[number].finished):
            continue
        if number in tokens:
            question = question | {"searchAfter": {"finished": False, "token": tokens[number].token}}
        yield question


def _steps(points: Any) -> Any:
    return _micro(np.fromiter((point.step for point in points), np.float64, len(points)))


def _micro(steps: Any) -> Any:
    """Convert steps, which arrive as doubles, to millionths."""
    return np.rint(steps * 1e6).astype(np.int64)


def _point(value: Any) -> str | Histogram | ReadFile:
    match value.WhichOneof("value"):
        case "histogram":
            return Histogram(tuple(value.histogram.edges), tuple(value.histogram.values))
        case "fileRef":
            return ReadFile(value.fileRef.path, value.fileRef.sizeBytes)
    return str(value.stringValue)


def _value(attribute: Any) -> ReadValue:
    """The value in a ProtoAttributeDTO."""
    kind = attribute.type
    if kind not in FIELDS:
        return ReadOther(kind)
    told = getattr(attribute, FIELDS[kind])
    match kind:
        case "fileRef":
            return ReadFile(told.path, told.sizeBytes)
        case "stringSet":
            return frozenset(told.value)
        case "datetime":
            return EPOCH + timedelta(milliseconds=told.value)
        case "int" | "float" | "string" | "bool":
            return told.value  # type: ignore[no-any-return]
    last = round(told.last_step * 1e6) if told.HasField("last_step") else None
    if kind == "floatSeries":
        low, high = (getattr(told, name) if told.HasField(name) else None for name in ("min", "max"))
        return ReadSeries(KINDS[kind], last, low, high)
    return ReadSeries(KINDS[kind], last)
