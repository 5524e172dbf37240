"""The source of local run directories, against runs that the real wandb SDK wrote."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from migrator.errors import UserError
from migrator.listed import Cause, SourceProject
from migrator.records import Fork
from migrator.sources.base import RunFilter, Source, SourceRun
from migrator.sources.wandb_local.listing import LocalSource
from migrator.values import SeriesKey, SeriesKind
from tests.contract.local_source import listings, opened, rows_of, same
from tests.servers.offline_runs import (
    ARTIFACTS,
    COMMIT,
    EVERYTHING,
    HISTOGRAM,
    HTML,
    KILLED,
    MODEL_FILES,
    OTHER_HTML,
    REFERENCE,
    RUNS,
    SAVED,
    TWICE,
    OfflineRun,
    make_runs,
)

ALL = RunFilter()


# ---------------------------------------------------------------- runs of the real SDK


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the runs of `offline_runs`; read only."""
    directory = tmp_path_factory.mktemp("offline")
    make_runs(directory)
    return directory


def public(values: Iterable[tuple[str, Any]] | dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in dict(values).items() if not key.startswith("_")}


def test_the_source_is_a_source(made: Path) -> None:
    source: Source = LocalSource([made])
    run: SourceRun = opened(LocalSource([made]), "gaps")
    assert source.service == "local"
    with run as entered:
        assert entered is run
    source.close()


@pytest.mark.parametrize("below", ["", "wandb"])
def test_all_runs_are_found_below_a_directory_but_not_twice_through_latest_run(made: Path, below: str) -> None:
    assert (made / "wandb" / "latest-run").is_symlink()
    found = listings(LocalSource([made / below, made]))
    assert found.keys() == RUNS.keys()
    assert {run_id: len(listing.location or ()) for run_id, listing in found.items()} == {
        run.run_id: run.directories for run in RUNS.values()
    }


def test_a_run_directory_itself_is_a_run(made: Path) -> None:
    location = listings(LocalSource([made]))["gaps"].location
    assert location
    assert listings(LocalSource([Path(location[0])])).keys() == {"gaps"}


def test_projects_are_sorted_and_counted(made: Path) -> None:
    source = LocalSource([made])
    projects = list(source.projects(None))
    assert [(p.entity, p.name) for p in projects] == [
        ("local", "uncategorized"),
        ("team", "vision"),
    ]
    assert {p.url for p in projects} == {made.as_uri()}
    assert [source.count_runs(p) for p in projects] == [1, len(RUNS) - 1]
    assert [p.entity for p in source.projects("team")] == ["team"]
    with pytest.raises(UserError, match="Entities there: local, team"):
        list(source.projects("nobody"))


def test_runs_are_listed_oldest_first_and_filtered(made: Path) -> None:
    source = LocalSource([made])
    vision = SourceProject("team", "vision", "")
    listed = list(source.runs(vision, ALL))
    created = [listing.created_at for listing in listed if listing.created_at]
    assert len(created) == len(listed)
    assert created == sorted(created)
    assert [listing.run_id for listing in source.runs(vision, RunFilter(states=["failed"]))] == ["failed"]
    assert [listing.run_id for listing in source.runs(vision, RunFilter(tags=["late"]))] == ["everything"]


@pytest.mark.parametrize("expected", RUNS.values(), ids=lambda run: run.run_id)
def test_a_listing_says_what_the_run_is(made: Path, expected: OfflineRun) -> None:
    listing = listings(LocalSource([made]))[expected.run_id]
    assert listing.source_state == expected.state
    assert listing.name == expected.attributes.get("name", "")
    assert tuple(listing.tags) == expected.attributes.get("tags", ())
    assert listing.fork == (Fork("everything", 1) if expected.run_id == "forked" else None)
    assert listing.created_at
    assert listing.heartbeat_at
    assert timedelta() <= listing.heartbeat_at - listing.created_at < timedelta(minutes=2)
    if expected is not KILLED:
        assert listing.history_rows == len(expected.rows) + (expected is ARTIFACTS)


