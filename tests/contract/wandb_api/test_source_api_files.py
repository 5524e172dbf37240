"""Files and artifacts of the W&B API source against the loopback server, through the real SDK."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from migrator.errors import ErrorClass, Rejected, Retryable, RunError, Throttled
from migrator.sources.wandb.listing import WandbApiSource
from tests.contract.api_source import Make, Opened, error_of, run_python
from tests.servers.http import Fault, Request, Response, Server
from tests.servers.wandb_data import (
    EPOCH_S,
    Artifact,
    Entity,
    Project,
    Run,
    hostile_runs,
    logged,
)
from tests.servers.wandb_server import API_KEY, WandbServer

# ---------------------------------------------------------------- files


def test_files_are_listed_by_name_and_fetched_whole(
    server: WandbServer, source: WandbApiSource, opened: Opened, tmp_path: Path
) -> None:
    run = server.run("team/hostile-live/files")
    assert {
        "clash",
        "clash/inner.txt",
        "empty.bin",
        "with space.txt",
        "ünï/码❤.txt",
        "dot/../x",
        "a//b",
    } <= run.files.keys()
    reader = opened(source, "files", "hostile-live")
    files = reader.files()
    assert [file.name for file in files] == sorted(run.files)
    assert [(file.size_bytes, file.md5) for file in files] == [
        (len(run.files[file.name]), hashlib.md5(run.files[file.name]).hexdigest()) for file in files
    ]
    with ThreadPoolExecutor(8) as threads:
        for file, local in zip(files, threads.map(lambda file: reader.fetch(file.name), files), strict=True):
            assert local
            assert (local.name, local.size_bytes, local.md5) == (file.name, file.size_bytes, file.md5)
            assert local.path.read_bytes() == run.files[file.name]
            assert local.path.is_relative_to(tmp_path)
            reader.release(local)
            assert not local.path.exists()
    assert reader.fetch("no such file") is None


def test_a_size_of_0_without_md5_says_nothing(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", files={"a": b"content"}))
    url = f"{server.url}/files/team/p/r/a"
    nodes = [{"node": {"id": "1", "name": "a", "url": url, "sizeBytes": 0, "md5": None}}]
    files = {"edges": nodes, "pageInfo": {"hasNextPage": False, "endCursor": None}}
    body = json.dumps({"data": {"project": {"internalId": "1", "run": {"fileCount": 1, "files": files}}}})
    server.faults.set([Fault("RunFiles", "status", None, status=200, body=body)])
    local = opened(source, "r").fetch("a")
    assert local
    assert local.path.read_bytes() == b"content"


def test_a_file_without_an_address_is_none(make: Make, opened: Opened) -> None:
    nodes = [{"node": {"id": "1", "name": "a", "url": None, "directUrl": None, "sizeBytes": 1}}]
    files = {"edges": nodes, "pageInfo": {"hasNextPage": False, "endCursor": None}}
    body = json.dumps({"data": {"project": {"internalId": "1", "run": {"fileCount": 1, "files": files}}}})
    server, source = make(Run("r"))
    server.faults.set([Fault("RunFiles", "status", None, status=200, body=body)])
    reader = opened(source, "r")
    assert [file.name for file in reader.files()] == ["a"]
    assert reader.fetch("a") is None


def test_a_file_of_the_list_that_is_not_there_is_none(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", files={"a": b"1"}))
    server.faults.set([Fault("GET /(files|storage)/", "status", status=404, times=None)])
    assert opened(source, "r").fetch("a") is None
    assert server.log.count("RunFiles") == 2  # its addresses were asked for again


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_file_that_wandb_refuses_is_fetched_from_the_storage_behind_it(
    status: int, make: Make, opened: Opened
) -> None:
    server, source = make(Run("r", files={"a": b"1"}))
    server.faults.set([Fault("GET /files/", "status", status=status, times=None)])
    local = opened(source, "r").fetch("a")
    assert local
    assert local.path.read_bytes() == b"1"


@pytest.mark.parametrize(
    ("own", "storage", "error_class"),
    [
        (404, 403, ErrorClass.PERMISSION),
        (403, 404, ErrorClass.PERMISSION),
        (401, 404, ErrorClass.PERMISSION),
        (404, 401, ErrorClass.PERMISSION),  # of another service than W&B: not a bad key
        (404, 400, ErrorClass.UNKNOWN),
        (404, 503, ErrorClass.UNAVAILABLE),
    ],
)
def test_a_file_is_missing_only_when_both_of_its_addresses_say_so(
    own: int, storage: int, error_class: ErrorClass, make: Make, opened: Opened
) -> None:
    server, source = make(Run("r", files={"a": b"1"}))
    server.faults.set(
        [
            Fault("GET /files/", "status", status=own, times=None),
            Fault("GET /storage/", "status", status=storage, times=None),
        ]
    )
    assert error_of(RunError, lambda: opened(source, "r").fetch("a")).error_class is error_class


@pytest.mark.parametrize("status", [401, 403])
def test_exports_and_artifacts_that_may_not_be_downloaded_are_a_matter_of_permission(
    status: int, make: Make, opened: Opened
) -> None:
    run = Run("r", history=logged([{"x": 1}]), logged=[Artifact("a", files={"x": b"1"})])
    server, source = make(run)
    reader = opened(source, "r")
    server.faults.set([Fault("GET /(parquet|artifact-files)/", "status", status=status, times=None)])
    (artifact,) = reader.artifacts()
    actions: list[Callable[[], object]] = [
        *[reader.survey, lambda: reader.fetch_artifact_file(artifact, "x")],
        lambda: list(opened(source, "r").artifacts()),
    ]
    for action in actions:
        assert error_of(RunError, action).error_class is ErrorClass.PERMISSION
        server.faults.set([Fault("GET /artifact", "status", status=status, times=None)])


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET /files/", "truncate"),
        Fault("GET /files/", "drop"),
        Fault("GET /files/", "status", status=502),
        Fault("GET /files/", "status", status=429, headers={"Retry-After": "0"}),
        Fault("GET /files/", "status", status=403, body="<Error>Request has expired</Error>"),
        Fault("GET /files/", "status", status=200, body="another file"),
    ],
    ids=lambda fault: f"{fault.action}-{fault.status}",
)
def test_downloads_get_over_faults_that_pass(fault: Fault, make: Make, opened: Opened) -> None:
    server, source = make(Run("r", files={"a b": bytes(range(256)) * 999}))
    server.faults.set([fault])
    local = opened(source, "r").fetch("a b")
    assert local
    assert local.path.read_bytes() == bytes(range(256)) * 999


def test_a_file_that_does_not_match_its_md5_is_never_taken(make: Make, opened: Opened) -> None:
    run = Run("r", files={"a": b"1"})
    run.cache["md5 a"] = base64.b64encode(bytes(16)).decode()
    server, source = make(run)
    assert error_of(Retryable, lambda: opened(source, "r").fetch("a")).error_class is ErrorClass.BAD_DATA
    assert server.log.count("GET /files/") == 4


def test_a_long_pause_that_storage_asks_for_is_passed_on(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", files={"a": b"1"}))
    server.faults.set([Fault("GET /files/", "status", status=429, times=None, headers={"Retry-After": "3600"})])
    told = error_of(Throttled, lambda: opened(source, "r").fetch("a"))
    assert isinstance(told, Throttled)
    assert (told.error_class, told.service, told.retry_after_s) == (ErrorClass.RATE_LIMITED, "wandb", 3600)
    assert server.log.count("GET /files/") == 1


class Storage(Server):
    """A storage service that keeps the headers it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[dict[str, str]] = []

    def handle(self, request: Request) -> Response:
        self.headers.append(dict(request.headers.items()))
        return Response(200, b"stored", "application/octet-stream")


