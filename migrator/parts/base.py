"""What every part shares: the context it works in, single values, times, and when a batch is full."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from migrator.errors import ErrorClass, Retryable
from migrator.json_text import JsonText
from migrator.limits import DATETIME_MAX_YEAR, DATETIME_MIN_YEAR, INT_MAX, INT_MIN, STRING_MAX_BYTES
from migrator.naming import Renamed, clean_text, cut_utf8
from migrator.records import Batch, Columns, Entry, Kind, LocalFile, Scalar
from migrator.sources.base import SourceRun
from migrator.values import NON_FINITE, compact_json

BATCH_VALUES = 25_000  # points a batch; with those in flight (pipeline) well below 100,000 between two checkpoints
BATCH_BYTES = 4 * 1024 * 1024  # text and small values held in memory a batch
BATCH_FILES = 64  # files a batch
BATCH_FILE_BYTES = 256 * 1024 * 1024  # scratch space a batch
BATCH_SECONDS = 10.0  # a slow source still checkpoints well inside 30 s

Cursor = Mapping[str, Any]
Row = TypeVar("Row")  # what a source gives pages of
V = TypeVar("V")  # the value of a point
Takes = TypeVar("Takes", contravariant=True)  # what a converter takes


@dataclass(frozen=True, slots=True)
class MappingOptions:
    """What the user may change about the mapping; part of every run's determinism."""

    include_private: bool = False
    stringify: bool = False
    metrics_namespace: str | None = None
    max_file_bytes: int | None = None

    def as_json(self) -> dict[str, Any]:
        """For the state database, which keeps them with each run."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> MappingOptions:
        """Of `as_json`, also of other versions; an empty namespace or size means none."""
        known = {name: value for name, value in stored.items() if name in cls.__slots__}
        return cls(**known | {name: known.get(name) or None for name in ("metrics_namespace", "max_file_bytes")})

    def wants(self, key: str) -> bool:
        """Whether a key of the history is copied: W&B's own start with `_`."""
        return not key.startswith("_") or self.include_private


@dataclass(frozen=True, slots=True)
class Context:
    """What a part may use besides the run. `created_at` stands in for times that the source does not have."""

    options: MappingOptions
    created_at: datetime
    fingerprint: str
    scratch: Path
    downloads: Executor
    clock: Callable[[], float]
    tool_version: str
    has_history: bool = True  # whether the history is copied, too
    keys: Collection[str] = ()  # of this tool, in all their forms: text with one of them in it is not sent
    fork_step: float | None = None  # of a fork: the last step that it has from its parent

    @property
    def first_number(self) -> int:
        """The step of the first point of a series that has no steps of its own: Neptune takes those behind a fork."""
        return 0 if self.fork_step is None else math.floor(self.fork_step) + 1

    def withholds(self, text: str) -> bool:
        """Whether text must not be sent, because it holds one of our keys."""
        return any(key in text for key in self.keys)


class Part(Protocol):
    """Reads one kind of metadata from `cursor` on ({}: from the start) and yields it in batches; the last is `done`."""

    def __call__(self, run: SourceRun, cursor: Cursor, context: Context, /) -> Iterator[Batch]: ...


# ---------------------------------------------------------------- single values


class Single(NamedTuple):
    """A value that Neptune can hold; `note` says how it differs from the source's."""

    value: Scalar
    note: tuple[Kind, str] | None = None


def single_value(value: Any, *, stringify: bool = False) -> Single:
    """The Neptune form of a config, summary or attribute value that is not a filled dict."""
    match value:
        case datetime() if not is_neptune_time(value):
            single = Single(value.isoformat(), (Kind.CONVERTED, "time outside of Neptune's years as text"))
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
    """Valid UTF-8 inside Neptune's limit for strings."""
    clean = clean_text(text)
    note = None if clean == text else (Kind.CONVERTED, "not valid unicode")
    if len(clean) * 4 > STRING_MAX_BYTES and len(clean.encode()) > STRING_MAX_BYTES:
        return Single(cut_utf8(clean, STRING_MAX_BYTES), (Kind.TRUNCATED, f"text over {STRING_MAX_BYTES} bytes"))
    return Single(clean, note)