@pytest.mark.parametrize("expected", RUNS.values(), ids=lambda run: run.run_id)
def test_attributes_say_what_the_run_is(made: Path, expected: OfflineRun) -> None:
    source = LocalSource([made])
    attributes = opened(source, expected.run_id).attributes()
    given = expected.attributes
    assert attributes.name == given.get("name")
    assert attributes.notes == given.get("notes")
    assert tuple(attributes.tags) == given.get("tags", ())
    assert attributes.group == given.get("group")
    assert attributes.url.startswith((made / "wandb").as_uri())
    listing = listings(source)[expected.run_id]
    assert attributes.created_at == listing.created_at
    wanted = {
        "id": expected.run_id,
        "path": f"{expected.entity}/{expected.project}/{expected.run_id}",
        "entity": expected.entity,
        "project": expected.project,
        "state": expected.state,
        "created_at": listing.created_at,
        "heartbeat_at": listing.heartbeat_at,
        "commit": COMMIT,
    } | {key: given[key] for key in ("name", "group", "job_type") if key in given}
    if expected.rows and expected is not KILLED:
        wanted |= {"history_line_count": len(expected.rows), "last_history_step": expected.rows[-1][0]}
    assert wanted.items() <= dict(attributes.wandb).items()
    assert not {"", None} & {value for value in attributes.wandb.values() if isinstance(value, str | None)}


@pytest.mark.parametrize("expected", RUNS.values(), ids=lambda run: run.run_id)
def test_config_comes_back_value_for_value(made: Path, expected: OfflineRun) -> None:
    config = opened(LocalSource([made]), expected.run_id).config()
    assert public(config.values) == expected.config
    raw = json.loads(config.raw)
    assert {key: value["value"] for key, value in raw.items()} == config.values
    assert "_wandb" in raw


@pytest.mark.parametrize("expected", [run for run in RUNS.values() if run.summary], ids=lambda run: run.run_id)
def test_the_summary_comes_back_value_for_value(made: Path, expected: OfflineRun) -> None:
    summary = opened(LocalSource([made]), expected.run_id).summary()
    found = {key: summary.values[key] for key in expected.summary}
    assert same(found, expected.summary)
    assert public(summary.values).keys() - expected.summary.keys() == expected.media.keys() | (
        {"pages"} if expected.media else set()
    )
    assert same(json.loads(summary.raw), summary.values)
    assert list(summary.values) == sorted(summary.values)


@pytest.mark.parametrize(
    "expected", [run for run in RUNS.values() if run not in (KILLED, ARTIFACTS)], ids=lambda run: run.run_id
)
def test_history_comes_back_row_for_row(made: Path, expected: OfflineRun) -> None:
    run = opened(LocalSource([made]), expected.run_id)
    found = rows_of(run)
    assert [row.step for row in found] == [step for step, _ in expected.rows]
    for row, (step, values) in zip(found, expected.rows, strict=True):
        named = public(row.values)
        assert step != 20 or named.keys() == {*expected.media, "pages", "dm"}
        assert same({key: value for key, value in named.items() if key in values}, values)
        assert step == 20 or named.keys() == values.keys()
        assert row.values.keys() - named.keys() == {"_runtime"}
        assert all(value == int(value) for value in [row.step])
    times = [row.time for row in found if row.time is not None]
    assert len(times) == len(found)
    if expected is not TWICE:
        assert times == sorted(times)
    assert run.survey().rows == run.survey().counted == len(found)


def test_whole_numbers_are_exact_and_types_are_kept(made: Path) -> None:
    row = rows_of(opened(LocalSource([made]), "everything"))[1].values
    assert row["big"] == 2**60 + 1
    assert isinstance(row["big"], int)
    assert row["flag"] is False
    assert isinstance(row["loss"], float)
    assert row["none"] is None


@pytest.mark.parametrize("run_id", ["everything", "resumed", "gaps", "twice"])
def test_history_goes_on_behind_any_step(made: Path, run_id: str) -> None:
    run = opened(LocalSource([made]), run_id)
    rows = rows_of(run)
    for step in {row.step for row in rows} | {-1, 0.5, 1e12}:
        assert same([list(row) for row in rows_of(run, step)], [list(row) for row in rows if row.step > step])


