"""The loopback Neptune server, driven by the real clients; its rules also directly, which is faster."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from neptune_api.api.ingestion import check_details
from neptune_api.proto.google_rpc.code_pb2 import Code
from neptune_api.proto.neptune_pb.api.v1.model.series_values_pb2 import ProtoFloatSeriesValuesDTO
from neptune_api.proto.neptune_pb.ingest.v1 import common_pb2 as pb
from neptune_api.proto.neptune_pb.ingest.v1.ingest_pb2 import IngestCode
from neptune_api.proto.neptune_pb.ingest.v1.pub import client_pb2
from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation
from neptune_api.types import File as Payload
from neptune_scale import Run
from neptune_scale.exceptions import (
    NeptuneBadRequestError,
    NeptuneInvalidCredentialsError,
    NeptuneProjectAlreadyExists,
    NeptuneProjectNotFound,
    NeptuneSynchronizationStopped,
    NeptuneUnauthorizedError,
)
from neptune_scale.net.api_client import ApiClient, with_api_errors_handling
from neptune_scale.projects import create_project, list_projects
from neptune_scale.sync.operations_repository import OperationsRepository
from neptune_scale.sync.sync_process import FileUploaderThread, SenderThread, StatusTrackingThread
from neptune_scale.types import Histogram as ClientHistogram

from tests.servers.float_points import float_points
from tests.servers.http import Fault, control, spawned
from tests.servers.neptune_server import NeptuneServer, api_token
from tests.servers.neptune_store import FileRef, Histogram, NeptuneStore
from tests.servers.neptune_store import Run as StoredRun

PROJECT = "team/demo"
START = datetime(2024, 5, 1, 12, 0, 0, 123457, tzinfo=UTC)
START_US = 1_714_564_800_123_457


@pytest.fixture
def server() -> Iterator[NeptuneServer]:
    with NeptuneServer() as server:
        server.store.create_project("team", "demo")
        yield server
    assert server.errors == []
    assert server.unknown == []


def offline_run(directory: Path, run_id: str = "r1", **options: Any) -> Run:
    return Run(
        project=PROJECT,
        run_id=run_id,
        mode="offline",
        log_directory=directory,
        creation_time=START,
        enable_console_log_capture=False,
        source_tracking_config=None,
        **options,
    )


def finished_log(run: Run) -> Path:
    """Close an offline run and say where its operations are."""
    path = run._operations_repository_path
    run.close()
    assert path is not None
    return path


def synchronize(token: str, log: Path) -> list[str]:
    """Send a log as the client's own process does, in this thread; gives the names of the errors it saw."""
    api, repository = ApiClient(api_token=token), OperationsRepository(db_path=log.absolute())
    repository.delete_operation_submissions(up_to_seq_id=None)
    metadata = repository.get_metadata()
    assert metadata is not None
    sender = SenderThread(token, metadata.run_id, repository)
    status = StatusTrackingThread(token, metadata.project, repository)
    uploader = FileUploaderThread(metadata.project, token, repository)
    sender._backend = status._backend = uploader._api_client = api
    asyncio.set_event_loop(uploader._aio_loop)
    deadline = time.monotonic() + 30
    try:
        while repository.get_operation_count(limit=1) or repository.get_file_upload_requests_count(limit=1):
            assert time.monotonic() < deadline, "the log does not get empty"
            sender.work()
            status.work()
            uploader.work()
            time.sleep(0.005)
        return [error.error_type.rsplit(".", 1)[-1] for error in repository.get_errors(limit=1000)]
    finally:
        uploader._api_client = None
        uploader.close()
        api.close()
        repository.close(cleanup_files=False)


def value(of: Any) -> pb.Value:
    match of:
        case bool():
            return pb.Value(bool=of)
        case int():
            return pb.Value(int64=of)
        case float():
            return pb.Value(float64=of)
        case str():
            return pb.Value(string=of)
    assert isinstance(of, pb.Value)
    return of


def histogram(edges: list[float], counts: list[int]) -> pb.Value:
    return pb.Value(histogram=pb.Histogram(bin_edges=edges, counts=pb.Histogram.Counts(values=counts)))


def file_ref(path: str, mime: str = "text/plain") -> pb.Value:
    return pb.Value(file_ref=pb.FileRef(path=path, size_bytes=1, mime_type=mime))


