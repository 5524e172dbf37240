"""The safe client: public API only, whatever the version; what Neptune's client hides is found; nothing is left behind.

The destination suite itself is in test_destinations.py.
"""

from __future__ import annotations

import ast
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from migrator.destinations.base import Refused
from migrator.destinations.neptune import safe as neptune_safe
from migrator.destinations.neptune import safe_client as neptune_client
from migrator.destinations.neptune.answers import CREATED, EXISTED, KEPT, UNKNOWN_PATH
from migrator.destinations.neptune.connection import Connection
from migrator.destinations.neptune.safe import SafeDestination
from migrator.destinations.neptune.safe_client import CLOSE_TIMEOUT_S, INEXACT_STEP, INEXACT_TIME, NOT_FINITE
from migrator.errors import ErrorClass, ExitCode, Rejected, Retryable, Throttled, UserError
from migrator.limits import STRING_MAX_BYTES
from migrator.records import AddTags, Assign, AssignFile, Fork, Histogram, Points, Record
from tests.contract.neptune_places import (
    PROJECT,
    START_US,
    OnlinePlace,
    SafePlace,
    connected,
    eventually,
    in_threads,
    local_file,
    online_place,
    opened,
    safe_place,
    target,
)
from tests.servers.http import Fault
from tests.servers.neptune_server import api_token

__all__ = ["connected", "online_place", "safe_place"]  # fixtures

PUBLIC = {"neptune_api", "neptune_scale", "neptune_scale.exceptions", "neptune_scale.projects"}
OURS = {"migrator.destinations.base", "migrator.destinations.neptune"}
OURS |= {
    f"migrator.destinations.neptune.{name}"
    for name in ("answers", "errors", "login", "provenance", "refusals", "safe_client", "token")
}


@pytest.fixture
def place(safe_place: SafePlace) -> SafePlace:
    return safe_place


def point(step: int) -> Points:
    return Points(step, START_US + step, {"loss": float(step)})


def copy(place: SafePlace, *records: Record, **options: Any) -> Sequence[Refused]:
    """Write records to run r1; what was refused."""
    with place.destination.open_run(target(**options), None) as run:
        run.write(records)
        return run.flush().wait()


def faults(place: SafePlace, *planned: Fault) -> None:
    place.online.server.faults.set(planned)


# ---------------------------------------------------------------- any version


@pytest.mark.parametrize("module", [neptune_safe, neptune_client], ids=["destination", "client"])
def test_it_takes_nothing_private_from_neptunes_client(module: ModuleType) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if name.startswith("neptune")} <= PUBLIC
    assert {name for name in modules if name.startswith("migrator.destinations")} <= OURS
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")]
    assert {node.attr for node in attributes if ast.unparse(node.value) != "self"} <= {"__name__", "__cause__"}