def test_the_survey_names_every_series_in_order_of_appearance(made: Path) -> None:
    run = opened(LocalSource([made]), "everything")
    number, text, file = SeriesKind.NUMBER, SeriesKind.TEXT, SeriesKind.FILE
    first_row = {
        **dict.fromkeys(["_runtime", "a.b", "big", "count", "flag", "inf", "loss", "nan", "negative", "ninf"], number),
        **dict.fromkeys(["nest.y.z", "tiny", "val/acc", "whole", "with blank"], number),
        **dict.fromkeys(["list", "nest.name", "no items", "text"], text),
        "hist": SeriesKind.HISTOGRAM,
    }
    survey = run.survey()
    plain = [series for series in survey.series if series.key in first_row]
    assert {series.key: series.kind for series in plain} == first_row
    assert [s.key.split(".")[0] for s in plain] == sorted(s.key.split(".")[0] for s in plain)
    assert list(survey.series[: len(plain)]) == plain
    later = set(survey.series[len(plain) :])
    assert later >= {SeriesKey(key, "", file) for key in EVERYTHING.media} | {SeriesKey("video", "caption", text)}
    assert survey.series.index(SeriesKey("audio", "", file)) < survey.series.index(SeriesKey("table", "", file))
    media = rows_of(run)[3].values
    assert survey.media >= {(key, media[key]["path"]) for key in EVERYTHING.media}


def test_media_come_back_byte_for_byte(made: Path) -> None:
    run = opened(LocalSource([made]), "everything")
    row = rows_of(run)[3].values
    for key, (kind, content) in EVERYTHING.media.items():
        assert row[key]["_type"] == kind
        file = run.fetch(row[key]["path"])
        assert file
        found = file.path.read_bytes()
        assert (json.loads(found) if isinstance(content, dict) else found) == content
        assert file.md5 == hashlib.md5(found).hexdigest()
        assert file.size_bytes == len(found) == row[key]["size"]
    assert row["video"]["caption"] == "a video"
    pages = [run.fetch(page["path"]) for page in row["pages"]["html"]]
    assert [page.path.read_bytes() for page in pages if page] == [HTML, OTHER_HTML]
    assert rows_of(run)[0].values["hist"] == HISTOGRAM


def test_files_are_those_of_the_run_with_saved_ones_behind_their_links(made: Path) -> None:
    run = opened(LocalSource([made]), "everything")
    sizes = {file.name: file.size_bytes for file in run.files()}
    assert list(sizes) == sorted(sizes)
    assert {name for name in sizes if not name.startswith("media/")} == {*SAVED, "output.log", "requirements.txt"}
    for name, content in SAVED.items():
        file = run.fetch(name)
        assert file
        assert not file.path.is_symlink()
        assert (file.path.read_bytes(), file.name, file.size_bytes) == (content, name, sizes[name])
        run.release(file)
    assert run.fetch("../run-everything.wandb") is None
    assert run.fetch("nested") is None


def test_console_lines_come_back_as_a_terminal_shows_them(made: Path) -> None:
    run = opened(LocalSource([made]), "everything")
    lines = [line for page in run.console(0) for line in page]
    assert [(line.stream, line.text) for line in lines] == list(EVERYTHING.console)
    assert [line.number for line in lines] == list(range(len(lines)))
    times = [line.time for line in lines if line.time]
    assert times == sorted(times)
    assert len(times) == len(lines)
    assert [line for page in run.console(3) for line in page] == lines[3:]


def test_system_metrics_are_complete_and_numbered_over_all_directories(made: Path) -> None:
    run = opened(LocalSource([made]), "resumed")
    rows = [row for page in run.system(0) for row in page]
    logs = [Path(place) / "run-resumed.wandb" for place in listings(LocalSource([made]))["resumed"].location or ()]
    assert len(rows) == sum(record.HasField("stats") for log in logs for record in records_in(log))
    assert [row.number for row in rows] == list(range(len(rows)))
    assert [row for page in run.system(1) for row in page] == rows[1:]
    assert run.partial("system") is None
    for row in rows:
        assert row.time
        assert all(isinstance(value, int | float) for value in row.values.values())
        assert not any(key.startswith("system.") for key in row.values)


def lost(run: SourceRun) -> list[str]:
    return [entry.path for entry in run.findings() if entry.reason == "unreadable"]


