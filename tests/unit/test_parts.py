"""Every part, over whatever W&B may hold: nothing is lost silently, Neptune's rules are kept, pieces make the whole."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.destinations.base import RunTarget
from migrator.destinations.memory import MemoryDestination
from migrator.errors import Retryable
from migrator.limits import PATH_MAX_BYTES, STEP_MAX, STRING_MAX_BYTES
from migrator.naming import clean_text
from migrator.parts import PARTS
from migrator.parts.base import BATCH_BYTES, BATCH_FILES, BATCH_VALUES, BatchLedger, MappingOptions, Times
from migrator.parts.files import file_path
from migrator.parts.histograms import WIDENED, histogram_of
from migrator.parts.history import INHERITED
from migrator.parts.layout import Layout
from migrator.parts.shortage import SHORT_TRIES
from migrator.records import (
    AddTags,
    Artifact,
    Assign,
    AssignFile,
    ConsoleLine,
    Entry,
    Fork,
    Histogram,
    HistoryRow,
    Kind,
    Points,
    Record,
    SourceFile,
    Sweep,
    SystemRow,
)
from migrator.sources.memory import MemoryData
from migrator.values import SeriesKey, SeriesKind
from tests.drive import Outcome, batches, convert, convert_in_pieces

NUMBER, TEXT, HISTOGRAM, FILE = SeriesKind

# ---------------------------------------------------------------- what W&B may hold


def as_json_has_it(text: str) -> str:
    """JSON joins split surrogate pairs; lone ones stay."""
    return str(json.loads(json.dumps(text)))


PRESENT, MISSING = "media/images/here.png", "media/images/gone.png"
any_text = st.text(st.characters(exclude_categories=()), max_size=8).map(as_json_has_it)
texts = any_text | st.sampled_from(["NaN", "Infinity", "-Infinity", "nan", "\ud800", "\0"])
keys = any_text | st.sampled_from(
    [
        *("a", "a.b", "a/b", "a//b", "a/_/b", "a/0", "a/text", "a/caption", "b", "", "/", ".", "_private", "_type"),
        *("config/lr", "metrics/config/lr", "sys", "system", "x" * 1030, "é" * 600, "\ud800"),
    ]
)
numbers = (
    st.integers(-9, 9)
    | st.floats()
    | st.sampled_from([2**53, 2**53 + 1, -(2**63), 2**63, 10**40, 10**400, -(10**400), 1e308, -0.0])
)
media = st.fixed_dictionaries(
    {"_type": st.sampled_from(["image-file", "table-file", "html-file"]), "path": st.sampled_from([PRESENT, MISSING])},
    optional={"caption": texts | st.none()},
)
histograms = st.fixed_dictionaries(
    {"_type": st.just("histogram")},
    optional={
        "bins": st.lists(numbers, max_size=4) | st.just([0, 1, 2]) | st.none(),
        "values": st.lists(numbers, max_size=3) | st.just([1, 2.5]) | texts,
        "packedBins": st.fixed_dictionaries({"min": numbers, "size": numbers, "count": st.integers(0, 3)}) | st.none(),
    },
)
objects = (
    media
    | histograms
    | st.lists(media, max_size=2)
    | st.fixed_dictionaries(
        {"_type": st.just("images/separated"), "filenames": st.lists(st.just(PRESENT), max_size=2)},
        optional={"captions": st.lists(texts, max_size=3) | texts},
    )
    | st.fixed_dictionaries(
        {"_type": st.just("videos"), "videos": st.lists(media, max_size=2)},
        optional={"captions": st.lists(texts, max_size=3) | texts},
    )
    | st.fixed_dictionaries({"_type": texts | st.integers()}, optional={"path": texts | st.integers()})
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts | objects,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
documents = st.dictionaries(keys, values, max_size=5)
bad_times = st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0.0, 1e11, 1e300])
times = st.none() | st.floats(1.7e9, 1.7e9 + 100) | bad_times
steps = st.integers(-2, 6) | st.sampled_from([0.5, STEP_MAX - 1, STEP_MAX, STEP_MAX + 1])
streams = st.sampled_from(["stdout", "stderr"])
slow = st.lists(st.booleans(), min_size=1, max_size=5)


file_names = (
    any_text.filter(bool)
    | st.sampled_from(["a//b", "a/_/b", "code/x.py", "code/", "requirements.txt", "x.ckpt", "output.log"])
    | st.sampled_from([PRESENT, MISSING])
)


def numbered(row: Callable[..., Any]) -> Callable[[list[Any]], list[Any]]:
    return lambda rows: [row(number, *fields) for number, fields in enumerate(rows)]


@st.composite
def histories(draw: st.DrawFn) -> list[HistoryRow]:
    drawn = draw(st.lists(st.tuples(steps, times, documents), max_size=8))
    return [HistoryRow(*row) for row in sorted(drawn, key=lambda row: row[0])]


FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "attributes": {
        "run_id": any_text,
        "notes": st.none() | texts,
        "tags": st.lists(texts, max_size=3, unique_by=clean_text),
        "group": st.none() | texts,
        "sweep": st.none() | st.builds(Sweep, texts, config=texts),
        "wandb": st.dictionaries(
            keys, st.booleans() | numbers | texts | st.just(datetime(2024, 1, 1, tzinfo=UTC)), max_size=4
        ),
    },
    "config": {"config": documents},
    "summary": {"summary": documents},
    "history": {"history": histories(), "files": st.just({PRESENT: b"here"})},
    "system": {"system": st.lists(st.tuples(times, documents), max_size=6).map(numbered(SystemRow))},
    "console": {"console": st.lists(st.tuples(times, streams, texts), max_size=8).map(numbered(ConsoleLine))},
    "files": {
        "files": st.dictionaries(file_names, st.binary(max_size=4), max_size=5),
        "history": st.lists(st.builds(HistoryRow, steps, times, st.fixed_dictionaries({"a": media})), max_size=1),
    },
}


def runs_for(*parts: str) -> st.SearchStrategy[MemoryData]:
    """Runs that hold something for these parts."""
    fields = {name: strategy for part in parts for name, strategy in FIELDS[part].items()}
    return st.builds(MemoryData, **{"run_id": st.just("r"), **fields})


# ---------------------------------------------------------------- how many values that is, by the mapping's words


def inputs_of_logged(value: Any) -> int:
    match value:
        case None:
            return 0
        case {"_type": str(), "path": str(), **rest} if value["_type"] != "histogram":
            return 1 + _is_caption(rest.get("caption"))
        case {"_type": "histogram"}:
            return 1
        case {"_type": str(), "videos": [_, *_] as items} if all(map(_is_media, items)):
            captions = zip_longest((item.get("caption") for item in items), _captions_of(value)[: len(items)])
            return len(items) + sum(_is_caption(own or shared) for own, shared in captions)
        case {"_type": str(), "filenames": [_, *_] as names}:
            return len(names) + sum(map(_is_caption, _captions_of(value)[: len(names)]))
        case {"_type": str()}:
            return 1
        case dict():
            return sum(map(inputs_of_logged, value.values()))
        case [_, *_] if all(_is_media(item) for item in value):
            return sum(map(inputs_of_logged, value))
    return 1


def _captions_of(value: Mapping[str, Any]) -> list[Any]:
    captions = value.get("captions")
    return captions if isinstance(captions, list) else []


def _is_caption(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_media(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("_type"), str) and isinstance(value.get("path"), str)


def inputs_of_document(values: Mapping[str, Any], *, objects_are_whole: bool) -> int:
    def count(value: Any) -> int:
        if not isinstance(value, dict) or not value or (objects_are_whole and isinstance(value.get("_type"), str)):
            return 1
        return sum(map(count, value.values()))

    return sum(map(count, values.values()))


def inputs_of_sample(value: Any) -> int:
    return sum(map(inputs_of_sample, value.values())) if isinstance(value, dict) and value else value is not None


def inputs_of(part: str, data: MemoryData, *, private: bool) -> int:
    def wanted(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if private or not key.startswith("_")}

    match part:
        case "attributes":
            told = wanted({"id": 1, "state": 1, **data.wandb})
            sweep = [] if data.sweep is None else [data.sweep.id, data.sweep.config]
            return len(told) + len(sweep) + bool(data.notes) + sum(map(bool, data.tags)) + bool(data.group)
        case "config":
            config = {key: value for key, value in data.config.items() if private or key != "_wandb"}
            return 1 + inputs_of_document(config, objects_are_whole=False)
        case "summary":
            return 1 + inputs_of_document(wanted(data.summary), objects_are_whole=True)
        case "history":
            return sum(inputs_of_logged(value) for row in data.history for value in wanted(row.values).values())
        case "system":
            return sum(inputs_of_sample(value) for row in data.system for value in row.values.values())
        case "console":
            return len(data.console)
        case "files":
            return len(data.files.keys() - {row.values["a"]["path"] for row in data.history})
    return 0


# ---------------------------------------------------------------- what Neptune takes


def outputs_of(records: Iterable[Record]) -> int:
    """How many values the records hold; those under migration/ are our own."""
    count = 0
    for record in records:
        match record:
            case Assign(values):
                count += sum(not path.startswith("migration/") for path in values)
            case AddTags(tags):
                count += len(tags)
            case AssignFile():
                count += 1
            case Points(_, _, values):
                count += len(values)
    return count


def assert_neptune_takes(records: Iterable[Record]) -> None:
    """No refusal by the memory destination; nor for sizes, encoding and edges, which only a server would look at."""
    destination = MemoryDestination()
    destination.ensure_project("w/p", "")
    run = destination.open_run(RunTarget("w/p", "r", "r", datetime(2024, 1, 1, tzinfo=UTC)), None)
    for record in records:
        match record:
            case Assign(values) | Points(_, _, values):
                pairs = [*values.items()]
            case AssignFile(path, _):
                pairs = [(path, None)]
            case AddTags(tags):
                pairs = [("sys/tags", tag) for tag in tags]
        for path, value in pairs:
            assert 0 < len(path.encode()) <= PATH_MAX_BYTES
            assert all(path.split("/"))
            match value:
                case str():
                    assert len(value.encode()) <= STRING_MAX_BYTES
                case bool():
                    pass
                case int():
                    assert -(2**63) <= value < 2**63
                case Histogram(edges, counts):
                    assert len(edges) == len(counts) + 1 <= 513
                    assert all(map(math.isfinite, (*edges, *counts)))
                    assert all(left < right for left, right in pairwise(edges))
        if isinstance(record, Points):
            assert 0 <= record.step < STEP_MAX
        run.write([record])
    assert run.flush().wait() == []


OPTIONS = st.builds(
    MappingOptions,
    include_private=st.booleans(),
    stringify=st.booleans(),
    metrics_namespace=st.none() | st.just("all"),
    max_file_bytes=st.none() | st.just(2),
)
ALWAYS = [name for name in PARTS if name != "artifacts"]


@pytest.mark.parametrize("part", ALWAYS)
class TestWhateverWandbHolds:
    @settings(deadline=None, max_examples=60)
    @given(data=st.data(), options=OPTIONS)
    def test_every_value_is_written_or_skipped_with_a_reason(
        self, part: str, data: st.DataObject, options: MappingOptions
    ) -> None:
        run = data.draw(runs_for(part))
        outcome, taken = Outcome(), 0
        for batch in batches(part, run, options=options):
            outcome.add(batch)
            assert_neptune_takes(batch.records)
            # Files that the history gives as such are those of points that it skips.
            taken += outputs_of(one for one in batch.records if part != "history" or isinstance(one, Points))
        assert outcome.read == outcome.written + outcome.skipped
        assert outcome.read == inputs_of(part, run, private=options.include_private)
        assert outcome.written == taken

    @settings(deadline=None, max_examples=40)
    @given(data=st.data(), options=OPTIONS, slow=slow, page_rows=st.integers(1, 3))
    def test_it_makes_no_difference_where_the_part_is_interrupted(
        self, part: str, data: st.DataObject, options: MappingOptions, slow: list[bool], page_rows: int
    ) -> None:
        run = data.draw(runs_for(part))
        whole = convert(part, run, options=options).seen()
        assert convert(part, run, options=options, slow=slow, page_rows=page_rows).seen() == whole
        assert convert_in_pieces(part, run, options=options, slow=slow, page_rows=page_rows).seen() == whole

    @settings(deadline=None, max_examples=40)
    @given(data=st.data())
    def test_a_refresh_that_finds_nothing_new_counts_nothing_twice(self, part: str, data: st.DataObject) -> None:
        run = data.draw(runs_for(part))
        outcome = convert(part, run)
        before = outcome.seen()
        again = convert(part, replace(run, fork=Fork("other", 1)), outcome).seen()
        assert (again["ledger"], again["counts"]) == (before["ledger"], before["counts"])


@settings(deadline=None, max_examples=40)
@given(run=runs_for(*ALWAYS), slow=slow)
def test_all_records_of_a_run_together_suit_neptune(run: MemoryData, slow: list[bool]) -> None:
    destination = MemoryDestination()
    destination.ensure_project("w/p", "")
    out = destination.open_run(RunTarget("w/p", "r", "r", datetime(2024, 1, 1, tzinfo=UTC)), None)
    for part in ALWAYS:
        for batch in batches(part, run, slow=slow):
            out.write(batch.records)
            assert out.flush().wait() == []


def history_of(*rows: tuple[float, Mapping[str, Any]], **fields: Any) -> MemoryData:
    """A run with these rows, a second apart."""
    return MemoryData("r", history=[HistoryRow(step, 1.7e9 + i, row) for i, (step, row) in enumerate(rows)], **fields)


def test_what_a_source_cannot_read_of_a_run_is_skipped() -> None:
    lost = Entry(Kind.SKIPPED, "run-r.wandb: 4 bytes", "unreadable", 3)
    outcome = convert("attributes", MemoryData("r", findings=[lost, Entry(Kind.JOINED, "other.wandb", "a copy")]))
    assert outcome.ledger == {("skipped", lost.path, "unreadable"): 3, ("joined", "other.wandb", "a copy"): 1}
    assert outcome.read == outcome.written + 3


@pytest.mark.parametrize("step", [20, 20.5])
def test_in_a_fork_what_has_no_steps_of_its_own_is_numbered_from_behind_the_fork_step(step: float) -> None:
    run = MemoryData(
        "r",
        fork=Fork("parent", step),
        history=[HistoryRow(at, 1.7e9 + at, {"a": at}) for at in (19, 20, 21, 22)],
        system=[SystemRow(n, 1.7e9 + n, {"cpu": n}) for n in range(3)],
        console=[ConsoleLine(n, 1.7e9 + n, "stdout", f"line {n}") for n in range(3)],
    )
    for part, path in (("system", "system/cpu"), ("console", "runtime/stdout")):
        whole = convert(part, run)
        assert [at for at, _, _ in whole.series[path]] == [21, 22, 23]
        assert convert_in_pieces(part, run, slow=[True], page_rows=1).seen() == whole.seen()
        (last,) = [batch for batch in batches(part, run) if batch.records]
        assert last.until_step == 23
    history = convert("history", run)
    assert [at for at, _, _ in history.series["a"]] == [21, 22]
    assert history.ledger == {("kept", "history", INHERITED): 2}


SHORT = {
    "history": (history_of((0, {"a": 1}), history_rows=3), "missing_rows"),
    "files": (MemoryData("r", files={"a": b"1"}, file_count=3), "missing_file"),
}


@pytest.mark.parametrize("part", SHORT)
class TestShortage:
    """A source that counts more than it gives."""

    def test_is_tried_again_and_then_believed_and_skipped(self, part: str) -> None:
        data, reason = SHORT[part]
        outcome = Outcome()
        for time in range(1, SHORT_TRIES):
            with pytest.raises(Retryable, match=f"{part}: the source counts 3 but returns 1; seen {time} of 3 times"):
                convert(part, data, outcome)
            assert not outcome.written
        convert(part, data, outcome)
        assert outcome.ledger == {("skipped", "the source counts 3 but returns 1", reason): 2}
        assert (outcome.read, outcome.written) == (3, 1)
        assert convert_in_pieces(part, data).seen() == outcome.seen()

    def test_counts_anew_whenever_it_says_something_else(self, part: str) -> None:
        data, _ = SHORT[part]
        outcome = Outcome()
        for counted in (3, 3, 4, 3, 3):
            with pytest.raises(Retryable):
                convert(part, replace(data, history_rows=counted, file_count=counted), outcome)

    def test_is_never_believed_when_it_gives_nothing(self, part: str) -> None:
        data = replace(SHORT[part][0], history=[], files={})
        outcome = Outcome()
        for _ in range(SHORT_TRIES + 1):
            with pytest.raises(Retryable, match=f"returns 0; --exclude {part} copies the rest"):
                convert(part, data, outcome)

    def test_is_entered_once_however_often_the_run_grows(self, part: str) -> None:
        data, _ = SHORT[part]
        outcome = convert_in_pieces(part, data)
        grown = [*data.history, *history_of((1, {"a": 2})).history]
        more = replace(data, history=grown, files={**data.files, "b": b"2"}, history_rows=4, file_count=4)
        convert_in_pieces(part, more, outcome)
        assert (outcome.skipped, outcome.read, outcome.written) == (2, 4, 2)

    def test_gives_late_what_can_no_more_be_written(self, part: str) -> None:
        """Rows below the last step; of files nothing is too late."""
        data, _ = SHORT[part]
        outcome = convert_in_pieces(part, replace(data, history=history_of((5, {"a": 1})).history))
        whole = history_of((0, {"a": 1}), (1, {"a": 1}), (5, {"a": 1})).history
        convert_in_pieces(part, replace(data, history=whole, files=dict.fromkeys("abc", b"1")), outcome)
        expected = (2, 3, 1) if part == "history" else (0, 3, 3)
        assert (outcome.skipped, outcome.read, outcome.written) == expected


class TestHistory:
    def test_a_plain_key_and_a_nested_one_of_the_same_name_are_one_series(self) -> None:
        both = {"a": {"b": 1.0}, "a.b": 2.0}
        outcome = convert("history", history_of((0, both), (1, both), (2, dict(reversed(both.items())))))
        assert outcome.series_values() == {"a.b": [1.0, 1.0, 2.0]}
        assert outcome.ledger == {("skipped", "a.b", "duplicate_step"): 3}
        assert (outcome.read, outcome.written) == (6, 3)

    @settings(deadline=None)
    @given(st.lists(st.permutations(["a", "b", "c"]).map(lambda keys: dict.fromkeys(keys[:2], 1.0)), max_size=6))
    def test_a_value_that_comes_again_at_its_step_is_skipped_whatever_came_between(self, rows: list[Any]) -> None:
        outcome = convert("history", history_of(*((5, row) for row in rows)))
        assert {path: len(points) for path, points in outcome.series.items()} == dict.fromkeys(
            {key for row in rows for key in row}, 1
        )
        assert outcome.read == 2 * len(rows) == outcome.written + outcome.skipped

    def test_steps_out_of_range_are_counted_once_however_often_the_source_grows(self) -> None:
        first = history_of((-1, {"a": 1}), (0, {"a": 1}), (STEP_MAX, {"a": 1}), state="running")
        outcome = convert("history", first)
        grown = replace(first, history=[*first.history, HistoryRow(STEP_MAX + 1, 1.7e9, {"a": 1})])
        convert("history", grown, outcome)
        assert outcome.ledger["skipped", "a", "step_out_of_range"] == 3
        assert (outcome.read, outcome.written) == (4, 1)

    def test_the_highest_step_that_may_be_sent_is_one_that_is_sent(self) -> None:
        data = history_of((0, {"a": 1}), (7, {"a": 1}), (9, {"_private": 1}), (STEP_MAX, {"a": 1}))
        (batch,) = batches("history", data)
        assert batch.until_step == 7
        (batch,) = batches("history", history_of((3, {"_private": 1})))
        assert batch.until_step is None

    def test_rows_of_a_run_that_still_runs_are_not_counted(self) -> None:
        assert convert("history", history_of((0, {"a": 1}), state="running")).done

    def test_a_batch_is_full_at_its_number_of_values_and_never_inside_a_step(self) -> None:
        row = {f"k{i}": 0.5 for i in range(100)}
        per_batch = BATCH_VALUES // len(row)
        rows = [(step, row) for step in range(per_batch + 5)]
        rows.insert(per_batch, (per_batch - 1, {"later": 0.5}))
        sizes = [batch.read for batch in batches("history", history_of(*rows))]
        assert sizes == [BATCH_VALUES + 1, 500, 0][: len(sizes)]
        assert sum(sizes) == BATCH_VALUES + 501

    def test_long_texts_fill_a_batch_by_their_bytes(self) -> None:
        rows = [(step, {"t": "x" * STRING_MAX_BYTES}) for step in range(20)]
        first = next(iter(batches("history", history_of(*rows))))
        assert len(first.records) == BATCH_BYTES // STRING_MAX_BYTES

    def test_media_fill_a_batch_by_their_number(self) -> None:
        rows = [(step, {"img": {"_type": "image-file", "path": PRESENT}}) for step in range(BATCH_FILES + 1)]
        data = history_of(*rows, files={PRESENT: b"here"})
        assert [len(batch.records) for batch in batches("history", data, page_rows=1)] == [BATCH_FILES, 1]

    @pytest.mark.parametrize("steps", [(0, 0), (-1,), (STEP_MAX,), (5, 3)])
    def test_the_file_of_a_point_that_is_skipped_goes_to_the_other_files(self, steps: Sequence[int]) -> None:
        rows = [(step, {"img": {"_type": "image-file", "path": f"media/{n}.png"}}) for n, step in enumerate(steps)]
        data = history_of(*rows, files={f"media/{n}.png": b"here" for n in range(2)})
        outcome = convert("history", data)
        last = f"media/{len(steps) - 1}.png"
        assert outcome.files == {f"files/{last}": (last, b"here")}
        assert (outcome.written, outcome.skipped) == (len(steps) - 1, 1)

    def test_the_file_of_several_skipped_points_is_copied_and_noted_once(self) -> None:
        row = {"img": {"_type": "image-file", "path": PRESENT}}
        data = history_of((-2, row), (-2, row), (-1, row), files={PRESENT: b"here"})
        outcome = convert_in_pieces("history", data, slow=[True], page_rows=1)
        assert len(outcome.records) == 1
        moved = f"{PRESENT} → files/{PRESENT}"
        assert outcome.ledger == {
            ("skipped", "img", "step_out_of_range"): 3,
            ("renamed", moved, "its point was skipped"): 1,
        }

    def test_a_missing_file_leaves_the_rest_of_its_step(self) -> None:
        row: dict[str, Any] = {"img": {"_type": "image-file", "path": MISSING, "caption": "gone"}, "n": 1}
        outcome = convert("history", history_of((0, row), (1, {"img": row["img"] | {"caption": None}})))
        assert outcome.series_values() == {"img/caption": ["gone"], "n": [1.0]}
        assert outcome.ledger == {("skipped", MISSING, "missing_file"): 2}
        assert (outcome.read, outcome.written) == (4, 2)

    def test_a_kind_that_only_comes_later_finds_the_path_taken_and_keeps_out_of_it(self) -> None:
        first = history_of((0, {"a": "text"}), state="running")
        outcome = convert("history", first)
        convert("history", replace(first, history=[*first.history, HistoryRow(1, 1.7e9, {"a": 1.0})]), outcome)
        assert outcome.series_values() == {"a": ["text"], "a/number": [1.0]}

    @pytest.mark.parametrize(
        ("histogram", "edges", "counts"),
        [
            ({"bins": [0, 1, 2], "values": [3, 4]}, (0.0, 1.0, 2.0), (3, 4)),
            ({"bins": [0, 1], "values": [2.0]}, (0.0, 1.0), (2,)),
            ({"bins": [0, 1], "values": [2.5]}, (0.0, 1.0), (2.5,)),
            ({"bins": [0, 1], "values": [-2]}, (0.0, 1.0), (-2.0,)),
            ({"bins": [0, 1], "values": [2**64 - 1]}, (0.0, 1.0), (2**64 - 1,)),
            ({"bins": [0, 1], "values": [2**64]}, (0.0, 1.0), (2.0**64,)),
            ({"packedBins": {"min": -1, "size": 0.5, "count": 2}, "values": [1, 2]}, (-1.0, -0.5, 0.0), (1, 2)),
            ({"packedBins": {"min": 0, "size": 1, "count": 3}, "bins": [0, 1], "values": [1]}, (0.0, 1.0), (1,)),
        ],
    )
    def test_a_histogram_keeps_its_edges_and_counts(
        self, histogram: dict[str, Any], edges: tuple[float, ...], counts: tuple[float, ...]
    ) -> None:
        result, changes = histogram_of(histogram)
        assert repr(result) == repr(Histogram(edges, counts))
        assert not changes

    @pytest.mark.parametrize(
        "histogram",
        [
            {},
            {"bins": [0, 1]},
            {"values": [1]},
            {"bins": [0], "values": []},
            {"bins": [0, 1, 2], "values": [1]},
            {"bins": [1, 0], "values": [1]},
            {"bins": [0, math.inf], "values": [1]},
            {"bins": [0, 1], "values": [math.nan]},
            {"bins": [0, "1"], "values": [1]},
            {"bins": "01", "values": [1]},
            {"bins": [0, 10**400], "values": [1]},
            {"bins": [0, 1], "values": [10**400]},
            {"bins": [0, 1, 1], "values": [1, 1]},
            {"bins": [sys.float_info.max] * 3, "values": [1, 1]},
            {"bins": [*range(514)], "values": [1e308] * 513},
            {"bins": [*range(514)], "values": [10**308] * 513},
            {"packedBins": {"min": 10**400, "size": 0.5, "count": 1}, "values": [1]},
            {"packedBins": {"min": 0, "size": 10**400, "count": 1}, "values": [1]},
            {"packedBins": {"min": 1e308, "size": 1e308, "count": 1}, "values": [1]},
            {"packedBins": {"count": 1}, "values": [1]},
        ],
    )
    def test_what_is_no_histogram_is_skipped(self, histogram: dict[str, Any]) -> None:
        outcome = convert("history", history_of((0, {"h": {"_type": "histogram", **histogram}, "n": 1})))
        assert outcome.ledger == {("skipped", "h", "bad_histogram"): 1}
        assert outcome.series_values() == {"n": [1.0]}

    @pytest.mark.parametrize(
        ("value", "histogram"),
        [
            (0.5, {"bins": [0.5] * 4, "values": [1, 0, 0]}),
            (1.0, {"bins": [1, 1], "values": [1]}),
            (-3.0, {"packedBins": {"min": -3, "size": 0, "count": 2}, "values": [2, 5]}),
            (2.0**60, {"bins": [2**60, 2**60 + 1], "values": [1]}),
            (0.0, {"bins": [0.0] * 700, "values": [1] * 699}),
        ],
    )
    def test_equal_edges_are_widened_around_their_value(self, value: float, histogram: dict[str, Any]) -> None:
        result, changes = histogram_of(histogram)
        assert result is not None
        assert changes[0] == WIDENED
        assert result.edges[0] < value < result.edges[-1]
        assert all(left < right for left, right in pairwise(result.edges))
        assert sum(result.values) == sum(histogram["values"])

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 2**40), min_size=1, max_size=2000))
    def test_merging_bins_loses_no_count(self, counts: list[int]) -> None:
        histogram, changes = histogram_of({"bins": [*range(len(counts) + 1)], "values": counts})
        assert histogram is not None
        assert bool(changes) == (len(counts) > 512)
        assert sum(histogram.values) == sum(counts)
        assert len(histogram.values) <= 512
        assert (histogram.edges[0], histogram.edges[-1]) == (0, len(counts))


class TestLayout:
    series = st.builds(
        SeriesKey, keys, st.sampled_from(["", "0", "1", "caption", "0/caption"]), st.sampled_from(SeriesKind)
    )

    @settings(deadline=None, max_examples=200)
    @given(st.lists(series, unique=True), st.lists(series, unique=True), st.none() | st.just("all"))
    def test_what_was_saved_gives_the_same_paths_again(
        self, surveyed: list[SeriesKey], later: list[SeriesKey], namespace: str | None
    ) -> None:
        layout, ledger = Layout((), namespace), BatchLedger()
        layout.learn(surveyed, ledger)
        half = json.loads(json.dumps(layout.series))
        paths = {series: layout.path(series, ledger) for series in later}
        paths |= {series: layout.path(series, ledger) for series in surveyed}
        for saved in (half, json.loads(json.dumps(layout.series))):
            again = Layout(saved, namespace)
            again.learn(surveyed, ignored := BatchLedger())
            assert {series: again.path(series, ledger) for series in paths} == paths
            assert ignored.take() == []

    @settings(deadline=None, max_examples=200)
    @given(st.lists(series, unique=True))
    def test_no_two_series_share_a_path(self, surveyed: list[SeriesKey]) -> None:
        layout = Layout((), None)
        layout.learn(surveyed, BatchLedger())
        paths = [layout.path(series, BatchLedger()) for series in surveyed]
        assert len(set(paths)) == len(paths)
        assert not {path.split("/")[0] for path in paths} & {"sys", "config", "system"}

    @given(st.permutations([SeriesKey("a", "", kind) for kind in SeriesKind]))
    def test_numbers_keep_the_path_before_text_before_histograms_before_files(self, surveyed: list[SeriesKey]) -> None:
        layout = Layout((), None)
        layout.learn(surveyed, BatchLedger())
        paths = {series.kind: layout.path(series, BatchLedger()) for series in surveyed}
        assert paths == {NUMBER: "a", TEXT: "a/text", HISTOGRAM: "a/histogram", FILE: "a/file"}


class TestTimes:
    created_at = datetime(2024, 1, 1, tzinfo=UTC)

    @settings(deadline=None)
    @given(st.lists(st.tuples(times, st.sets(st.sampled_from("abc"), min_size=1))), st.booleans())
    def test_no_series_goes_backwards_and_each_change_is_noted(
        self, rows: list[tuple[float | None, set[str]]], resumed: bool
    ) -> None:
        clock, ledger = Times({}, self.created_at), BatchLedger()
        latest: dict[str, float] = {}
        for time, paths in rows:
            if resumed:
                clock = Times(json.loads(json.dumps(clock.state())), self.created_at)
            row_us = clock.of_row(time, ledger)
            assert ledger.take() or (time is not None and row_us == round(time * 1_000_000))
            groups = clock.by_series(row_us, dict.fromkeys(paths, 1.0), ledger)
            placed = {path: time_us for time_us, some in groups for path in some}
            assert placed == {path: max(row_us, latest.get(path, -math.inf)) for path in paths}
            assert {entry.path for entry in ledger.take()} == {path for path in paths if placed[path] != row_us}
            latest |= placed

    def test_the_creation_time_stands_in_before_the_first(self) -> None:
        clock = Times({}, self.created_at)
        assert clock.of_row(None, BatchLedger()) == self.created_at.timestamp() * 1_000_000

    def test_microseconds_are_exact(self) -> None:
        assert Times({}, self.created_at).of_row(1_700_000_000.123457, BatchLedger()) == 1_700_000_000_123_457

    def test_a_cursor_of_version_1_0_holds_back_every_series(self) -> None:
        clock = Times({"time_us": 9_000_000}, self.created_at)
        assert clock.by_series(clock.of_row(5.0, BatchLedger()), {"a": 1.0}, BatchLedger()) == [(9_000_000, {"a": 1.0})]


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("code/src/train.py", "source_code/files/src/train.py"),
            ("code/requirements.txt", "source_code/files/requirements.txt"),
            ("code/checkpoint.py", "source_code/files/checkpoint.py"),
            ("requirements.txt", "source_code/requirements.txt"),
            ("sub/requirements.txt", "files/sub/requirements.txt"),
            ("best.ckpt", "checkpoints/best.ckpt"),
            ("run/checkpoint-1/x.bin", "checkpoints/run/checkpoint-1/x.bin"),
            ("media/images/a.png", "files/media/images/a.png"),
            ("output.log", "files/output.log"),
        ],
    )
    def test_a_file_goes_where_the_first_matching_rule_says(self, name: str, path: str) -> None:
        assert file_path(name) == path

    def test_a_copy_that_is_interrupted_notes_each_new_name_once(self) -> None:
        names = [f"d{i:03}//x" for i in range(2 * BATCH_FILES + 1)]
        data = MemoryData("r", files=dict.fromkeys(names, b"x"))
        whole = convert("files", data)
        assert len(whole.ledger) == len(names)
        assert convert_in_pieces("files", data).seen() == whole.seen()

    def test_the_cursors_of_many_batches_share_what_they_hold(self) -> None:
        """Many batches wait together for a request, and a run may have 100,000 files."""
        data = MemoryData("r", files={f"{i}": b"x" for i in range(3 * BATCH_FILES)})
        first, *_, last = batches("files", data)
        assert last.cursor["items"][0] is first.cursor["items"][0]
        assert [len(outcome) for outcome in last.cursor["items"]] == [BATCH_FILES] * 3

    def test_only_what_is_new_or_has_changed_is_copied_again(self) -> None:
        data = MemoryData("r", files={"a": b"1", "b": b"1"})
        outcome = convert("files", data)
        outcome.records.clear()
        convert_in_pieces("files", replace(data, files={"a": b"1", "b": b"2", "c": b"1"}), outcome)
        assert outcome.files == {"files/b": ("b", b"2"), "files/c": ("c", b"1")}
        assert (outcome.read, outcome.written, outcome.size_bytes) == (3, 3, 3)

    def test_a_file_that_has_become_too_large_is_skipped_and_one_that_fits_now_is_copied(self) -> None:
        options = MappingOptions(max_file_bytes=2)
        data = MemoryData("r", files={"a": b"1", "b": b"123"})
        outcome = convert("files", data, options=options)
        assert outcome.ledger == {("skipped", "b", "too_large"): 1}
        convert_in_pieces("files", replace(data, files={"a": b"123", "b": b"1"}), outcome, options=options)
        assert outcome.files["files/b"] == ("b", b"1")
        assert outcome.ledger == {("skipped", "a", "too_large"): 1}
        assert (outcome.read, outcome.written) == (2, 1)

    def test_a_file_keeps_its_path_when_another_comes_before_it(self) -> None:
        data = MemoryData("r", files={"b/_/c": b"old"})
        outcome = convert("files", data)
        convert_in_pieces("files", replace(data, files={"b//c": b"new", "b/_/c": b"changed"}), outcome)
        assert {path: content for path, (_, content) in outcome.files.items()} == {
            "files/b/_/c": b"changed",
            f"files/b/_/c~{sha256(b'b//c').hexdigest()[:8]}": b"new",
        }

    def test_the_files_of_the_history_are_not_copied_again(self) -> None:
        data = history_of(
            (0, {"i": {"_type": "image-file", "path": PRESENT}}), files={PRESENT: b"x", "media/other": b"y"}
        )
        assert list(convert("files", data).files) == ["files/media/other"]

    def test_the_files_of_private_keys_go_where_the_keys_do(self) -> None:
        data = history_of((0, {"_i": {"_type": "image-file", "path": PRESENT}}), files={PRESENT: b"x"})
        assert list(convert("files", data).files) == [f"files/{PRESENT}"]
        assert not convert("files", data, options=MappingOptions(include_private=True)).files


class TestArtifacts:
    def artifact(self, name: str = "model", files: int = 2, **fields: Any) -> Artifact:
        return Artifact(
            name=name,
            version="v0",
            type=fields.pop("type", "model"),
            aliases=fields.pop("aliases", ["latest"]),
            digest="d",
            size_bytes=3,
            created_at=datetime(2024, 1, 1, tzinfo=UTC),
            metadata=fields.pop("metadata", "{}"),
            files=[SourceFile(f"f{i:03}", 1) for i in range(files)],
            references=fields.pop("references", {}),
            **fields,
        )

    def run(self, *artifacts: Artifact, **fields: Any) -> MemoryData:
        files = {f"{a.name}:{a.version}/{file.name}": b"x" for a in artifacts for file in a.files}
        return MemoryData("r", artifacts=[*artifacts], artifact_files=files, **fields)

    def test_an_interrupted_artifact_goes_on_behind_the_files_that_are_counted(self) -> None:
        data = self.run(self.artifact("a", 3 * BATCH_FILES), self.artifact("b"), used_artifacts=["t/p/x:v1"])
        whole = convert("artifacts", data)
        assert whole.read == 3 * BATCH_FILES + 6 + 2 + 6 + 1
        assert convert_in_pieces("artifacts", data).seen() == whole.seen()

    def test_a_refresh_copies_only_new_versions(self) -> None:
        data = self.run(self.artifact("a"))
        outcome = convert("artifacts", data)
        outcome.records.clear()
        convert_in_pieces("artifacts", self.run(self.artifact("a"), self.artifact("b"), used_artifacts=["x"]), outcome)
        convert_in_pieces("artifacts", self.run(self.artifact("a"), self.artifact("b"), used_artifacts=["x"]), outcome)
        assert list(outcome.files) == ["artifacts/b/v0/f000", "artifacts/b/v0/f001"]
        assert outcome.read == outcome.written == 2 * (6 + 2) + 1

    def test_a_file_that_is_gone_or_too_large_is_skipped(self) -> None:
        artifact = replace(self.artifact(), files=[SourceFile("here", 1), SourceFile("gone", 1), SourceFile("big", 9)])
        data = MemoryData("r", artifacts=[artifact], artifact_files={"model:v0/here": b"x", "model:v0/big": b"x" * 9})
        outcome = convert("artifacts", data, options=MappingOptions(max_file_bytes=5))
        assert list(outcome.files) == ["artifacts/model/v0/here"]
        assert outcome.ledger == {
            ("skipped", "model:v0/gone", "missing_file"): 1,
            ("skipped", "model:v0/big", "too_large"): 1,
        }
        assert outcome.read == outcome.written + 2

    def test_a_file_in_the_way_of_what_is_told_of_the_artifact_gets_another_path(self) -> None:
        artifact = replace(self.artifact(), files=[SourceFile("info/type", 1)])
        data = MemoryData("r", artifacts=[artifact], artifact_files={"model:v0/info/type": b"x"})
        outcome = convert("artifacts", data)
        assert outcome.values["artifacts/model/v0/info/type"] == "model"
        assert list(outcome.files) == [f"artifacts/model/v0/info/type~{sha256(b'info/type').hexdigest()[:8]}"]
        assert [kind for kind, _, _ in outcome.ledger] == ["renamed"]

    def test_interrupted_copies_and_refreshes_give_the_same_paths(self) -> None:
        files = [SourceFile(name, 1) for name in ("a//b", "a/_/b", "info/type", *(f"{n:03}" for n in range(200)))]
        first, second = (replace(self.artifact(), version=version, files=files) for version in ("v0", "v1"))
        whole = convert("artifacts", self.run(first, second))
        assert len(whole.files) == 2 * len(files)
        assert convert_in_pieces("artifacts", self.run(first, second)).seen() == whole.seen()
        refreshed = convert("artifacts", self.run(second))
        convert_in_pieces("artifacts", self.run(first, replace(second, aliases=[])), refreshed)
        assert refreshed.files == whole.files
        assert refreshed.values == whole.values | {"artifacts/model/v1/info/aliases": frozenset()}

    def test_a_list_of_files_that_is_gone_in_the_middle_of_a_copy_is_a_skip(self) -> None:
        outcome = Outcome()
        for batch in batches("artifacts", self.run(self.artifact(files=3 * BATCH_FILES))):
            outcome.add(batch)
            break
        convert_in_pieces("artifacts", self.run(self.artifact(files=1)), outcome)
        assert outcome.ledger == {("skipped", "model:v0", "missing_file"): 1}
        assert outcome.read == outcome.written + 1

    def test_what_is_cut_is_noted_once(self) -> None:
        data = self.run(self.artifact(files=3 * BATCH_FILES, metadata="x" * (STRING_MAX_BYTES + 1)))
        ledger = convert_in_pieces("artifacts", data).ledger
        assert ledger == {("truncated", "model:v0 metadata", f"text over {STRING_MAX_BYTES} bytes"): 1}


class TestOthers:
    def test_tags_that_are_too_many_for_neptune_are_skipped(self) -> None:
        tags = [f"{i}" * 1000 for i in range(10, 600)]
        outcome = convert("attributes", MemoryData("r", tags=tags, group="g"))
        assert outcome.tags == [AddTags(frozenset({"g"}), group=True)]
        assert outcome.ledger == {("skipped", "tags", "string_set_too_large"): len(tags)}
        assert outcome.read == outcome.written + outcome.skipped

    def test_samples_that_turn_out_to_be_all_rows_are_gone_on_from(self) -> None:
        rows = [SystemRow(n, 1.7e9 + n, {"cpu": n}) for n in range(6)]
        outcome = convert("system", MemoryData("r", system=rows[:4], partial={"system": "W&B returned only samples"}))
        whole = convert("system", MemoryData("r", system=rows), outcome)
        assert [step for step, _, _ in whole.series["system/cpu"]] == list(range(6))
        assert not [line for line in whole.ledger if line[0] == "kept"]

    def test_samples_of_a_run_that_went_on_are_told_of(self) -> None:
        rows = [SystemRow(n, 1.7e9 + n, {"cpu": n}) for n in range(6)]
        samples = [row._replace(number=n) for n, row in enumerate(rows[:6:2])]
        outcome = convert("system", MemoryData("r", system=samples, partial={"system": "W&B returned only samples"}))
        outcome = convert("system", MemoryData("r", system=rows), outcome)
        assert outcome.ledger["kept", "system", "samples taken while the run was going on"] == 3

    @pytest.mark.parametrize("number", [0, 1])
    def test_a_line_that_was_written_into_after_it_was_copied_is_told_of(self, number: int) -> None:
        lines = [ConsoleLine(n, 1.7e9, "stdout", text) for n, text in ((4, "step"), (9, "1%"), (10, "end"))]
        outcome = convert("console", MemoryData("r", console=lines[:2]))
        lines[number] = lines[number]._replace(text="100%")
        outcome = convert("console", MemoryData("r", console=lines), outcome)
        assert [step for step, _, _ in outcome.series["runtime/stdout"]] == [4, 9, 10]
        assert outcome.ledger == {("kept", "runtime/stdout", "a line that has changed since it was copied"): 1}

    def test_one_note_says_that_system_metrics_are_samples(self) -> None:
        data = MemoryData(
            "r",
            system=[SystemRow(n, 1.7e9, {"cpu": 1}) for n in range(5)],
            partial={"system": "W&B returned only samples"},
        )
        outcome = convert_in_pieces("system", data, slow=[True], page_rows=1)
        assert outcome.ledger == {("sampled", "system", "W&B returned only samples"): 1}
        assert not convert("system", replace(data, system=[])).ledger

    def test_deep_nesting_is_no_trouble(self) -> None:
        deep: Any = 1
        for _ in range(200):
            deep = {"d": deep}
        deep_list: Any = 1
        for _ in range(200):
            deep_list = [deep_list]
        data = history_of((0, {"k": deep, "l": deep_list}), config={"k": deep, "l": deep_list})
        assert convert("history", data).written == 2
        assert convert("config", data).written == 3

    def test_scratch_files_lie_in_the_scratch_directory(self, tmp_path: Path) -> None:
        for part in ("config", "summary"):
            (batch,) = batches(part, MemoryData("r"))
            files = [record.file for record in batch.records if isinstance(record, AssignFile)]
            assert [file.name for file in files] == [f"raw-{part}.json"]
            assert files[0].path.parent != tmp_path


@pytest.mark.parametrize(
    ("table", "kinds"),
    [
        ({"columns": ["a", "Image"], "data": [[1, "Image"], ["Html", "Image"]]}, "Image, Html"),
        ({"columns": ["Image", "label"], "data": [[1, "an Image"]]}, None),
        ({"columns": ["a"], "data": "Image"}, None),
        (["Image"], None),
        ("Image", None),
    ],
)
def test_a_table_whose_cells_hold_media_is_noted(table: Any, kinds: str | None) -> None:
    name = "media/table/t.table.json"
    value = {"_type": "table-file", "path": name}
    data = MemoryData("r", history=[HistoryRow(0, 1.0, {"t": value})], files={name: json.dumps(table).encode()})
    noted = f"media in cells are only named ({kinds}): --include artifacts copies the whole table"
    assert convert("history", data).ledger == ({("converted", "t", noted): 1} if kinds else {})


@pytest.mark.parametrize("part", ["console", "history", "config", "summary", "attributes"])
def test_text_with_a_key_of_ours_is_a_skip_and_all_else_is_written(part: str) -> None:
    document = {"a": 1, "b": "my KEY", "c": {"d": "KEY"}}
    lines = [ConsoleLine(number, 1.0, "stdout", text) for number, text in enumerate(["one", "is KEY", "two"])]
    rows = [HistoryRow(step, 1.0, {"t": text, "n": step}) for step, text in enumerate(["one", "KEY", "two"])]
    data = MemoryData(
        "r", history=rows, console=lines, config=document, summary=document, notes="KEY", tags=["KEY", "b"]
    )
    outcome = convert(part, data, keys=["KEY"])
    skipped = {"console": 1, "history": 1, "config": 3, "summary": 3, "attributes": 3}[part]
    assert (outcome.skipped, {reason for _, _, reason in outcome.ledger}) == (skipped, {"contains_key"})
    assert "KEY" not in repr(outcome.records)
