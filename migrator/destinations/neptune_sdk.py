"""The one module that touches neptune-scale and neptune-api, private parts included.

Everything here speaks their wire: `RunOperation` messages in, request ids and ingest codes out. Facts are those of
neptune-scale 0.30 and the protobuf files in neptune-api; `check_version` fails loudly for any other version.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from hashlib import md5
from importlib.metadata import version
from typing import Any, NamedTuple
from urllib.parse import urlsplit

os.environ.setdefault("NEPTUNE_LOG_FAILURE_ACTION", "raise")  # read when neptune_scale is imported

import httpx
import neptune_scale.sync.sync_process as sync
from neptune_api.api.ingestion import check_details
from neptune_api.credentials import Credentials
from neptune_api.errors import InvalidApiTokenException, UnableToDeserializeApiKeyError
from neptune_api.proto.google_rpc.code_pb2 import Code
from neptune_api.proto.neptune_pb.ingest.v1.ingest_pb2 import IngestCode
from neptune_api.proto.neptune_pb.ingest.v1.pub.client_pb2 import (
    BulkCheckDetail,
    BulkIngestResultDetail,
    RequestId,
    SubmitResponse,
)
from neptune_api.proto.neptune_pb.ingest.v1.pub.ingest_pb2 import RunOperation
from neptune_api.proto.neptune_pb.ingest.v1.pub.request_status_pb2 import BulkRequestStatus
from neptune_api.types import File as Payload
from neptune_scale.exceptions import (
    NeptuneConnectionLostError,
    NeptuneFileUploadTemporaryError,
    NeptuneInvalidCredentialsError,
    NeptuneUnableToAuthenticateError,
    NeptuneUnexpectedResponseError,
)
from neptune_scale.net.api_client import ApiClient, FileSignRequest, with_api_errors_handling
from neptune_scale.net.projects import PROJECTS_PATH_BASE

from migrator.destinations.neptune_wire import Upload
from migrator.errors import ErrorClass, ExitCode, Rejected, Retryable, RunError, Throttled, UserError

SERVICE = "neptune"
SUPPORTED_VERSION = "0.30."


def check_version() -> None:
    """Refuse any neptune-scale whose private parts were not tested."""
    installed = version("neptune-scale")
    if not installed.startswith(SUPPORTED_VERSION):
        raise UserError(
            f"neptune-scale {installed} is installed, but this tool works with {SUPPORTED_VERSION}*: "
            "run `pip install 'neptune-scale==0.30.*'`"
        )


def address_of(api_token: str) -> str:
    """The server that a Neptune API token names. `UserError` if it is no such token; the token is never shown."""
    try:
        url = str(Credentials.from_api_key(api_key=api_token).base_url)
    except (InvalidApiTokenException, UnableToDeserializeApiKeyError, ValueError, KeyError) as error:
        raise UserError(
            "NEPTUNE_API_TOKEN is not a Neptune API token: copy it again from your Neptune user menu",
            ExitCode.CREDENTIALS,
        ) from error
    host = urlsplit(url).hostname
    if not host:
        raise UserError("NEPTUNE_API_TOKEN carries no server address: copy it again", ExitCode.CREDENTIALS)
    if host == "neptune.ai" or host.endswith(".neptune.ai"):
        raise UserError(
            f"NEPTUNE_API_TOKEN points to {host}, but hosted Neptune closed in March 2026: use the token of a "
            "self-hosted Neptune 3.x, or `--mode offline`",
            ExitCode.CREDENTIALS,
        )
    return url


# ---------------------------------------------------------------- the server


class Answer(NamedTuple):
    """What became of a request: `codes` counts ingest codes but OK; None while it is not processed."""

    codes: Mapping[str, int] | None


class Detail(NamedTuple):
    """One refused operation of a request; `path` is "" for errors of the run itself."""

    path: str
    code: str


class Connection:
    """One authenticated connection to a Neptune server; may be used from several threads."""

    def __init__(self, api_token: str) -> None:
        check_version()
        address_of(api_token)
        with _translated("connect to Neptune"):
            self._api = with_api_errors_handling(ApiClient)(api_token=api_token)
        self._storage = httpx.Client(timeout=60.0, verify=_verify_ssl())

    def close(self) -> None:
        self._storage.close()
        self._api.close()

    def create_project(self, workspace: str, name: str, description: str, visibility: str) -> None:
        """Create the project unless it exists. A 409 means that it does: its name is what we asked for."""
        body = {
            "name": name,
            "description": description,
            "projectKey": None,
            "organizationIdentifier": workspace,
            "visibility": visibility,
        }
        with _translated(f"create project {workspace}/{name}"):
            response = self._call(self._api.backend.get_httpx_client().request, "post", PROJECTS_PATH_BASE, json=body)
        if response.status_code == 409:
            if "KEY_COLLISION" in response.text:
                raise UserError(
                    f"Neptune could not create {workspace}/{name}: another project has the key it would get. "
                    "Create the project in Neptune with a key of your own, then run the same command again"
                )
            return
        if response.status_code == 404:
            raise UserError(
                f"workspace '{workspace}' does not exist in Neptune, or you are no member: check --neptune-workspace"
            )
        if response.status_code in (401, 403):
            raise UserError(
                f"Neptune does not let you create project {workspace}/{name} (HTTP {response.status_code}): ask an "
                "administrator to create it or to give you access",
                ExitCode.CREDENTIALS,
            )
        _check(response.status_code, response.headers, f"create project {workspace}/{name}", response.text)

    def submit(self, operation: RunOperation) -> str:
        """Send an operation; its request id. Nothing is stored yet when this returns."""
        what = f"send data of {operation.project}:{operation.run_id}"
        with _translated(what):
            response = self._call(self._api.submit, operation=operation, family=operation.run_id)
            _check(int(response.status_code), response.headers, what)
            ids = SubmitResponse.FromString(response.content).request_ids
        if not ids:
            raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: Neptune gave no request id")
        return str(ids[-1].value)

    def check(self, project: str, request_ids: Sequence[str]) -> list[Answer]:
        """The answers to some requests, in the order of the ids (at most limits.STATUS_BATCH)."""
        what = f"ask Neptune what became of data of {project}"
        with _translated(what):
            response = self._call(self._api.check_batch, request_ids=list(request_ids), project=project)
            _check(int(response.status_code), response.headers, what)
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
            with _translated(what):
                response = self._call(
                    check_details.sync_detailed,
                    client=self._api.backend,
                    project_identifier=project,
                    body=Payload(payload=question.SerializeToString()),
                )
                _check(int(response.status_code), response.headers, what)
                page = BulkIngestResultDetail.FromString(response.content)
            for detail in page.details:
                yield Detail(detail.path, IngestCode.Name(detail.ingest_code))
            if not page.next_cursor or page.next_cursor == cursor:
                return
            cursor = page.next_cursor

    def sign(self, project: str, uploads: Sequence[Upload]) -> list[Any]:
        """Where to store the files, in their order. The addresses expire: use them soon."""
        what = f"ask Neptune where to store files of {project}"
        requests = [FileSignRequest(upload.destination, upload.file.size_bytes, "write") for upload in uploads]
        with _translated(what):
            response = self._call(self._api.fetch_file_storage_urls, file_sign_requests=requests, project=project)
            _check(int(response.status_code), response.headers, what)
        signed = {file.path: file for file in response.parsed.files or ()} if response.parsed else {}
        missing = [request.path for request in requests if request.path not in signed]
        if missing:
            raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: no address for {missing[0]}")
        return [signed[request.path] for request in requests]

    def store(self, project: str, upload: Upload, signed: Any) -> None:
        """Store one file; returns when the storage has confirmed it."""
        what = f"store {upload.file.name}"
        provider = str(signed.provider)
        path, mime_type, url = str(upload.file.path), upload.mime_type, signed.url
        chunk_size = 16 * 1024 * 1024
        with _translated(what):
            if provider == "aws" and not signed.multipart:
                self._put(upload, url, what)
            elif provider == "aws":
                parts = signed.multipart
                etags = asyncio.run(
                    sync.upload_to_s3_multipart(path, mime_type, parts.part_size, list(parts.part_urls))
                )
                response = self._call(
                    self._api.complete_multipart_upload,
                    upload_id=parts.upload_id,
                    project=project,
                    path=upload.destination,
                    etags=etags,
                )
                _check(int(response.status_code), response.headers, what)
            elif provider == "gcp":
                asyncio.run(sync.upload_to_gcp(path, mime_type, url, chunk_size=chunk_size))
            elif provider == "azure":
                asyncio.run(sync.upload_to_azure(path, mime_type, url, chunk_size=chunk_size))
            else:
                raise Rejected(ErrorClass.REJECTED_BY_NEPTUNE, f"{what}: unknown file storage '{provider}'")

    def _put(self, upload: Upload, url: str, what: str) -> None:
        digest = md5(usedforsecurity=False)

        def content() -> Iterator[bytes]:
            with upload.file.path.open("rb") as stream:
                while block := stream.read(1024 * 1024):
                    digest.update(block)
                    yield block

        headers = {"Content-Type": upload.mime_type, "Content-Length": str(upload.file.size_bytes)}
        response = self._storage.put(url, content=content(), headers=headers)
        _check(response.status_code, response.headers, what)
        if not response.headers.get("etag"):
            raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: the storage did not confirm it")
        if digest.hexdigest() != upload.file.md5:
            raise Retryable(ErrorClass.BAD_DATA, f"{what}: the file changed on this machine while it was uploaded")

    def _call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return with_api_errors_handling(function)(*args, **kwargs)


def _answer(status: Any) -> Answer:
    codes: dict[str, int] = {}
    for entry in status.code_by_count:
        if entry.code == Code.UNAVAILABLE:
            return Answer(None)
        if entry.code != Code.OK:
            name = IngestCode.Name(entry.detail)
            codes[name] = codes.get(name, 0) + entry.count
    return Answer(codes)


def _verify_ssl() -> bool:
    """As neptune-scale decides it (NEPTUNE_VERIFY_SSL, NEPTUNE_ALLOW_SELF_SIGNED_CERTIFICATE)."""
    from neptune_scale.util.envs import ALLOW_SELF_SIGNED_CERTIFICATE, VERIFY_SSL, get_bool

    allow_self_signed = get_bool(ALLOW_SELF_SIGNED_CERTIFICATE, default_missing=False, default_invalid=False)
    return bool(get_bool(VERIFY_SSL, default_missing=not allow_self_signed, default_invalid=True))


# ---------------------------------------------------------------- errors


def _check(status: int, headers: Mapping[str, str], what: str, text: str = "") -> None:
    """Raise for every status but success. The client's own retries do not know Retry-After; ours do."""
    if 200 <= status < 300:
        return
    message = f"{what}: HTTP {status}"
    if status == 401:
        raise UserError(f"{message}: Neptune refused NEPTUNE_API_TOKEN; create a new one", ExitCode.CREDENTIALS)
    if status == 403:
        raise Rejected(ErrorClass.PERMISSION, f"{message}: you may not write there")
    if status in (429, 503):
        error_class = ErrorClass.RATE_LIMITED if status == 429 else ErrorClass.UNAVAILABLE
        raise Throttled(error_class, message, SERVICE, _seconds(headers.get("retry-after")))
    if status == 408 or status >= 500:
        raise Retryable(ErrorClass.TIMEOUT if status == 408 else ErrorClass.UNAVAILABLE, message)
    raise Rejected(ErrorClass.REJECTED_BY_NEPTUNE, f"{message} {text[:200]}".rstrip())


