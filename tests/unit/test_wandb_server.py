"""The loopback W&B server, seen through the real `wandb.Api` and through plain HTTP."""

import base64
import hashlib
import http.client
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import wandb
from wandb.apis.public.runhistory.downloads import IncompleteRunHistoryError
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from tests.servers.http import Fault, Server, control, spawned
from tests.servers.wandb_data import (
    Artifact,
    Entity,
    Mode,
    Project,
    Run,
    Sweep,
    big_runs,
    finite,
    hostile_runs,
    hostile_sweeps,
    light_runs,
    logged,
    sample_runs,
    sample_world,
    world,
)
from tests.servers.wandb_server import API_KEY, WandbServer

MODES: list[Mode] = ["parquet", "live", "mixed"]
ONE_PAGE = 2**31 - 1  # steps: the largest page the client can ask for

Serve = Callable[..., WandbServer]


@pytest.fixture(scope="module", autouse=True)
def _private_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The client's settings are read once a process, when the first Api is made."""
    home = str(tmp_path_factory.mktemp("wandb"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, home)
        for name in ("WANDB_ERROR_REPORTING", "WANDB_SILENT"):
            patch.setenv(name, str(name == "WANDB_SILENT").lower())
        for name in ("WANDB_BASE_URL", "WANDB_API_KEY", "WANDB_ENTITY", "WANDB_PROJECT"):
            patch.delenv(name, raising=False)
        yield
        wandb.teardown()  # otherwise clients of later tests in this process would share these settings, and its service


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers; at the end none of them may have failed or met a request it did not know."""
    servers: list[WandbServer] = []

    def start(*runs: Run, sweeps: list[Sweep] | None = None, **settings: Any) -> WandbServer:
        entity = Entity("team", [Project("demo", list(runs), sweeps or [])])
        servers.append(WandbServer(entity, **settings).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
        assert server.errors == []
        assert server.unknown == []
        assert server.mutations == []


def api_of(server: WandbServer, key: str = API_KEY) -> wandb.Api:
    return wandb.Api(overrides={"base_url": server.url}, api_key=key)


def run_of(server: WandbServer) -> Any:
    run_id = server.entities["team"].projects[0].runs[0].id
    return api_of(server).run(f"team/demo/{run_id}")


def scan(run: Any) -> list[dict[str, Any]]:
    return list(run.scan_history(page_size=ONE_PAGE, use_cache=False))


def plain(value: Any) -> Any:
    """`value` so that the forms of the client compare: None is as good as absent, NaN as "NaN"."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not None}
    return [plain(item) for item in value] if isinstance(value, list) else finite(value)


def as_read(value: Any, exported: bool) -> Any:
    """What the client can give back of a logged value."""
    match value:
        case dict() if exported and not value:
            return "{}"
        case dict():
            return {key: as_read(item, exported) for key, item in value.items()}
        case list() if exported and len({type(item) is str for item in value}) > 1:
            return json.dumps(value)
        case int() if value >= (2**64 if exported else 2**63):
            return float(value)
    return value


def test_projects_and_runs_are_listed_in_pages(serve: Serve) -> None:
    server = serve(*sample_runs(7, steps=1))
    server.entities["team"].projects += [Project(f"p{n}", entity="team") for n in range(60)]
    api = api_of(server)
    runs = api.runs("team/demo", per_page=3)
    assert [project.name for project in api.projects("team", per_page=25)] == ["demo", *(f"p{n}" for n in range(60))]
    assert [run.id for run in runs] == [f"run{n:05}" for n in range(7)]
    assert len(runs) == 7
    assert server.log.count("Runs$") == 3
    assert server.log.count("GetProjects") == 3


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"state": "crashed"}, [1]),
        ({"name": {"$in": ["r0", "r3"]}}, [0, 3]),
        ({"tags": "odd"}, [1, 3]),
        ({"tags": {"$nin": ["odd"]}}, [0, 2]),
        ({"$or": [{"display_name": {"$regex": "^n[01]"}}, {"group": "g3"}]}, [0, 1, 3]),
        ({"createdAt": {"$gte": "2024-01-02", "$lt": "2024-01-04T00:00:00+00:00"}}, [1, 2]),
        ({"$and": [{"created_at": {"$gt": "2024-01-02T00:00:00Z"}}, {"state": {"$ne": "failed"}}]}, [2, 3]),
        ({"sweep": "s"}, [2]),
        ({"config.lr.value": {"$lte": 0.1}}, [0, 1]),
        ({"summary_metrics.loss": {"$gt": 2}, "username": "ann"}, [3]),
        ({"$not": {"sweep": {"$exists": False}}}, [2]),
    ],
)
def test_filters_choose_runs(serve: Serve, filters: dict[str, Any], expected: list[int]) -> None:
    states = ["finished", "crashed", "running", "finished"]
    runs = [
        Run(f"r{n}", f"n{n}", states[n], {"lr": n / 10}, summary={"loss": n}, created_at=f"2024-01-0{n + 1}T00:00:00Z")
        for n in range(4)
    ]
    runs[1].tags = runs[3].tags = ["odd", "x"]
    runs[2].sweep, runs[3].group = "s", "g3"
    found = api_of(serve(*runs)).runs("team/demo", filters=filters, order="-created_at")
    assert [run.id for run in found] == [f"r{n}" for n in reversed(expected)]
    assert len(found) == len(expected)


