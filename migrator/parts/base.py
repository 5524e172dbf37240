"""What all parts share: the context they work in, conversion of single values, times, and the size of batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from migrator.json_text import JsonText
from migrator.limits import DATETIME_MAX_YEAR, DATETIME_MIN_YEAR, INT_MAX, INT_MIN, STRING_MAX_BYTES
from migrator.naming import Renamed, clean_text, cut_utf8
from migrator.records import Batch, Columns, Entry, Kind, LocalFile, Scalar
from migrator.sources.base import SourceRun
from migrator.values import NON_FINITE, compact_json

BATCH_VALUES = 25_000  # points per batch; with the batches in flight, well below 100,000 between two checkpoints
BATCH_BYTES = 4 * 1024 * 1024  # text and small values held in memory per batch
BATCH_FILES = 64  # files per batch
BATCH_FILE_BYTES = 256 * 1024 * 1024  # scratch space per batch
BATCH_SECONDS = 10.0  # so that even a slow source checkpoints well within 30 s

Cursor = Mapping[str, Any]
Row = TypeVar("Row")  # an item of the pages that a source returns
V = TypeVar("V")  # the value of a point
Takes = TypeVar("Takes", contravariant=True)  # the rows that a converter accepts


@dataclass(frozen=True, slots=True)
class MappingOptions:
    """The user's choices about the mapping. With the same options, a run is always copied in the same way."""

    include_private: bool = False
    stringify: bool = False
    metrics_namespace: str | None = None
    max_file_bytes: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The options as the state database stores them with each run."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> MappingOptions:
        """Read what `as_json` stored, also in other versions. An empty namespace or a size of 0 means None."""
        known = {name: value for name, value in stored.items() if name in cls.__slots__}
        return cls(**known | {name: known.get(name) or None for name in ("metrics_namespace", "max_file_bytes")})

    def wants(self, key: str) -> bool:
        """Whether a history key is copied. W&B's own keys start with `_`."""
        return not key.startswith("_") or self.include_private


@dataclass(frozen=True, slots=True)
class Context:
    """What a part may use besides the run. `created_at` replaces times that the source does not have."""

    options: MappingOptions
    created_at: datetime
    fingerprint: str
    scratch: Path
    downloads: Executor
    clock: Callable[[], float]
    tool_version: str
    has_history: bool = True  # whether the history is copied as well
    keys: Collection[str] = ()  # this tool's API keys in all their forms: text that contains one is not sent
    fork_step: float | None = None  # for a fork: the last step that it inherits from its parent

    @property
    def first_number(self) -> int:
        """The first step of a series that has no steps of its own. Neptune accepts only steps after the fork step."""
        return 0 if self.fork_step is None else math.floor(self.fork_step) + 1

    def withholds(self, text: str) -> bool:
        """Whether `text` must not be sent because it contains one of our API keys."""
        return any(key in text for key in self.keys)


class Part(Protocol):
    """Reads one kind of metadata, starting at `cursor` ({}: the start), and yields batches. The last one is `done`."""

    def __call__(self, run: SourceRun, cursor: Cursor, context: Context, /) -> Iterator[Batch]: ...


# ---------------------------------------------------------------- single values


class Single(NamedTuple):
    """A value that Neptune can store. `note` says how it differs from the value in the source."""

    value: Scalar
    note: tuple[Kind, str] | None = None


def single_value(value: Any, *, stringify: bool = False) -> Single:
    """Convert a config, summary or attribute value, anything but a non-empty dict, to what Neptune can store."""
    match value:
        case datetime() if not is_neptune_time(value):
            single = Single(value.isoformat(), (Kind.CONVERTED, "time outside Neptune's years, written as text"))
        case bool() | float() | datetime():
            single = Single(value)
        case int() if INT_MIN <= value <= INT_MAX:
            single = Single(value)
        case int():
            single = Single(str(value), (Kind.CONVERTED, "integer over 64 bits as text"))
        case JsonText():
            text = bounded_text(value)
            single = Single(text.value, text.note or (Kind.CONVERTED, JsonText.NOTE))
        case str():
            single = bounded_text(value)
        case _:
            single = bounded_text(compact_json(value))
    return Single(str(single.value), single.note) if stringify else single