class Guarded(WandbServer):
    """Behind a proxy that wants a header of people's own, and answers with a login page without it."""

    def handle(self, request: Request) -> Response:
        if request.headers.get("X-Company") != "c":
            return Response(200, b"<html>Log in</html>", "text/html")
        return super().handle(request)


def test_headers_of_ones_own_open_a_proxy(tmp_path: Path) -> None:
    with Guarded(Entity("team", [Project("p", [Run("r", files={"a": b"stored"})])])) as server:
        settings = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY}
        settings["WANDB_X_EXTRA_HTTP_HEADERS"] = json.dumps({"X-Company": "c"})
        assert run_python(FETCH, tmp_path, settings_of_its_own(**settings)) == "b'stored'"


class Redirecting(WandbServer):
    """W&B as it is: files are redirects to a storage service."""

    storage: Storage
    headers: dict[str, str]

    def handle(self, request: Request) -> Response:
        answer = super().handle(request)
        if request.path.startswith("/files/") and answer.status == 200:
            self.headers = dict(request.headers.items())
            return Response(302, headers={"Location": f"{self.storage.url}/bucket/a?signature=s"})
        return answer


def test_the_key_does_not_follow_a_redirect_to_storage(
    make: Make, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password " + "p" * 40)
    monkeypatch.setenv("NETRC", str(netrc))
    with Storage() as storage:
        server, source = make(Run("r", files={"a": b"stored"}), server=Redirecting)
        server.storage = storage  # type: ignore[attr-defined]
        assert opened(source, "r").fetch("a")
        assert [headers.get("Authorization") for headers in storage.headers] == [None]


FETCH = """
import sys
from pathlib import Path
from migrator.listed import RunRef
from migrator.sources.wandb.listing import WandbApiSource
source = WandbApiSource(None, None, Path(sys.argv[1]) / "wandb")
with source.open_run(RunRef("team", "p", "r"), Path(sys.argv[1]) / "r") as run:
    print(run.fetch("a").path.read_bytes())
source.close()
"""


def settings_of_its_own(**settings: str) -> dict[str, str]:
    """The environment with these settings of wandb's and no others: they are read when wandb is imported."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")} | settings


def test_downloads_are_sent_as_the_sdk_sends_them(tmp_path: Path) -> None:
    own = json.dumps({"X-Company": "c", "Cookie": "session=1"})
    home = Entity("team", [Project("p", [Run("r", files={"a": b"stored"})])])
    with Storage() as storage, Redirecting(home) as server:
        server.storage = storage
        settings = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY, "WANDB_X_EXTRA_HTTP_HEADERS": own}
        assert run_python(FETCH, tmp_path, settings_of_its_own(**settings)) == "b'stored'"
        for headers in (server.headers, storage.headers[-1]):
            assert headers["User-Agent"].startswith("W&B Public Client ")
            assert (headers["Use-Admin-Privileges"], headers["X-Company"]) == ("true", "c")
        assert server.headers["Authorization"].startswith("Basic ")
        assert server.headers["Cookie"] == "session=1"
        assert not {"Authorization", "Cookie"} & storage.headers[-1].keys()


def test_downloads_take_the_proxy_of_wandbs_settings(tmp_path: Path) -> None:
    with WandbServer(Entity("team", [Project("p", [Run("r", files={"a": b"stored"})])])) as server:
        proxy, server.url = server.url, "http://wandb.example"  # which nobody can reach
        settings = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY, "WANDB_HTTP_PROXY": proxy, "NO_PROXY": "*"}
        assert run_python(FETCH, tmp_path, settings_of_its_own(**settings)) == "b'stored'"


LIST = """
import sys
from pathlib import Path
from migrator.errors import UserError
from migrator.sources.wandb.listing import WandbApiSource
source = WandbApiSource(None, None, Path(sys.argv[1]) / "wandb")
try:
    list(source.projects(None))
except UserError as error:
    print(error.exit_code.name, error)
source.close()
"""


def test_an_identity_token_will_do(tmp_path: Path) -> None:
    token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"
    (tmp_path / "token").write_text(token)
    home = Entity("team", [Project("p", [Run("r", files={"a": b"stored"})])])
    with WandbServer(home, identity_token=token) as server:
        settings = {"WANDB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "WANDB_BASE_URL": server.url}
        settings |= {"HOME": str(tmp_path)}
        assert run_python(FETCH, tmp_path, settings_of_its_own(**settings)) == "b'stored'"
        server.identity_token = None  # has expired
        settings |= {"HOME": str(tmp_path / "another")}
        told = run_python(LIST, tmp_path, settings_of_its_own(**settings))
        assert told.startswith("CREDENTIALS W&B refused")
        assert "WANDB_IDENTITY_TOKEN_FILE" in told


# ---------------------------------------------------------------- artifacts


def test_artifacts_come_with_their_files_and_references(make: Make, opened: Opened) -> None:
    (run,) = [run for run in hostile_runs() if run.id == "artifacts"]
    _, source = make(run)
    reader = opened(source, "artifacts")
    found = list(reader.artifacts())
    assert [(one.name, one.version, one.type) for one in found] == [
        ("data", "v0", "dataset"),
        ("data", "v1", "dataset"),
        ("run-artifacts-table", "v0", "run_table"),
    ]
    for one, expected in zip(found, run.logged, strict=True):
        assert list(one.aliases) == list(expected.aliases)
        assert one.references == expected.references
        assert json.loads(one.metadata) == expected.metadata
        assert one.created_at == datetime.fromtimestamp(EPOCH_S, UTC)
        assert (one.digest, one.size_bytes) == (expected.digest, sum(map(len, expected.files.values())))
        for file in one.files:
            local = reader.fetch_artifact_file(one, file.name)
            assert local.path.read_bytes() == expected.files[file.name]
            assert (local.name, local.md5) == (file.name, file.md5)
            reader.release(local)
        assert {file.name for file in one.files} == expected.files.keys()
    assert reader.used_artifacts() == ["team/p/weights:v0", "team/p/data:v0"]
    later = opened(source, "artifacts")  # a run opened anew knows them, too
    assert later.fetch_artifact_file(found[1], "train/a.bin").size_bytes == 1000
    assert error_of(Rejected, lambda: later.fetch_artifact_file(found[0], "no")).error_class is ErrorClass.NOT_FOUND


def test_an_expired_address_of_an_artifact_file_is_asked_for_again(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", logged=[Artifact("a", files={"x": b"1", "y": b"2"})]))
    reader = opened(source, "r")
    (artifact,) = reader.artifacts()
    server.faults.set([Fault("GET /artifact-files/.*/y", "status", status=403)])
    assert [reader.fetch_artifact_file(artifact, name).path.read_bytes() for name in ("x", "y")] == [b"1", b"2"]
    assert server.log.count("GetArtifactMembershipFileUrls") == 2


@pytest.mark.parametrize("algorithm", ["XXH128", "BLAKE9"])
def test_sums_of_artifacts_are_those_that_their_manifest_names(algorithm: str, make: Make, opened: Opened) -> None:
    files = {"x": bytes(range(256)) * 5_000, "empty": b""}
    server, source = make(Run("r", logged=[Artifact("a", files=files, algorithm=algorithm)]))
    reader = opened(source, "r")
    (artifact,) = reader.artifacts()
    for name, data in files.items():
        assert reader.fetch_artifact_file(artifact, name).path.read_bytes() == data
    assert server.log.count("GET /artifact-files/") == 2
    other = "\0" * len(files["x"])
    server.faults.set([Fault("GET /artifact-files/.*/x", "status", status=200, body=other, times=None)])
    if algorithm == "XXH128":
        told = error_of(Retryable, lambda: reader.fetch_artifact_file(artifact, "x"))
        assert told.error_class is ErrorClass.BAD_DATA