def creation(run_id: str = "r1", project: str = PROJECT, **fields: Any) -> RunOperation:
    return RunOperation(project=project, run_id=run_id, create=pb.Run(family=run_id, **fields))


def update(
    *, step: float | None = None, ms: int = 0, run_id: str = "r1", assign: Any = None, append: Any = None
) -> RunOperation:
    snapshot = pb.UpdateRunSnapshot()
    if step is not None:
        snapshot.step.whole, snapshot.step.micro = divmod(round(step * 1_000_000), 1_000_000)
    snapshot.timestamp.FromMilliseconds(1_700_000_000_000 + ms)
    for path, of in (assign or {}).items():
        snapshot.assign[path].CopyFrom(value(of))
    for path, of in (append or {}).items():
        snapshot.append[path].CopyFrom(value(of))
    return RunOperation(project=PROJECT, run_id=run_id, update_batch=pb.UpdateRunSnapshots(snapshots=[snapshot]))


class Rules:
    """A store with one run, to which operations are offered one by one."""

    def __init__(self) -> None:
        self.store = NeptuneStore()
        self.store.create_project("team", "demo")
        assert self.offer(creation()) == {"OK": 1}

    def offer(self, operation: RunOperation) -> dict[str, int]:
        outcome = self.store.status(self.store.submit(operation.SerializeToString()))
        assert outcome is not None
        return {IngestCode.Name(code): count for code, count in outcome.counts().items()}

    def code(self, operation: RunOperation) -> str:
        (code,) = self.offer(operation)
        return code

    @property
    def run(self) -> StoredRun:
        return self.store.run(PROJECT, "r1")


@pytest.fixture
def rules() -> Rules:
    return Rules()


# the whole way


def test_a_run_arrives_exactly_as_the_client_logged_it(server: NeptuneServer, tmp_path: Path) -> None:
    run = offline_run(tmp_path, experiment_name="my experiment")
    run.log_configs({"lr": 0.1, "layers": 3, "on": True, "name": "ä", "when": START})
    run.add_tags(["a", "b"])
    run.remove_tags(["b"])
    run.add_tags(["g"], group_tags=True)
    for index in range(3):
        at = START + timedelta(microseconds=index)
        run.log_metrics({"loss": 1 / (index + 1), "acc": float("nan")}, step=index + 0.5, timestamp=at)
    run.log_metrics({"loss": float("-inf")}, step=999_999_999, timestamp=START + timedelta(hours=1))
    run.log_string_series({"console": "first line"}, step=1, timestamp=START)
    run.log_histograms({"h": ClientHistogram(bin_edges=[0, 1, 2], counts=[3, 4])}, step=1, timestamp=START)
    run.assign_files({"model": b"weights", "empty": b""})
    run.log_files({"images": b"later"}, step=2, timestamp=START)
    run.log_files({"images": b"earlier"}, step=1, timestamp=START)

    assert synchronize(server.api_token, finished_log(run)) == []

    stored = server.store.run(PROJECT, "r1")
    ours = {path: stored.attributes[path] for path in ("lr", "layers", "on", "name", "when")}
    assert ours == {
        "lr": ("float", 0.1),
        "layers": ("int", 3),
        "on": ("bool", True),
        "name": ("string", "ä"),
        "when": ("datetime", START_US),
    }
    assert stored.value("sys/tags") == {"a"}
    assert stored.value("sys/group_tags") == {"g"}
    assert stored.attributes["sys/creation_time"] == ("datetime", START_US)
    assert stored.value("sys/name") == "my experiment"
    loss = stored.series["loss"]
    assert list(loss.steps) == [500_000, 1_500_000, 2_500_000, 999_999_999_000_000]
    assert list(loss.timestamps) == [START_US, START_US + 1, START_US + 2, START_US + 3_600_000_000]
    assert list(loss.values) == [1.0, 0.5, 1 / 3, float("-inf")]
    assert all(number != number for number in stored.series["acc"].values)
    assert stored.points("console") == [(1_000_000, START_US, "first line")]
    assert stored.points("h") == [(1_000_000, START_US, Histogram((0, 1, 2), "counts", (3, 4)))]
    assert stored.files == {"model": b"weights", "empty": b""}
    assert stored.file_series("images") == {1_000_000: b"earlier", 2_000_000: b"later"}