def test_a_filter_on_an_unknown_field_is_refused_and_recorded() -> None:
    with WandbServer(sample_world(1, steps=1)) as server:
        with pytest.raises(WandbApiFailedError, match="unknown run field"):
            next(api_of(server).runs("team/sample", filters={"colour": "red"}))
        assert server.unknown == ["Runs: unknown run field: colour"]


def test_a_run_keeps_its_attributes_config_and_summary(serve: Serve) -> None:
    described = Run("r", "name ❤", "crashed", {"lr": 0.1, "deep": {"a": [1, None]}}, tags=["a", "b"], notes="n")
    described.history = logged([{"loss": 2.0}, {"loss": float("nan")}])
    described.group, described.job_type, described.commit = "g", "train", "c0ffee"
    server = serve(described)
    lazy = next(iter(api_of(server).runs("team/demo")))
    for run in (lazy, run_of(server)):
        assert (run.name, run.state, run.tags, run.notes) == ("name ❤", "crashed", ["a", "b"], "n")
        assert (run.group, run.job_type, run.commit, run.created_at) == ("g", "train", "c0ffee", described.created_at)
        assert run.config == {"lr": 0.1, "deep": {"a": [1, None]}}
        assert run.summary_metrics["loss"] == "NaN"
        assert run.summary_metrics["_step"] == run.lastHistoryStep == 1
        assert run.user.username == "ann"


@pytest.mark.parametrize("mode", MODES)
def test_a_scan_gives_the_logged_rows(serve: Serve, mode: Mode) -> None:
    (run,) = sample_runs(1, steps=30, mode=mode)
    run.parquet_files = 2
    assert scan(run_of(serve(run))) == run.rows()


@pytest.mark.parametrize("mode", MODES)
def test_hostile_rows_come_through_a_scan(serve: Serve, mode: Mode) -> None:
    runs = hostile_runs(mode)
    server = serve(*runs, sweeps=hostile_sweeps())
    found = {run.id: run for run in api_of(server).runs("team/demo", per_page=10, lazy=False)}
    assert list(found) == [run.id for run in runs]
    for run in runs:
        expected = [as_read(row, number < run.exported_count) for number, row in enumerate(run.rows())]
        assert plain(scan(found[run.id])) == plain(expected), run.id


def test_non_finite_numbers_are_floats_in_exports_and_text_in_live_rows(serve: Serve) -> None:
    history = logged([{"x": float("-inf")}, {"x": 1.5}])
    assert [row["x"] for row in scan(run_of(serve(Run("r", history=history))))] == [float("-inf"), 1.5]
    assert [row["x"] for row in scan(run_of(serve(Run("r", history=history, mode="live"))))] == ["-Infinity", 1.5]


def test_a_long_run_is_served_from_columns(serve: Serve) -> None:
    for mode in MODES:
        (run,) = big_runs(1, steps=3000, metrics=2, mode=mode)
        rows = list(run_of(serve(run)).scan_history(min_step=1400, max_step=1600, page_size=100, use_cache=False))
        assert rows == run.rows(1400, 1600)
        assert len(rows) == 200


def test_sampled_history_gives_as_many_rows_as_asked_for(serve: Serve) -> None:
    run = run_of(serve(Run("r", history=logged([{"x": n / 2, "y": n} if n % 2 else {"y": n} for n in range(100)]))))
    assert len(run.history(samples=10, pandas=False)) == 10
    assert [row["y"] for row in run.history(samples=1000, keys=["x", "y"], pandas=False)] == list(range(1, 100, 2))