def _seconds(retry_after: str | None) -> float | None:
    try:
        return float(retry_after) if retry_after else None
    except ValueError:  # the RFC also allows a date; our own pause is as good
        return None


class _translated:
    """Turns what the SDK and its HTTP client raise into our errors."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        match error:
            case None | RunError() | UserError():
                return
            case NeptuneInvalidCredentialsError():
                raise UserError(
                    f"{self._what}: Neptune refused NEPTUNE_API_TOKEN; create a new one", ExitCode.CREDENTIALS
                ) from error
            case NeptuneConnectionLostError() | NeptuneUnableToAuthenticateError():
                raise _lost(self._what, error.__cause__ or error) from error
            case httpx.RequestError():
                raise _lost(self._what, error) from error
            case NeptuneUnexpectedResponseError() | NeptuneFileUploadTemporaryError():
                raise Retryable(ErrorClass.UNAVAILABLE, f"{self._what}: {type(error).__name__}") from error
            case httpx.HTTPStatusError():
                _check(error.response.status_code, error.response.headers, self._what)
            case FileNotFoundError():
                raise Retryable(ErrorClass.BAD_DATA, f"{self._what}: {error.filename} is gone") from error


def _lost(what: str, cause: BaseException) -> Retryable:
    """No connection at all: the service is down for everybody. A broken one: this request only."""
    message = f"{what}: {type(cause).__name__} {cause}".rstrip()
    if isinstance(cause, httpx.ConnectError):
        return Throttled(ErrorClass.UNAVAILABLE, message, SERVICE)
    return Retryable(
        ErrorClass.TIMEOUT if isinstance(cause, httpx.TimeoutException) else ErrorClass.UNAVAILABLE, message
    )