def records_in(log: Path) -> Iterator[Any]:
    """The records of an undamaged log of a few blocks, read in the plainest way."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, record = log.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


def test_artifacts_come_back_with_files_references_and_aliases(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(made / "private" / "data"))
    run = opened(LocalSource([made]), "artifacts")
    first, second, table = run.artifacts()
    assert [(a.name, a.version, a.type, list(a.aliases)) for a in (first, second, table)] == [
        ("model", "v0", "model", ["best"]),
        ("model", "v1", "model", ["latest"]),
        ("run-artifacts-table", "v0", "run_table", ["latest"]),
    ]
    assert [json.loads(artifact.metadata) for artifact in (first, second)] == [{"version": 0}, {"version": 1}]
    assert first.references == {"ref.bin": REFERENCE}
    assert first.digest != second.digest
    for version, artifact in enumerate((first, second)):
        assert [file.name for file in artifact.files] == sorted(MODEL_FILES)
        for file in artifact.files:
            content = MODEL_FILES[file.name] + bytes(version)
            found = run.fetch_artifact_file(artifact, file.name)
            assert found.path.read_bytes() == content
            assert (file.size_bytes, file.md5, found.name) == (len(content), found.md5, file.name)
        assert artifact.size_bytes == sum(file.size_bytes for file in artifact.files)
    assert not list(run.used_artifacts())


def test_a_killed_run_gives_what_is_whole(made: Path) -> None:
    log = made / "wandb" / next(path.name for path in (made / "wandb").glob("*-killed")) / "run-killed.wandb"
    written_at = datetime.fromtimestamp(log.stat().st_mtime, UTC)
    soon = LocalSource([made], now=lambda: written_at + timedelta(minutes=9))
    later = LocalSource([made], now=lambda: written_at + timedelta(minutes=11))
    assert listings(soon)["killed"].source_state == "running"
    assert listings(later)["killed"].source_state == "crashed"
    running, crashed = opened(soon, "killed"), opened(later, "killed")
    rows = rows_of(crashed)
    assert [(row.step, public(row.values)) for row in rows] == list(KILLED.rows[: len(rows)])
    assert crashed.survey().rows == len(rows) == listings(later)["killed"].history_rows
    assert soon.left_out == []
    assert not lost(running)


def test_a_torn_copy_gives_the_first_rows_and_says_what_is_lost(made: Path, tmp_path: Path) -> None:
    source = next((made / "wandb").glob("*-everything"))
    place = Path(shutil.copytree(source, tmp_path / "wandb" / source.name, symlinks=True))
    log = place / "run-everything.wandb"
    whole = log.read_bytes()
    rows = rows_of(opened(LocalSource([made]), "everything"))
    seen: set[int] = set()
    for size in range(len(whole), 0, -331):
        log.write_bytes(whole[:size])
        local = LocalSource([tmp_path], now=lambda: datetime.now(UTC) + timedelta(hours=1))
        listed = listings(local)["everything"]
        if local.left_out and local.left_out[0].cause is Cause.NO_RUN:
            assert listed.history_rows == 0
            break
        run = opened(local, "everything")
        found = rows_of(run)
        assert same([list(row) for row in found], [list(row) for row in rows[: len(found)]])
        assert run.attributes().wandb["state"] == ("finished" if size == len(whole) else "crashed")
        assert [one.cause for one in local.left_out] == [Cause.INCOMPLETE] * bool(lost(run))
        assert run.survey().rows == len(found)
        seen.add(len(found))
    assert seen == set(range(len(rows) + 1))


def test_the_fingerprint_changes_with_the_log_and_the_files_and_with_nothing_else(made: Path, tmp_path: Path) -> None:
    source = next((made / "wandb").glob("*-gaps"))
    place = Path(shutil.copytree(source, tmp_path / "wandb" / source.name, symlinks=True))
    shutil.copystat(source / "run-gaps.wandb", place / "run-gaps.wandb")

    def fingerprint(path: Path) -> str:
        return listings(LocalSource([path]))["gaps"].fingerprint

    before = fingerprint(tmp_path)
    assert before == fingerprint(made) == fingerprint(place)
    (place / "beside.txt").write_text("more")
    assert fingerprint(tmp_path) == before
    (place / "files" / "more.txt").write_text("more")
    with_more = fingerprint(tmp_path)
    with open(place / "run-gaps.wandb", "ab") as file:
        file.write(bytes(9))
    grown = fingerprint(tmp_path)
    (place / "run-gaps.wandb.syncstate").write_text('{"starting_step": 3}')
    assert len({before, with_more, grown, fingerprint(tmp_path)}) == 4
