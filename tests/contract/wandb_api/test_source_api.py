"""The W&B API source against the loopback server, through the real SDK: listing, and what a run says of itself."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from migrator.errors import ErrorClass, Rejected, Retryable, UserError
from migrator.listed import SourceProject
from migrator.sources.base import RunFilter
from migrator.sources.wandb.listing import WandbApiSource
from tests.contract.api_source import Make, Opened, P, error_of, rows_of, same
from tests.servers.http import Fault
from tests.servers.wandb_data import (
    EPOCH_S,
    Entity,
    Project,
    Run,
    Sweep,
    finite,
    hostile_runs,
    iso,
    light_runs,
    logged,
    sample_runs,
)
from tests.servers.wandb_server import WandbServer

# ---------------------------------------------------------------- one run


def test_a_small_run_costs_few_requests(server: WandbServer, source: WandbApiSource, opened: Opened) -> None:
    run = server.run("team/sample/run00001")
    server.log.clear()
    reader = opened(source, run.id, "sample")
    reader.attributes(), reader.config(), reader.summary(), reader.survey(), rows_of(reader)
    list(reader.system(0)), list(reader.console(0))
    for file in reader.files():
        assert reader.fetch(file.name)
    operations = [label.removeprefix("POST /graphql ") for label in server.log.counts if label.startswith("POST")]
    assert operations == [
        *["Run", "RunParquetHistory", "RunOutputArtifacts", "GetArtifactMembershipFileUrls"],
        *["RunConsoleLogPage", "RunFiles"],
    ]
    assert server.log.count("GET /files/") == len(run.files) == 6
    assert server.log.count("GET /(parquet|artifact-files)/") == 2
    assert set(server.log.counts.values()) == {1}


def test_attributes_are_those_of_the_run(make: Make, opened: Opened) -> None:
    run = Run(
        *("id with/blank ❤", "the name"),
        state="crashed",
        tags=["a", "❤"],
        notes="n",
        description="d",
        group="G",
        job_type="train",
        commit="c0ffee",
        sweep="s1",
        history=logged([{"x": 1}, {"_step": 7, "x": 2}]),
        created_at="2024-01-02T03:04:05",
        heartbeat_at="2024-01-02T03:05:05Z",
    )
    sweep = Sweep("s1", "the sweep", {"method": "grid", "parameters": {"lr": {"values": [0.1]}}})
    server, source = make(entities=[Entity("team", [Project("p q", [run, Run("other", sweep="s1")], [sweep])])])
    found = opened(source, run.id, "p q").attributes()
    url = f"{server.url}/team/p%20q/runs/id%20with%2Fblank%20%E2%9D%A4"
    assert found.created_at == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (found.name, found.url, found.notes, list(found.tags), found.group) == (
        "the name",
        url,
        "n",
        ["a", "❤"],
        "G",
    )
    assert found.wandb == {
        "id": run.id,
        "name": "the name",
        "url": url,
        "path": f"team/p q/{run.id}",
        "entity": "team",
        "project": "p q",
        "state": "crashed",
        "created_at": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        "heartbeat_at": datetime(2024, 1, 2, 3, 5, 5, tzinfo=UTC),
        "job_type": "train",
        "group": "G",
        "sweep": "s1",
        "commit": "c0ffee",
        "user": "ann",
        "description": "d",
        "history_line_count": 2,
        "last_history_step": 7,
        "read_only": False,
    }
    assert found.sweep
    assert (found.sweep.id, found.sweep.name, found.sweep.method) == ("s1", "the sweep", "grid")
    assert json.loads(found.sweep.config or "") == sweep.config
    opened(source, "other", "p q").attributes()
    assert server.log.count("GetSweep") == 1


def test_custom_x_axes_are_told_globs_and_hidden_ones_included(make: Make, opened: Opened) -> None:
    defined = [
        {"1": "train/loss", "5": 2, "6": [1, 3]},
        {"1": "epoch", "6": [2]},
        {"2": "val/*", "5": 2},
        {"1": "a\\.b", "5": 5, "6": [2, 3], "7": [1]},
        {"1": "outer.step"},
        {"1": "text", "4": "epoch"},  # before the x axis was told by its place
        *[{"1": "odd", "5": 99}, {"1": "none"}, {"5": 1}, {"1": 7, "5": 2}, None, "text"],
    ]
    odd = [Run(f"odd{n}", config={"_wandb": own}, wrap_config=False) for n, own in enumerate(["text", {"m": {"1": 2}}])]
    _, source = make(Run("r", defined=defined), *odd)  # type: ignore[arg-type]
    axes = {name: axis for name, axis in opened(source, "r").attributes().wandb.items() if "step_metric" in name}
    assert axes == {
        "step_metric/a.b": "outer.step",
        "step_metric/text": "epoch",
        "step_metric/train/loss": "epoch",
        "step_metric/val/*": "epoch",
    }
    for run in odd:
        assert opened(source, run.id).attributes().wandb["id"] == run.id


def test_what_a_run_does_not_have_is_left_out(make: Make, opened: Opened) -> None:
    bare = Run("r", None, commit=None, heartbeat_at=None, user=None, summary={}, sweep="gone")
    _, source = make(bare)
    found = opened(source, "r").attributes()
    assert found.name is None
    assert found.wandb.keys() == {
        *("id", "url", "path", "entity", "project", "state", "created_at", "sweep", "history_line_count", "read_only")
    }
    assert found.sweep
    assert (found.sweep.id, found.sweep.config) == ("gone", None)


def test_a_sweep_that_cannot_be_had_leaves_its_id(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", sweep="gone"))
    gone = json.dumps({"errors": [{"message": "could not find sweep gone"}]})
    server.faults.set([Fault("GetSweep", "status", None, status=200, body=gone)])
    found = opened(source, "r").attributes().sweep
    assert found
    assert (found.id, found.method) == ("gone", None)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise("abcdefghi")
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name}\n  <<: [{','.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-01: 1\n2: [2024-01-02 03:04:05, .inf]\ntrue: !!set {x}\nnull: a", None),
        ("lr: &lr {min: 0}\nb: {<<: *lr, max: 1}", {"lr": {"min": 0}, "b": {"min": 0, "max": 1}}),
        ("", "null"),
        *(
            (text, text)
            for text in ("a: &a [*a]", "a: &a {b: {c: *a}}", "? {a: 1}\n: 2", "a: 2024-99-99", "a: [", "a: !odd 1")
        ),
        *(
            (text, text)
            for text in (BOMB, MERGES, "[" * 5_000, "a: " + "9" * 5_000, "a: " + "b" * 300_000, "- " * 3_000)
        ),
        *((text, text) for text in ("!!int 'x'", "!!float ''", "!!timestamp 'x'", "a: !!bool maybe", "--- a\n--- b")),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "",
)
def test_a_sweep_of_any_yaml_costs_its_config_at_most(text: str, expected: Any, make: Make, opened: Opened) -> None:
    _, source = make(entities=[Entity("team", [Project("p", [Run("r", sweep="s")], [Sweep("s", config=text)])])])
    began = time.monotonic()
    sweep = opened(source, "r").attributes().sweep
    assert time.monotonic() - began < 5
    assert sweep
    assert (sweep.id, sweep.method) == ("s", "random")
    assert len(sweep.config or "") < 400_000
    if expected is None:
        assert json.loads(sweep.config or "") == {
            "2024-01-01": 1,
            "2": ["2024-01-02 03:04:05", float("inf")],
            "true": ["x"],
            "null": "a",
        }
    elif expected == "null":
        assert sweep.config is None
    else:
        assert json.loads(sweep.config or "") == expected
        assert bool(sweep.note) is isinstance(expected, str)


def test_the_config_loses_its_outer_wrappers_only(make: Make, opened: Opened) -> None:
    own = {"value": 42, "desc": "mine"}
    config = {
        "own": own,
        "twice": {"value": own},
        "lr": 0.1,
        "none": None,
        "nest": {"value": 1},
        "❤": [1, {"value": 2}],
    }
    bare = config | {"_wandb": {"value": {"t": 1}}, "more": {"value": 1, "unit": "s"}}
    _, source = make(Run("wrapped", config=config), Run("bare", config=bare, wrap_config=False), Run("empty"))
    found = opened(source, "wrapped").config()
    assert {key: value for key, value in found.values.items() if key != "_wandb"} == config
    assert "cli_version" in found.values["_wandb"]
    assert json.loads(found.raw)["own"] == {"desc": None, "value": own}
    unwrapped = {
        "own": 42,
        "twice": own,
        "nest": 1,
        "_wandb": {"t": 1},
    }  # a bare dict of that form cannot be told apart
    assert opened(source, "bare").config().values == bare | unwrapped
    assert opened(source, "empty").config().values.keys() == {"_wandb"}


def test_half_a_surrogate_pair_comes_as_it_is_so_that_the_parts_can_tell_of_it(make: Make, opened: Opened) -> None:
    half = "\ud83d"
    run = Run("r", config={half: ["❤", half]}, history=logged([{"x": half, "y": "❤"}]), mode="live")
    _, source = make(run)
    reader = opened(source, "r")
    assert reader.config().values[half] == ["❤", half]
    assert rows_of(reader)[0].values == {"_runtime": 0.5, "x": half, "y": "❤"}


def test_documents_are_kept_as_they_are(server: WandbServer, source: WandbApiSource, opened: Opened) -> None:
    for run in server.entities["team"].project("hostile-live").runs:  # type: ignore[union-attr]
        reader = opened(source, run.id, "hostile-live")
        assert reader.config().raw == run.config_text().encode()
        assert json.loads(reader.summary().raw) == reader.summary().values == finite(run.summary_value())


def test_a_run_that_was_deleted_is_not_found_wherever_one_looks(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", history=logged([{"x": 1}]), files={"f": b"1"}))
    reader = opened(source, "r")
    server.delete_run("team/p/r")
    actions: list[Callable[[], object]] = [
        *[lambda: opened(source, "r"), lambda: rows_of(reader), reader.survey, lambda: list(reader.system(0))],
        *[lambda: list(reader.console(0)), reader.files, lambda: reader.fetch("f"), reader.used_artifacts],
        *[lambda: list(reader.artifacts()), lambda: opened(source, "r", "no-project")],
    ]
    for action in actions:
        assert error_of(Rejected, action).error_class is ErrorClass.NOT_FOUND


# ---------------------------------------------------------------- system metrics and console


@pytest.mark.parametrize("mode", ["parquet", "live"])
def test_system_metrics_are_what_was_logged_and_samples_are_called_so(mode: str, make: Make, opened: Opened) -> None:
    runs = [run for run in hostile_runs(mode) if "streams" in run.id]  # type: ignore[arg-type]
    _, source = make(*runs, Run("none", mode=mode))
    for run in runs:
        reader = opened(source, run.id)
        found = [row for page in reader.system(0) for row in page]
        assert (reader.partial("system") is not None) is (mode == "live")
        assert [row.number for row in found] == list(range(len(run.events)))
        for row, event in zip(found, run.events, strict=True):  # type: ignore[arg-type]
            assert row.time == event.get("_timestamp")
            assert same(row.values, {key[7:]: value for key, value in event.items() if key.startswith("system.")})
        again = [row for page in opened(source, run.id).system(3) for row in page]
        assert [row.number for row in again] == list(range(3, len(run.events)))
    reader = opened(source, "none")
    assert list(reader.system(0)) == []
    assert reader.partial("system") is None


def test_a_server_that_refuses_so_many_samples_is_asked_for_fewer(make: Make, opened: Opened) -> None:
    events = [{"_timestamp": EPOCH_S, "system.cpu": 1.5}]
    server, source = make(Run("r", mode="live", events=events))
    server.faults.set([Fault("RunFullHistory", "status", status=400, times=2)])
    assert len(next(opened(source, "r").system(0))) == 1
    server.faults.set([Fault("RunFullHistory", "status", status=400, times=None)])
    error_of(Rejected, lambda: list(opened(source, "r").system(0)))


def test_a_resumed_run_does_not_get_the_old_export_of_its_system_metrics(make: Make, opened: Opened) -> None:
    events = [{"_timestamp": EPOCH_S, "system.cpu": 1.5}]
    _, source = make(Run("r", state="running", events=events))
    reader = opened(source, "r")
    assert len(next(reader.system(0))) == 1
    assert reader.partial("system")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET /artifact-files/", "status", None, status=404),
        Fault("GetArtifactMembershipFileUrls", "status", None, status=200, body='{"data": {"project": null}}'),
        Fault("RunOutputArtifacts", "status", None, status=403, body="{}"),
    ],
    ids=["a file is gone", "no addresses", "not allowed"],
)
def test_system_metrics_whose_export_cannot_be_had_are_samples(fault: Fault, make: Make, opened: Opened) -> None:
    events = [{"_timestamp": EPOCH_S + n, "system.cpu": 1.5} for n in range(3)]
    server, source = make(Run("r", events=events))
    server.faults.set([fault])
    reader = opened(source, "r")
    assert [row.number for page in reader.system(0) for row in page] == [0, 1, 2]
    assert reader.partial("system")


def test_console_lines_have_the_numbers_that_the_server_gives(make: Make, opened: Opened) -> None:
    lines = [{"number": number, "line": f"line {number}"} for number in (7, 8, 12)]
    page = {"edges": [{"node": line} for line in lines], "pageInfo": {"hasNextPage": False, "endCursor": None}}
    body = json.dumps({"data": {"project": {"run": {"logLines": page}}}})
    server, source = make(Run("r"))
    server.faults.set([Fault("RunConsoleLogPage", "status", None, status=200, body=body)])
    reader = opened(source, "r")
    assert [(line.number, line.text) for page in reader.console(8) for line in page] == [(8, "line 8"), (12, "line 12")]


def console_page(numbers: list[int | None], *, cursor: str, counted: int) -> str:
    edges = [{"node": {"number": n, "line": f"line {n}"}, "cursor": cursor} for n in numbers]
    page = {"edges": edges, "pageInfo": {"endCursor": cursor, "hasNextPage": bool(numbers)}}
    return json.dumps({"data": {"project": {"run": {"logLineCount": counted, "logLines": page}}}})


@pytest.mark.parametrize(
    ("second", "counted", "lines", "partial"),
    [
        ([1, 2, 3], 4, [0, 1, 2, 3], None),  # a line of the first page comes again
        ([2, 3], 9, [0, 1, 2, 3], "W&B counts 9 lines but returns 4"),
        ([None, None], 4, [0, 1, 2, 3], None),
    ],
)
def test_console_lines_come_once_and_missing_ones_are_told(
    second: list[int | None], counted: int, lines: list[int], partial: str | None, make: Make, opened: Opened
) -> None:
    server, source = make(Run("r"))
    reader = opened(source, "r")
    for numbers in ([0, 1], second, []):
        body = console_page(numbers, cursor=str(numbers), counted=counted)
        server.faults.add(Fault("RunConsoleLogPage", "status", times=1, status=200, body=body))
    assert [line.number for page in reader.console(0) for line in page] == lines
    assert reader.partial("console") == partial


def test_console_lines_keep_their_times_streams_and_order(
    server: WandbServer, source: WandbApiSource, opened: Opened
) -> None:
    for run_id in ("streams", "long-streams"):
        run = server.run(f"team/hostile-parquet/{run_id}")
        reader = opened(source, run_id, "hostile-parquet")
        lines = [line for page in reader.console(0) for line in page]
        expected = [
            (n, _epoch(time), "stderr" if level == "error" else "stdout", text)
            for n, (time, level, text) in enumerate(run.console)
        ]
        assert [tuple(line) for line in lines] == expected
        again = opened(source, run_id, "hostile-parquet").console(4)
        assert [line.number for page in again for line in page] == list(range(4, len(run.console)))


def _epoch(time: str | None) -> float | None:
    return datetime.fromisoformat(time.removesuffix("Z")).replace(tzinfo=UTC).timestamp() if time else None


@pytest.mark.parametrize("old_server", [True, False])
def test_without_a_console_log_the_lines_come_from_output_log(old_server: bool, make: Make, opened: Opened) -> None:
    text = "one\ntwo\r\n\x1b[31mred\rdone\n\nlast ❤".encode() + b"\xff"
    server, source = make(Run("r", files={"output.log": text}), Run("none"))
    if old_server:
        unknown = json.dumps({"errors": [{"message": 'Cannot query field "logLines" on type "Run".'}]})
        server.faults.set([Fault("RunConsoleLogPage", "status", status=400, times=None, body=unknown)])
    reader = opened(source, "r")
    lines = [line for page in reader.console(0) for line in page]
    assert [line.text for line in lines] == ["one", "two", "\x1b[31mred\rdone", "", "last ❤�"]
    assert {(line.time, line.stream) for line in lines} == {(None, "stdout")}
    assert [line.number for page in reader.console(3) for line in page] == [3, 4]
    none = opened(source, "none")
    assert list(none.console(0)) == []


# ---------------------------------------------------------------- listing


def test_projects_are_listed_by_name_with_their_pages(make: Make) -> None:
    names = [f"p{n:03}" for n in range(450)] + ["with space", "Ünï"]
    home = Entity("team", [Project(name) for name in reversed(names)])
    server, source = make(entities=[home, Entity("other", [Project("x")])])
    found = list(source.projects(None))
    assert [project.name for project in found] == sorted(names)
    assert {project.entity for project in found} == {"team"}
    assert found[-2].url == f"{server.url}/team/with%20space"
    assert [project.name for project in source.projects("other")] == ["x"]
    assert server.log.count("GetProjects") == 4


def test_unknown_entities_and_projects_are_for_a_person(source: WandbApiSource) -> None:
    nowhere = SourceProject("team", "nowhere", "")
    actions: list[Callable[[], object]] = [
        *[lambda: list(source.projects("nobody")), lambda: source.count_runs(nowhere)],
        lambda: list(source.runs(nowhere, RunFilter())),
    ]
    for action in actions:
        with pytest.raises(UserError, match="Check"):
            action()


def test_runs_are_listed_oldest_first_a_page_a_request(make: Make) -> None:
    runs = light_runs(1_234)
    server, source = make(*runs)
    found = list(source.runs(P, RunFilter()))
    assert [listing.run_id for listing in found] == [run.id for run in runs]
    assert server.log.count("Runs") == 3
    assert source.count_runs(P) == 1_234


def test_a_listing_says_what_the_inventory_needs(make: Make) -> None:
    bare = Run("bare", None, user=None, heartbeat_at=None, created_at=iso(EPOCH_S + 9))
    _, source = make(Run("r", "name", state="killed", tags=["a", "b"], history=logged([{}, {}])), bare)
    first, second = source.runs(P, RunFilter())
    assert (first.run_id, first.name, first.source_state, first.history_rows) == ("r", "name", "killed", 2)
    assert first.created_at == datetime.fromtimestamp(EPOCH_S, UTC)
    assert first.heartbeat_at == datetime.fromtimestamp(EPOCH_S + 3600, UTC)
    assert (tuple(first.tags), first.location, first.fork) == (("a", "b"), None, None)
    assert (second.run_id, second.name, second.heartbeat_at) == ("bare", "", None)


def test_the_fingerprint_changes_when_and_only_when_the_run_does(make: Make) -> None:
    run = Run("r", "name", history=logged([{"x": 1}]))
    server, source = make(run)

    def fingerprint() -> str:
        (listing,) = source.runs(P, RunFilter())
        return listing.fingerprint

    seen = [fingerprint(), fingerprint()]
    assert len(set(seen)) == 1
    changes: list[dict[str, Any]] = [{"state": "crashed"}, {"tags": ["t"]}, {"notes": "n"}, {"display_name": "x"}]
    changes += [{"group": "g"}, {"heartbeat_at": iso(EPOCH_S)}, {"history": logged([{"x": 1}, {"x": 2}])}]
    for change in changes:
        server.set_run("team/p/r", **change)
        seen.append(fingerprint())
    assert len(set(seen)) == 1 + len(changes)


FILTERS = [
    RunFilter(states=["running", "crashed"]),
    RunFilter(tags=["even"]),
    RunFilter(run_ids=["run00001", "run00004", "none"]),
    RunFilter(created_after=datetime.fromtimestamp(EPOCH_S + 120, UTC)),
    RunFilter(created_before=datetime.fromtimestamp(EPOCH_S + 120, UTC)),
    RunFilter(created_after=datetime.fromtimestamp(EPOCH_S + 59.5, UTC).astimezone(None)),
    RunFilter(states=["finished"], tags=["even"], created_before=datetime.fromtimestamp(EPOCH_S + 60, UTC)),
]


@pytest.mark.parametrize("only", FILTERS, ids=range(len(FILTERS)))
def test_filters_are_applied_by_the_server_and_checked_again(only: RunFilter, make: Make) -> None:
    runs = [
        replace(run, state=state)
        for run, state in zip(sample_runs(6), ["finished", "running", "crashed"] * 2, strict=True)
    ]
    server, source = make(*runs)
    everything = list(source.runs(P, RunFilter()))
    expected = [listing.run_id for listing in everything if only.accepts(listing)]
    assert 0 < len(expected) < 6
    assert [listing.run_id for listing in source.runs(P, only)] == expected
    assert not server.unknown


@pytest.mark.parametrize(
    ("filters", "more", "expected"),
    [
        ({"config.lr": {"$gt": 0.1}}, RunFilter(), [2, 3]),
        ({"config.lr": {"$gt": 0.1}}, RunFilter(states=["finished"]), [3]),
        ({"$or": [{"summary_metrics.loss": 0}, {"display_name": {"$regex": "3$"}}]}, RunFilter(), [0, 3]),
        ({"config.lr": {"$gt": "high"}}, RunFilter(), []),
        ({"tags": {"$in": ["x"]}}, RunFilter(names=["n*"]), [1]),
    ],
)
def test_a_filter_in_the_form_of_wandb_is_combined_with_others(
    filters: dict[str, Any], more: RunFilter, expected: list[int], make: Make
) -> None:
    states, tags = ["finished", "crashed", "running", "finished"], [[], ["x"], [], []]
    runs = [
        Run(f"r{n}", f"n{n}", states[n], {"lr": n / 10}, summary={"loss": n}, tags=tags[n], created_at=iso(EPOCH_S + n))
        for n in range(4)
    ]
    server, source = make(*runs)
    only = replace(more, wandb=filters)
    assert [listing.run_id for listing in source.runs(P, only)] == [f"r{n}" for n in expected]
    assert not server.unknown


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"summary.loss": 1}, "HTTP 400: unknown run field: summary.loss"),
        ({"state": {"$like": "fin"}}, "HTTP 400: unknown operator: \\$like"),
        ({"$or": ["state"]}, "HTTP 400: invalid filter"),
        ({"tags": ["x"]}, r"HTTP 500: unsupported type \[\]interface"),
    ],
)
def test_a_filter_that_wandb_refuses_is_told_in_its_words(filters: dict[str, Any], words: str, make: Make) -> None:
    _, source = make(Run("a"))
    with pytest.raises(UserError, match=f"--filter: W&B refuses it: .*{words}") as caught:
        list(source.runs(P, RunFilter(wandb=filters)))
    assert caught.value.exit_code == 2


def test_a_server_that_is_down_is_not_blamed_on_the_filter(make: Make) -> None:
    server, source = make(Run("a"))
    server.faults.add(Fault("Runs", "status", None, status=500))
    with pytest.raises(Retryable):
        list(source.runs(P, RunFilter(wandb={"state": "finished"})))


def test_runs_that_are_deleted_while_listing_do_not_hide_others(make: Make) -> None:
    runs = light_runs(1_100)
    server, source = make(*runs)
    listing = source.runs(P, RunFilter())
    found = [next(listing).run_id]
    for run in runs[:5]:
        server.delete_run(f"team/p/{run.id}")
    found += [one.run_id for one in listing]
    assert {run.id for run in runs[5:]} <= set(found)
    assert len(found) == len(set(found))