def test_an_async_run_in_a_process_of_its_own_arrives(server: NeptuneServer, tmp_path: Path) -> None:
    script = tmp_path / "log_a_run.py"
    script.write_text(
        "import sys\n"
        "from neptune_scale import Run\n"
        "if __name__ == '__main__':\n"  # the client spawns a process, which imports this file
        f"    with Run(project={PROJECT!r}, run_id='async', api_token=sys.argv[1],\n"
        "             log_directory=sys.argv[2], enable_console_log_capture=False,\n"
        "             source_tracking_config=None) as run:\n"
        "        run.log_configs({'lr': 0.1})\n"
        "        run.log_metrics({'loss': 2.5}, step=1)\n"
        "        run.assign_files({'f': b'bytes'})\n"
    )
    subprocess.run([sys.executable, script, server.api_token, tmp_path / "logs"], check=True, timeout=60)

    stored = server.store.run(PROJECT, "async")
    assert stored.value("lr") == 0.1
    assert list(stored.series["loss"].values) == [2.5]
    assert stored.files == {"f": b"bytes"}


def test_sending_a_log_again_changes_nothing_and_is_counted(server: NeptuneServer, tmp_path: Path) -> None:
    def log(directory: str, values: list[float]) -> Path:
        run = offline_run(tmp_path / directory)
        for step, number in enumerate(values):
            run.log_metrics({"loss": number}, step=step, timestamp=START)
        return finished_log(run)

    assert synchronize(server.api_token, log("first", [3.0, 2.0])) == []
    again = synchronize(server.api_token, log("second", [3.0, 2.5, 1.0]))

    assert sorted(again) == ["NeptuneRunDuplicate", "NeptuneSeriesStepNonIncreasing"]
    assert list(server.store.run(PROJECT, "r1").series["loss"].values) == [3.0, 2.0, 1.0]
    stats = server.store.stats()
    assert (stats["points_offered"], stats["points_stored"], stats["duplicates_offered"]) == (5, 3, 2)
    assert stats["refused"] == {"RUN_DUPLICATE": 1, "SERIES_STEP_NON_INCREASING": 2}


def test_a_lost_answer_makes_the_client_send_twice(server: NeptuneServer, tmp_path: Path) -> None:
    run = offline_run(tmp_path)
    run.log_metrics({"loss": 1.0}, step=1)
    server.faults.set([Fault("^submit$", "lost_answer", skip=1)])

    assert synchronize(server.api_token, finished_log(run)) == ["NeptuneSeriesPointDuplicate"]

    assert server.log.count("^submit$") == 3
    assert server.store.stats()["duplicates_offered"] == 1
    assert len(server.store.run(PROJECT, "r1").series["loss"]) == 1


def test_refused_attributes_are_named_by_the_details(server: NeptuneServer) -> None:
    server.store.refuse("^bad/", "FIELD_TYPE_CONFLICTING")
    server.store.refuse("^lost/")
    api = ApiClient(api_token=server.api_token)
    operations = [creation(), update(step=1, append={"bad/a": 1.0, "bad/b": 1.0, "lost/c": 1.0, "good": 1.0})]
    ids = []
    for operation in operations:
        response = api.submit(operation, "r1")
        ids += client_pb2.SubmitResponse.FromString(response.content).request_ids
    statuses = client_pb2.BulkRequestStatus.FromString(api.check_batch(ids, PROJECT).content).statuses

    def details(cursor: str) -> client_pb2.BulkIngestResultDetail:
        asked = client_pb2.BulkCheckDetail(project=PROJECT, next_cursor=cursor, limit=1)
        asked.ids.extend(client_pb2.RequestId(value=id_) for id_ in ids)
        body = Payload(payload=asked.SerializeToString())
        answer = check_details.sync_detailed(client=api.backend, project_identifier=PROJECT, body=body)
        return client_pb2.BulkIngestResultDetail.FromString(answer.content)

    first = details("")
    last = details(first.next_cursor)
    api.close()

    assert [(c.code, c.detail, c.count) for c in statuses[0].code_by_count] == [(Code.OK, IngestCode.OK, 1)]
    assert [(c.code, c.detail, c.count) for c in statuses[1].code_by_count] == [
        (Code.OK, IngestCode.OK, 2),
        (Code.INVALID_ARGUMENT, IngestCode.FIELD_TYPE_CONFLICTING, 2),
    ]
    rows = [*first.details, *last.details]
    assert {row.path for row in rows} == {"bad/a", "bad/b"}
    assert {(row.request_id.value, row.ingest_code) for row in rows} == {(ids[1], IngestCode.FIELD_TYPE_CONFLICTING)}
    assert last.next_cursor == ""
    assert list(server.store.run(PROJECT, "r1").series) == ["good"]


