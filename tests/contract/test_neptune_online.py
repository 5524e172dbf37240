"""Neptune online when things go wrong: slow, broken, refusing and forgetful servers; nothing is lost, nothing hangs."""

from __future__ import annotations

import base64
import itertools
import json
import math
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import stamina
from neptune_api.proto.neptune_pb.ingest.v1.pub.client_pb2 import BulkRequestStatus
from neptune_api.proto.neptune_pb.ingest.v1.pub.request_status_pb2 import RequestStatus

from migrator.destinations.base import Refused
from migrator.destinations.neptune.answers import CREATED, EXISTED, FORK_KEPT, KEPT
from migrator.destinations.neptune.connection import NEW_TOKENS_MAX, Answer, Connection
from migrator.destinations.neptune.online import StatusPoller
from migrator.destinations.neptune.safe import SafeDestination
from migrator.destinations.neptune.token import address_of
from migrator.errors import ErrorClass, ExitCode, Rejected, Retryable, Throttled, TurnedAway, UserError
from migrator.limits import STATUS_BATCH
from migrator.records import AddTags, Assign, AssignFile, Fork, Histogram, LocalFile, Points
from tests.contract.neptune_places import (
    PROJECT,
    START_US,
    OnlinePlace,
    connected,
    eventually,
    in_threads,
    local_file,
    online_place,
    opened,
    target,
)
from tests.servers.http import Fault
from tests.servers.neptune_server import NeptuneServer, api_token

__all__ = ["connected", "online_place"]  # fixtures

MIB = 1024 * 1024
TRIES = 5  # of one call, on the spot


@pytest.fixture
def place(online_place: OnlinePlace) -> OnlinePlace:
    return online_place


@pytest.fixture
def no_waits() -> Iterator[None]:
    """Calls are repeated as often as ever, but at once."""
    with stamina.set_testing(True, attempts=TRIES, cap=True):
        yield


def ready_place(**options: Any) -> Any:
    place = OnlinePlace(**options)
    place.server.store.create_project("team", "demo")
    return opened(place)


def point(step: int) -> Points:
    return Points(step, START_US + step, {"loss": float(step)})


def copy(place: OnlinePlace, *records: Any, run_id: str = "r1", **options: Any) -> Sequence[Refused]:
    """Write records to a run; what was refused."""
    with place.destination.open_run(target(run_id, **options), None) as run:
        run.write(records)
        return run.flush().wait()


def faults(place: OnlinePlace, *planned: Fault) -> None:
    place.server.faults.set(planned)