def test_a_scan_of_some_keys_reads_ranges_or_rows_that_have_them(serve: Serve) -> None:
    rows = logged([{"x": 1.5, "y": 1}, {"y": 2}, {"x": 2.5}])
    cases: list[tuple[Mode, list[float | None]]] = [("parquet", [1.5, None, 2.5]), ("live", [1.5, 2.5])]
    for mode, expected in cases:
        server = serve(Run(f"keys-{mode}", history=rows, mode=mode))
        found = list(run_of(server).scan_history(keys=["x"], use_cache=False))
        assert [row.get("x") for row in found] == expected
        assert server.log.count("SampledHistoryPage" if mode == "live" else "GET /parquet/") > 0


def test_rows_on_both_sides_of_the_border_come_twice_if_the_service_repeats_them(serve: Serve) -> None:
    (run,) = sample_runs(1, steps=10, mode="mixed")
    run.border_repeats = True
    steps = [row["_step"] for row in scan(run_of(serve(run)))]
    assert sorted(set(steps)) == list(range(10))
    assert len(steps) == 15


def test_rows_that_are_not_announced_as_live_are_missed(serve: Serve) -> None:
    (run,) = sample_runs(1, steps=10, mode="mixed")
    run.announce_live = False
    assert len(scan(run_of(serve(run)))) == 5


def test_exports_are_downloaded_whole_and_refused_while_rows_are_live(serve: Serve, tmp_path: Path) -> None:
    (run,) = sample_runs(1, steps=20)
    run.parquet_files = 2
    found = run_of(serve(run)).download_history_exports(str(tmp_path))
    rows = [row for path in sorted(map(str, found.paths)) for row in pq.read_table(path).to_pylist()]
    assert rows == run.rows()
    run.mode = "mixed"
    run.changed()
    with pytest.raises(IncompleteRunHistoryError):
        run_of(serve(run)).download_history_exports(str(tmp_path / "again"))


def test_system_metrics_are_all_given_unless_capped(serve: Serve) -> None:
    events = [{"_timestamp": 1.5 + n, "_runtime": float(n), "system.cpu": n / 4} for n in range(1200)]
    run = run_of(serve(Run("r", events=events)))
    assert run.history(stream="system", samples=100_000, pandas=False) == events
    capped = run_of(serve(Run("r", events=events), event_cap=1000))
    assert len(capped.history(stream="system", samples=100_000, pandas=False)) == 1000


def test_files_are_downloaded_with_sizes_and_md5(serve: Serve, tmp_path: Path) -> None:
    files = {f"many/{n}.txt": str(n).encode() for n in range(60)}
    files |= {"empty": b"", "ünï 100%?#.txt": b"u", "a/b": b"\xff"}
    run = run_of(serve(Run("id 100%", files=dict(files))))
    for file in run.files():
        file.download(root=str(tmp_path)).close()
        data = (tmp_path / file.name).read_bytes()
        assert data == files.pop(file.name)
        assert (file.size, file.md5) == (len(data), base64.b64encode(hashlib.md5(data).digest()).decode())
    assert files == {}
    assert [file.name for file in run.files(pattern="many/_5.txt")] == [f"many/{n}5.txt" for n in range(1, 6)]
    assert run.file("a/b").size == 1


def test_console_lines_keep_order_level_and_missing_times(serve: Serve) -> None:
    lines = [
        (None if n % 2 else f"2024-01-01T00:00:{n % 60:02}", "error" if n % 3 else None, f"line {n}")
        for n in range(2100)
    ]
    found = list(run_of(serve(Run("r", console=lines))).console_logs())
    assert [line.content for line in found] == [line for _, _, line in lines]
    assert [line.level == "error" for line in found] == [level == "error" for _, level, _ in lines]
    assert [line.timestamp is None for line in found] == [time is None for time, _, _ in lines]