def non_finite(value: Any) -> Any:
    """W&B's strings for NaN and infinities as floats; everything else as it is."""
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def leaves_of(tree: Mapping[str, Any], is_leaf: Callable[[Mapping[str, Any]], bool]) -> Iterator[tuple[list[str], Any]]:
    """The leaves of nested dicts with their keys from the top, in source order. Empty dicts are leaves."""
    stack: list[tuple[list[str], Any]] = [([str(key)], value) for key, value in reversed([*tree.items()])]
    while stack:
        keys, value = stack.pop()
        if isinstance(value, Mapping) and value and not is_leaf(value):
            stack.extend(([*keys, str(key)], inner) for key, inner in reversed([*value.items()]))
        else:
            yield keys, value


def scratch_file(context: Context, name: str, content: bytes) -> LocalFile:
    """`content` as a file in the scratch directory."""
    path = context.scratch / name.replace("/", "-")
    path.write_bytes(content)
    return LocalFile(path, name, len(content), md5(content, usedforsecurity=False).hexdigest())


# ---------------------------------------------------------------- times


class Times:
    """Times of points in whole microseconds; within one series they never go backwards (Neptune refuses that).

    Series do not hold each other up: only the one whose own time falls is clamped. The cursor keeps `state()`.
    """

    def __init__(self, cursor: Cursor, created_at: datetime) -> None:
        self._row_us: int | None = cursor.get("time_us")
        self._latest_us: dict[str, int] = dict(cursor.get("times", {}))  # by path
        # Cursors of version 1.0 have one time for all series.
        self._floor_us: int | None = cursor.get("floor_us", None if "times" in cursor else self._row_us)
        self._newest_us = max(self._latest_us.values(), default=self._floor_us or _LONG_AGO_US)
        self._created_us = round(created_at.timestamp() * 1_000_000)

    def of_row(self, time: float | None, ledger: Ledger, path: str = "_timestamp") -> int:
        """`time` (seconds since the epoch); without one the time of the row before, else the run's creation time."""
        if time is not None and _MIN_S <= time < _MAX_S:
            self._row_us = round(time * 1_000_000)
        else:
            self._row_us = self._created_us if self._row_us is None else self._row_us
            ledger.add(Kind.ESTIMATED, path, "no time: the latest so far")
        return self._row_us

    def by_series(self, time_us: int, values: dict[str, V], ledger: Ledger) -> list[tuple[int, dict[str, V]]]:
        """`values` by path at `time_us`; those of a series with a later point already get the time of that point."""
        if time_us >= self._newest_us:
            self._newest_us = time_us
            self._latest_us.update(dict.fromkeys(values, time_us))
            return [(time_us, values)]
        groups: dict[int, dict[str, V]] = {}
        for path, value in values.items():
            latest_us = self._latest_us.get(path, time_us if self._floor_us is None else self._floor_us)
            if latest_us > time_us:
                ledger.add(Kind.CLAMPED, path, "time went backwards: the latest so far")
            self._latest_us[path] = max(time_us, latest_us)
            groups.setdefault(self._latest_us[path], {})[path] = value
        return [*groups.items()]

    def of_columns(self, times: Any) -> Any:
        """`of_row` of a column of times (a numpy array), in order; None where single rows need a look.

        They do where a time is missing, falls, or lies before what a series has already.
        """
        if not ((times >= _MIN_S) & (times < _MAX_S)).all():
            return None
        times_us = (times * 1_000_000).round().astype("int64")
        if times_us[0] < self._newest_us or (times_us[1:] < times_us[:-1]).any():
            return None
        return times_us

    def passed(self, columns: Columns) -> None:
        """Points at times of `of_columns` are taken."""
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
    """Whether Neptune can hold it."""
    return DATETIME_MIN_YEAR <= time.year <= DATETIME_MAX_YEAR


