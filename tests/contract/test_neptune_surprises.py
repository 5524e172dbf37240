"""What Neptune servers may do that no documentation says: each surprise with the outcome of the copy it concerns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from migrator.destinations.base import Refused, SeriesRef
from migrator.destinations.neptune.answers import CREATED
from migrator.destinations.neptune.connection import Connection
from migrator.destinations.neptune.readback import NeptuneReadBack
from migrator.errors import ErrorClass, Rejected, Retryable, RunError, TooLong, Vanished
from migrator.records import Assign, AssignFile, Points
from tests.contract.neptune_places import (
    PROJECT,
    START_US,
    OnlinePlace,
    connected,
    local_file,
    online_place,
    opened,
    target,
)
from tests.memory import measured
from tests.servers.http import Fault
from tests.servers.neptune_server import NeptuneServer

__all__ = ["connected", "online_place"]  # fixtures


def write_and_wait(run: Any, *records: Any) -> Sequence[Refused]:
    run.write(records)
    result: Sequence[Refused] = run.flush().wait()
    return result


class Surprise(NamedTuple):
    """What a server does that no documentation says, and what the copy of a run comes to.

    `prepare` makes the server so: at first, behind a barrier, or before the next attempt. `ends`: the refusals, or the
    class of the error, its `ErrorClass` and a word of its message. The run has a value at `bad` and points at `loss`.
    """

    prepare: Callable[[NeptuneServer], None]
    ends: list[Refused] | tuple[type[RunError], ErrorClass, str]
    when: Literal["first", "later", "next attempt"] = "first"


def answers(path: str, code: str) -> Callable[[NeptuneServer], None]:
    return lambda server: server.store.refuse(path, code)


def without_details(code: int) -> Callable[[NeptuneServer], None]:
    def prepare(server: NeptuneServer) -> None:
        server.store.refuse("^bad$", "FIELD_PATH_INVALID")
        server.faults.set([Fault("^details$", "status", None, status=code)])

    return prepare


def without_nan(server: NeptuneServer) -> None:
    server.store.accepts_nan_inf = False


def never_done(server: NeptuneServer) -> None:
    server.faults.set([Fault("^submit$", "never_processed", None)])


def project_deleted(server: NeptuneServer) -> None:
    server.store.settle()
    server.store.projects.clear()


def run_deleted(server: NeptuneServer) -> None:
    server.store.settle()
    server.store.projects[PROJECT].runs.clear()


HIDDEN = [Refused("(path unknown)", "FIELD_PATH_INVALID", 1)]
SURPRISES = {
    "a code that is not known": Surprise(answers("^bad$", "99"), [Refused("bad", "CODE_99", 1)]),
    "such a code for points": Surprise(answers("^loss$", "99"), [Refused("loss", "CODE_99", 3)]),
    "such a code for the run": Surprise(answers("^$", "99"), (Rejected, ErrorClass.NOT_FOUND, "RUN_NOT_FOUND")),
    "checkDetails is not there": Surprise(without_details(404), HIDDEN),
    "checkDetails is not allowed": Surprise(without_details(405), HIDDEN),
    "checkDetails is not made yet": Surprise(without_details(501), HIDDEN),
    "checkDetails is forbidden": Surprise(without_details(403), HIDDEN),
    "NaN is refused": Surprise(without_nan, [Refused("loss", "FLOAT_VALUE_NAN_INF_UNSUPPORTED", 1)]),
    "a status never comes": Surprise(never_done, (Retryable, ErrorClass.TIMEOUT, "did not process")),
    "a later status never comes": Surprise(never_done, (Retryable, ErrorClass.TIMEOUT, "did not process"), "later"),
    "the project is not there": Surprise(project_deleted, (Rejected, ErrorClass.NOT_FOUND, "PROJECT_NOT_FOUND")),
    "the project is deleted": Surprise(project_deleted, (Rejected, ErrorClass.NOT_FOUND, "PROJECT_NOT_FOUND"), "later"),
    "the project was deleted": Surprise(project_deleted, (Vanished, ErrorClass.NOT_FOUND, "is gone"), "next attempt"),
    "the run is deleted": Surprise(run_deleted, (Rejected, ErrorClass.NOT_FOUND, "RUN_NOT_FOUND"), "later"),
    "the run was deleted": Surprise(run_deleted, (Vanished, ErrorClass.NOT_FOUND, "is gone"), "next attempt"),
}


@pytest.mark.parametrize("name", SURPRISES)
def test_what_servers_may_do_comes_to_refusals_that_are_told_or_to_the_right_error(name: str) -> None:
    prepare, ends, when = SURPRISES[name]
    values = [Points(step, START_US + step, {"loss": [0.5, math.nan, 1.5][step]}) for step in range(3)]
    with opened(OnlinePlace(processing_timeout_s=0.3)) as place:
        place.server.store.create_project(*PROJECT.split("/"))

        def attempt(position: str | None = None) -> Sequence[Refused]:
            if when == "first":
                prepare(place.server)
            with place.destination.open_run(target(), position) as run:
                if when == "later":
                    assert write_and_wait(run) == []
                    prepare(place.server)
                return write_and_wait(run, Assign({"bad": 1}), *values)

        if when == "next attempt":
            attempt()
            prepare(place.server)
        if isinstance(ends, list):
            assert attempt() == ends
            return
        kind, error_class, word = ends
        with pytest.raises(kind, match=word) as caught:
            attempt(CREATED if when == "next attempt" else None)
        assert caught.value.error_class is error_class


# ---------------------------------------------------------------- absurdly long answers


def copied(place: OnlinePlace, *records: Any) -> Sequence[Refused]:
    with place.destination.open_run(target(), None) as run:
        return write_and_wait(run, *records)


GZIP = {"Content-Encoding": "gzip"}
CALLS = ["config", "discovery", "exchange", "list_projects", "submit", "check", "sign", "PUT blob"]


@pytest.mark.parametrize(("call", "headers"), [*((call, GZIP) for call in CALLS), ("check", {})])
def test_an_answer_of_gigabytes_is_not_read_and_named(
    online_place: OnlinePlace, tmp_path: Path, call: str, headers: dict[str, str]
) -> None:
    place = online_place
    file = AssignFile("files/a", local_file(tmp_path / "a", b"content"))
    actions: dict[str, Callable[[], object]] = {"list_projects": place.connection.projects}
    actions |= dict.fromkeys(("submit", "check", "sign", "PUT blob"), lambda: copied(place, file))
    act = actions.get(call, lambda: Connection(place.server.api_token).close())
    place.server.faults.set([Fault(f"^{call}", "flood", None, status=200, headers=headers, size_bytes=2 << 30)])
    with measured() as growth, pytest.raises(TooLong, match="Neptune's answer is over 128 MiB") as caught:
        act()
    assert caught.value.error_class is ErrorClass.UNAVAILABLE
    assert growth.mb < 400
    assert place.server.log.count(f"^{call}") <= 2  # Neptune's own authenticator asks twice
    place.server.faults.set([])
    act()


@pytest.mark.parametrize("call", ["query_attributes", "other_series"])
def test_what_is_too_long_to_be_read_back_is_asked_for_in_smaller_pages(online_place: OnlinePlace, call: str) -> None:
    texts = [Points(step, START_US + step, {f"text{n}": f"{n} {step}" for n in range(5)}) for step in range(3)]
    copied(online_place, Assign({"lr": 0.5}), *texts)
    online_place.server.faults.set([Fault(f"^{call}$", "flood", 2, status=200, size_bytes=200 << 20)])
    back = NeptuneReadBack(online_place.connection, online_place.pool)
    run = back.runs(PROJECT, ["r1"])["r1"]
    assert run.values["lr"] == 0.5
    found: dict[str, list[Any]] = {}
    for page in back.pages(PROJECT, [SeriesRef(run, f"text{n}") for n in range(5)]):
        found.setdefault(page.series.path, []).extend(page.values)
    assert found == {f"text{n}": [f"{n} {step}" for step in (2, 1, 0)] for n in range(5)}