def status(match: str, code: int, times: int | None = None, **headers: str) -> Fault:
    return Fault(
        match, "status", times=times, status=code, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


# ---------------------------------------------------------------- processing takes its time


class Clock:
    """The server's; stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_durable_before_the_server_has_processed_it() -> None:
    delay = {"processing_delay_s": (60.0, 60.0), "clock": (clock := Clock())}
    with ready_place(**delay) as place, place.destination.open_run(target(), None) as run:
        run.write([point(0)])
        barrier = run.flush()
        eventually(lambda: place.server.log.count("^check$") > 2)
        assert not barrier.ready()
        clock.now = 61.0
        assert list(barrier.wait()) == []
        assert barrier.ready()


def test_a_barrier_waits_for_all_before_it_and_for_nothing_behind_it() -> None:
    clock = Clock()
    with ready_place(clock=clock) as place, place.destination.open_run(target(), None) as run:
        barriers = []
        for step in range(4):
            run.write([point(step)])
            place.server.store.processing_delay_s = (60.0 * (step % 2), 60.0 * (step % 2))
            barriers.append(run.flush())
        barriers[0].wait()
        barriers[2].wait()
        assert not barriers[1].ready()
        assert not barriers[3].ready()
        clock.now = 61.0
        for barrier in barriers:
            assert list(barrier.wait()) == []


def test_a_request_that_is_never_processed_fails_the_run_in_the_end() -> None:
    with ready_place(processing_timeout_s=0.3) as place, place.destination.open_run(target("other"), None) as other:
        faults(place, Fault("^submit$", "never_processed"))
        with pytest.raises(Retryable, match="did not process") as caught:
            copy(place)
        assert caught.value.error_class is ErrorClass.TIMEOUT
        assert list(other.flush().wait()) == []


def test_open_requests_of_many_runs_are_asked_about_together_and_not_too_often() -> None:
    with ready_place(processing_delay_s=(1.0, 1.0)) as place:
        runs = [place.destination.open_run(target(f"r{n}"), None) for n in range(32)]
        for run in runs:
            run.write([point(0)])
        for barrier in [run.flush() for run in runs]:
            assert list(barrier.wait()) == []
        assert place.server.log.count("^check$") < 60


class Clerk:
    """A connection of which only `statuses` is used. Answers once `open_` is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.open = threading.Event()

    def statuses(self, project: str, request_ids: Sequence[str]) -> list[Answer]:
        self.asked.append((project, len(request_ids)))
        if project == "team/broken":
            raise ZeroDivisionError
        return [Answer({} if self.open.is_set() else None)] * len(request_ids)


def test_no_status_question_is_larger_than_neptune_allows() -> None:
    clerk = Clerk()
    poller = StatusPoller(clerk, 60.0)  # type: ignore[arg-type]
    answers = [poller.watch(project, str(n)) for project in ("team/a", "team/b") for n in range(STATUS_BATCH + 1)]
    clerk.open.set()
    assert all(answer.result(timeout=10) == Answer({}) for answer in answers)
    assert max(count for _, count in clerk.asked) <= STATUS_BATCH
    poller.close()


def test_whatever_goes_wrong_with_a_status_question_reaches_those_who_wait_and_only_them() -> None:
    clerk = Clerk()
    poller = StatusPoller(clerk, 60.0)  # type: ignore[arg-type]
    broken = [poller.watch("team/broken", str(n)) for n in range(3)]
    fine = poller.watch("team/a", "1")
    for answer in broken:
        assert isinstance(answer.exception(timeout=10), ZeroDivisionError)
    clerk.open.set()
    assert fine.result(timeout=10) == Answer({})
    poller.close()


def test_closing_ends_every_wait() -> None:
    place = OnlinePlace()
    place.server.store.create_project("team", "demo")
    faults(place, Fault("^submit$", "never_processed"))
    barrier = place.destination.open_run(target(), None).flush()
    place.close()
    with pytest.raises(Retryable, match="closed"):
        barrier.wait()


# ---------------------------------------------------------------- requests that go wrong on the way


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("call", ["submit", "check", "details", "sign", "PUT blob"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault("", "lost_answer", times=2),
        Fault("", "drop", times=2),
        Fault("", "truncate", times=2),
        Fault("", "status", times=2, status=500),
        Fault("", "status", times=2, status=503),
        Fault("", "status", times=2, status=520),
        Fault("", "status", times=2, status=408),
        Fault("", "status", times=2, status=429, headers={"Retry-After": "0"}),
    ],
    ids=lambda fault: f"{fault.action}-{fault.status}" if fault.action == "status" else fault.action,
)
def test_a_request_that_fails_for_a_moment_is_repeated_and_leaves_no_trace(
    place: OnlinePlace, tmp_path: Path, call: str, fault: Fault
) -> None:
    place.server.store.refuse("^bad$", "FIELD_PATH_INVALID")
    faults(place, Fault(**{**vars(fault), "match": f"^{call}"}))
    file = local_file(tmp_path / "a", b"content")
    records = [Assign({"bad": 1}), AssignFile("files/a", file), *(point(step) for step in range(3))]
    known = "(path unknown)" if call == "details" else "bad"
    assert copy(place, *records) == [Refused(known, "FIELD_PATH_INVALID", 1)]
    seen = place.read()
    assert seen.series == {"loss": [(step, START_US + step, float(step)) for step in range(3)]}
    assert seen.files == {"files/a": b"content"}


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("call", ["submit", "check", "sign"])
@pytest.mark.parametrize(
    "body", ["", "<html>hello</html>", "{}", "\x0a\x7f"], ids=["empty", "html", "json", "protobuf"]
)
def test_an_answer_that_makes_no_sense_is_worth_another_attempt(
    place: OnlinePlace, tmp_path: Path, call: str, body: str
) -> None:
    file = AssignFile("files/a", local_file(tmp_path / "a", b"content"))
    with place.destination.open_run(target(), None) as run:
        run.flush().wait()
        faults(place, Fault(f"^{call}$", "status", status=200, body=body, times=TRIES))
        with pytest.raises(Retryable) as caught:
            write_and_wait(run, file)
    assert caught.value.error_class is ErrorClass.UNAVAILABLE
    assert copy(place, file) == []


def write_and_wait(run: Any, *records: Any) -> Sequence[Refused]:
    run.write(records)
    result: Sequence[Refused] = run.flush().wait()
    return result


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("call", ["submit", "check", "sign", "PUT blob"])
@pytest.mark.parametrize(
    ("code", "error", "error_class", "tries"),
    [
        (500, Retryable, ErrorClass.UNAVAILABLE, TRIES),
        (503, Retryable, ErrorClass.UNAVAILABLE, TRIES),
        (429, Throttled, ErrorClass.RATE_LIMITED, TRIES),
        (408, Retryable, ErrorClass.TIMEOUT, TRIES),
    ],
)
def test_a_server_in_trouble_is_asked_a_few_times_then_the_run_gives_up_for_now(
    place: OnlinePlace,
    tmp_path: Path,
    call: str,
    code: int,
    error: type[Retryable],
    error_class: ErrorClass,
    tries: int,
) -> None:
    with place.destination.open_run(target(), None) as run:
        run.flush().wait()
        place.server.log.clear()
        faults(place, status(f"^{call}", code))
        with pytest.raises(error, match=str(code)) as caught:
            write_and_wait(run, AssignFile("files/a", local_file(tmp_path / "a", b"content")))
    assert type(caught.value) is error
    assert caught.value.error_class is error_class
    assert place.server.log.count(f"^{call}") == tries


def test_a_short_retry_after_is_waited_out_on_the_spot(place: OnlinePlace) -> None:
    faults(place, status("^submit$", 429, times=1, Retry_After="1"))
    before = time.monotonic()
    assert copy(place, point(0)) == []
    assert time.monotonic() - before > 1.0
    assert place.server.log.count("^submit$") == 3


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("call", ["submit", "check"])
def test_a_long_retry_after_is_handed_on_at_once(place: OnlinePlace, call: str, code: int) -> None:
    faults(place, status(f"^{call}$", code, Retry_After="90"))
    with pytest.raises(Throttled) as caught:
        copy(place, point(0))
    assert (caught.value.service, caught.value.retry_after_s) == ("neptune", 90.0)
    assert place.server.log.count(f"^{call}$") <= 2  # of the creation and of the point: none is repeated


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("Thu, 21 Oct 2199 07:28:00 GMT", 3600.0),
        ("Thu, 21 Oct 1999 07:28:00 GMT", None),
        ("soon", None),
        ("nan", None),
        ("-5", None),
        ("9999999999", 3600.0),
    ],
)
def test_a_retry_after_is_understood_and_a_strange_one_does_no_harm(
    place: OnlinePlace, header: str, seconds: float | None
) -> None:
    faults(place, status("^submit$", 429, Retry_After=header))
    with pytest.raises(Throttled) as caught:
        copy(place)
    assert caught.value.retry_after_s == seconds


