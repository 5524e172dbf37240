"""The only module that talks to a Neptune server. It uses neptune-api and private parts of neptune-scale.

It speaks their protocol: `RunOperation` messages in, request ids and ingest codes out. The facts come from
neptune-scale 0.30 and the protobuf files in neptune-api. `check_version` raises for any other version.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from hashlib import file_digest
from importlib.metadata import version
from typing import Any, NamedTuple

import httpx
from neptune_api import AuthenticatedClient
from neptune_api.api.backend import exchange_api_token
from neptune_api.api.ingestion import check_details
from neptune_api.proto.google_rpc.code_pb2 import Code
from neptune_api.proto.neptune_pb.ingest.v1.ingest_pb2 import IngestCode
from neptune_api.proto.neptune_pb.ingest.v1.pub.client_pb2 import (
    BulkCheckDetail,
    BulkIngestResultDetail,
    BulkRequestStatus,
    RequestId,
    SubmitResponse,
)
from neptune_api.types import File as Payload
from neptune_scale.net.api_client import ApiClient, FileSignRequest, _generate_user_agent
from neptune_scale.net.projects import PROJECTS_PATH_BASE

from migrator.destinations.neptune.errors import SERVICE, check_answer, patiently, translated
from migrator.destinations.neptune.login import client_for, verifies_ssl
from migrator.destinations.neptune.provenance import Provenance, read_provenance
from migrator.destinations.neptune.refusals import check_case, is_refusal_of_all, not_created
from migrator.destinations.neptune.storage import Storage
from migrator.destinations.neptune.token import address_of
from migrator.destinations.neptune.wire import Upload
from migrator.destinations.neptune.wire_columns import Operation
from migrator.errors import ErrorClass, ExitCode, Rejected, Retryable, TurnedAway, UserError
from migrator.services import ahead_s

SUPPORTED_VERSION = "0.30."
PROJECTS_SEEN = {"userRelation": "viewerOrHigher", "sortBy": "lastViewed"}  # the query that neptune-scale sends
NEW_TOKENS_MAX = 3  # for one request


def check_version() -> None:
    """Refuse any neptune-scale whose private parts were not tested."""
    installed = version("neptune-scale")
    if not installed.startswith(SUPPORTED_VERSION):
        raise UserError(
            f"neptune-scale {installed} is installed, but this tool works with {SUPPORTED_VERSION}*: "
            f"run `pip install 'neptune-scale=={SUPPORTED_VERSION}*'`, or copy with `migrate run --safe-client`, "
            "which is slow but uses only the public API (offline files: `neptune sync` uploads them)"
        )


# ---------------------------------------------------------------- the server


class Answer(NamedTuple):
    """The result of a request: `codes` counts all ingest codes except OK. None: not processed yet."""

    codes: Mapping[str, int] | None


class Detail(NamedTuple):
    """One refused operation of a request. `path` is "" if the error concerns the run itself."""

    path: str
    code: str


class Look(NamedTuple):
    """The projects that an account sees, as workspace/name; how many seconds the server's clock is ahead of ours."""

    projects: Collection[str]
    ahead_s: float | None