def bounded_text(text: str) -> Single:
    """Make `text` valid UTF-8 and cut it to Neptune's limit for strings."""
    clean = clean_text(text)
    note = None if clean == text else (Kind.CONVERTED, "not valid unicode")
    if len(clean) * 4 > STRING_MAX_BYTES and len(clean.encode()) > STRING_MAX_BYTES:
        return Single(cut_utf8(clean, STRING_MAX_BYTES), (Kind.TRUNCATED, f"text over {STRING_MAX_BYTES} bytes"))
    return Single(clean, note)


def non_finite(value: Any) -> Any:
    """Convert W&B's strings for NaN and infinities to floats; return everything else unchanged."""
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def leaves_of(tree: Mapping[str, Any], is_leaf: Callable[[Mapping[str, Any]], bool]) -> Iterator[tuple[list[str], Any]]:
    """Yield (keys from the top, value) of each leaf of nested dicts, in source order. Empty dicts are leaves."""
    stack: list[tuple[list[str], Any]] = [([str(key)], value) for key, value in reversed([*tree.items()])]
    while stack:
        keys, value = stack.pop()
        if isinstance(value, Mapping) and value and not is_leaf(value):
            stack.extend(([*keys, str(key)], inner) for key, inner in reversed([*value.items()]))
        else:
            yield keys, value


def scratch_file(context: Context, name: str, content: bytes) -> LocalFile:
    """Write `content` to a file in the scratch directory."""
    path = context.scratch / name.replace("/", "-")
    path.write_bytes(content)
    return LocalFile(path, name, len(content), md5(content, usedforsecurity=False).hexdigest())


# ---------------------------------------------------------------- times


class Times:
    """Times of points in whole microseconds. Within one series they never go backwards, because Neptune refuses that.

    Series are independent: a time is clamped only where it falls within its own series. The cursor keeps `state()`.
    """

    def __init__(self, cursor: Cursor, created_at: datetime) -> None:
        self._row_us: int | None = cursor.get("time_us")
        self._latest_us: dict[str, int] = dict(cursor.get("times", {}))  # by path
        # Cursors of version 1.0 hold one time for all series.
        self._floor_us: int | None = cursor.get("floor_us", None if "times" in cursor else self._row_us)
        self._newest_us = max(self._latest_us.values(), default=self._floor_us or _LONG_AGO_US)
        self._created_us = round(created_at.timestamp() * 1_000_000)

    def of_row(self, time: float | None, ledger: BatchLedger, path: str = "_timestamp") -> int:
        """Convert `time` (seconds since the epoch). If missing: the previous row's time, or the run's creation time."""
        if time is not None and _MIN_S <= time < _MAX_S:
            self._row_us = round(time * 1_000_000)
        else:
            self._row_us = self._created_us if self._row_us is None else self._row_us
            ledger.add(Kind.ESTIMATED, path, "no time: set to the latest so far")
        return self._row_us

    def by_series(self, time_us: int, values: dict[str, V], ledger: BatchLedger) -> list[tuple[int, dict[str, V]]]:
        """Group `values` (by path) by time: `time_us`, or the time of the series' latest point if that is later."""
        if time_us >= self._newest_us:
            self._newest_us = time_us
            self._latest_us.update(dict.fromkeys(values, time_us))
            return [(time_us, values)]
        groups: dict[int, dict[str, V]] = {}
        for path, value in values.items():
            latest_us = self._latest_us.get(path, time_us if self._floor_us is None else self._floor_us)
            if latest_us > time_us:
                ledger.add(Kind.CLAMPED, path, "time went backwards: set to the latest so far")
            self._latest_us[path] = max(time_us, latest_us)
            groups.setdefault(self._latest_us[path], {})[path] = value
        return [*groups.items()]

    def of_columns(self, times: Any) -> Any:
        """Do `of_row` for a whole column of times (a numpy array), in order.

        None: convert row by row, because a time is missing, falls, or is before the latest point of a series.
        """
        if not ((times >= _MIN_S) & (times < _MAX_S)).all():
            return None
        times_us = (times * 1_000_000).round().astype("int64")
        if times_us[0] < self._newest_us or (times_us[1:] < times_us[:-1]).any():
            return None
        return times_us

    def passed(self, columns: Columns) -> None:
        """Record that points with times from `of_columns` were added."""
        self._row_us = int(columns.times_us[-1])
        for path, _, times_us, _ in columns.series():
            if len(times_us):
                self._latest_us[path] = latest_us = int(times_us[-1])
                self._newest_us = max(self._newest_us, latest_us)

    def state(self) -> dict[str, Any]:
        """What the cursor keeps."""
        floor = {} if self._floor_us is None else {"floor_us": self._floor_us}
        return {"time_us": self._row_us, "times": {**self._latest_us}} | floor