@pytest.mark.usefixtures("no_waits")
def test_a_server_that_is_gone_throttles_all_workers() -> None:
    with ready_place() as place, place.destination.open_run(target(), None) as run:
        run.flush().wait()
        place.server.stop()
        with pytest.raises(Throttled, match="ConnectError") as caught:
            write_and_wait(run, point(0))
        assert caught.value.error_class is ErrorClass.UNAVAILABLE


# ---------------------------------------------------------------- access


def test_a_session_that_the_server_forgot_is_renewed(place: OnlinePlace) -> None:
    def work(number: int) -> None:
        with place.destination.open_run(target(f"r{number}"), None) as run:
            for step in range(5):
                write_and_wait(run, point(step))
                if number == 0 and step < NEW_TOKENS_MAX:  # one request can meet them all
                    place.server._tokens.clear()

    in_threads(8, work)
    assert all(len(place.read(f"r{number}").series["loss"]) == 5 for number in range(8))


def test_a_session_that_the_server_forgets_again_and_again_ends_the_try() -> None:
    with ready_place() as place, place.destination.open_run(target(), None) as run:
        write_and_wait(run, point(0))
        place.server.token_lifetime_s = -1  # it knows no token that it gives
        place.server._tokens.clear()
        with pytest.raises(TurnedAway, match="HTTP 401"):
            write_and_wait(run, point(1))


def test_many_threads_renew_an_expiring_token_once_and_never_go_without() -> None:
    lifetime_s = 0.3  # and the 30 s by which the client is early
    begin = time.monotonic()
    with ready_place(token_lifetime_s=30 + lifetime_s) as place:

        def work(number: int) -> None:
            with place.destination.open_run(target(f"r{number}"), None) as run:
                for step in itertools.count():
                    write_and_wait(run, point(step))
                    if place.server.log.count("^refresh$") >= 3:
                        break

        in_threads(16, work)
        assert place.server.log.count("^exchange$") == 1
        assert place.server.log.count("^refresh$") <= (time.monotonic() - begin) / lifetime_s


@pytest.mark.usefixtures("no_waits")
def test_a_refresh_that_is_refused_is_followed_by_a_new_log_in() -> None:
    with ready_place(token_lifetime_s=30.05) as place, place.destination.open_run(target(), None) as run:
        faults(place, status("^refresh$", 400))
        for step in itertools.count():
            assert write_and_wait(run, point(step)) == []
            if place.server.log.count("^exchange$") > 1:
                break


@pytest.mark.parametrize("call", ["submit", "check", "sign"])
def test_an_access_that_stays_refused_ends_the_whole_job(place: OnlinePlace, tmp_path: Path, call: str) -> None:
    faults(place, status(f"^{call}$", 401))
    with pytest.raises(UserError, match="NEPTUNE_API_TOKEN") as caught:
        copy(place, AssignFile("files/a", local_file(tmp_path / "a", b"content")))
    assert caught.value.exit_code is ExitCode.CREDENTIALS


def test_an_access_that_is_refused_reaches_every_run_that_waits(place: OnlinePlace) -> None:
    place.server.store.processing_delay_s = (0.3, 0.3)
    barriers = [place.destination.open_run(target(f"r{n}"), None).flush() for n in range(5)]
    faults(place, status("^check$", 401))
    for barrier in barriers:
        with pytest.raises(UserError):
            barrier.wait()
    faults(place)
    place.server.store.processing_delay_s = (0.0, 0.0)
    assert copy(place, point(0)) == []


def test_no_permission_to_write_is_a_rejection() -> None:
    with ready_place(read_only=True) as place:
        with pytest.raises(Rejected, match="may not write") as caught:
            copy(place)
        assert caught.value.error_class is ErrorClass.PERMISSION


def test_a_request_that_is_too_large_for_the_server_is_a_rejection() -> None:
    with ready_place(max_request_bytes=1000) as place, pytest.raises(Rejected, match="413"):
        copy(place, Assign({"a": "x" * 2000}))


