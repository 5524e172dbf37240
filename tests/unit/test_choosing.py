"""What a person names, and what is answered when there is no such thing."""

from __future__ import annotations

import io
import itertools
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from migrations_db import Phase, RunStatus, Store, Unseen, open_store
from migrations_db.selecting import Wanted
from migrations_db.types import ProjectRow, RunRow, WorkerInfo
from migrator.commands.choosing import chosen
from migrator.commands.inventory import narrow, take_inventory
from migrator.commands.run import check_mapping
from migrator.commands.scope import Scope, check_filters, find_projects
from migrator.errors import UserError
from migrator.records import Sweep
from migrator.settings import from_files, parse_filter, parse_project_map, parse_time
from migrator.sources.base import RunFilter
from migrator.sources.memory import MemoryData, MemorySource

NOW = datetime(2024, 5, 10, 12, 30, tzinfo=UTC)


def source() -> MemorySource:
    runs = {
        "vision": [
            MemoryData("4kd2h1x9", "resnet-50", "finished", tags=["paper"], group="baseline"),
            MemoryData("9aaa2222", "resnet-101", "crashed", sweep=Sweep("sw1")),
        ],
        "nlp": [MemoryData("1bert000", "bert", "finished", tags=["draft"])],
    }
    return MemorySource(runs)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: making tables takes long."""
    path = tmp_path_factory.mktemp("empty") / "migration.db"
    open_store(path).close()
    return path


@pytest.fixture
def store(tmp_path: Path, empty: Path) -> Iterator[Store]:
    shutil.copy(empty, tmp_path / "migration.db")
    with open_store(tmp_path / "migration.db") as store:
        yield store


def listed(store: Store, scope: Scope | None = None) -> int:
    """The number of an inventory of `scope`, which is taken."""
    scope, here = scope or Scope(), source()
    found = find_projects(here, scope)
    check_filters(here, found, scope.only)
    number = store.begin_invocation("inventory", "here", 1, "1")
    list(take_inventory(here, found, store, scope, number, lambda *_: None))
    return number


def statuses(store: Store) -> dict[str, str]:
    return {run.ref.rpartition("/")[2]: s.value for s in RunStatus for run in store.reports.runs(s)}


# ---------------------------------------------------------------- inventory


@pytest.mark.parametrize(
    ("only", "words"),
    [
        (RunFilter(states=["done"]), ["--state done", "no such state", "crashed, finished"]),
        (RunFilter(states=["finnished"]), ["did you mean finished?"]),
        (RunFilter(states=["killed"]), ["--state killed", "crashed, finished"]),
        (RunFilter(tags=["paper", "papper"]), ["--tag papper", "did you mean paper?", "draft, paper"]),
        (RunFilter(run_ids=["4kd2hlx9"]), ["--run-id 4kd2hlx9", "did you mean 4kd2h1x9?"]),
        (RunFilter(run_ids=["4kd2h1x9", "nosuch"]), ["--run-id nosuch:"]),
        (RunFilter(names=["Resnet-*"]), ["--name Resnet-*", "did you mean resnet-"]),
        (RunFilter(groups=["base"]), ["--group base", "baseline"]),
        (RunFilter(sweeps=["sw2"]), ["--sweep sw2", "did you mean sw1?"]),
        (RunFilter(states=["crashed"], tags=["paper"]), ["no run passes all of these filters together", "3 runs"]),
        (RunFilter(created_after=NOW), ["no run passes all"]),
    ],
)
def test_a_filter_that_matches_nothing_is_told_with_what_there_is(only: RunFilter, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check_filters(source(), find_projects(source(), Scope()), only)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        (Scope(projects=["vison"]), ["--projects vison", "did you mean team/vision?", "team/nlp, team/vision"]),
        (Scope(projects=["nlp", "x*"]), ["--projects x*:"]),
        (Scope(exclude_projects=["nlq"]), ["--exclude-projects nlq", "did you mean team/nlp?"]),
        (Scope(exclude_projects=["*"]), ["--exclude-projects names all"]),
        (Scope(project_map={"vison": "a"}), ["--project-map vison", "did you mean", "vision"]),
    ],
)
def test_a_project_that_is_not_there_is_told_with_close_names(scope: Scope, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        find_projects(source(), scope)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def test_filters_add_and_never_take_away_unless_only_is_agreed_to(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(store, Scope(only=RunFilter(states=["finished"])))
    assert statuses(store) == {"4kd2h1x9": "pending", "1bert000": "pending"}
    number = listed(store, Scope(projects=["vision"], only=RunFilter(states=["crashed"])))
    assert statuses(store) == dict.fromkeys(["4kd2h1x9", "1bert000", "9aaa2222"], "pending")

    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))  # Return, at the question
    assert narrow(store, number, agreed=False) == 0
    assert "pending" in (told := capsys.readouterr().err)
    assert "2 pending runs" in told
    assert {*statuses(store).values()} == {"pending"}
    assert narrow(store, number, agreed=True) == 2
    assert statuses(store) == {"9aaa2222": "pending", "4kd2h1x9": "skipped", "1bert000": "skipped"}
    listed(store, Scope(exclude_projects=["vision"], only=RunFilter(tags=["draft"])))
    assert statuses(store)["1bert000"] == "pending"


# ---------------------------------------------------------------- the state database


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Wanted(projects=["vis*"]), {"4kd2h1x9", "9aaa2222"}),
        (Wanted(exclude_projects=["team/vision"]), {"1bert000"}),
        (Wanted(run_ids=["team/nlp/1bert000", "9aaa2222"]), {"1bert000", "9aaa2222"}),
        (Wanted(names=["res*-50", "bert"]), {"4kd2h1x9", "1bert000"}),
        (Wanted(groups=["baseline"]), {"4kd2h1x9"}),
        (Wanted(sweeps=["sw1"], projects=["vision"]), {"9aaa2222"}),
        (Wanted(names=["resnet*"], run_ids=["9aaa2222", "1bert000"]), {"9aaa2222"}),
    ],
)
def test_runs_are_chosen_by_all_that_is_known_of_them(store: Store, wanted: Wanted, ids: set[str]) -> None:
    listed(store)
    only = chosen(store, wanted)
    assert {run.ref.rpartition("/")[2] for run in store.reports.runs(RunStatus.PENDING, only)} == ids


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Wanted(run_ids=["nosuch"]), ["--run-id nosuch", "4kd2h1x9", "migrate runs"]),
        (Wanted(run_ids=["4kd2h1x"]), ["did you mean 4kd2h1x9?"]),
        (Wanted(run_ids=["4kd2h1x9"], projects=["nlp"]), ["--run-id 4kd2h1x9"]),
        (Wanted(projects=["nosuch"]), ["--projects nosuch", "team/nlp, team/vision", "migrate inventory"]),
        (Wanted(exclude_projects=["team/vison"]), ["--exclude-projects team/vison", "did you mean team/vision"]),
        (Wanted(exclude_projects=["*"]), ["all of these options together"]),
        (Wanted(names=["Bert"]), ["--name Bert", "did you mean bert?"]),
        (Wanted(groups=["nosuch"]), ["--group nosuch", "baseline"]),
        (Wanted(sweeps=["sw1"], names=["bert"]), ["all of these options together"]),
    ],
)
def test_a_run_that_is_not_there_is_told_with_close_names(store: Store, wanted: Wanted, words: list[str]) -> None:
    listed(store)
    with pytest.raises(UserError) as caught:
        chosen(store, wanted)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


# ---------------------------------------------------------------- options are bound to a run that has begun


def test_a_run_keeps_the_mapping_options_that_its_copy_began_with(store: Store) -> None:
    [project] = store.inventory.save_projects([ProjectRow("team", "p", "wandb", "http://w/team/p", "p")])
    store.inventory.save_runs(project, [RunRow("a", "a", "finished", "f")], 1)
    store.workers.register(WorkerInfo("w", "here", 1, 1.0))
    first = {"metrics_namespace": "m", "include_private": False}
    for options in (first, {"metrics_namespace": "n"}):
        claim = store.claim("w", Phase.COPY, 60, mapping=options)
        assert claim is not None
        assert claim.mapping == first
        store.release(claim)
    assert store.listing.last_mapping() == first
    everything = chosen(store, Wanted())
    check_mapping(store, everything, {"metrics_namespace": "m"})
    check_mapping(store, everything, {})
    with pytest.raises(UserError, match=r"--metrics-namespace m.*team/p/a.*--metrics-namespace n.*forget team/p/a"):
        check_mapping(store, everything, {"metrics_namespace": "n"})
    with pytest.raises(UserError, match=r"--no-include-private.*--include-private"):
        check_mapping(store, everything, {"include_private": True})
    claim = store.claim("w", Phase.COPY, 60, mapping=first)
    assert claim is not None
    store.forget_copy(claim)
    store.release(claim)
    check_mapping(store, everything, {"metrics_namespace": "n"})
    store.inventory.finish_inventory(project, 2, Unseen.EXCLUDED)


# ---------------------------------------------------------------- times and files of values


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("", None),
        ("2024-05-01", "2024-05-01T00:00:00+00:00"),
        ("2024-05", "2024-05-01T00:00:00+00:00"),
        ("2023", "2023-01-01T00:00:00+00:00"),
        ("2024-05-01T12:00:00Z", "2024-05-01T12:00:00+00:00"),
        ("2024-05-01T12:00+02:00", "2024-05-01T12:00:00+02:00"),
        ("Yesterday", "2024-05-09T00:00:00+00:00"),
        ("today", "2024-05-10T00:00:00+00:00"),
        ("30d", "2024-04-10T12:30:00+00:00"),
        ("12h", "2024-05-10T00:30:00+00:00"),
        ("2w", "2024-04-26T12:30:00+00:00"),
    ],
)
def test_times_are_dates_months_or_ages(text: str, time: str | None) -> None:
    parsed = parse_time(text, "--created-after", NOW)
    assert (parsed and parsed.isoformat()) == time


@pytest.mark.parametrize("text", ["tomorrow", "30", "30 days", "2024-13", "2024-5", "999999d", "-3d", "May"])
def test_other_times_are_refused_with_examples(text: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"yesterday or 30d (days ago), not '{text}'")):
        parse_time(text, "--created-after", NOW)


def test_values_are_read_from_files(tmp_path: Path) -> None:
    path = tmp_path / "runs.txt"
    path.write_bytes(b"\xef\xbb\xbf# ours\r\na\r\n\r\n  team/p/b \r\n")
    assert from_files(["x", f"@{path}"], "--run-id") == ["x", "a", "team/p/b"]
    path.write_text("old=new\nother = renamed\n")
    assert parse_project_map([f"@{path}", "c=d"]) == {"old": "new", "other": "renamed", "c": "d"}


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), (b"\xff", "not text in UTF-8"), (b"# no\n", "is empty")]
)
def test_a_file_of_values_that_cannot_be_used_is_told(tmp_path: Path, content: bytes | None, said: str) -> None:
    path: Any = tmp_path / "runs.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"--run-id @.*runs.txt.*{said}"):
        from_files([f"@{path}"], "--run-id")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("state=finished", "--filter is not JSON: Expecting value"),
        ("{'state': 'finished'}", "--filter is not JSON"),
        ('["state"]', "--filter must be a JSON object, not a list"),
        ('"finished"', "--filter must be a JSON object, not a single value"),
        ("null", "--filter must be a JSON object, not a single value"),
        ('{"config.lr": NaN}', "NaN is not a number in JSON"),
        ('{"config.lr": {"$gt": 1}, "config.lr": {"$lt": 2}}', "the key 'config.lr' occurs twice"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("@nosuch.json", "--filter @nosuch.json: nosuch.json cannot be read: No such file"),
    ],
    ids=itertools.count(),
)
def test_a_filter_that_is_not_a_json_object_is_told_with_an_example(text: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        parse_filter(text, "--filter")
    assert text.startswith("@") or "An example: --filter '{" in str(caught.value)


def test_a_filter_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('\ufeff{"$and": [{"state": "finished"}]}\n', "utf-8")
    assert parse_filter(f"@{tmp_path}/f.json", "--filter") == {"$and": [{"state": "finished"}]}


def test_a_filter_without_values_asks_nothing(store: Store) -> None:
    only = replace(RunFilter(), states=())
    check_filters(MemorySource({}), [], only)