def test_artifacts_are_listed_and_downloaded(serve: Serve, tmp_path: Path) -> None:
    data = Artifact("data", version=3, files={"a/b.bin": b"x" * 99, "ü": b""}, aliases=("best",), metadata={"n": 1})
    data.references = {"far": "s3://bucket/far"}
    events = [{"_timestamp": 1.5, "_runtime": 0.5, "_wandb": True, "system.cpu": 2.5}]
    run = run_of(serve(Run("r", history=logged([{"x": 1.5}]), events=events, logged=[data], used=[data])))
    found = {artifact.type: artifact for artifact in run.logged_artifacts()}
    assert list(found) == ["wandb-history", "wandb-events", "dataset"]
    copied = Path(found["dataset"].download(root=str(tmp_path / "data"), allow_missing_references=True))
    assert (copied / "a/b.bin").read_bytes() == b"x" * 99
    exported = Path(found["wandb-events"].download(root=str(tmp_path / "events")))
    assert pq.read_table(next(exported.glob("*.parquet"))).to_pylist() == [
        {"_timestamp": 1.5, "_runtime": 0.5, "system.cpu": 2.5}
    ]
    (used,) = run.used_artifacts()
    assert (used.name, used.aliases, used.metadata, used.size) == ("data:v3", ["best"], {"n": 1}, 99)
    assert used.manifest.entries["far"].ref == "s3://bucket/far"


def test_an_artifact_is_found_by_name_and_alias(serve: Serve) -> None:
    server = serve(Run("r", logged=[Artifact("data", files={"a": b"1"}, aliases=("best",))]))
    assert api_of(server).artifact("team/demo/data:best").version == "v0"


def test_sweeps_know_their_runs(serve: Serve) -> None:
    sweep = Sweep("s1", "the sweep", {"method": "grid", "parameters": {"lr": {"values": [1, 2]}}})
    server = serve(Run("in", sweep="s1"), Run("out"), sweeps=[sweep, Sweep("s2")])
    api = api_of(server)
    assert [found.id for found in api.project("demo", "team").sweeps()] == ["s1", "s2"]
    run = api.run("team/demo/in")
    assert run.sweep.config["parameters"] == {"lr": {"values": [1, 2]}}
    assert [found.id for found in run.sweep.runs] == ["in"]


def test_a_wrong_key_is_refused(serve: Serve) -> None:
    with pytest.raises(wandb.errors.AuthenticationError):
        api_of(serve(), key="w" * 40)


def test_the_client_waits_as_told_and_tries_again(serve: Serve) -> None:
    server = serve(*sample_runs(1, steps=3))
    run = run_of(server)
    for label in ("RunHistoryKeys", "GET /parquet/"):
        server.faults.add(Fault(label, "status", status=429, headers={"Retry-After": "0"}))
    assert len(scan(run)) == 3
    assert server.log.count("RunHistoryKeys") == 2
    assert server.log.count("GET /parquet/") == 2


def test_an_expired_signed_url_spoils_a_scan(serve: Serve) -> None:
    server = serve(*sample_runs(1, steps=3))
    run = run_of(server)
    server.faults.add(Fault("GET /parquet/", "status", status=403, body="<Error>expired</Error>"))
    with pytest.raises(Exception, match=r"(?i)parquet"):
        scan(run)
    assert len(scan(run)) == 3


def test_a_truncated_answer_is_an_error_that_the_client_does_not_retry(serve: Serve) -> None:
    server = serve(*sample_runs(1, steps=3))
    server.faults.add(Fault("RunFiles", "truncate"))
    run = run_of(server)
    with pytest.raises(WandbApiFailedError, match="unexpected EOF"):
        next(run.files())
    assert server.log.count("RunFiles") == 1


def test_a_run_deleted_after_the_listing_is_gone(serve: Serve) -> None:
    server = serve(*sample_runs(5, steps=2))
    runs = api_of(server).runs("team/demo", per_page=2)
    first = next(runs)
    server.delete_run(f"team/demo/{first.id}")
    assert [next(runs).id for _ in range(4)] == [f"run{n:05}" for n in range(1, 5)]
    with pytest.raises(wandb.errors.CommError):
        scan(first)
    assert list(first.files()) == []


def test_a_running_run_shows_its_first_rows_then_grows_and_finishes(serve: Serve) -> None:
    server = serve(*sample_runs(1, steps=10, visible=4, mode="live"))
    run = run_of(server)
    assert (run.state, len(scan(run)), run.lastHistoryStep) == ("running", 4, 3)
    server.finish_run("team/demo/run00000", mode="parquet")
    assert (run_of(server).state, len(scan(run)), len(list(run.logged_artifacts()))) == ("finished", 10, 2)
    server.append_rows("team/demo/run00000", [{"_step": 10, "x": 1.5}])
    assert scan(run)[-1] == {"_step": 10, "x": 1.5}
    assert server.log.count("HistoryPage") == 2  # the four rows, and the one that is not exported