class Connection:
    """One authenticated connection to a Neptune server; may be used from several threads.

    Methods do not repeat failed requests. They raise `MigratorError`.
    """

    def __init__(self, api_token: str) -> None:
        check_version()
        address = address_of(api_token)
        self._api = patiently(lambda: _logged_in(api_token, address))
        self._storage = Storage(verify=verifies_ssl())

    def close(self) -> None:
        self._storage.close()
        self._api.close()

    def create_project(self, workspace: str, name: str, description: str, visibility: str) -> None:
        """Create the project unless it exists, as a 409 says, or the list where creating is refused."""
        project = f"{workspace}/{name}"
        what = f"create project {project}"
        body = {
            "name": name,
            "description": description,
            "projectKey": None,
            "organizationIdentifier": workspace,
            "visibility": visibility,
        }
        with translated(what):
            response = self._api.backend.get_httpx_client().post(PROJECTS_PATH_BASE, json=body)
        status, words = response.status_code, _words(response)
        match status:
            case 409 if "KEY_COLLISION" in response.text:
                raise UserError(
                    f"Neptune could not create {project}: another project has the key it would get. "
                    "Create the project in Neptune with a key of your own, then run the same command again"
                )
            case 409:
                return check_case(project, self._seen())
            case 404:
                raise TurnedAway(
                    f"workspace '{workspace}' does not exist in Neptune, or you are not a member: "
                    "check --neptune-workspace",
                    SERVICE,
                    ExitCode.USAGE,
                )
            case _ if is_refusal_of_all(status, words):
                if project in self._seen():
                    return None  # people who can write to a project cannot always create one
                raise not_created(project, words, visibility)
        return check_answer(response, what)

    def _seen(self) -> Collection[str]:
        """The projects that this account sees; none, if it may not ask."""
        try:
            return self.projects()
        except Rejected:
            return ()

    def projects(self) -> Collection[str]:
        """The projects that this account sees, as workspace/name."""
        return self.look().projects

    def look(self) -> Look:
        """The same, with the time that the server says it is."""
        what = "list projects"
        with translated(what):
            asked_at = time.time()
            response = self._api.backend.get_httpx_client().get(PROJECTS_PATH_BASE, params=PROJECTS_SEEN)
            check_answer(response, what)
            projects = {f"{one['organizationName']}/{one['name']}" for one in response.json()["entries"]}
        return Look(projects, ahead_s(response.headers.get("Date"), asked_at, time.time()))

    def account(self, api_token: str) -> str:
        """The name of the account that the token is for; empty: the server does not tell it."""
        with translated("ask Neptune who the token is for"):
            response = exchange_api_token.sync_detailed(client=self._api.backend, x_neptune_api_token=api_token)
        return str(getattr(response.parsed, "username", None) or "")

    def provenance(self, project: str, run_id: str) -> Provenance | None:
        """The source of which a run is a copy. None: there is no such run."""
        return read_provenance(self._api.backend, project, run_id)

    def submit(self, operation: Operation) -> str:
        """Send an operation. Returns its request id; nothing is stored yet at that point."""
        what = f"send data of {operation.project}:{operation.run_id}"
        with translated(what):
            response = self._api.submit(operation=operation, family=operation.run_id)
            check_answer(response, what)
            ids = SubmitResponse.FromString(response.content).request_ids
        if not ids:
            raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: Neptune gave no request id")
        return str(ids[-1])

    def statuses(self, project: str, request_ids: Sequence[str]) -> list[Answer]:
        """The answers to some requests, in the order of the ids (at most limits.STATUS_BATCH)."""
        what = f"ask Neptune whether data of {project} was processed"
        with translated(what):
            response = self._api.check_batch(request_ids=list(request_ids), project=project)
            check_answer(response, what)
            statuses = BulkRequestStatus.FromString(response.content).statuses
        if len(statuses) != len(request_ids):
            raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: {len(statuses)} answers to {len(request_ids)} questions")
        return [_answer(status) for status in statuses]

    def details(self, project: str, request_id: str) -> Iterator[Detail]:
        """The refused operations of a request, by path."""
        what = f"ask Neptune what it refused in {project}"
        cursor = ""
        while True:
            question = BulkCheckDetail(project=project, ids=[RequestId(value=request_id)], next_cursor=cursor or None)
            with translated(what):
                response = check_details.sync_detailed(
                    client=self._api.backend,
                    project_identifier=project,
                    body=Payload(payload=question.SerializeToString()),
                )
                check_answer(response, what)
                page = BulkIngestResultDetail.FromString(response.content)
            for detail in page.details:
                yield Detail(detail.path, _code_name(detail.ingest_code))
            if page.next_cursor in ("", cursor):
                return
            cursor = page.next_cursor

    def sign(self, project: str, uploads: Sequence[Upload]) -> list[Any]:
        """The addresses at which to store the files, in order. They expire: use them soon."""
        what = f"ask Neptune where to store files of {project}"
        requests = [FileSignRequest(upload.destination, upload.file.size_bytes, "write") for upload in uploads]
        with translated(what):
            response = self._api.fetch_file_storage_urls(file_sign_requests=requests, project=project)
            check_answer(response, what)
        signed = {file.path: file for file in response.parsed.files or ()} if response.parsed else {}
        missing = [request.path for request in requests if request.path not in signed]
        if missing:
            raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: no address for {missing[0]}")
        return [signed[request.path] for request in requests]

    def ask(self, endpoint: Any, what: str, **arguments: Any) -> bytes:
        """Call an endpoint that reads, a module of `neptune_api.api`. Returns the body of the answer."""
        with translated(what):
            response = endpoint.sync_detailed(client=self._api.backend, **arguments)
            check_answer(response, what)
            return bytes(response.content)

    def addresses(self, project: str, paths: Sequence[str]) -> list[str | None]:
        """The addresses at which to read stored files, in order. None: the storage does not know it. They expire."""
        what = f"ask Neptune where files of {project} are"
        requests = [FileSignRequest(path, 0, "read") for path in paths]
        with translated(what):
            response = self._api.fetch_file_storage_urls(file_sign_requests=requests, project=project)
            check_answer(response, what)
        signed = {file.path: file.url for file in response.parsed.files or ()} if response.parsed else {}
        return [signed.get(path) for path in paths]

    @property
    def storage(self) -> Storage:
        """Access to stored files by signed address."""
        return self._storage

    def store(self, project: str, upload: Upload, signed: Any) -> None:
        """Store one file. Returns when the storage has confirmed it and the file has not changed meanwhile."""
        what = f"store {upload.file.name}"
        path, provider = upload.file.path, str(signed.provider)
        with translated(what):
            if path.stat().st_size != upload.file.size_bytes:
                raise Retryable(ErrorClass.BAD_DATA, f"{what}: the file's size has changed on this machine")
            match provider:
                case "aws" if signed.multipart:
                    self._store_parts(project, upload, signed.multipart, what)
                case "aws":
                    self._storage.put(signed.url, upload, 0, upload.file.size_bytes, what)
                case "gcp":
                    self._storage.put_to_google(signed.url, upload, what)
                case "azure":
                    self._storage.put_to_azure(signed.url, upload, what)
                case _:
                    raise Rejected(ErrorClass.REJECTED_BY_NEPTUNE, f"{what}: unknown file storage '{provider}'")
            with path.open("rb") as stream:
                if file_digest(stream, "md5").hexdigest() != upload.file.md5:
                    raise Retryable(ErrorClass.BAD_DATA, f"{what}: the file has changed on this machine")

    def _store_parts(self, project: str, upload: Upload, multipart: Any, what: str) -> None:
        """Store a file part by part. (neptune-scale's own upload holds the whole file in memory.)"""
        etags = self._storage.put_parts(multipart.part_urls, multipart.part_size, upload, what)
        response = self._api.complete_multipart_upload(
            upload_id=multipart.upload_id, project=project, path=upload.destination, etags=etags
        )
        check_answer(response, what)