def test_it_copies_with_a_version_that_the_fast_client_refuses(
    place: SafePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "neptune_scale-0.31.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: neptune-scale\nVersion: 0.31.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="--safe-client"):
        Connection(place.online.server.api_token)
    assert copy(place, point(0)) == []
    assert place.read().series["loss"] == [(0, START_US, 0.0)]


# ---------------------------------------------------------------- what the client drops, changes or never finishes


def test_what_the_client_would_drop_or_hang_on_is_a_refusal_by_path_and_the_rest_arrives(place: SafePlace) -> None:
    path, text = "x" * 1025, "🌊" * (STRING_MAX_BYTES // 4) + "x"
    refused = copy(
        place,
        Assign({path: 1, "text": 3 * text, "set": frozenset({text}), "fine": 1}),
        Points(0, START_US, {path: 1.0, "line": text, "fine line": "x", "loss": 1.0}),
        Points(0, START_US, {"wide": Histogram(tuple(map(float, range(514))), (1,) * 513)}),
        Points(0, START_US, {"uneven": Histogram((0.0, 1.0), (1, 2))}),
        AddTags(frozenset({"t", 3 * text})),
    )
    assert {(one.path, one.reason, one.count) for one in refused} == {
        (path, "FIELD_PATH_EXCEEDS_SIZE_LIMIT", 2),
        ("text", "STRING_VALUE_EXCEEDS_SIZE_LIMIT", 1),
        ("set", "STRING_SET_EXCEEDS_SIZE_LIMIT", 1),
        ("line", "STRING_VALUE_EXCEEDS_SIZE_LIMIT", 1),
        ("wide", "HISTOGRAM_TOO_MANY_BINS", 1),
        ("uneven", "HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS", 1),
        ("sys/tags", "STRING_SET_EXCEEDS_SIZE_LIMIT", 1),
    }
    seen = place.read()
    assert (seen.values, set(seen.series)) == ({"fine": 1}, {"fine line", "loss"})


def test_texts_that_the_client_would_put_in_too_large_a_message_arrive(place: SafePlace) -> None:
    values = {"a": "x" * (STRING_MAX_BYTES - 16), "b": "x" * (STRING_MAX_BYTES - 16)}
    assert copy(place, Points(0, START_US, {**values})) == []
    assert {path: series[0][2] for path, series in place.read().series.items()} == values


def test_what_the_client_cannot_do_exactly_is_noted(place: SafePlace) -> None:
    refused = copy(
        place,
        Points(0, START_US, {"fine": 1.0, "nan": math.nan, "inf": -math.inf}),
        Points(1, -1, {"early": 1.0}),
        Points(10**12 - 1, START_US, {"far": 1.0}),
        Assign({"late": datetime(2299, 1, 1, 0, 0, 0, 1, tzinfo=UTC), "nan too": math.nan}),
    )
    assert set(refused) == {
        Refused("nan", NOT_FINITE, 0),
        Refused("inf", NOT_FINITE, 0),
        Refused("early", INEXACT_TIME, 0),
        Refused("late", INEXACT_TIME, 0),
        Refused("far", INEXACT_STEP, 0),
    }
    assert set(place.read().series) == {"fine", "nan", "inf", "early", "far"}


# ---------------------------------------------------------------- what was there before


def test_a_run_that_was_in_neptune_before_keeps_its_points_and_says_so(place: SafePlace) -> None:
    copy(place, point(0), point(1))
    with place.destination.open_run(target(), None) as run:  # the state database was lost
        run.write([point(step) for step in range(4)])
        barrier = run.flush()
        assert list(barrier.wait()) == [Refused("", KEPT, 0)]
    assert (barrier.position, len(place.read().series["loss"])) == (EXISTED, 4)


def test_a_run_of_ours_excuses_only_what_is_replayed(place: SafePlace) -> None:
    copy(place, point(0), point(1))
    with place.destination.open_run(target(), None, begun=True) as run:
        run.write([point(0)], replayed=True)
        run.write([point(1), point(2)])
        barrier = run.flush()
        assert list(barrier.wait()) == [Refused(UNKNOWN_PATH, "SERIES_POINT_DUPLICATE", 1)]
    assert (barrier.position, len(place.read().series["loss"])) == (CREATED, 3)


def test_a_run_that_exists_with_another_fork_is_rejected(place: SafePlace) -> None:
    copy(place, point(0))
    with pytest.raises(Rejected, match="RUN_CONFLICTING"):
        copy(place, fork=Fork("parent", 1.0))


def test_a_fork_whose_parent_is_missing_is_a_note_and_no_loss(place: SafePlace) -> None:
    assert copy(place, point(0), fork=Fork("nobody", 1.0)) == [Refused("", "RUN_FORK_PARENT_NOT_FOUND", 0)]


# ---------------------------------------------------------------- what goes wrong


def test_a_run_that_is_not_processed_in_time_fails_and_nothing_goes_on_behind_it(online_place: OnlinePlace) -> None:
    online_place.server.store.processing_delay_s = (60.0, 60.0)
    with (
        opened(SafePlace(online_place, processing_timeout_s=3.0)) as place,
        pytest.raises(Retryable, match="not processed in 3 s") as caught,
    ):
        copy(place, point(0))
    assert caught.value.error_class is ErrorClass.TIMEOUT
    assert multiprocessing.active_children() == []


def test_a_run_that_is_left_without_flush_ends_its_client_at_once(place: SafePlace) -> None:
    place.online.server.store.processing_delay_s = (60.0, 60.0)
    with place.destination.open_run(target(), None) as run:
        run.write([point(0)])
        assert len(multiprocessing.active_children()) == 1
        left = time.monotonic()
    assert time.monotonic() - left < CLOSE_TIMEOUT_S
    assert multiprocessing.active_children() == []


def test_a_client_whose_process_dies_is_worth_another_attempt_which_completes_the_run(place: SafePlace) -> None:
    place.online.server.store.processing_delay_s = (0.5, 0.5)
    with place.destination.open_run(target(), None) as run:
        run.write([point(step) for step in range(3)])
        eventually(lambda: place.online.server.log.count("^submit$") > 0)
        [client] = multiprocessing.active_children()
        client.kill()
        with pytest.raises(Retryable, match="the client's process ended"):
            run.flush()
    with place.destination.open_run(target(), None, begun=True) as run:
        run.write([point(step) for step in range(3)], replayed=True)
        run.write([point(3)])
        assert list(run.flush().wait()) == []
    assert [value for _, _, value in place.read().series["loss"]] == [0.0, 1.0, 2.0, 3.0]


def test_a_server_that_is_gone_throttles_all_workers() -> None:
    with opened(OnlinePlace()) as online, opened(SafePlace(online)) as place:
        online.server.stop()
        with pytest.raises(Throttled, match="ConnectError"):
            copy(place, point(0))


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (Fault("^submit$", "status", times=None, status=403), Rejected, "you may not write there"),
        (Fault("^PUT blob", "status", times=None, status=403), Retryable, "the storage refused a file"),
        (Fault("^PUT blob", "status", times=None, status=503), Throttled, "FileUploadTemporary"),
    ],
    ids=["no permission", "storage refuses", "storage is down"],
)
def test_the_clients_own_errors_become_ours(
    place: SafePlace, tmp_path: Path, fault: Fault, error: type[Exception], message: str
) -> None:
    file = local_file(tmp_path / "a", b"content")
    faults(place, fault)
    with pytest.raises(error, match=message) as caught:
        copy(place, point(0), AssignFile("files/a", file))
    assert type(caught.value) is error