def test_writes_are_refused_and_recorded() -> None:
    with WandbServer(sample_world(1, steps=1)) as server:
        run = api_of(server).run("team/sample/run00000")
        run.notes = "changed"
        with pytest.raises(wandb.errors.CommError, match="read-only"):
            run.update()
        assert server.mutations == ["UpsertBucket"]


def test_unknown_operations_are_refused_and_recorded() -> None:
    with WandbServer(sample_world(1, steps=1)) as server:
        with pytest.raises(WandbApiFailedError, match="unknown operation"):
            next(api_of(server).artifact_types("team/sample"))
        assert len(server.unknown) == 1


def get(server: Server | str, path: str, **headers: str) -> tuple[int, bytes]:
    url = server if isinstance(server, str) else server.url
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_parquet_is_served_by_ranges_and_files_need_the_key(serve: Serve) -> None:
    server = serve(*sample_runs(1, steps=3))
    data = server.run("team/demo/run00000").parquet()[0]
    path = "/parquet/team/demo/run00000/0.parquet"
    assert get(server, path) == (200, data)
    assert get(server, path, Range="bytes=4-9") == (206, data[4:10])
    assert get(server, path, Range="bytes=-8") == (206, data[-8:])
    assert get(server, "/files/team/demo/run00000/output.log")[0] == 401


@pytest.mark.parametrize("action", ["drop", "lost_answer", "truncate"])
def test_a_broken_connection_is_broken_so_often_as_planned(serve: Serve, action: str) -> None:
    server = serve(*sample_runs(1, steps=3))
    server.faults.add(Fault("GET /parquet", action, skip=1, times=2))
    path = "/parquet/team/demo/run00000/0.parquet"
    assert get(server, path)[0] == 200
    for _ in range(2):
        with pytest.raises((ConnectionError, http.client.IncompleteRead)):
            get(server, path)
    assert get(server, path)[0] == 200


def test_a_server_process_is_driven_over_http_and_ends_with_its_stdin() -> None:
    with spawned("tests.servers.wandb_server", "--data", "sample:2,steps=4,visible=3,list:3,hostile:live") as url:
        control(url, "finish_run", {"run": "team/sample/run00000"})
        control(url, "delete_run", {"run": "team/sample/run00001"})
        control(url, "add_run", {"project": "team/list", "fields": {"id": "new", "created_at": "2030-01-01T00:00:00Z"}})
        control(url, "set_run", {"run": "team/list/light000000", "fields": {"state": "crashed"}})
        control(url, "faults", [{"match": "/nowhere", "action": "status", "status": 418}])
        assert [get(url, "/nowhere")[0], get(url, "/nowhere")[0]] == [418, 404]
        assert control(url, "requests") == {"GET /nowhere": 2}
        assert control(url, "unknown") == ["GET /nowhere"]
        assert control(url, "mutations") == []
        api = wandb.Api(overrides={"base_url": url}, api_key=API_KEY)
        assert [(run.state, len(scan(run))) for run in api.runs("team/sample")] == [("finished", 4)]
        assert [run.state for run in api.runs("team/list")] == ["crashed", *["finished"] * 3]
    command = [sys.executable, "-m", "tests.servers.wandb_server", "--data", "list:1"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=True).stdout


def test_a_spec_names_kinds_sizes_and_projects() -> None:
    made = world("sample:3,steps=2,big:runs=1,steps=10,metrics=1,list:4,project=x,sample,hostile")
    assert [(project.name, len(project.runs)) for project in made.projects[:4]] == [
        ("sample", 3),
        ("big", 1),
        ("x", 4),
        ("sample-1", 50),
    ]
    assert made.projects[4].name == "hostile-parquet"
    assert {project.entity for project in made.projects} == {"team"}
    with pytest.raises(ValueError, match="smple:3"):
        world("smple:3")


def test_sample_data_is_the_same_each_time() -> None:
    one, two = sample_runs(3, steps=5), sample_runs(3, steps=5)
    assert [(run.rows(), run.parquet(), run.files) for run in one] == [(r.rows(), r.parquet(), r.files) for r in two]
    assert len({run.id for run in light_runs(100)}) == 100