@pytest.mark.parametrize(("action", "code"), [("never_processed", Code.UNAVAILABLE), ("accept_but_lose", Code.OK)])
def test_a_single_submission_can_be_lost_or_hang(action: str, code: int, server: NeptuneServer) -> None:
    server.faults.set([Fault("^submit$", action)])
    api = ApiClient(api_token=server.api_token)
    ids = client_pb2.SubmitResponse.FromString(api.submit(creation(), "r1").content).request_ids
    (status,) = client_pb2.BulkRequestStatus.FromString(api.check_batch(list(ids), PROJECT).content).statuses
    api.close()
    assert [entry.code for entry in status.code_by_count] == [code]
    assert server.store.runs() == []


# who may come in, and projects


def test_projects_are_created_listed_and_clash_as_on_the_real_server(server: NeptuneServer) -> None:
    token = server.api_token
    create_project("team/other", description="what it is", visibility="workspace", key="OTH", api_token=token)
    create_project("team/other", api_token=token)  # exists: fine
    with pytest.raises(NeptuneProjectAlreadyExists):
        create_project("team/other", fail_if_exists=True, api_token=token)
    with pytest.raises(NeptuneProjectAlreadyExists):
        create_project("team/third", key="OTH", fail_if_exists=True, api_token=token)
    with pytest.raises(NeptuneBadRequestError, match="Workspace 'nobody' not found"):
        create_project("nobody/x", api_token=token)
    server.read_only = True
    with pytest.raises(NeptuneBadRequestError, match="may not create"):
        create_project("team/fourth", api_token=token)

    assert sorted(list_projects(api_token=token)) == ["team/demo", "team/other"]
    other = server.store.projects["team/other"]
    assert (other.key, other.visibility, other.description) == ("OTH", "workspace", "what it is")


def test_a_wrong_key_is_rejected(server: NeptuneServer) -> None:
    with pytest.raises(NeptuneInvalidCredentialsError):
        create_project("team/other", api_token=api_token(server.url, "wrong"))


def test_tokens_are_refreshed_before_they_expire() -> None:
    with NeptuneServer(token_lifetime_s=29.0) as server:  # the client wants 30 s to be left
        api = ApiClient(api_token=server.api_token)
        assert api.check_batch([], PROJECT).status_code == 200
        assert api.check_batch([], PROJECT).status_code == 200
        api.close()
    assert server.log.counts["exchange"] == 1
    assert server.log.counts["refresh"] >= 1


def test_an_expired_token_is_answered_with_401() -> None:
    with NeptuneServer(token_lifetime_s=-1.0) as server:
        api = ApiClient(api_token=server.api_token)
        assert api.check_batch([], PROJECT).status_code == 401
        api.close()


def test_an_unknown_project_stops_the_client_and_keeps_the_log(server: NeptuneServer, tmp_path: Path) -> None:
    server.store.projects.clear()
    log = finished_log(offline_run(tmp_path))

    with pytest.raises(NeptuneSynchronizationStopped) as stopped:
        synchronize(server.api_token, log)

    assert isinstance(stopped.value.__cause__, NeptuneProjectNotFound)
    server.store.auto_projects = True
    assert synchronize(server.api_token, log) == ["NeptuneProjectNotFound"]  # the old error, kept in the log
    assert server.store.run(PROJECT, "r1").key == "DEMO-1"


def test_without_write_permission_the_client_stops(server: NeptuneServer, tmp_path: Path) -> None:
    server.read_only = True
    with pytest.raises(NeptuneSynchronizationStopped) as stopped:
        synchronize(server.api_token, finished_log(offline_run(tmp_path)))
    assert isinstance(stopped.value.__cause__, NeptuneUnauthorizedError)


def test_a_submission_over_the_limit_is_413() -> None:
    with NeptuneServer(max_request_bytes=100) as server:
        api = ApiClient(api_token=server.api_token)
        submit = with_api_errors_handling(api.submit)
        assert submit(update(assign={"a": "x" * 100}), "r1").status_code == 413
        assert submit(creation(), "r1").status_code == 200
        api.close()


