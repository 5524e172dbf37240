"""What becomes of a job when W&B or Neptune misbehaves: a table for faults of single runs, one for whole services.

The real command, the real SDKs, loopback servers that fail as planned. An outcome of an attempt tells what it cost:
`retry`, `failed` and `stalled` count as failures, `throttled`, `released` and `lost` cost nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from email.utils import formatdate
from typing import Literal, NamedTuple

import pytest

from migrations_db import RunStatus, open_store
from migrations_db.report_types import RunDetail
from tests.flow.conftest import Scene, SetScene, wait_until
from tests.servers.http import Fault
from tests.servers.wandb_data import sample_runs

Side = Literal["wandb", "neptune"]

LONG_S = 12  # a Retry-After that is not waited out on the spot
HANGS_S = 120.0  # longer than the test lasts
IMPATIENT = ("--stall-timeout", "5")


class Soon(Mapping[str, str]):
    """Retry-After as a date: two seconds from when it is sent."""

    def __getitem__(self, name: str) -> str:
        return formatdate(time.time() + 2, usegmt=True)

    def __iter__(self) -> Iterator[str]:
        return iter(["Retry-After"])

    def __len__(self) -> int:
        return 1


def status(match: str, code: int, times: int | None = 1, retry_after: int | Soon | None = None, skip: int = 0) -> Fault:
    headers = {"Retry-After": str(retry_after)} if isinstance(retry_after, int) else retry_after or {}
    return Fault(match, "status", times, skip, status=code, headers=headers)


class RunFault(NamedTuple):
    """A fault of the requests of one run; None: it is deleted after the inventory.

    `ends`: "done", or the class with which it fails. `lacks`: a word in whatever does not arrive of a run that is done.
    """

    side: Side
    what: str
    fault: Fault | None
    ends: str = "done"
    attempts: frozenset[str] = frozenset({"done"})
    lacks: str = ""


NO_FAULT = Fault("^no such request$", "drop")
FAILED = frozenset({"failed"})
RUN_FAULTS = [
    RunFault("wandb", "nothing", NO_FAULT),
    RunFault("wandb", "429 with seconds", status("GET /parquet/", 429, retry_after=1)),
    RunFault("wandb", "429 with a date", status("GET /files/", 429, retry_after=Soon())),
    RunFault("wandb", "429 alone", status("graphql Run$", 429)),
    RunFault("wandb", "500", status("graphql Run$", 500)),
    RunFault("wandb", "502", status("GET /files/", 502, 2)),
    RunFault("wandb", "503", status("GET /parquet/", 503, 2)),
    RunFault("wandb", "a dropped connection", Fault("graphql RunFiles", "drop")),
    RunFault("wandb", "a dropped download", Fault("GET /parquet/", "drop", 2)),
    RunFault("wandb", "a cut answer", Fault("graphql RunConsoleLogPage", "truncate")),
    RunFault("wandb", "a cut download", Fault("GET /files/", "truncate", 2)),
    RunFault("wandb", "an expired address", status("GET /parquet/", 403)),
    RunFault("wandb", "a slow answer", Fault("graphql Run$|GET", "slow", 3, delay_s=1.0)),
    RunFault("wandb", "502 for ever", status("GET /parquet/", 502, None), "unavailable", FAILED | {"retry"}),
    RunFault("wandb", "503 for ever", status("GET /files/", 503, None), "unavailable", FAILED | {"retry"}),
    RunFault("wandb", "a deleted run", None, "not_found", FAILED | {"retry"}),
    RunFault("wandb", "no permission", status("graphql Run$", 403, None), "permission", FAILED | {"retry"}),
    RunFault("neptune", "429 with seconds", status("submit", 429, retry_after=1)),
    RunFault("neptune", "429 with a date", status("submit", 429, retry_after=Soon())),
    RunFault("neptune", "429 alone", status("submit", 429)),
    RunFault("neptune", "500", status("submit", 500, 2)),
    RunFault("neptune", "502", status("sign", 502, 2)),
    RunFault("neptune", "503", status("submit", 503, 2)),
    RunFault("neptune", "503 for ever", status("submit", 503, None), "unavailable", FAILED | {"retry"}),
    RunFault("neptune", "a dropped connection", Fault("submit", "drop", 2)),
    RunFault("neptune", "a dropped upload", Fault("PUT blob", "drop", 2)),
    RunFault("neptune", "a cut answer", Fault("submit", "truncate", 2)),
    RunFault("neptune", "an answer lost", Fault("submit|PUT blob", "lost_answer", 3)),
    RunFault("neptune", "an expired address", status("PUT blob", 403)),
    RunFault("neptune", "a slow answer", Fault("submit", "slow", 2, delay_s=1.0)),
    RunFault("neptune", "refused points", NO_FAULT, lacks="refused"),
    RunFault("neptune", "a run not stored", Fault("submit", "accept_but_lose"), attempts=frozenset({"retry", "done"})),
    RunFault("neptune", "no permission", status("submit", 403, None), "permission", FAILED | {"retry"}),
]


@pytest.mark.heavy
def test_a_fault_of_one_run_concerns_that_run_alone(set_scene: SetScene) -> None:
    runs = sample_runs(len(RUN_FAULTS), steps=4, files=2, events=2, console=2)
    rows = {f"{row.what} {row.side}".replace(" ", "-"): row for row in RUN_FAULTS}
    for run, (name, row) in zip(runs, rows.items(), strict=True):
        run.id = name
        run.history = [{**line, **({row.lacks: 1.0} if row.lacks else {})} for line in run.history]
    scene = set_scene(runs)
    scene.neptune.store.refuse("^refused$", "FIELD_PATH_INVALID")
    scene.migrate.succeed("inventory")
    for name, row in rows.items():
        if row.fault is None:
            scene.wandb.delete_run(f"team/demo/{name}")
        else:
            server = scene.wandb if row.side == "wandb" else scene.neptune
            server.faults.add(replace(row.fault, within=name))
    assert scene.migrate.run("run").exit_code == 3

    failed = {one["run"]: one["class"] for one in scene.migrate.status("--failed")["failed"]}
    found = {name: (failed.get(f"team/demo/{name}", "done"), ends) for name, ends in outcomes(scene).items()}
    assert found == {name: (row.ends, row.attempts) for name, row in rows.items()}
    lacking = [line for line in scene.differences() if f"team/{line.split(':')[0]}" not in failed]
    assert lacking == [f"demo/{name}: series: {row.lacks} is missing" for name, row in rows.items() if row.lacks]
    logs = (scene.migrate.directory / "migration-logs").iterdir()
    assert any("HTTP 503; trying again in " in path.read_text() for path in logs)
    [skipped] = scene.migrate.status()["skips"]
    assert (skipped["reason"], skipped["count"]) == ("refused: FIELD_PATH_INVALID", 4)


class ServiceFault(NamedTuple):
    """A fault of all requests of a kind, for ever: until all wait for its end, if the command goes on.

    A command that does not end with 0 is started again without it.
    """

    side: Side
    what: str
    fault: Fault
    exit_codes: tuple[int, ...] = (0,)
    attempts: frozenset[str] = frozenset({"done"})
    options: Sequence[str] = ()
    wants_s: int = LONG_S  # to be left alone


THROTTLED, STALLED = (frozenset({"done", end}) for end in ("throttled", "stalled"))
REVOKED = frozenset({"done", "released", "throttled"})  # believed when the pause is over
SERVICE_FAULTS = [
    ServiceFault("wandb", "the key is revoked", status("graphql RunFiles", 401, None), (4, 0), REVOKED, wants_s=0),
    ServiceFault("neptune", "the key is revoked", status("submit", 401, None, skip=3), (4, 0), REVOKED, wants_s=0),
    ServiceFault("wandb", "an outage", status("GET /files/", 503, 2, LONG_S), (0,), THROTTLED),
    ServiceFault("neptune", "an outage", status("submit", 503, 2, LONG_S), (0,), THROTTLED),
    ServiceFault("wandb", "502 for everything", status(".", 502, None, skip=8), (0,), THROTTLED),
    ServiceFault("neptune", "502 for everything", status(".", 502, None, skip=8), (0,), THROTTLED),
    ServiceFault("wandb", "no answer", Fault("GET /files/", "slow", 1, 0, HANGS_S), (0,), STALLED, IMPATIENT),
    ServiceFault("neptune", "no answer", Fault("submit", "slow", 1, 0, HANGS_S), (0,), STALLED, IMPATIENT),
]


@pytest.mark.heavy
def test_a_fault_of_a_whole_service_costs_no_run_and_no_attempt_but_where_nothing_moved(set_scene: SetScene) -> None:
    scenes = [set_scene(sample_runs(4, steps=4, files=2, events=2, console=2)) for _ in SERVICE_FAULTS]
    with ThreadPoolExecutor() as pool:
        ends = list(pool.map(meets, scenes, SERVICE_FAULTS))
    found = {(row.side, row.what): end for row, end in zip(SERVICE_FAULTS, ends, strict=True)}
    assert found == {(row.side, row.what): (row.exit_codes, row.attempts, 0, []) for row in SERVICE_FAULTS}


def meets(scene: Scene, row: ServiceFault) -> tuple[Sequence[int], frozenset[str], int, list[str]]:
    """(exit codes, how attempts ended, how many began while the service wanted to be left alone, what is missing)."""
    server = scene.wandb if row.side == "wandb" else scene.neptune
    scene.migrate.succeed("inventory")
    server.faults.add(row.fault)
    exit_codes: list[int] = []
    met_the_end = frozenset[str]()
    for _ in row.exit_codes:
        started = scene.migrate.start("run", *row.options)
        if row.fault.times is None and row.exit_codes == (0,):
            wait_until(lambda: "throttled" in frozenset().union(*outcomes(scene).values()), "a pause", started)
            server.faults.set([])
            met_the_end = frozenset({"retry"})  # of other runs, which were told that it is there again
        exit_codes.append(started.wait().exit_code)
        server.faults.set([])
    ends = frozenset[str]().union(*outcomes(scene).values()) - met_the_end
    made = [attempt for detail in details(scene) for attempt in detail.attempts]
    pauses = [attempt.ended_at for attempt in made if attempt.outcome == "throttled" and attempt.ended_at]
    early = [
        attempt
        for attempt in made
        for pause in pauses
        if timedelta(seconds=1) < attempt.started_at - pause < timedelta(seconds=row.wants_s - 1)
    ]
    return tuple(exit_codes), ends, len(early), scene.differences()


@pytest.mark.heavy
@pytest.mark.parametrize(("side", "match"), [("neptune", "^submit"), ("wandb", "ParquetHistory|HistoryPage")])
def test_what_fails_for_all_runs_fails_none_although_the_service_answers(
    set_scene: SetScene, side: Side, match: str
) -> None:
    scene = set_scene(sample_runs(12, steps=4, files=2))
    scene.migrate.succeed("inventory")
    server = scene.wandb if side == "wandb" else scene.neptune
    server.faults.add(status(match, 502, None))
    started = scene.migrate.start("run")
    wait_until(lambda: "throttled" in frozenset().union(*outcomes(scene).values()), "a pause", started)
    server.faults.set([])
    assert started.wait().exit_code == 0
    assert scene.differences() == []


BRIEF_S = 3.0
BRIEF_FAULTS = [
    *(("wandb", ".", code) for code in (302, 400, 401, 403, 404)),
    *(("neptune", ".", code) for code in (302, 400, 401, 403, 404)),
    ("wandb", "graphql Run$", 404),
    ("neptune", "^create_project", 404),
    ("neptune", "^submit", 403),
    ("neptune", "^submit", 401),
]


@pytest.mark.heavy
def test_a_few_seconds_of_refusals_fail_no_run_and_end_no_job(set_scene: SetScene) -> None:
    scenes = [set_scene(sample_runs(12, steps=4, files=2)) for _ in BRIEF_FAULTS]
    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(meets_briefly, scenes, BRIEF_FAULTS))
    assert dict(zip(BRIEF_FAULTS, ends, strict=True)) == dict.fromkeys(BRIEF_FAULTS, (0, []))


def meets_briefly(scene: Scene, row: tuple[Side, str, int]) -> tuple[int, list[str]]:
    side, match, code = row
    server = scene.wandb if side == "wandb" else scene.neptune
    scene.migrate.succeed("inventory")
    known = server.log.count(match)
    server.faults.add(status(match, code, None, skip=8 if match == "." else 0))
    started = scene.migrate.start("run")
    wait_until(lambda: server.log.count(match) > known + (8 if match == "." else 0), "the fault", started)
    time.sleep(BRIEF_S)
    server.faults.set([])
    return started.wait().exit_code, scene.differences()


@pytest.mark.parametrize("match", [pytest.param("project", marks=pytest.mark.heavy), "^create_project"])
def test_a_workspace_that_forbids_projects_ends_the_job_and_fails_no_run(set_scene: SetScene, match: str) -> None:
    scene = set_scene(sample_runs(12, steps=4, files=2))
    scene.migrate.succeed("inventory")
    scene.neptune.faults.add(status(match, 403, None))
    ended = scene.migrate.run("run")
    assert (ended.exit_code, scene.migrate.status("--failed")["failed"]) == (4, [])
    assert "ask an administrator" in ended.stderr
    scene.neptune.faults.set([])
    scene.migrate.succeed("run")
    assert scene.differences() == []


def test_a_service_that_asks_to_wait_for_years_is_asked_again_before_the_job_gives_up(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=4, files=2))
    scene.migrate.succeed("inventory")
    scene.neptune.faults.add(status("submit", 429, retry_after=10**9))
    scene.migrate.succeed("run", "--give-up-after", "40")
    assert scene.differences() == []


@pytest.mark.heavy
def test_an_outage_while_offline_files_are_uploaded_asks_nothing_of_the_source(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=4, files=2))
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run", "--mode", "offline")
    scene.neptune.faults.add(status(".", 502, None, skip=4))
    nobody = {"WANDB_API_KEY": None, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    started = scene.migrate.start("sync", **nobody)
    wait_until(lambda: "throttled" in frozenset().union(*outcomes(scene).values()), "a pause", started)
    scene.neptune.faults.set([])
    assert started.wait().exit_code == 0
    assert scene.differences() == []


def outcomes(scene: Scene) -> dict[str, frozenset[str]]:
    """How the attempts at each run ended. Lost ones are left out: that is always somebody else's doing."""
    return {one.run_id: frozenset(str(end.outcome) for end in one.attempts) - {"lost"} for one in details(scene)}


def details(scene: Scene) -> list[RunDetail]:
    store = open_store(scene.migrate.directory / "migration.db", create=False)
    try:
        listed = [run.run for status in RunStatus for run in store.reports.runs(status)]
        return [detail for run in listed if (detail := store.reports.run_detail(run))]
    finally:
        store.close()
