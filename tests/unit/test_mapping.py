"""The mapping, row by row: a source value, and what must become of it. The tables are those of README."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest

from migrations_db.states import Phase
from migrations_db.types import Claim
from migrator.copying.copy import EPOCH, CopyPlan, run_target
from migrator.json_text import JsonText
from migrator.limits import INT_MAX, INT_MIN, RUN_ID_MAX_BYTES, STEP_MAX, STRING_MAX_BYTES
from migrator.naming import project_names
from migrator.parts.base import MappingOptions
from migrator.records import (
    AddTags,
    Artifact,
    ConsoleLine,
    Fork,
    Histogram,
    HistoryRow,
    Kind,
    RunAttributes,
    SourceFile,
    Sweep,
    SystemRow,
)
from migrator.sources.memory import MemoryData
from tests.drive import PLAIN, Outcome, convert

CREATED = datetime(2024, 1, 1, tzinfo=UTC)
CREATED_US = round(CREATED.timestamp() * 1_000_000)
NAN = math.nan
PRIVATE = MappingOptions(include_private=True)


def digest(text: str, digits: int = 8) -> str:
    return sha256(text.encode()).hexdigest()[:digits]


def row(name: str, *values: Any) -> Any:
    """A row of a table: its first cell names the test."""
    return pytest.param(*values, id=name)


def same(one: Any, other: Any) -> bool:
    """Equal in value and type, NaN to NaN."""
    return repr(one) == repr(other)


# ---------------------------------------------------------------- projects and runs


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        row("a legal name", ["a.B-1"], {"a.B-1": "a.B-1"}),
        row("underscore and other characters", ["a_b c/ü"], {"a_b c/ü": "a-b-c--"}),
        row("two that meet, one legal", ["a_b", "a-b"], {"a-b": "a-b", "a_b": f"a-b-{digest('a_b', 6)}"}),
        row(
            "two that meet, the legal one last by name",
            ["a b", "a-b"],
            {"a-b": "a-b", "a b": f"a-b-{digest('a b', 6)}"},
        ),
        row("two that meet, none legal", ["a_b", "a b"], {"a b": "a-b", "a_b": f"a-b-{digest('a_b', 6)}"}),
    ],
)
def test_each_project_gets_a_name_that_neptune_takes(names: list[str], expected: dict[str, str]) -> None:
    assert {name: renamed.name for name, renamed in project_names(names, {}).items()} == expected


def claim_of(run_id: str, **fields: Any) -> Claim:
    return Claim(
        run=1,
        attempt=1,
        worker_id="w",
        phase=Phase.COPY,
        project_id=1,
        source_service="memory",
        entity="team",
        project="p_1",
        project_url="",
        destination_name="p-1",
        run_id=run_id,
        name="",
        source_state="finished",
        created_at=fields.get("created_at"),
        fork_run_id=fields.get("fork_run_id"),
        fork_step=fields.get("fork_step"),
        location=None,
        history_rows=None,
        size_hint=0,
        fingerprint="f",
        position=None,
        failures=0,
    )


LONG_ID, LONG_NAME = "i" * (RUN_ID_MAX_BYTES + 1), "x" + "é" * 400


@pytest.mark.parametrize(
    ("run_id", "name", "expected_id", "expected_name", "notes"),
    [
        row("id and name", "abc", "fast fox", "abc", "fast fox", []),
        row("no name", "abc", None, "abc", "abc", []),
        row("empty name", "abc", "", "abc", "abc", []),
        row("id with a slash", "a/b", "n", f"a-b-{digest('a/b')}", "n", ["run id not allowed in Neptune"]),
        row(
            "id too long",
            *(LONG_ID, "n", "i" * (RUN_ID_MAX_BYTES - 9) + "-" + digest(LONG_ID), "n"),
            ["run id not allowed in Neptune"],
        ),
        row("name too long", "abc", LONG_NAME, "abc", "x" + "é" * 364, ["name over 730 bytes"]),
    ],
)
def test_a_run_keeps_its_id_and_name_where_neptune_takes_them(
    run_id: str, name: str | None, expected_id: str, expected_name: str, notes: list[str]
) -> None:
    plan = CopyPlan("workspace", ["attributes"], PLAIN, "1.0")
    target, entries = run_target(claim_of(run_id), RunAttributes(name, CREATED, ""), plan)
    assert (target.project, target.run_id, target.name) == ("workspace/p-1", expected_id, expected_name)
    assert [(entry.kind, entry.reason) for entry in entries] == [(Kind.RENAMED, note) for note in notes]


def test_the_creation_time_is_the_runs_else_the_listings_else_the_epoch() -> None:
    plan = CopyPlan("w", ["attributes"], PLAIN, "1.0")
    listed = claim_of("r", created_at=datetime(2023, 1, 1, tzinfo=UTC))
    for year in (1, 1899, 2300):
        before = datetime(year, 1, 1, tzinfo=UTC)
        assert run_target(listed, RunAttributes("n", before, ""), plan)[0].created_at == EPOCH
    assert run_target(listed, RunAttributes("n", CREATED, ""), plan)[0].created_at == CREATED
    assert run_target(listed, RunAttributes("n", None, ""), plan)[0].created_at == listed.created_at
    assert run_target(claim_of("r"), RunAttributes("n", None, ""), plan)[0].created_at.year == 1970


def test_a_fork_point_becomes_a_fork_of_the_parents_neptune_id() -> None:
    plan = CopyPlan("w", ["attributes"], PLAIN, "1.0")
    target, _ = run_target(claim_of("r", fork_run_id="a/b", fork_step=7), RunAttributes("n", CREATED, ""), plan)
    assert target.fork == Fork(f"a-b-{digest('a/b')}", 7)


@pytest.mark.parametrize(
    ("fields", "options", "values", "tags"),
    [
        row("notes", {"notes": "why"}, PLAIN, {"sys/description": "why"}, []),
        row("tags", {"tags": ["b", "a"]}, PLAIN, {}, [AddTags(frozenset({"a", "b"}))]),
        row("group", {"group": "g"}, PLAIN, {}, [AddTags(frozenset({"g"}), group=True)]),
        row(
            "attributes",
            {"wandb": {"created_at": CREATED, "history_line_count": 3, "read_only": False, "job_type": "train"}},
            PLAIN,
            {
                "wandb/created_at": CREATED,
                "wandb/history_line_count": 3,
                "wandb/read_only": False,
                "wandb/job_type": "train",
            },
            [],
        ),
        row("private attribute", {"wandb": {"_x": 1}}, PLAIN, {}, []),
        row(
            "private attribute, wanted", {"wandb": {"_x": 1}}, MappingOptions(include_private=True), {"wandb/_x": 1}, []
        ),
        row(
            "sweep",
            {"sweep": Sweep("s1", "grid", "bayes", "{}")},
            PLAIN,
            {
                "wandb/sweep/id": "s1",
                "wandb/sweep/name": "grid",
                "wandb/sweep/method": "bayes",
                "wandb/sweep/config": "{}",
            },
            [],
        ),
        row("sweep, half known", {"sweep": Sweep("s1")}, PLAIN, {"wandb/sweep/id": "s1"}, []),
    ],
)
def test_what_wandb_says_of_a_run_lands_below_sys_and_wandb(
    fields: dict[str, Any], options: MappingOptions, values: Any, tags: list[AddTags]
) -> None:
    outcome = convert("attributes", MemoryData("r", **fields), options=options)
    always = {"wandb/id": "r", "wandb/state": "finished"}
    provenance = {
        "migration/source_url": "memory:team/project/r",
        "migration/tool_version": "1.0",
        "migration/mapping_version": 1,
    }
    assert outcome.values == {**always, **values, **provenance}
    assert outcome.tags == tags
    assert not outcome.ledger
    assert outcome.read == outcome.written == len(always | values) + sum(len(tag.tags) for tag in tags)


@pytest.mark.parametrize("year", [1, 1899, 2300])
def test_a_time_that_neptune_cannot_hold_is_text(year: int) -> None:
    time = datetime(year, 1, 1, tzinfo=UTC)
    outcome = convert("attributes", MemoryData("r", wandb={"heartbeat_at": time}))
    assert outcome.values["wandb/heartbeat_at"] == f"{year:04}-01-01T00:00:00+00:00"
    assert outcome.ledger == {("converted", "wandb/heartbeat_at", "time outside Neptune's years, written as text"): 1}


@pytest.mark.parametrize("part", ["config", "summary"])
def test_the_untouched_json_is_kept_beside(part: str) -> None:
    outcome = convert(part, MemoryData("r", config={"a": [1, 2.0]}, summary={"a": [1, 2.0]}))
    assert outcome.files == {f"wandb/raw/{part}.json": (f"raw-{part}.json", b'{"a": [1, 2.0]}')}


# ---------------------------------------------------------------- paths


LONG = "k" * 1025
CUT = "k" * 1015 + "~" + digest(LONG)
RESERVED = ["sys", "config", "summary", "wandb", "system", "runtime", "files", "source_code"]
RESERVED += ["checkpoints", "artifacts", "migration"]
EMPTY_LEVEL, TAKEN = "empty level", "another key has this path"


@pytest.mark.parametrize(
    ("keys", "paths", "renamed"),
    [
        row("slash separates levels", ["train/loss"], ["train/loss"], {}),
        row("other characters stay", ["a.b c:ü\\"], ["a.b c:ü\\"], {}),
        row("1024 bytes", ["k" * 1024], ["k" * 1024], {}),
        row("more than 1024 bytes", [LONG], [CUT], {LONG: "path over 1024 bytes"}),
        row("empty level", ["a//b"], ["a/_/b"], {"a//b": EMPTY_LEVEL}),
        row("leading slash", ["/a"], ["_/a"], {"/a": EMPTY_LEVEL}),
        row("trailing slash", ["a/"], ["a/_"], {"a/": EMPTY_LEVEL}),
        row("empty key", [""], ["_"], {"": EMPTY_LEVEL}),
        row(
            "two keys on one path",
            *(["a/_", "a/"], ["a/_", f"a/_~{digest('a/')}"]),
            {"a/": TAKEN},
        ),
        *(
            row(
                f"reserved level {level}",
                [f"{level}/a"],
                [f"metrics/{level}/a"],
                {f"{level}/a": "first level is reserved"},
            )
            for level in RESERVED
        ),
        row("reserved level alone", ["sys"], ["metrics/sys"], {"sys": "first level is reserved"}),
        row("level that only begins so", ["system_x/a"], ["system_x/a"], {}),
        row(
            "reserved level meets a metric under metrics/",
            ["metrics/config/lr", "config/lr"],
            ["metrics/config/lr", f"metrics/config/lr~{digest('config/lr')}"],
            {"config/lr": TAKEN},
        ),
    ],
)
def test_a_metric_keeps_its_key_as_its_path_where_neptune_takes_it(
    keys: list[str], paths: list[str], renamed: dict[str, str]
) -> None:
    outcome = convert("history", MemoryData("r", history=[HistoryRow(0, 1.0, dict.fromkeys(keys, 1.0))]))
    assert list(outcome.series) == paths
    targets = dict(zip(keys, paths, strict=True))
    assert outcome.ledger == {("renamed", f"{key} → {targets[key]}", why): 1 for key, why in renamed.items()}


IMAGES = [{"_type": "image-file", "path": f"media/images/{name}.png", "caption": name} for name in "ab"]


@pytest.mark.parametrize(
    ("value", "moved"),
    [row("one", IMAGES[0], "config/k → metrics/config/k"), row("a list", IMAGES, "config/k/0 → metrics/config/k/0")],
)
def test_media_in_a_reserved_place_are_noted_once(value: Any, moved: str) -> None:
    outcome = convert("history", logged(value, value, key="config/k"))
    assert {path.partition("/k")[0] for path in outcome.series} == {"metrics/config"}
    assert outcome.ledger == {("renamed", moved, "first level is reserved"): 1}


def test_a_namespace_for_metrics_holds_them_all_and_needs_no_note() -> None:
    data = MemoryData("r", history=[HistoryRow(0, 1.0, {"loss": 1.0, "config/lr": 2.0})])
    outcome = convert("history", data, options=MappingOptions(metrics_namespace="train"))
    assert outcome.series_values() == {"train/loss": [1.0], "train/config/lr": [2.0]}
    assert not outcome.ledger


@pytest.mark.parametrize(
    ("config", "paths"),
    [
        row("nested dicts are levels", {"a": {"b": {"c": 1}}}, ["config/a/b/c"]),
        row("a nested key and one with a slash", {"a": {"b": 1}, "a/b": 2}, ["config/a/b", 'config/a/b~["a/b"]']),
        row("the first in source order keeps it", {"a/b": 2, "a": {"b": 1}}, ["config/a/b", 'config/a/b~["a","b"]']),
        row("an empty key", {"": 1, "a": {"": 2}}, ["config/_", "config/a/_"]),
    ],
)
def test_each_nested_config_value_has_its_own_path(config: dict[str, Any], paths: list[str]) -> None:
    """After a `~` the table shows the source key whose digest is meant."""
    expected = [path if "~" not in path else path.split("~")[0] + "~" + digest(path.split("~")[1]) for path in paths]
    assert list(convert("config", MemoryData("r", config=config)).values) == expected


# ---------------------------------------------------------------- single values

SIXTY_FOUR = "integer over 64 bits as text"
BIG_TEXT = "é" * STRING_MAX_BYTES

SINGLE_VALUES = [
    row("true", True, True, None),
    row("false", False, False, None),
    row("text", "ü", "ü", None),
    row("empty text", "", "", None),
    row("float", 0.5, 0.5, None),
    row("whole float", 2.0, 2.0, None),
    row("NaN", NAN, NAN, None),
    row("infinity", -math.inf, -math.inf, None),
    row("int", 3, 3, None),
    row("largest int", INT_MAX, INT_MAX, None),
    row("smallest int", INT_MIN, INT_MIN, None),
    row("int over 64 bits", INT_MAX + 1, str(INT_MAX + 1), ("converted", SIXTY_FOUR)),
    row("int under 64 bits", INT_MIN - 1, str(INT_MIN - 1), ("converted", SIXTY_FOUR)),
    row("None", None, "null", None),
    row("list", [1, "a", [None]], '[1,"a",[null]]', None),
    row("tuple", (1, 2), "[1,2]", None),
    row("list with NaN", [NAN], '["NaN"]', None),
    row("empty list", [], "[]", None),
    row("empty dict", {}, "{}", None),
    row("text of 1 MiB", "x" * STRING_MAX_BYTES, "x" * STRING_MAX_BYTES, None),
    row("text over 1 MiB", BIG_TEXT, "é" * (STRING_MAX_BYTES // 2), ("truncated", "text over 1048576 bytes")),
    row("text that is no unicode", "a\ud800", "a�", ("converted", "not valid unicode")),
    row("nested too deep", JsonText("[[1]]"), "[[1]]", ("converted", JsonText.NOTE)),
]


def run_with(part: str, values: Mapping[str, Any]) -> MemoryData:
    """A run with this config or summary."""
    fields: dict[str, Any] = {part: values}
    return MemoryData("r", **fields)


@pytest.mark.parametrize("part", ["config", "summary"])
@pytest.mark.parametrize(("value", "expected", "note"), SINGLE_VALUES)
def test_a_single_value_keeps_its_type_where_neptune_has_it(
    part: str, value: Any, expected: Any, note: tuple[str, str] | None
) -> None:
    outcome = convert(part, run_with(part, {"k": value}))
    assert same(outcome.values, {f"{part}/k": expected})
    assert outcome.ledger == ({(note[0], f"{part}/k", note[1]): 1} if note else {})
    assert outcome.read == outcome.written == 2


@pytest.mark.parametrize(
    ("part", "text", "expected"),
    [
        row("summary", "summary", "NaN", NAN),
        row("summary infinity", "summary", "Infinity", math.inf),
        row("summary minus infinity", "summary", "-Infinity", -math.inf),
        row("config", "config", "NaN", NAN),
        row("config, minus infinity", "config", "-Infinity", -math.inf),
    ],
)
def test_wandbs_words_for_nan_and_infinities_are_floats_in_a_summary(part: str, text: str, expected: Any) -> None:
    assert same(convert(part, run_with(part, {"k": text})).values, {f"{part}/k": expected})


@pytest.mark.parametrize("kind", ["image-file", "table-file", "histogram", "anything"])
def test_wandb_objects_in_the_summary_are_skipped(kind: str) -> None:
    outcome = convert("summary", MemoryData("r", summary={"img": {"_type": kind, "path": "x"}, "n": 1}))
    assert outcome.values == {"summary/n": 1}
    assert outcome.ledger == {("skipped", "summary/img", "wandb_object"): 1}
    assert (outcome.read, outcome.written) == (3, 2)


@pytest.mark.parametrize(
    ("part", "values", "shown"),
    [
        row("summary", "summary", {"_step": 1, "_wandb": {"runtime": 2}, "a": {"_b": 3}}, ["summary/a/_b"]),
        row("config", "config", {"_wandb": {"x": 1}, "_mine": 2}, ["config/_mine"]),
    ],
)
def test_private_keys_are_left_out_without_a_record(part: str, values: dict[str, Any], shown: list[str]) -> None:
    data = run_with(part, values)
    outcome = convert(part, data)
    assert list(outcome.values) == shown
    assert not outcome.ledger
    assert outcome.read == outcome.written == 1 + len(shown)
    assert len(convert(part, data, options=PRIVATE).values) > len(shown)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "True"),
        (1, "1"),
        (0.1, "0.1"),
        ("a", "a"),
        (None, "null"),
        ([1], "[1]"),
        ({}, "{}"),
        (10**40, "1" + "0" * 40),
    ],
)
def test_stringify_writes_every_config_and_summary_value_as_text(value: Any, text: str) -> None:
    data = MemoryData("r", config={"k": value}, summary={"k": value})
    for part in ("config", "summary"):
        assert convert(part, data, options=MappingOptions(stringify=True)).values == {f"{part}/k": text}


# ---------------------------------------------------------------- history

IMAGE = {"_type": "image-file", "path": "media/images/a.png"}
OTHER = {"_type": "image-file", "path": "media/images/b.png"}
GONE = {"_type": "image-file", "path": "media/images/gone.png"}
A, B = ("media/images/a.png", b"A"), ("media/images/b.png", b"B")
BARS = {"_type": "histogram", "bins": [0, 1, 2], "values": [3, 4]}
BARS_HERE = Histogram((0.0, 1.0, 2.0), (3, 4))
WIDE = {"_type": "histogram", "bins": [*range(514)], "values": [1] * 513}
WIDE_HERE = Histogram((*map(float, range(0, 513, 2)), 513.0), (*[2] * 256, 1))
INEXACT = "integer not exact as a double"
CAPTION = "caption as text"

MEDIA = ["audio-file", "video-file", "html-file", "table-file", "plotly-file", "object3D-file", "molecule-file"]

HISTORY = [
    row("float", 0.5, {"k": 0.5}, {}),
    row("int", 3, {"k": 3.0}, {}),
    row("largest exact int", 2**53, {"k": 2.0**53}, {}),
    row("int that a double cannot hold", 2**53 + 1, {"k": 2.0**53}, {("converted", "k", INEXACT): 1}),
    row("int beyond every double", 10**400, {}, {("skipped", "k", "number_out_of_range"): 1}),
    row("NaN", NAN, {"k": NAN}, {}),
    row("true", True, {"k": 1.0}, {("converted", "k", "bool as 0/1"): 1}),
    row("the word NaN", "NaN", {"k": NAN}, {}),
    row("the word Infinity", "Infinity", {"k": math.inf}, {}),
    row("the word -Infinity", "-Infinity", {"k": -math.inf}, {}),
    row("other text", "hello", {"k": "hello"}, {}),
    row("None is not logged", None, {}, {}),
    row("histogram", BARS, {"k": BARS_HERE}, {}),
    row(
        "packed histogram",
        {"_type": "histogram", "packedBins": {"min": -1, "size": 0.5, "count": 2}, "values": [3, 4]},
        {"k": Histogram((-1.0, -0.5, 0.0), (3, 4))},
        {},
    ),
    row(
        "histogram over 512 bins",
        WIDE,
        {"k": WIDE_HERE},
        {("converted", "k", "histogram over 512 bins: neighbours merged"): 1},
    ),
    row("bad histogram", {"_type": "histogram"}, {}, {("skipped", "k", "bad_histogram"): 1}),
    row("media file", IMAGE, {"k": A}, {}),
    row("media file with a caption", IMAGE | {"caption": "cat"}, {"k": A, "k/caption": "cat"}, {}),
    *(row(kind, {"_type": kind, "path": "media/images/a.png"}, {"k": A}, {}) for kind in MEDIA),
    row(
        "a number as caption",
        IMAGE | {"caption": 7},
        {"k": A, "k/caption": "7"},
        {("converted", "k/caption", CAPTION): 1},
    ),
    row("False as caption", IMAGE | {"caption": False}, {"k": A}, {}),
    row(
        "captions of odd types",
        {"_type": "images/separated", "filenames": [A[0], B[0], A[0], B[0]], "captions": [1.0, False, "", {"a": [2]}]},
        {"k/0": A, "k/0/caption": "1", "k/1": B, "k/2": A, "k/3": B, "k/3/caption": '{"a":[2]}'},
        {("converted", "k/0/caption", CAPTION): 1, ("converted", "k/3/caption", CAPTION): 1},
    ),
    row("list of media", [IMAGE, OTHER | {"caption": "b"}], {"k/0": A, "k/1": B, "k/1/caption": "b"}, {}),
    row(
        "images/separated",
        {"_type": "images/separated", "filenames": [A[0], B[0]], "captions": ["a", "b"]},
        {"k/0": A, "k/0/caption": "a", "k/1": B, "k/1/caption": "b"},
        {},
    ),
    row("list of anything else", [1, "a", IMAGE], {"k": f'[1,"a",{{"_type":"image-file","path":"{A[0]}"}}]'}, {}),
    row("dict without _type", {"a": 1, "b": {"c": "x"}}, {"k.a": 1.0, "k.b.c": "x"}, {}),
    row(
        "object of another type",
        {"_type": "odd"},
        {"k": '{"_type":"odd"}'},
        {("converted", "k", "odd as JSON text"): 1},
    ),
    row("nested too deep", JsonText("[[1]]"), {"k": "[[1]]"}, {("converted", "k", JsonText.NOTE): 1}),
    row("text that is no unicode", "a\ud800", {"k": "a�"}, {("converted", "k", "not valid unicode"): 1}),
    row("media whose file is missing", GONE, {}, {("skipped", GONE["path"], "missing_file"): 1}),
    row("text over 1 MiB", BIG_TEXT, {"k": BIG_TEXT[: 2**19]}, {("truncated", "k", "text over 1048576 bytes"): 1}),
]


def logged(*values: Any, key: str = "k", **fields: Any) -> MemoryData:
    """A run that logged the values at steps 0, 1 ..."""
    rows = [HistoryRow(step, CREATED.timestamp() + step, {key: value}) for step, value in enumerate(values)]
    return MemoryData("r", history=rows, files=dict([A, B]), **fields)


@pytest.mark.parametrize(("value", "points", "ledger"), HISTORY)
def test_a_logged_value_becomes_points_or_a_skip(
    value: Any, points: dict[str, Any], ledger: dict[tuple[str, str, str], int]
) -> None:
    outcome = convert("history", logged(value))
    assert same(outcome.series, {path: [(0, CREATED_US, point)] for path, point in points.items()})
    assert outcome.ledger == ledger
    assert outcome.written == len(points)
    assert outcome.read == outcome.written + outcome.skipped


@pytest.mark.parametrize(
    ("values", "paths"),
    [
        row("strings with numbers", ["a", 1], {"k": [1.0], "k/text": ["a"]}),
        row("histograms with numbers", [BARS, 1], {"k": [1.0], "k/histogram": [BARS_HERE]}),
        row("files with numbers", [IMAGE, 1], {"k": [1.0], "k/file": [A]}),
        row("the word NaN is a number", ["NaN", "a"], {"k": [NAN], "k/text": ["a"]}),
        row(
            "everything at one key",
            [IMAGE, BARS, "a", 1],
            {"k": [1.0], "k/text": ["a"], "k/histogram": [BARS_HERE], "k/file": [A]},
        ),
    ],
)
def test_kinds_that_meet_at_one_key_part_by_their_precedence(values: list[Any], paths: dict[str, list[Any]]) -> None:
    outcome = convert("history", logged(*values))
    found = outcome.series_values()
    assert same({path: found[path] for path in paths}, paths)
    assert set(found) == set(paths)
    moved = [path for path in paths if path != "k"]
    reason = "another kind of value has the key's path"
    assert outcome.ledger == {("renamed", f"k → {path}", reason): 1 for path in moved}


def test_a_bool_is_noted_once_a_path() -> None:
    outcome = convert("history", logged(True, False, 1, True))
    assert outcome.series_values() == {"k": [1.0, 0.0, 1.0, 1.0]}
    assert outcome.ledger == {("converted", "k", "bool as 0/1"): 1}


def test_private_keys_of_the_history_come_only_when_asked_for() -> None:
    data = logged(1.0, key="_runtime")
    assert convert("history", data).read == 0
    private = convert("history", data, options=PRIVATE)
    assert private.series_values() == {"_runtime": [1.0]}


@pytest.mark.parametrize(
    ("rows", "points", "ledger"),
    [
        row("step and time", [(3, 1.7e9 + 0.123456, "a")], [(3, 1_700_000_000_123_456, "a")], {}),
        row(
            "no time: that of the row before",
            [(0, 5.0, "a"), (1, None, "b")],
            [(0, 5_000_000, "a"), (1, 5_000_000, "b")],
            {("estimated", "_timestamp", "no time: set to the latest so far"): 1},
        ),
        row(
            "no time at all: the run's creation time",
            [(0, None, "a")],
            [(0, CREATED_US, "a")],
            {("estimated", "_timestamp", "no time: set to the latest so far"): 1},
        ),
        row(
            "a time that goes backwards: the latest so far",
            [(0, 9.0, "a"), (1, 8.0, "b"), (2, 8.5, "c"), (3, 10.0, "d")],
            [(0, 9_000_000, "a"), (1, 9_000_000, "b"), (2, 9_000_000, "c"), (3, 10_000_000, "d")],
            {("clamped", "k", "time went backwards: set to the latest so far"): 2},
        ),
        row("negative step", [(-1, 1.0, "a")], [], {("skipped", "k", "step_out_of_range"): 1}),
        row("step 1e12", [(STEP_MAX, 1.0, "a")], [], {("skipped", "k", "step_out_of_range"): 1}),
        row("the last step there is", [(STEP_MAX - 1, 1.0, "a")], [(STEP_MAX - 1, 1_000_000, "a")], {}),
        row(
            "the same step again, same key",
            [(0, 1.0, "a"), (0, 2.0, "b")],
            [(0, 1_000_000, "a")],
            {("skipped", "k", "duplicate_step"): 1},
        ),
    ],
)
def test_steps_stay_and_times_never_go_backwards(
    rows: list[Any], points: list[Any], ledger: dict[tuple[str, str, str], int]
) -> None:
    data = MemoryData("r", history=[HistoryRow(step, time, {"k": value}) for step, time, value in rows])
    outcome = convert("history", data)
    assert outcome.series.get("k", []) == points
    assert outcome.ledger == ledger
    assert outcome.read == len(rows) == outcome.written + outcome.skipped


def test_a_time_that_goes_backwards_moves_only_the_series_that_has_a_later_point() -> None:
    rows = [
        HistoryRow(0, 100.0, {"a": 1.0}),
        HistoryRow(1, 50.0, {"b": 2.0, "a": 3.0, "c": "x"}),
        HistoryRow(2, 60.0, {"b": 4.0, "c": "y"}),
    ]
    outcome = convert("history", MemoryData("r", history=rows))
    assert outcome.series == {
        "a": [(0, 100_000_000, 1.0), (1, 100_000_000, 3.0)],
        "b": [(1, 50_000_000, 2.0), (2, 60_000_000, 4.0)],
        "c": [(1, 50_000_000, "x"), (2, 60_000_000, "y")],
    }
    assert outcome.ledger == {("clamped", "a", "time went backwards: set to the latest so far"): 1}


def test_a_file_keeps_the_time_of_its_own_series() -> None:
    image = {"_type": "image-file", "path": "media/i.png"}
    rows = [HistoryRow(0, 100.0, {"a": 1.0}), HistoryRow(1, 50.0, {"a": 2.0, "i": image})]
    outcome = convert("history", MemoryData("r", history=rows, files={"media/i.png": b"png"}))
    assert outcome.series["i"] == [(1, 50_000_000, ("media/i.png", b"png"))]
    assert outcome.series["a"] == [(0, 100_000_000, 1.0), (1, 100_000_000, 2.0)]


def test_the_streams_of_a_console_have_times_of_their_own() -> None:
    lines = [ConsoleLine(0, 9.0, "stdout", "o"), ConsoleLine(1, 5.0, "stderr", "e"), ConsoleLine(2, 8.0, "stdout", "p")]
    outcome = convert("console", MemoryData("r", console=lines))
    assert outcome.series == {
        "runtime/stdout": [(0, 9_000_000, "o"), (2, 9_000_000, "p")],
        "runtime/stderr": [(1, 5_000_000, "e")],
    }
    assert outcome.ledger == {("clamped", "runtime/stdout", "time went backwards: set to the latest so far"): 1}


def test_the_same_step_again_keeps_the_keys_that_are_new() -> None:
    rows = [HistoryRow(0, 1.0, {"a": 1.0, "b": None}), HistoryRow(0, 2.0, {"a": 2.0, "b": 3.0, "c": "x"})]
    outcome = convert("history", MemoryData("r", history=rows))
    assert outcome.series_values() == {"a": [1.0], "b": [3.0], "c": ["x"]}
    assert outcome.ledger == {("skipped", "a", "duplicate_step"): 1}


# ---------------------------------------------------------------- system metrics


@pytest.mark.parametrize(
    ("value", "point"),
    [
        row("float", 0.5, 0.5),
        row("int", 3, 3.0),
        row("the word NaN", "NaN", NAN),
        row("the word Infinity", "Infinity", math.inf),
        row("bool", True, 1.0),
        row("text", "busy", None),
        row("list", [1], None),
    ],
)
def test_a_system_metric_is_a_number_or_skipped(value: Any, point: float | None) -> None:
    outcome = convert("system", MemoryData("r", system=[SystemRow(0, 1.0, {"gpu.0.temp": value})]))
    path = "system/gpu.0.temp"
    assert same(outcome.series, {} if point is None else {path: [(0, 1_000_000, point)]})
    converted = {("converted", path, "bool as 0/1"): 1} if value is True else {}
    assert outcome.ledger == ({("skipped", path, "not_a_number"): 1} if point is None else converted)


def test_nested_system_metrics_of_old_sdks_are_leaves() -> None:
    values = {"cpu": 1.5, "network": {"sent": 1, "recv": {"all": 2}}, "network.sent": 9, "empty": {}}
    outcome = convert("system", MemoryData("r", system=[SystemRow(0, 1.0, values)]))
    found = outcome.series_values()
    assert found == {"system/cpu": [1.5], "system/network.sent": [1.0], "system/network.recv.all": [2.0]}
    assert outcome.ledger == {
        ("skipped", "system/network.sent", "duplicate_step"): 1,
        ("skipped", "system/empty", "not_a_number"): 1,
    }
    assert outcome.read == outcome.written + outcome.skipped


def test_images_of_old_sdks_have_names_made_of_key_step_and_place() -> None:
    value = {"_type": "images/separated", "format": "png", "count": 2, "captions": ["a", "b"], "width": 2, "height": 2}
    rows = [HistoryRow(step, 1.0, {"Labels": value}) for step in range(2)]
    files = {f"media/images/Labels_{step}_{i}.png": bytes([step, i]) for step in range(2) for i in range(2)}
    outcome = convert("history", MemoryData("r", history=rows, files=files))
    names = {
        path: [name for name, _ in points] for path, points in outcome.series_values().items() if "cap" not in path
    }
    assert names == {
        "Labels/0": ["media/images/Labels_0_0.png", "media/images/Labels_1_0.png"],
        "Labels/1": ["media/images/Labels_0_1.png", "media/images/Labels_1_1.png"],
    }
    assert outcome.series_values()["Labels/1/caption"] == ["b", "b"]
    survey = convert("files", MemoryData("r", history=rows, files=files))
    assert survey.files == {}


def test_the_step_of_a_system_metric_is_the_number_of_its_row() -> None:
    rows = [SystemRow(0, 5.0, {"a": 1}), SystemRow(1, None, {"b": 2}), SystemRow(2, 4.0, {"a": 3})]
    outcome = convert("system", MemoryData("r", system=rows))
    assert outcome.series == {
        "system/a": [(0, 5_000_000, 1.0), (2, 5_000_000, 3.0)],
        "system/b": [(1, 5_000_000, 2.0)],
    }
    assert {kind for kind, _, _ in outcome.ledger} == {"estimated", "clamped"}


@pytest.mark.parametrize("part", ["system", "console", "artifacts"])
def test_what_may_not_be_all_is_noted(part: str) -> None:
    lines = [ConsoleLine(0, 1.0, "stdout", "a")]
    data = MemoryData("r", system=[SystemRow(0, 1.0, {"a": 1})], console=lines, partial={part: "only samples"})
    assert convert(part, data).ledger == {("sampled", part, "only samples"): 1}


# ---------------------------------------------------------------- console


def test_console_lines_keep_their_number_over_both_streams() -> None:
    lines = [ConsoleLine(0, 1.0, "stdout", "a"), ConsoleLine(1, 2.0, "stderr", "b"), ConsoleLine(2, 3.0, "stdout", "")]
    outcome = convert("console", MemoryData("r", console=lines))
    assert outcome.series == {
        "runtime/stdout": [(0, 1_000_000, "a"), (2, 3_000_000, "")],
        "runtime/stderr": [(1, 2_000_000, "b")],
    }
    assert not outcome.ledger


@pytest.mark.parametrize(
    ("times", "expected_us", "notes"),
    [
        row("no time", [None], [CREATED_US], {"estimated": 1}),
        row("no time behind one", [1.0, None], [1_000_000, 1_000_000], {"estimated": 1}),
        row("backwards", [2.0, 1.0], [2_000_000, 2_000_000], {"clamped": 1}),
    ],
)
def test_times_of_console_lines_never_go_backwards(
    times: list[float | None], expected_us: list[int], notes: Mapping[str, int]
) -> None:
    lines = [ConsoleLine(number, time, "stdout", "x") for number, time in enumerate(times)]
    outcome = convert("console", MemoryData("r", console=lines))
    assert [time_us for _, time_us, _ in outcome.series["runtime/stdout"]] == expected_us
    assert {kind: count for (kind, path, _), count in outcome.ledger.items() if path == "runtime/stdout"} == notes


def test_a_console_line_over_1_mib_is_cut() -> None:
    outcome = convert("console", MemoryData("r", console=[ConsoleLine(0, 1.0, "stdout", BIG_TEXT)]))
    assert len(outcome.series_values()["runtime/stdout"][0].encode()) == STRING_MAX_BYTES
    assert outcome.ledger == {("truncated", "runtime/stdout", "text over 1048576 bytes"): 1}


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("code/src/train.py", "source_code/files/src/train.py"),
        ("requirements.txt", "source_code/requirements.txt"),
        ("model.ckpt", "checkpoints/model.ckpt"),
        ("out/checkpoint-5/w.bin", "checkpoints/out/checkpoint-5/w.bin"),
        ("output.log", "files/output.log"),
        ("config.yaml", "files/config.yaml"),
        ("wandb-metadata.json", "files/wandb-metadata.json"),
        ("media/images/unused.png", "files/media/images/unused.png"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"content"])
def test_a_file_arrives_with_its_content_even_if_empty(name: str, path: str, content: bytes) -> None:
    outcome = convert("files", MemoryData("r", files={name: content}))
    assert outcome.files == {path: (name, content)}
    assert not outcome.ledger


def test_media_of_the_history_are_not_files_again() -> None:
    data = logged(IMAGE)
    assert list(convert("files", data).files) == [f"files/{B[0]}"]


def test_a_file_over_the_chosen_size_is_skipped() -> None:
    data = MemoryData("r", files={"a": b"12", "b": b"123"})
    outcome = convert("files", data, options=MappingOptions(max_file_bytes=2))
    assert list(outcome.files) == ["files/a"]
    assert outcome.ledger == {("skipped", "b", "too_large"): 1}
    assert (outcome.read, outcome.written) == (2, 1)


# ---------------------------------------------------------------- artifacts


def test_an_artifact_arrives_with_its_files_and_what_is_told_of_it() -> None:
    artifact = Artifact(
        name="model",
        version="v3",
        type="checkpoint",
        aliases=["latest", "best"],
        digest="d1",
        size_bytes=5,
        created_at=CREATED,
        metadata='{"a":1}',
        files=[SourceFile("w.bin", 3), SourceFile("sub/x", 2)],
        references={"data": "s3://bucket/x"},
    )
    contents = {"model:v3/w.bin": b"abc", "model:v3/sub/x": b"xy"}
    data = MemoryData("r", artifacts=[artifact], artifact_files=contents, used_artifacts=["team/p/set:v1"])
    outcome = convert("artifacts", data)
    base = "artifacts/model/v3"
    assert outcome.files == {f"{base}/w.bin": ("w.bin", b"abc"), f"{base}/sub/x": ("sub/x", b"xy")}
    assert outcome.values == {
        f"{base}/info/type": "checkpoint",
        f"{base}/info/aliases": frozenset({"latest", "best"}),
        f"{base}/info/digest": "d1",
        f"{base}/info/size": 5,
        f"{base}/info/created_at": CREATED,
        f"{base}/info/metadata": '{"a":1}',
        f"{base}/info/references": '{"data":"s3://bucket/x"}',
        "artifacts/used": frozenset({"team/p/set:v1"}),
    }
    assert outcome.read == outcome.written == 10
    assert not outcome.ledger


def logged_artifacts(*files: str, metadata: str = "{}", names: tuple[str, ...] = ("model",)) -> MemoryData:
    """Two versions of each name, with these files, each with a content of its own."""
    artifacts = [
        Artifact(name, version, "model", [], "d", 1, None, metadata, [SourceFile(file, 1) for file in files], {})
        for name in names
        for version in ("v0", "v1")
    ]
    places = [f"{one.name}:{one.version}/{file}" for one in artifacts for file in files]
    contents = {place: place.encode("utf-8", "surrogatepass") for place in places}
    return MemoryData("r", artifacts=artifacts, artifact_files=contents)


DEEP = "/".join(["d" * 200] * 6)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        row("where the type is told", ["info/type"], [f"info/type~{digest('info/type')}"]),
        row("where a time could be told", ["info/created_at"], [f"info/created_at~{digest('info/created_at')}"]),
        row("beside what is told", ["info", "info/other"], ["info", "info/other"]),
        row("levels without a name", ["a//b", "a/_/b", "/"], ["a/_/b", f"a/_/b~{digest('a/_/b')}", "_/_"]),
    ],
)
def test_files_of_an_artifact_that_meet_get_a_suffix_of_their_names_in_it(names: list[str], wanted: list[str]) -> None:
    outcome = convert("artifacts", logged_artifacts(*names))
    for version in ("v0", "v1"):
        found = {content.decode(): path for path, (_, content) in outcome.files.items()}
        paths = [found[f"model:{version}/{name}"] for name in names]
        assert paths == [f"artifacts/model/{version}/{path}" for path in wanted]
        assert outcome.values[f"artifacts/model/{version}/info/type"] == "model"
    renamed = sum(2 for name, path in zip(names, wanted, strict=True) if name != path)
    assert sum(outcome.ledger.values()) == renamed


def test_a_path_of_an_artifacts_file_that_is_too_long_has_the_hash_of_all_of_it() -> None:
    outcome = convert("artifacts", logged_artifacts(DEEP))
    for version in ("v0", "v1"):
        whole = f"artifacts/model/{version}/{DEEP}"
        cut = f"{whole[: 1024 - 9]}~{digest(whole)}"
        assert outcome.files[cut] == (DEEP, f"model:{version}/{DEEP}".encode())


def test_versions_never_meet_whatever_their_names_are() -> None:
    names = ("a", "v0", "", "_", "\ud800", "\udc00", "\udbff")
    data = logged_artifacts("x", "v0/x", "v1/x", "info/type", DEEP, names=names)
    outcome = convert("artifacts", data)
    assert sorted(content for _, content in outcome.files.values()) == sorted(data.artifact_files.values())
    assert len([path for path in outcome.values if "/info/type" in path]) == 2 * len(names)
    assert outcome.read == outcome.written


def test_a_run_without_anything_gives_only_who_it_is() -> None:
    everything = [convert(part, MemoryData("r")) for part in ("history", "system", "console", "files", "artifacts")]
    assert [outcome.seen() for outcome in everything] == [Outcome().seen()] * 5