# files


@pytest.mark.parametrize(
    "options", [{"multipart_over_bytes": 0, "part_size_bytes": 4}, {"provider": "gcp"}, {"provider": "azure"}]
)
def test_files_arrive_whole_by_every_kind_of_upload(options: dict[str, Any], tmp_path: Path) -> None:
    files = {"nine": b"123456789", "empty": b"", "a b/ü&?#": b"x"}
    run = offline_run(tmp_path)
    run.assign_files(files)
    with NeptuneServer(auto_projects=True, **options) as server:
        assert synchronize(server.api_token, finished_log(run)) == []
    assert server.errors == []
    assert server.store.run(PROJECT, "r1").files == files


@pytest.mark.parametrize(
    ("fault", "errors", "content"),
    [
        (Fault("PUT blob", "status", status=403), ["NeptuneFileUploadError"], None),
        (Fault("PUT blob", "status", status=429, times=2), ["NeptuneFileUploadTemporaryError"] * 2, b"x"),
        (Fault("PUT blob", "no_etag"), ["NeptuneFileUploadError"], b"x"),
        (Fault("PUT blob", "accept_but_lose"), [], None),
    ],
)
def test_faults_of_the_storage(
    fault: Fault, errors: list[str], content: bytes | None, server: NeptuneServer, tmp_path: Path
) -> None:
    run = offline_run(tmp_path)
    run.assign_files({"f": b"x"})
    server.faults.set([fault])
    assert synchronize(server.api_token, finished_log(run)) == errors
    assert server.store.run(PROJECT, "r1").files == {"f": content}


# the rules


def test_creating_a_run_again(rules: Rules) -> None:
    fork = pb.ForkPoint(parent_run_id="r1", step=pb.Step(whole=1))
    assert rules.code(creation()) == "RUN_DUPLICATE"
    assert rules.code(creation(fork_point=fork)) == "RUN_CONFLICTING"
    assert rules.code(creation("child", fork_point=fork)) == "OK"
    assert rules.code(creation("child", fork_point=fork)) == "RUN_DUPLICATE"


def test_a_fork_takes_console_lines_and_samples_from_its_fork_step_on(rules: Rules) -> None:
    assert rules.code(creation("child", fork_point=pb.ForkPoint(parent_run_id="r1", step=pb.Step(whole=20)))) == "OK"
    for path, value in (("runtime/stdout", "a line"), ("system/cpu", 0.5), ("loss", 0.5)):
        assert rules.code(update(run_id="child", step=0, append={path: value})) == "SERIES_STEP_NOT_AFTER_FORK_POINT"
        assert rules.code(update(run_id="child", step=21, append={path: value})) == "OK"


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (creation(project="team/none"), "PROJECT_NOT_FOUND"),
        (creation(project="demo"), "PROJECT_INVALID_NAME"),
        (update(run_id="none", assign={"a": 1}), "RUN_NOT_FOUND"),
        (creation(""), "RUN_INVALID_CREATION_PARAMETERS"),
        (creation("a/b"), "RUN_INVALID_CREATION_PARAMETERS"),
        (creation("x" * 730), "OK"),
        (creation("x" * 731), "RUN_INVALID_CREATION_PARAMETERS"),
        (creation("r2", experiment_id="x" * 731), "RUN_INVALID_CREATION_PARAMETERS"),
        (creation("r2", fork_point=pb.ForkPoint(parent_run_id="none")), "RUN_FORK_PARENT_NOT_FOUND"),
        (update(assign={"": 1}), "FIELD_PATH_EMPTY"),
        (update(assign={"ü" * 512: 1}), "OK"),
        (update(assign={"ü" * 513: 1}), "FIELD_PATH_EXCEEDS_SIZE_LIMIT"),
        (update(assign={"sys/id": "X-1"}), "FIELD_PATH_NON_WRITABLE"),
        (update(assign={"sys/description": "d"}), "OK"),
        (update(assign={"sys/tags": "t"}), "FIELD_TYPE_CONFLICTING"),
        (update(assign={"h": histogram([0, 1], [1])}), "FIELD_TYPE_UNSUPPORTED"),
        (update(step=1, append={"i": 1}), "FIELD_TYPE_UNSUPPORTED"),
        (update(assign={"s": "x" * 2**20}), "OK"),
        (update(assign={"s": "x" * (2**20 + 1)}), "STRING_VALUE_EXCEEDS_SIZE_LIMIT"),
        (update(step=1, append={"s": "x" * (2**20 + 1)}), "STRING_VALUE_EXCEEDS_SIZE_LIMIT"),
        (
            update(assign={"t": pb.Value(string_set=pb.StringSet(values=["x" * 2**20, "y"]))}),
            "STRING_SET_EXCEEDS_SIZE_LIMIT",
        ),
        (update(assign={"f": file_ref("x" * 4097, "")}), "FILE_REF_EXCEEDS_SIZE_LIMIT"),
        (update(step=10**12, append={"m": 1.0}), "SERIES_STEP_TOO_LARGE"),
        (update(step=1, append={"h": histogram([0, float("nan")], [1])}), "HISTOGRAM_BIN_EDGES_CONTAINS_NAN"),
        (update(step=1, append={"h": histogram([*range(514)], [1] * 513)}), "HISTOGRAM_TOO_MANY_BINS"),
        (update(step=1, append={"h": histogram([*range(513)], [1] * 512)}), "OK"),
        (update(step=1, append={"h": histogram([0, 0], [1])}), "HISTOGRAM_BIN_EDGES_NOT_INCREASING"),
        (
            update(step=1, append={"h": histogram([0, 1], [1, 2])}),
            "HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS",
        ),
    ],
)
def test_an_operation_gets_the_code_that_neptune_gives(rules: Rules, operation: RunOperation, code: str) -> None:
    assert rules.code(operation) == code