_MIN_S = datetime(DATETIME_MIN_YEAR, 1, 1, tzinfo=UTC).timestamp()
_LONG_AGO_US = round(_MIN_S) * 1_000_000
_MAX_S = datetime(DATETIME_MAX_YEAR + 1, 1, 1, tzinfo=UTC).timestamp()


# ---------------------------------------------------------------- batches


class Ledger:
    """Adds up entries of one batch."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Kind, str, str], int] = {}

    def add(self, kind: Kind, path: str, reason: str, count: int = 1) -> None:
        key = (kind, path, reason)
        self._counts[key] = self._counts.get(key, 0) + count

    def note(self, path: str, note: tuple[Kind, str] | None) -> None:
        """What changed about a value, if anything."""
        if note:
            self.add(note[0], path, note[1])

    def renamed(self, name: str, to: Renamed) -> None:
        """What changed about a name, if anything."""
        if to.reason:
            self.add(Kind.RENAMED, f"{name} → {to.name}", to.reason)

    def linked(self, file: LocalFile) -> None:
        """Where a link led, if it left the run's directory."""
        if file.linked_from is not None:
            self.add(Kind.LINKED, file.name, f"a link led to {clean_text(file.linked_from)}")

    def take(self) -> list[Entry]:
        """What was added since the last call."""
        entries = [Entry(*key, count) for key, count in self._counts.items()]
        self._counts.clear()
        return entries


class Fill:
    """Says when a batch is full: enough values, bytes, or seconds since its start."""

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
    """Turns rows into a batch at a time."""

    def add(self, row: Takes, /) -> None: ...

    def is_full(self) -> bool: ...

    def take(self, *, done: bool) -> Batch:
        """The batch so far; a new one begins."""
        ...


def in_batches(pages: Iterable[Iterable[Row]], converter: Converter[Row]) -> Iterator[Batch]:
    """All rows, converted; a batch ends where a page does."""
    for page in pages:
        for row in page:
            converter.add(row)
        if converter.is_full():
            yield converter.take(done=False)
    yield converter.take(done=True)


SHORT_TRIES = 3  # equal answers in a row, then what a source counts but does not give is lost


class Shortage(NamedTuple):
    """How many things a source gives of those it counts, and how often in a row it did; the cursor keeps it."""

    given: int
    counted: int
    times: int

    @classmethod
    def seen(cls, cursor: Cursor, given: int, counted: int) -> Shortage:
        *before, times = cursor.get("short") or (0, 0, 0)
        return cls(given, counted, times + 1 if before == [given, counted] else 1)

    def insist(self, what: str, so_far: Callable[[], Batch]) -> Iterator[Batch]:
        """Nothing where all is given, or the rest is lost. Else the batch `so_far` with a note, and then `Retryable`.

        Nothing at all where there should be something is never believed.
        """
        if self.given >= self.counted or (self.given and self.times >= SHORT_TRIES):
            return
        batch = so_far()
        batch.cursor["short"] = self
        yield batch
        instead = f"--exclude {what} copies the rest" if not self.given else f"seen {self.times} of {SHORT_TRIES} times"
        raise Retryable(ErrorClass.BAD_DATA, f"{what}: the source counts {self.counted}, gives {self.given}; {instead}")

    def skip(self, batch: Batch, reason: str, known: int = 0) -> None:
        """Enter what is lost in `batch`; `known`: so many were entered before."""
        if (lost := self.counted - self.given - known) > 0:
            batch.read += lost
            told = f"the source counts {self.counted}, gives {self.given}"
            batch.ledger.append(Entry(Kind.SKIPPED, told, reason, lost))


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def as_double(value: int | float) -> float | None:
    """None: the integer is beyond every double."""
    try:
        return float(value)
    except OverflowError:
        return None


def is_exact(value: int | float, double: float) -> bool:
    return isinstance(value, float) or (math.isfinite(double) and int(double) == value)