class _LogIn(httpx.Auth):
    """Neptune's own authenticator, used by one thread at a time, and with a new token after a 401.

    On its own, it sends requests without a token while another thread renews it, lets every waiting thread renew it
    again, and ignores a 401 (from a wrong clock, or a server that lost its sessions). A new token may be refused too:
    by a server that is starting again, or by one of several that has not heard of it yet.
    """

    def __init__(self, authenticator: Any) -> None:
        self._authenticator = authenticator
        self._lock = threading.Lock()

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        with self._lock:
            self._authorize(request)
        response = yield request
        for _ in range(NEW_TOKENS_MAX):
            if response.status_code != 401:
                break
            refused = request.headers["Authorization"]
            with self._lock:
                self._authorize(request)
                if request.headers["Authorization"] == refused:  # no other thread has renewed it yet
                    self._authenticator._token = None
                    self._authorize(request)
            response = yield request

    def _authorize(self, request: httpx.Request) -> None:
        next(self._authenticator.sync_auth_flow(request))


class _Api(ApiClient):  # type: ignore[misc]  # neptune-scale is untyped
    """The requests of neptune-scale, sent by a client of our own."""

    def __init__(self, backend: AuthenticatedClient) -> None:
        self.backend = backend


def _logged_in(api_token: str, address: str) -> ApiClient:
    what = f"connect to Neptune at {address}"
    api = _Api(client_for(api_token, what, {"User-Agent": _generate_user_agent()}))
    with translated(what):
        client = api.backend.get_httpx_client()
        client.auth = auth = _LogIn(client.auth)
        next(auth.sync_auth_flow(httpx.Request("GET", client.base_url)))
    return api


def _words(response: httpx.Response) -> str:
    """What the server says about a refusal."""
    try:
        said = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        said = response.text
    return str(said or "")


def _answer(status: Any) -> Answer:
    codes: dict[str, int] = {}
    for entry in status.code_by_count:
        if entry.code == Code.UNAVAILABLE:
            return Answer(None)
        if entry.code != Code.OK:
            name = _code_name(entry.detail)
            codes[name] = codes.get(name, 0) + entry.count
    return Answer(codes)


def _code_name(code: int) -> str:
    """The name of an ingest code. A newer server may send codes that this neptune-api does not know."""
    return str(IngestCode.Name(code)) if code in IngestCode.values() else f"CODE_{code}"