@pytest.mark.parametrize(("year", "code"), [(1899, "DATETIME_VALUE_OUT_OF_RANGE"), (1900, "OK"), (2299, "OK")])
def test_datetimes_have_a_range(rules: Rules, year: int, code: str) -> None:
    when = pb.Value()
    when.timestamp.FromDatetime(datetime(year, 1, 1, tzinfo=UTC))
    assert rules.code(update(assign={"when": when})) == code


def test_a_series_takes_rising_steps_and_the_first_write_wins(rules: Rules) -> None:
    assert rules.code(update(step=2, ms=10, append={"m": 1.0})) == "OK"
    assert rules.code(update(step=2, ms=99, append={"m": 1.0})) == "SERIES_POINT_DUPLICATE"
    assert rules.code(update(step=2, ms=10, append={"m": 1.5})) == "SERIES_STEP_NON_INCREASING"
    assert rules.code(update(step=1, ms=10, append={"m": 1.0})) == "SERIES_STEP_NON_INCREASING"
    assert rules.code(update(step=3, ms=9, append={"m": 1.0})) == "SERIES_TIMESTAMP_DECREASING"
    assert rules.code(update(step=3, ms=10, append={"m": float("nan")})) == "OK"
    assert rules.code(update(step=3, ms=10, append={"m": float("nan")})) == "SERIES_POINT_DUPLICATE"
    assert rules.code(update(step=2, ms=10, append={"m": 1.0})) == "SERIES_STEP_NON_INCREASING"  # stored, not latest
    assert rules.code(update(step=None, ms=10, append={"m": 7.0})) == "OK"
    assert list(rules.run.series["m"].steps) == [2_000_000, 3_000_000, 4_000_000]
    stats = rules.store.stats()
    assert (stats["points_offered"], stats["points_stored"], stats["duplicates_offered"]) == (9, 3, 4)


def test_a_series_of_files_takes_steps_in_any_order_and_of_histograms_does_not(rules: Rules) -> None:
    assert rules.code(update(step=2, append={"f": file_ref("b"), "h": histogram([0, 1], [1])})) == "OK"
    assert rules.offer(update(step=1, append={"f": file_ref("a"), "h": histogram([0, 1], [1])})) == {
        "OK": 1,
        "SERIES_STEP_NON_INCREASING": 1,
    }
    assert rules.code(update(step=1, append={"f": file_ref("a")})) == "SERIES_POINT_DUPLICATE"
    assert rules.run.points("f")[0][2] == FileRef("a", 1, "text/plain")
    assert list(rules.run.series["f"].steps) == [1_000_000, 2_000_000]