def is_neptune_time(time: datetime) -> bool:
    """Whether Neptune can store `time`."""
    return DATETIME_MIN_YEAR <= time.year <= DATETIME_MAX_YEAR


_MIN_S = datetime(DATETIME_MIN_YEAR, 1, 1, tzinfo=UTC).timestamp()
_LONG_AGO_US = round(_MIN_S) * 1_000_000
_MAX_S = datetime(DATETIME_MAX_YEAR + 1, 1, 1, tzinfo=UTC).timestamp()


# ---------------------------------------------------------------- batches


class BatchLedger:
    """Adds up the ledger entries of one batch."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Kind, str, str], int] = {}

    def add(self, kind: Kind, path: str, reason: str, count: int = 1) -> None:
        key = (kind, path, reason)
        self._counts[key] = self._counts.get(key, 0) + count

    def note(self, path: str, note: tuple[Kind, str] | None) -> None:
        """Record how a value was changed, if it was."""
        if note:
            self.add(note[0], path, note[1])

    def renamed(self, name: str, to: Renamed) -> None:
        """Record how a name was changed, if it was."""
        if to.reason:
            self.add(Kind.RENAMED, f"{name} → {to.name}", to.reason)

    def linked(self, file: LocalFile) -> None:
        """Record where a link led, if it led out of the run's directory."""
        if file.linked_from is not None:
            self.add(Kind.LINKED, file.name, f"a link led to {clean_text(file.linked_from)}")

    def take(self) -> list[Entry]:
        """Return the entries added since the last call."""
        entries = [Entry(*key, count) for key, count in self._counts.items()]
        self._counts.clear()
        return entries


class Fill:
    """Decides when a batch is full: it has enough values or bytes, or began long enough ago."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        self._started = self._clock()

    def full(self, values: int, size_bytes: int) -> bool:
        return (
            values >= BATCH_VALUES
            or size_bytes >= BATCH_BYTES
            or (values > 0 and self._clock() - self._started >= BATCH_SECONDS)
        )


class Converter(Protocol[Takes]):
    """Turns rows into batches, one at a time."""

    def add(self, row: Takes, /) -> None: ...

    def is_full(self) -> bool: ...

    def take(self, *, done: bool) -> Batch:
        """Return the batch so far and begin a new one."""
        ...


def in_batches(pages: Iterable[Iterable[Row]], converter: Converter[Row]) -> Iterator[Batch]:
    """Convert all rows. A batch always ends at the end of a page."""
    for page in pages:
        for row in page:
            converter.add(row)
        if converter.is_full():
            yield converter.take(done=False)
    yield converter.take(done=True)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def as_double(value: int | float) -> float | None:
    """None: the integer is too large for a double."""
    try:
        return float(value)
    except OverflowError:
        return None


def is_exact(value: int | float, double: float) -> bool:
    return isinstance(value, float) or (math.isfinite(double) and int(double) == value)