@pytest.mark.parametrize("code", ["INTERNAL", "DATETIME_VALUE_OUT_OF_RANGE"])
def test_an_answer_that_the_client_has_no_name_for_is_no_success(place: SafePlace, code: str) -> None:
    place.online.server.store.refuse("^loss$", code)
    with pytest.raises(Retryable, match="Unexpected ingestion error"):
        copy(place, point(0))


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"changed")], ids=["gone", "changed"])
def test_a_file_that_is_not_what_it_was_is_not_passed_off_as_copied(
    place: SafePlace, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    file = local_file(tmp_path / "a", b"content")
    change(file.path)
    with pytest.raises(Retryable):
        copy(place, AssignFile("files/a", file))


# ---------------------------------------------------------------- projects and access


def test_a_project_is_created_as_it_was_asked_for(place: SafePlace) -> None:
    place.destination.ensure_project("team/new", "about it")
    project = place.online.server.store.projects["team/new"]
    assert (project.visibility, project.description) == ("priv", "about it")


@pytest.mark.parametrize(
    ("change", "project", "exit_code"),
    [
        ({"workspaces": {"team"}}, "nobody/new", ExitCode.USAGE),
        ({"read_only": True}, PROJECT, ExitCode.CREDENTIALS),
    ],
    ids=["no such workspace", "not allowed"],
)
def test_a_project_that_cannot_be_created_needs_a_person(
    change: dict[str, Any], project: str, exit_code: ExitCode
) -> None:
    with opened(OnlinePlace(**change)) as online, opened(SafePlace(online)) as place:
        with pytest.raises(UserError, match=f"create project {project}") as caught:
            place.destination.ensure_project(project, "")
        assert caught.value.exit_code == exit_code
        if project == PROJECT:
            online.server.store.create_project(*PROJECT.split("/"))
            place.destination.ensure_project(PROJECT, "")  # somebody else has created it


@pytest.mark.parametrize("ask", ["create a project", "copy"])
def test_a_refused_token_ends_the_whole_job(place: SafePlace, ask: str) -> None:
    place.destination = SafeDestination(api_token(place.online.server.url, "wrong"), "priv")
    with pytest.raises(UserError, match="refused NEPTUNE_API_TOKEN") as caught:
        place.destination.ensure_project(PROJECT, "") if ask == "create a project" else copy(place, point(0))
    assert caught.value.exit_code == ExitCode.CREDENTIALS


# ---------------------------------------------------------------- several runs at once


def test_runs_in_several_threads_do_not_touch_each_others_clients(place: SafePlace) -> None:
    def work(number: int) -> None:
        with place.destination.open_run(target(f"r{number}"), None) as run:
            run.write([point(step) for step in range(3)])
            if number == 0:
                return  # left behind: its process is killed, and no other
            assert list(run.flush().wait()) == []

    in_threads(3, work)
    assert all(len(place.read(f"r{number}").series["loss"]) == 3 for number in (1, 2))