def test_the_type_of_an_attribute_is_fixed_by_what_is_stored_first(rules: Rules) -> None:
    assert rules.code(update(assign={"a": "x" * (2**20 + 1)})) == "STRING_VALUE_EXCEEDS_SIZE_LIMIT"
    assert rules.code(update(assign={"a": 1})) == "OK"
    assert rules.code(update(assign={"a": 1.0})) == "FIELD_TYPE_CONFLICTING"
    assert rules.code(update(step=1, append={"a": 1.0})) == "FIELD_TYPE_CONFLICTING"
    assert rules.code(update(assign={"a": 2})) == "OK"
    assert rules.code(update(step=1, append={"m": 1.0})) == "OK"
    assert rules.code(update(assign={"m": 1.0})) == "FIELD_TYPE_CONFLICTING"
    assert rules.code(update(step=2, append={"m": "text"})) == "FIELD_TYPE_CONFLICTING"
    assert rules.run.attributes["a"] == ("int", 2)


def test_an_old_server_refuses_nan_in_series(rules: Rules) -> None:
    rules.store.accepts_nan_inf = False
    assert rules.code(update(step=1, append={"m": float("inf")})) == "FLOAT_VALUE_NAN_INF_UNSUPPORTED"
    assert rules.run.series == {}


def test_a_fork_reads_its_parent_up_to_the_fork_step_and_continues_from_there(rules: Rules) -> None:
    for step in range(4):
        rules.offer(update(step=step, append={"m": float(step)}, assign={"lr": 0.1}))
    fork = pb.ForkPoint(parent_run_id="r1", step=pb.Step(whole=2))
    assert rules.code(creation("child", fork_point=fork, inherit_configs=True)) == "OK"
    below = update(run_id="child", step=1.5, append={"m": 9.0})
    assert rules.code(below) == "SERIES_STEP_NOT_AFTER_FORK_POINT"
    assert rules.code(update(run_id="child", step=2, append={"m": 9.0})) == "OK"
    child = rules.store.run(PROJECT, "child")
    assert [value for _, _, value in child.points("m")] == [9.0]
    assert [value for _, _, value in child.points("m", lineage=True)] == [0.0, 1.0, 9.0]
    assert child.value("lr") == 0.1


def test_an_experiment_name_belongs_to_the_newest_run(rules: Rules) -> None:
    for run_id in ("a", "b"):
        rules.offer(creation(run_id, experiment_id="e"))
    assert rules.store.projects[PROJECT].experiments == {"e": "b"}
    assert rules.store.run(PROJECT, "a").value("sys/name") == "e"


# the time it takes


def test_a_request_is_unavailable_until_its_delay_has_passed() -> None:
    now = [100.0]
    store = NeptuneStore(processing_delay_s=(1.0, 2.0), auto_projects=True, clock=lambda: now[0])
    first = store.submit(creation().SerializeToString())
    never = store.submit(update(assign={"never": 1}).SerializeToString(), "never_processed")
    lost = store.submit(update(assign={"lost": 1}).SerializeToString(), "accept_but_lose")
    now[0] = 100.9
    assert store.status(first) is None
    now[0] = 102.1
    outcomes = [store.status(request_id) for request_id in (first, never, lost)]
    assert [outcome and outcome.ok for outcome in outcomes] == [1, None, 1]
    assert not {"never", "lost"} & set(store.run(PROJECT, "r1").attributes)


def test_a_lazy_store_applies_only_when_it_is_read() -> None:
    store = NeptuneStore(apply="lazy")
    request_id = store.submit(creation().SerializeToString())
    outcome = store.status(request_id)
    assert outcome is not None
    assert outcome.ok == 1  # although the project does not exist
    store.create_project("team", "demo")
    assert store.run(PROJECT, "r1").run_id == "r1"


def test_a_server_in_a_process_of_its_own_is_read_over_http(tmp_path: Path) -> None:
    run = offline_run(tmp_path)
    run.log_metrics({"loss": 0.5}, step=1, timestamp=START)
    run.assign_files({"f": b"x"})
    run.log_configs({"refused": 1})
    log = finished_log(run)
    options = ["--apply", "lazy", "--processing-delay", "0:0.01", "--auto-projects", "--latency", "0.001"]
    with spawned("tests.servers.neptune_server", *options) as url:
        control(url, "rules", [{"path": "^refused$", "code": "INTERNAL"}])
        assert synchronize(api_token(url), log) == []
        assert control(url, "runs") == [{"project": PROJECT, "run": "r1", "key": "DEMO-1"}]
        dump = control(url, f"dump?project={PROJECT}&run=r1")
        blob = control(url, "blob", {"project": PROJECT, "path": dump["attributes"]["f"]["value"]["path"]})
        stats = control(url, "stats")
        assert control(url, "errors") == control(url, "unknown") == []
    loss = {"type": "floatSeries", "steps": [1_000_000], "timestamps": [START_US], "values": [0.5]}
    assert dump["series"] == {"loss": loss}
    assert list(dump["files"].values()) == [{"md5": "9dd4e461268c8034f5c8564e155c67a6", "size": 1}]
    assert blob["base64"] == "eA=="
    assert (stats["points_stored"], stats["duplicates_offered"], stats["submitted"]) == (1, 0, 2)
    assert stats["refused"] == {"INTERNAL": 1}