# ---------------------------------------------------------------- connecting


def test_a_refused_token_is_told_when_connecting() -> None:
    with NeptuneServer() as server:
        with pytest.raises(UserError, match="refused NEPTUNE_API_TOKEN") as caught:
            Connection(api_token(server.url, key="wrong"))
        assert caught.value.exit_code is ExitCode.CREDENTIALS


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("call", ["config", "discovery", "exchange"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault("", "drop", times=2),
        Fault("", "truncate", times=2),
        Fault("", "status", times=2, status=503),
        Fault("", "status", times=2, status=520),
        Fault("", "status", times=2, status=200, body="<html>log in to the hotel's network</html>"),
        Fault("", "status", times=2, status=200, body="{}"),
    ],
    ids=["drop", "truncate", "503", "520", "html", "json"],
)
def test_connecting_survives_a_moment_of_trouble(call: str, fault: Fault) -> None:
    with NeptuneServer() as server:
        server.faults.set([Fault(**{**vars(fault), "match": f"^{call}$"})])
        Connection(server.api_token).close()


@pytest.mark.usefixtures("no_waits")
def test_connecting_to_a_server_that_is_down_may_work_later() -> None:
    with NeptuneServer() as server:
        token = server.api_token
    with pytest.raises(Throttled, match="connect to Neptune"):
        Connection(token)


def token_of(content: Any) -> str:
    return base64.b64encode(json.dumps(content).encode()).decode()


SECRET = "c2VjcmV0LWtleS1vZi1zb21lYm9keQ"


@pytest.mark.parametrize(
    ("token", "hint"),
    [
        ("", "is not a Neptune API token"),
        (SECRET, "is not a Neptune API token"),
        ("ünïcode " + SECRET, "is not a Neptune API token"),
        (token_of(SECRET), "is not a Neptune API token"),
        (token_of([SECRET]), "is not a Neptune API token"),
        (token_of({"api_key": SECRET}), "is not a Neptune API token"),
        (token_of({"api_url": f"http://[{SECRET}", "api_key": SECRET}), "is not a Neptune API token"),
        (token_of({"api_address": "https://neptune.test", "api_key": SECRET}), "carries no server address"),
        (token_of({"api_url": "neptune.test", "api_key": SECRET}), "carries no server address"),
        (token_of({"api_url": "https://app.neptune.ai", "api_key": SECRET}), "hosted Neptune closed"),
        (token_of({"api_url": "https://EU.Neptune.AI/", "api_key": SECRET}), "hosted Neptune closed"),
        (token_of({"api_url": "https://neptune.ai", "api_key": SECRET}), "hosted Neptune closed"),
    ],
)
def test_a_token_that_cannot_work_is_told_without_showing_it(token: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint) as caught:
        address_of(token)
    assert caught.value.exit_code is ExitCode.CREDENTIALS
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    assert not token or token not in shown


def test_the_address_of_a_self_hosted_server_is_read_from_its_token() -> None:
    url = "https://neptune.ai.example.com:8443/path"
    assert address_of(f" {token_of({'api_url': url, 'api_address': url, 'api_key': SECRET})}\n") == url


# ---------------------------------------------------------------- projects


def test_a_project_is_created_once_and_then_left_alone() -> None:
    with opened(OnlinePlace()) as place:
        place.destination.ensure_project(PROJECT, "from W&B")
        place.destination.ensure_project(PROJECT, "something else")
        project = place.server.store.projects[PROJECT]
        assert (project.visibility, project.description) == ("priv", "from W&B")


def test_a_project_whose_key_is_taken_needs_a_person(place: OnlinePlace) -> None:
    faults(place, Fault("^create_project$", "status", status=409, body='{"errorType": "PROJECT_KEY_COLLISION"}'))
    with pytest.raises(UserError, match="another project has the key"):
        place.destination.ensure_project("team/other", "")


def test_a_workspace_that_is_not_there_needs_a_person(place: OnlinePlace) -> None:
    with pytest.raises(UserError, match="'nobody' does not exist") as caught:
        place.destination.ensure_project("nobody/demo", "")
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_project_that_may_not_be_created_needs_a_person() -> None:
    with opened(OnlinePlace(read_only=True)) as place:
        with pytest.raises(UserError, match="ask an administrator") as caught:
            place.destination.ensure_project(PROJECT, "")
        assert caught.value.exit_code is ExitCode.CREDENTIALS
        place.server.store.create_project(*PROJECT.split("/"))
        place.destination.ensure_project(PROJECT, "")  # somebody else has created it


def online(place: OnlinePlace) -> Any:
    return place.destination


def safe(place: OnlinePlace) -> Any:
    return SafeDestination(place.server.api_token, "priv")


@pytest.mark.parametrize("make", [online, safe])
def test_a_project_of_another_case_is_not_taken_for_ours(
    place: OnlinePlace, make: Callable[[OnlinePlace], Any]
) -> None:
    place.server.store.ignores_case = True
    place.server.store.create_project("team", "Vision")
    destination = make(place)
    destination.ensure_project("team/Vision", "")
    with pytest.raises(UserError, match=r"team/vision for team/Vision.*--project-map") as caught:
        destination.ensure_project("team/vision", "")
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("make", [online, safe])
@pytest.mark.parametrize(
    ("code", "words", "helps"),
    [
        (402, "your plan has expired", "--visibility workspace"),
        (403, "private projects are not in your plan", "--visibility workspace"),
        (403, "not for you", "ask an administrator"),
        (422, "visibility priv is not supported", "--visibility workspace"),
    ],
)
def test_what_a_server_says_about_a_project_that_it_does_not_create_reaches_the_user(
    place: OnlinePlace, make: Callable[[OnlinePlace], Any], code: int, words: str, helps: str
) -> None:
    faults(place, Fault("^create_project$", "status", None, status=code, body=json.dumps({"message": words})))
    destination = make(place)
    with pytest.raises(TurnedAway) as caught:
        destination.ensure_project("team/new", "")
    told = str(caught.value)
    assert (words in told, helps in told, "ask an administrator" in told) == (True, True, True)
    assert caught.value.exit_code is ExitCode.CREDENTIALS
    assert ("--visibility" in told) == ("visibility" in helps)
    place.server.store.create_project("team", "new")
    destination.ensure_project("team/new", "")  # it is there: somebody else has created it


def test_a_service_that_answers_anything_is_there(place: OnlinePlace) -> None:
    place.destination.ping()
    faults(place, Fault("^list_projects$", "status", None, status=404))
    with pytest.raises(Rejected):
        place.destination.ping()


@pytest.mark.usefixtures("no_waits")
def test_a_service_that_does_not_answer_is_not(place: OnlinePlace) -> None:
    faults(place, Fault("^list_projects$", "status", None, status=502))
    with pytest.raises(Retryable, match="502"):
        place.destination.ping()


def test_a_project_with_a_name_that_neptune_refuses_is_a_rejection(place: OnlinePlace) -> None:
    body = '{"message": "no such characters, please"}'
    faults(place, Fault("^create_project$", "status", status=400, body=body))
    with pytest.raises(Rejected, match="no such characters"):
        place.destination.ensure_project("team/other", "")


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("action", ["lost_answer", "drop", "truncate"])
def test_creating_a_project_survives_a_moment_of_trouble(place: OnlinePlace, action: str) -> None:
    faults(place, Fault("^create_project$", action, times=2))
    place.destination.ensure_project("team/other", "")
    assert "team/other" in place.server.store.projects


# ---------------------------------------------------------------- refusals


def test_a_run_that_exists_with_another_fork_is_rejected(place: OnlinePlace) -> None:
    copy(place)
    with pytest.raises(Rejected, match="RUN_CONFLICTING") as caught:
        copy(place, fork=Fork("parent", 1.0))
    assert caught.value.error_class is ErrorClass.REJECTED_BY_NEPTUNE


@pytest.mark.parametrize(
    ("first", "then"), [(None, Fork("parent", 1.0)), (Fork("parent", 1.0), None)], ids=["gets one", "loses it"]
)
def test_a_run_of_ours_whose_fork_parent_comes_or_goes_later_keeps_its_own_and_says_so(
    place: OnlinePlace, first: Fork | None, then: Fork | None
) -> None:
    copy(place, point(0), fork=first)
    with place.destination.open_run(target(fork=then), CREATED) as run:
        assert write_and_wait(run, point(2)) == [Refused("", FORK_KEPT, 0)]
    assert place.read().series["loss"][-1] == (2, START_US + 2, 2.0)


def test_a_run_that_was_in_neptune_before_keeps_its_points_and_says_so(place: OnlinePlace) -> None:
    rows = [Points(step, START_US + step, {"loss": float(step)}) for step in range(4)]
    with place.destination.open_run(target(), None) as run:
        run.write(rows[:2])
        run.flush().wait()
    with place.destination.open_run(target(), None) as run:  # the state database was lost
        run.write(rows)
        barrier = run.flush()
        assert barrier.wait() == [Refused("", KEPT, 0)]
    assert (barrier.position, place.read().series["loss"]) == (EXISTED, [(s, t, v["loss"]) for s, t, v in rows])
    with place.destination.open_run(target(), barrier.position) as run:
        run.write(rows)
        assert run.flush().wait() == [Refused("", KEPT, 0)]


@pytest.mark.parametrize(("position", "begun"), [(None, True), (CREATED, True), (CREATED, False)])
def test_a_run_of_ours_excuses_no_point_that_was_not_sent_before(
    place: OnlinePlace, position: str | None, begun: bool
) -> None:
    rows = [Points(step, START_US + step, {"loss": float(step)}) for step in range(2)]
    with place.destination.open_run(target(), None) as run:
        run.write(rows)
        run.flush().wait()
    with place.destination.open_run(target(), position, begun=begun) as run:
        run.write([Points(step, START_US + step, {"loss": 9.0}) for step in range(2)])
        refused = run.flush().wait()
    assert sum(one.count for one in refused) == 2


SERIES: dict[str, list[Any]] = {
    "numbers": [0.1, float("nan"), -0.0, float("inf")],
    "text": ["a", "", "ä", "b"],
    "bars": [Histogram((0.0, 1.0, 2.0), (1, 2))] * 4,
}