# reading back


def test_neptune_query_reads_what_is_stored(server: NeptuneServer, tmp_path: Path) -> None:
    import neptune_query
    from neptune_query import runs

    run = offline_run(tmp_path, 'r "1"', experiment_name="e")
    run.log_configs({"lr": 0.1, "n": 2**53 + 1, "set": {"x", "y"}, "when": START})
    run.add_tags(["t"])
    for step in range(25):
        run.log_metrics({"loss": step / 2, "acc": float("inf")}, step=step + 0.25, timestamp=START)
    run.log_string_series({"console": "line"}, step=1, timestamp=START)
    run.log_histograms({"h": ClientHistogram(bin_edges=[0, 1], densities=[0.5])}, step=1, timestamp=START)
    run.assign_files({"f": b"content"})
    synchronize(server.api_token, finished_log(run))
    synchronize(server.api_token, finished_log(offline_run(tmp_path, "r2")))
    neptune_query.set_api_token(server.api_token)
    here: dict[str, Any] = {"project": PROJECT, "runs": ['r "1"']}

    assert runs.list_runs(project=PROJECT) == ['r "1"', "r2"]
    assert runs.list_runs(project=PROJECT, runs="^r2") == ["r2"]
    assert runs.list_runs(project=PROJECT, runs="!r2") == ['r "1"']
    assert {"loss", "console", "lr", "sys/tags"} <= set(runs.list_attributes(**here))
    assert runs.list_attributes(**here, attributes="^l") == ["loss", "lr"]
    table = runs.fetch_runs_table(**here, attributes=["lr", "n", "set", "when", "loss", "sys/tags", "f"])
    row = table.iloc[0]
    assert (row["lr"], row["n"], row["set"], row["loss"], row["sys/tags"]) == (
        0.1,
        2**53 + 1,
        {"x", "y"},
        12,
        {"t"},
    )
    assert row["when"] == START.replace(microsecond=123000)
    assert set(runs.fetch_runs_table(**here, attributes="^(lr|n)$").columns) == {"lr", "n"}
    metrics = runs.fetch_metrics(**here, attributes=["loss", "acc"], include_time="absolute")
    assert list(metrics["loss", "value"]) == [step / 2 for step in range(25)]
    assert [round(step * 1e6) for _, step in metrics.index] == [step * 1_000_000 + 250_000 for step in range(25)]
    assert len(runs.fetch_metrics(**here, attributes="loss", tail_limit=3)) == 3
    assert len(runs.fetch_metrics(**here, attributes="loss", step_range=(1.25, 2.25))) == 2
    series = runs.fetch_series(**here, attributes=["console", "h"])
    assert series["console"].iloc[0] == "line"
    assert (series["h"].iloc[0].type, list(series["h"].iloc[0].values)) == ("DENSITY", [0.5])
    paths = runs.download_files(files=table["f"], destination=tmp_path / "downloads")
    assert Path(paths.iloc[0, 0]).read_bytes() == b"content"


@example([(9_999_999_999_999_999, 0, 0.0)])
@given(st.lists(st.tuples(st.integers(0, 10**18), st.integers(-(2**62), 2**62), st.floats())))
def test_points_are_encoded_as_protobuf_does_it(points: list[tuple[int, int, float]]) -> None:
    one_by_one = ProtoFloatSeriesValuesDTO()
    for step, time_us, value in points:
        one_by_one.values.add(
            timestamp_millis=time_us // 1000, step=step / 1_000_000, value=value, completion_ratio=1.0
        )
    columns = zip(*points, strict=True) if points else ((), (), ())
    assert float_points(*columns) == one_by_one.SerializeToString()