@pytest.mark.parametrize("path", SERIES)
def test_points_that_an_older_state_database_does_not_know_of_are_not_lost_if_they_are_equal(
    place: OnlinePlace, path: str
) -> None:
    rows = [Points(step, START_US + step, {path: value}) for step, value in enumerate(SERIES[path])]
    with place.destination.open_run(target(), None) as run:
        run.write(rows)
        run.flush().wait()
    before = place.read().series
    with place.destination.open_run(target(), CREATED) as run:  # the database was restored: it knows of the first row
        run.write(rows[1:])
        barrier = run.flush()
        assert (barrier.wait(), barrier.position) == ([Refused("", KEPT, 0)], EXISTED)
        run.write([Points(7, START_US + 7, {path: rows[0].values[path]})])
        assert run.flush().wait() == []
    assert str(place.read().series[path][:4]) == str(before[path])  # NaN is not equal to itself
    assert len(place.read().series[path]) == 5


@pytest.mark.parametrize("path", SERIES)
def test_points_that_differ_in_one_value_from_what_neptune_has_are_refusals(place: OnlinePlace, path: str) -> None:
    rows = [Points(step, START_US + step, {path: value}) for step, value in enumerate(SERIES[path])]
    others: dict[str, Any] = {"numbers": 0.2, "text": "c", "bars": Histogram((0.0, 1.0, 2.5), (1, 2))}
    with place.destination.open_run(target(), None) as run:
        run.write(rows)
        run.flush().wait()
    with place.destination.open_run(target(), CREATED) as run:
        run.write([*rows[:3], Points(3, START_US + 3, {path: others[path]})])
        assert sum(one.count for one in run.flush().wait()) == 4


def test_a_fork_whose_parent_is_missing_is_a_note_and_no_loss(place: OnlinePlace) -> None:
    refused = copy(place, point(0), fork=Fork("nobody", 1.0))
    assert refused == [Refused("", "RUN_FORK_PARENT_NOT_FOUND", 0)]
    assert len(place.read().series["loss"]) == 1


@pytest.mark.parametrize("code", ["INTERNAL", "INGEST_SUSPENDED"])
def test_a_server_that_fails_to_process_is_worth_another_attempt(place: OnlinePlace, code: str) -> None:
    place.server.store.refuse("^loss$", code)
    with pytest.raises(Retryable, match=code) as caught:
        copy(place, point(0))
    assert caught.value.error_class is ErrorClass.UNAVAILABLE


def test_an_error_of_an_early_barrier_is_not_told_by_a_later_one(place: OnlinePlace) -> None:
    place.server.store.refuse("^loss$", "INTERNAL")
    with place.destination.open_run(target(), None) as run:
        run.write([point(0)])
        failing = run.flush()
        run.write([Assign({"a": 1})])
        fine = run.flush()
        with pytest.raises(Retryable):
            failing.wait()
        assert list(fine.wait()) == []


@pytest.mark.usefixtures("no_waits")
def test_refusals_are_counted_even_if_the_server_does_not_tell_their_paths(place: OnlinePlace) -> None:
    place.server.store.refuse("^bad", "FIELD_PATH_INVALID")
    faults(place, status("^details$", 500))
    refused = copy(place, Assign({"bad": 1, "bad too": 2}), point(0))
    assert refused == [Refused("(path unknown)", "FIELD_PATH_INVALID", 2)]


def test_a_code_of_a_newer_server_is_a_refusal(place: OnlinePlace) -> None:
    status_ = RequestStatus()
    status_.code_by_count.add(code=3, count=2, detail=99)
    body = BulkRequestStatus(statuses=[status_]).SerializeToString().decode("ascii")
    with place.destination.open_run(target(), None) as run:
        run.flush().wait()
        faults(place, Fault("^check$", "status", status=200, body=body))
        assert write_and_wait(run, point(0)) == [Refused("(path unknown)", "CODE_99", 2)]


def test_numbers_that_an_older_server_does_not_take_are_told_and_not_dropped_in_silence(place: OnlinePlace) -> None:
    place.server.store.accepts_nan_inf = False
    try:
        values = enumerate([1.0, math.nan, math.inf, 2.0])
        refused = copy(place, *(Points(step, START_US, {"loss": value}) for step, value in values))
    finally:
        place.server.store.accepts_nan_inf = True
    assert refused == [Refused("loss", "FLOAT_VALUE_NAN_INF_UNSUPPORTED", 2)]
    assert [value for _, _, value in place.read().series["loss"]] == [1.0, 2.0]


def test_values_so_long_that_the_client_would_split_them_for_ever_are_refused_and_told(place: OnlinePlace) -> None:
    text = "x" * 3 * MIB
    refused = copy(place, Assign({"text": text, "good": 1}), AddTags(frozenset({text})), point(0))
    assert sorted((one.path, one.count) for one in refused) == [("sys/tags", 1), ("text", 1)]
    seen = place.read()
    assert (seen.values, seen.tags, len(seen.series["loss"])) == ({"good": 1}, set(), 1)


def test_thousands_of_refusals_are_told_by_path(place: OnlinePlace) -> None:
    place.server.store.refuse("^bad", "FIELD_PATH_INVALID")
    refused = copy(place, *(Points(step, START_US, {"bad": 1.0, "bad too": 2.0}) for step in range(1500)))
    assert sorted((r.path, r.count) for r in refused) == [("bad", 1500), ("bad too", 1500)]


# ---------------------------------------------------------------- files


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("code", [400, 403, 404])
def test_an_address_that_has_expired_is_asked_for_again(place: OnlinePlace, tmp_path: Path, code: int) -> None:
    faults(place, status("^PUT blob", code, times=1))
    copy(place, AssignFile("files/a", local_file(tmp_path / "a", b"content")))
    assert place.read().files == {"files/a": b"content"}
    assert place.server.log.count("^sign$") == 2


@pytest.mark.usefixtures("no_waits")
def test_a_storage_that_goes_on_refusing_fails_the_run(place: OnlinePlace, tmp_path: Path) -> None:
    faults(place, status("^PUT blob", 403))
    with pytest.raises(Retryable, match="HTTP 403") as caught:
        copy(place, AssignFile("files/a", local_file(tmp_path / "a", b"content")))
    assert caught.value.error_class is ErrorClass.PERMISSION


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("times", [1, None])
def test_a_storage_that_does_not_confirm_a_file_is_not_believed(
    place: OnlinePlace, tmp_path: Path, times: int | None
) -> None:
    faults(place, Fault("^PUT blob", "no_etag", times=times))
    file = AssignFile("files/a", local_file(tmp_path / "a", b"content"))
    if times:
        assert copy(place, file) == []
    else:
        with pytest.raises(Retryable, match="did not confirm"):
            copy(place, file)


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5500])
def test_a_file_in_parts_arrives_whole(tmp_path: Path, size: int) -> None:
    content = bytes(n % 251 for n in range(size))
    with ready_place(multipart_over_bytes=500, part_size_bytes=1000) as place:
        copy(place, AssignFile("files/a", local_file(tmp_path / "a", content)))
        assert place.read().files == {"files/a": content}
        assert place.server.log.count("^PUT part") == (-(-size // 1000) if size > 500 else 0)


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize(
    "fault",
    [
        Fault("^PUT part 2", "lost_answer", times=2),
        status("^PUT part 3", 500, times=2),
        Fault("^PUT part 1", "no_etag", times=2),
        status("^complete$", 500, times=1),
        Fault("^complete$", "lost_answer", times=1),
    ],
    ids=["lost_answer", "500", "no_etag", "complete-500", "complete-lost_answer"],
)
def test_a_file_in_parts_survives_a_moment_of_trouble(tmp_path: Path, fault: Fault) -> None:
    content = bytes(n % 251 for n in range(2500))
    with ready_place(multipart_over_bytes=500, part_size_bytes=1000) as place:
        faults(place, fault)
        copy(place, AssignFile("files/a", local_file(tmp_path / "a", content)))
        assert place.read().files == {"files/a": content}
        if "part" in fault.match:
            assert place.server.log.count("^PUT part") == 3 + 2


@pytest.mark.parametrize(
    ("provider", "largest"), [("aws", MIB), ("gcp", 16 * MIB), ("gcp", 16 * MIB + 1), ("azure", 64 * MIB + 1)]
)
def test_files_of_every_size_arrive_whole_at_every_storage(tmp_path: Path, provider: str, largest: int) -> None:
    sizes = [0, 1, 1000, largest]
    contents = {f"a b/ü&?# {size}": bytes(range(250)) * (size // 250) + b"x" * (size % 250) for size in sizes}
    files = [local_file(tmp_path / str(n), content) for n, content in enumerate(contents.values())]
    with ready_place(provider=provider) as place:
        copy(place, *(AssignFile(path, file) for path, file in zip(contents, files, strict=True)))
        assert place.read().files == contents
        assert (place.server.errors, place.server.unknown) == ([], [])


@pytest.mark.parametrize("provider", ["aws", "gcp", "azure"])
def test_uploads_share_the_connections_to_their_storage(tmp_path: Path, provider: str) -> None:
    files = [AssignFile(f"files/{n}", local_file(tmp_path / f"{n}", b"content")) for n in range(20)]
    with ready_place(provider=provider, threads=2) as place:
        copy(place, *files)
        assert place.server.connections_made < 10  # those to Neptune included


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("code", [403, 429, 503])
@pytest.mark.parametrize("provider", ["aws", "gcp", "azure"])
def test_an_upload_survives_a_moment_of_trouble_at_every_storage(tmp_path: Path, provider: str, code: int) -> None:
    with ready_place(provider=provider) as place:
        faults(place, *(status(f"^{what}", code, times=1) for what in ("PUT blob", "POST blob", "PUT session")))
        copy(place, AssignFile("files/a", local_file(tmp_path / "a", b"content")))
        assert place.read().files == {"files/a": b"content"}


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (status("^PUT session", 503, times=2), 1 + 2 + 2),  # a chunk, and the question where it stands, fail
        (Fault("^PUT session", "drop"), 2 + 2),
        (Fault("^PUT session", "lost_answer"), 1 + 1 + 1),  # the chunk is there: it is not sent again
        (Fault("^PUT session", "lost_answer", skip=1), 2 + 1),
        (Fault("^PUT session", "keep_half"), 1 + 1),
        (Fault("^PUT session", "status", status=308), 2 + 2),  # nothing was kept
    ],
    ids=["503", "drop", "lost answer", "lost last answer", "half", "nothing"],
)
def test_an_upload_to_google_goes_on_where_it_stands(tmp_path: Path, fault: Fault, requests: int) -> None:
    content = bytes(range(250)) * (20 * MIB // 250)
    with ready_place(provider="gcp") as place:
        faults(place, fault)
        copy(place, AssignFile("files/a", local_file(tmp_path / "a", content)))
        assert place.read().files == {"files/a": content}
        assert place.server.log.count("^POST blob") == place.server.log.count("^sign$") == 1
        assert place.server.log.count("^PUT session") == requests


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize(
    "answer", [{}, {"Range": "bytes=0-999"}, {"Range": "bytes=5-9"}], ids=["nothing kept", "too much", "not the start"]
)
def test_a_storage_that_never_finishes_an_upload_fails_the_run(tmp_path: Path, answer: dict[str, str]) -> None:
    with ready_place(provider="gcp") as place:
        faults(place, Fault("^PUT session", "status", times=None, status=308, headers=answer))
        with pytest.raises(Retryable, match="the storage"):
            copy(place, AssignFile("files/a", local_file(tmp_path / "a", b"content")))


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize(
    "fault",
    [
        Fault("^PUT block ", "lost_answer", times=2),
        status("^PUT block ", 500, times=2),
        status("^PUT block ", 403, times=1),
        status("^PUT blocklist", 503, times=1),
        Fault("^PUT blocklist", "no_etag", times=1),
    ],
    ids=["lost answer", "500", "expired", "list 503", "list without ETag"],
)
def test_a_file_in_blocks_survives_a_moment_of_trouble(tmp_path: Path, fault: Fault) -> None:
    content = bytes(range(250)) * (65 * MIB // 250)
    with ready_place(provider="azure") as place:
        faults(place, fault)
        copy(place, AssignFile("files/a", local_file(tmp_path / "a", content)))
        assert place.read().files == {"files/a": content}


def test_a_file_that_changed_or_went_away_meanwhile_is_not_passed_off_as_copied(
    place: OnlinePlace, tmp_path: Path
) -> None:
    file = local_file(tmp_path / "a", b"content")

    def longer() -> None:
        file.path.write_bytes(b"more content")

    def other() -> None:
        file.path.write_bytes(b"CONTENT")

    changes: list[Callable[[], None]] = [longer, other, file.path.unlink]
    for change in changes:
        change()
        place.server.log.clear()
        with pytest.raises(Retryable) as caught:
            copy(place, AssignFile("files/a", file))
        assert caught.value.error_class is ErrorClass.BAD_DATA
        assert place.server.log.count("^PUT blob") <= 1


@pytest.mark.parametrize("threads", [1, 4])
def test_many_files_of_many_runs_share_few_threads(tmp_path: Path, threads: int) -> None:
    files = [local_file(tmp_path / f"{n}.bin", b"%d" % n) for n in range(40)]
    with ready_place(threads=threads) as place:

        def work(number: int) -> None:
            assert copy(place, *(AssignFile(f.name, f) for f in files), run_id=f"r{number}") == []

        in_threads(4, work)
        expected = {f"{n}.bin": b"%d" % n for n in range(40)}
        assert all(place.read(f"r{number}").files == expected for number in range(4))


def test_the_first_file_that_fails_for_good_stops_the_run(place: OnlinePlace, tmp_path: Path) -> None:
    files = [local_file(tmp_path / f"{n}", b"x") for n in range(60)]
    gone = LocalFile(tmp_path / "gone", "gone", 1, "")
    with pytest.raises(Retryable, match="gone"):
        copy(place, AssignFile("gone", gone), *(AssignFile(file.name, file) for file in files))
    assert place.server.log.count("^PUT blob") < 60


# ---------------------------------------------------------------- many runs at once


@pytest.mark.usefixtures("no_waits")
def test_many_runs_in_threads_share_one_connection_through_trouble(tmp_path: Path) -> None:
    file = local_file(tmp_path / "a", b"content")
    with ready_place(processing_delay_s=(0.0, 0.05)) as place:
        trouble = [
            Fault("^submit$|^check$|^PUT blob", a, times=2, skip=20 * n)
            for n, a in enumerate(["drop", "lost_answer", "truncate"], 1)
        ]
        faults(place, *trouble)

        def work(number: int) -> None:
            with place.destination.open_run(target(f"r{number}"), None) as run:
                barriers = []
                for step in range(5):
                    run.write([point(step)])
                    barriers.append(run.flush())
                run.write([AssignFile("files/a", file)])
                for barrier in [*barriers, run.flush()]:
                    assert list(barrier.wait()) == []

        in_threads(16, work)
        for number in range(16):
            seen = place.read(f"r{number}")
            assert [value for _, _, value in seen.series["loss"]] == [0.0, 1.0, 2.0, 3.0, 4.0]
            assert seen.files == {"files/a": b"content"}
