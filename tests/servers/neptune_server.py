"""A Neptune 3 server on loopback that the real neptune-scale 0.30 and neptune-query 1.14 clients talk to.

    with NeptuneServer() as server:                  # in the test process; `server.store` has the data
        create_project("team/demo", api_token=server.api_token)
    python -m tests.servers.neptune_server --help    # a process, prints {"url": ..., "api_token": ...}

Requests have short labels by which the log counts them and faults find them: the values of `ROUTES`, and for
storage "PUT blob PATH", "GET blob PATH", "PUT part N PATH", "PUT session PATH", "PUT block PATH" and "PUT blocklist
PATH". Beyond the faults of `http`
this server knows the actions `never_processed` and `accept_but_lose` on "submit", `accept_but_lose` on
"PUT blob", `no_etag` on "PUT blob", "PUT part" and "PUT blocklist", and `keep_half` on "PUT session": the storage keeps
only the first half of the chunk. `server.store.refuse(path_regex, code)` lets the
processing refuse, or with the code "OK" lose, what is sent for single attributes.

Controls under `/_test/` beside those of `http`: `stats`; `runs`; `dump?project=&run=`, all of a run, files by
MD5 and size; `blob?project=&path=`, with its content in base64; `rules`, a list of {"path": regex,
"code": name} that replaces those set before; `options`, any of {"read_only", "processing_delay_s",
"accepts_nan_inf"}.

Source of the protocol: the clients' code, and the protobuf and OpenAPI models published in neptune-api.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import itertools
import json
import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlencode

import numpy as np
from neptune_api.proto.google_rpc.code_pb2 import Code
from neptune_api.proto.neptune_pb.api.v1.model import (
    attributes_pb2,
    leaderboard_entries_pb2,
    series_values_pb2,
)
from neptune_api.proto.neptune_pb.ingest.v1.pub import client_pb2
from neptune_api.proto.neptune_pb.ingest.v1.pub.request_status_pb2 import RequestStatus

from tests.servers.float_points import float_points
from tests.servers.http import Request, Response, Server, serve_until_told
from tests.servers.neptune_store import (
    MICRO,
    Columns,
    FileRef,
    Histogram,
    NeptuneStore,
    ProjectExists,
    Run,
    UnknownWorkspace,
    code_name,
)

READ = "/api/leaderboard/v1"
ROUTES = {
    "GET /api/backend/v1/clients/config": "config",
    "GET /auth/.well-known/openid-configuration": "discovery",
    "GET /api/backend/v1/authorization/oauth-token": "exchange",
    "POST /auth/protocol/openid-connect/token": "refresh",
    "POST /api/backend/v1/projects": "create_project",
    "GET /api/backend/v1/projects": "list_projects",
    "POST /api/client/v1/ingest": "submit",
    "POST /api/client/v1/ingest/check": "check",
    "POST /api/client/v1/ingest/checkDetails": "details",
    "POST /api/storagebridge/v1/signedUrl": "sign",
    "POST /api/storagebridge/v1/s3/completeMultipartUpload": "complete",
    f"POST {READ}/proto/leaderboard/entries/search/": "search_runs",
    f"POST {READ}/leaderboard/attributes/definitions/query": "query_definitions",
    f"POST {READ}/proto/leaderboard/attributes/query": "query_attributes",
    f"POST {READ}/proto/attributes/series/float": "float_series",
    f"POST {READ}/proto/attributes/series": "other_series",
}
PUBLIC = {"config", "discovery", "exchange", "refresh"}  # asked without an access token
SERIES_PAGE_POINTS = 10_000


def api_token(url: str, key: str = "test-key") -> str:
    """The NEPTUNE_API_TOKEN for the server at `url`; a key other than the server's is rejected by it."""
    return base64.b64encode(json.dumps({"api_address": url, "api_url": url, "api_key": key}).encode()).decode()


class NeptuneServer(Server):
    """`store_options`: apply, processing_delay_s, workspaces, auto_projects, seed; see `NeptuneStore`."""

    def __init__(
        self,
        *,
        port: int = 0,
        latency_s: float = 0.0,
        read_only: bool = False,
        provider: Literal["aws", "gcp", "azure"] = "aws",
        multipart_over_bytes: int | None = None,
        part_size_bytes: int = 5 * 1024 * 1024,
        max_request_bytes: int = 16 * 1024 * 1024,
        token_lifetime_s: float = 3600,
        **store_options: Any,
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        self.store = NeptuneStore(**store_options)
        self.api_token = api_token(self.url)
        self.read_only = read_only  # 403 on submit and on creating a project
        self.provider = provider
        self.multipart_over_bytes = multipart_over_bytes  # None: never; aws only
        self.part_size_bytes = part_size_bytes
        self.max_request_bytes = max_request_bytes  # larger submissions: 413
        self.token_lifetime_s = token_lifetime_s  # the client refreshes 30 s before the end
        self._tokens: dict[str, float] = {}  # access token -> when it expires
        self._blocks: dict[tuple[str, str], dict[str, bytes]] = {}  # azure: (project, path) -> block id -> bytes
        self._uploads: dict[str, dict[int, bytes]] = {}  # multipart upload or resumable session -> part -> bytes
        self._ids = itertools.count(1)

    def label(self, request: Request) -> str:
        if request.path.startswith("/azure/"):
            return f"{request.method} {request.query.get('comp', 'blob')} {_azure_place(request)[1]}"
        if request.path in ("/blob", "/part", "/session"):
            number = f"{request.query['number']} " if "number" in request.query else ""
            return f"{request.method} {request.path[1:]} {number}{request.query['path']}"
        plain = f"{request.method} {request.path}"
        return ROUTES.get(plain, plain)

    def handle(self, request: Request) -> Response:
        if request.path.startswith("/azure/"):
            return self._azure(request)
        name = ROUTES.get(f"{request.method} {request.path}", request.path[1:])
        if name not in ROUTES.values() and name not in ("blob", "part", "session"):
            self.unknown.append(f"{request.method} {request.path}")
            return _error(404, "NOT_FOUND", "the test server knows no such endpoint")
        if name in ROUTES.values() and name not in PUBLIC and not self._authenticated(request):
            return _error(401, "UNAUTHORIZED", "no access token, or one that is unknown or expired")
        answer: Callable[[Request], Response] = getattr(self, f"_{name}")
        return answer(request)

    def announcement(self) -> dict[str, Any]:
        return {"url": self.url, "api_token": self.api_token}

    def control(self, name: str, data: Any) -> Any:
        match name:
            case "stats":
                return self.store.stats() | {"requests": sum(self.log.counts.values())}
            case "runs":
                return [{"project": run.project, "run": run.run_id, "key": run.key} for run in self.store.runs()]
            case "dump":
                return dump(self.store.run(data["project"], data["run"]))
            case "blob":
                blob = self.store.blobs[data["project"], data["path"]]
                return _digest(blob) | {"base64": base64.b64encode(blob).decode()}
            case "rules":
                self.store.forget_rules()
                for rule in data:
                    self.store.refuse(rule["path"], rule["code"])
            case "options":
                for option, value in data.items():
                    setattr(self if option == "read_only" else self.store, option, value)
            case _:
                raise KeyError(name)
        return {}

    # authentication

    def _config(self, request: Request) -> Response:
        discovery = f"{self.url}/auth/.well-known/openid-configuration"
        security = {"clientId": "neptune-cli", "openIdDiscovery": discovery}
        return Response.of_json({"apiUrl": self.url, "pyLibVersions": {}, "security": security})

    def _discovery(self, request: Request) -> Response:
        base = f"{self.url}/auth/protocol/openid-connect"
        return Response.of_json({"authorization_endpoint": f"{base}/auth", "token_endpoint": f"{base}/token"})

    def _exchange(self, request: Request) -> Response:
        if request.headers.get("X-Neptune-Api-Token") != self.api_token:
            return _error(401, "UNAUTHORIZED", "the API key is rejected")
        access, refresh = self._new_tokens()
        return Response.of_json({"accessToken": access, "refreshToken": refresh, "username": "tester"})

    def _refresh(self, request: Request) -> Response:
        form = parse_qs(request.body.decode())
        if not form.get("refresh_token", [""])[0].startswith("refresh-"):
            return _error(400, "BAD_REQUEST", "invalid_grant")
        access, refresh = self._new_tokens()
        return Response.of_json({"access_token": access, "refresh_token": refresh})

    def _new_tokens(self) -> tuple[str, str]:
        """An access token (a JWT whose signature nobody checks) and a refresh token."""
        number, expires = next(self._ids), time.time() + self.token_lifetime_s
        claims = {"exp": expires, "azp": "neptune-cli", "iss": f"{self.url}/auth", "jti": number}
        parts = (json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims, "signature"))
        access = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
        self._tokens[access] = expires
        return access, f"refresh-{number}"

    def _authenticated(self, request: Request) -> bool:
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        return self._tokens.get(token, 0.0) > time.time()

    # projects

    def _create_project(self, request: Request) -> Response:
        body = request.json()
        if self.read_only:
            return _error(403, "ACCESS_DENIED", "the account may not create projects")
        try:
            self.store.create_project(
                body["organizationIdentifier"],
                body["name"],
                key=body.get("projectKey") or "",
                visibility=body["visibility"],
                description=body.get("description") or "",
            )
        except UnknownWorkspace as error:  # plain text, which the client matches
            return Response(404, f"Organization {error} not found".encode(), "text/plain")
        except ProjectExists as error:
            return _error(409, str(error), "the project exists")
        return Response.of_json({"name": body["name"], "organizationName": body["organizationIdentifier"]})

    def _list_projects(self, request: Request) -> Response:
        names = (project.name.split("/") for project in self.store.projects.values())
        return Response.of_json({"entries": [{"organizationName": ws, "name": name} for ws, name in names]})

    # ingest

    def _submit(self, request: Request) -> Response:
        if self.read_only:
            return _error(403, "ACCESS_DENIED", "the account may not write")
        if len(request.body) > self.max_request_bytes:
            return _error(413, "PAYLOAD_TOO_LARGE", f"more than {self.max_request_bytes} bytes")
        fate: Any = request.fault.action if request.fault else ""
        if fate not in ("never_processed", "accept_but_lose"):
            fate = "apply"
        request_id = self.store.submit(request.body, fate)
        return _protobuf(client_pb2.SubmitResponse(request_id=request_id, request_ids=[request_id]))

    def _check(self, request: Request) -> Response:
        ids = client_pb2.RequestIdList.FromString(request.body).ids
        return _protobuf(client_pb2.BulkRequestStatus(statuses=[self._status(id_.value) for id_ in ids]))

    def _status(self, request_id: str) -> RequestStatus:
        outcome, status = self.store.status(request_id), RequestStatus()
        if outcome is None:
            status.code_by_count.add(code=Code.UNAVAILABLE, count=1)
            return status
        for code, count in sorted(outcome.counts().items()):
            status.code_by_count.add(code=_grpc(code), count=count, detail=code)
        if outcome.failures and not outcome.ok and not outcome.failures[0].path:
            status.shared_error_message = outcome.failures[0].text
        return status

    def _details(self, request: Request) -> Response:
        asked, answer = (
            client_pb2.BulkCheckDetail.FromString(request.body),
            client_pb2.BulkIngestResultDetail(),
        )
        outcomes = [(id_, self.store.status(id_.value)) for id_ in asked.ids]
        rows = [(id_, failure) for id_, outcome in outcomes if outcome for failure in outcome.failures]
        start, limit = int(asked.next_cursor or 0), asked.limit or 1000
        for id_, (path, code, text) in rows[start : start + limit]:
            answer.details.add(request_id=id_, path=path, ingest_code=code, error_detail=text)
        answer.next_cursor = str(start + limit) if start + limit < len(rows) else ""
        return _protobuf(answer)

    # storage

    def _sign(self, request: Request) -> Response:
        return Response.of_json({"files": [self._signed(file) for file in request.json()["files"]]})

    def _signed(self, file: dict[str, Any]) -> dict[str, Any]:
        place = {"project": file["project_identifier"], "path": file["path"]}
        signed = {"project_identifier": place["project"], "path": place["path"], "provider": self.provider}
        if self.provider == "azure":
            where = quote(f"{place['project']}/{place['path']}")
            return signed | {"url": f"{self.url}/azure/{where}?sv=2024-01-01&sig=a%2Bb%3D"}
        signed["url"] = f"{self.url}/blob?{urlencode(place)}"
        size, limit = file.get("size") or 0, self.multipart_over_bytes
        if self.provider == "aws" and file["permission"] == "write" and limit is not None and size > limit:
            upload, count = f"upload-{next(self._ids)}", -(-size // self.part_size_bytes)
            self._uploads[upload] = {}
            queries = [urlencode(place | {"upload": upload, "number": n}) for n in range(1, count + 1)]
            urls = [f"{self.url}/part?{query}" for query in queries]
            signed["multipart"] = {"upload_id": upload, "part_size": self.part_size_bytes, "part_urls": urls}
        return signed

    def _blob(self, request: Request) -> Response:
        """An aws object: PUT whole, GET; POST starts a resumable upload of gcp."""
        place = request.query["project"], request.query["path"]
        if request.method == "GET":
            return Response(200, self.store.blobs[place]) if place in self.store.blobs else Response(404)
        if request.method == "POST" and request.headers.get("X-goog-resumable") == "start":
            session = f"session-{next(self._ids)}"
            self._uploads[session] = {}
            where = urlencode(request.query | {"upload": session})
            return Response(201, headers={"Location": f"{self.url}/session?{where}"})
        if not (request.fault and request.fault.action == "accept_but_lose"):
            self.store.blobs[place] = request.body
        return _stored(request)

    def _part(self, request: Request) -> Response:
        self._uploads[request.query["upload"]][int(request.query["number"])] = request.body
        return _stored(request)

    def _session(self, request: Request) -> Response:
        """One chunk of a gcp upload. `Content-Range: bytes FIRST-LAST/TOTAL`; `bytes */TOTAL` asks how far it is."""
        chunks = self._uploads[request.query["upload"]]
        where = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", request.headers["Content-Range"])
        assert where
        first, last, total = where.groups()
        stored = sum(map(len, chunks.values()))
        if first is not None:
            if int(first) != stored or int(last) - int(first) + 1 != len(request.body):
                return Response(400, b"the bytes do not follow those that are stored")
            kept = len(request.body)
            if request.fault and request.fault.action == "keep_half":
                kept //= 2
            chunks[stored] = request.body[:kept]
            stored += kept
        if stored < int(total):
            return Response(308, headers={"Range": f"bytes=0-{stored - 1}"} if stored else {})
        self.store.blobs[request.query["project"], request.query["path"]] = _joined(chunks)
        return Response(200)

    def _azure(self, request: Request) -> Response:
        """A block blob: PUT whole, or in blocks and then the list of them; GET. Without its signature: 403."""
        place = _azure_place(request)
        if request.query.get("sig") != "a+b=":
            return Response(403, b"<Code>AuthenticationFailed</Code>")
        blocks = self._blocks.setdefault(place, {})
        match request.method, request.query.get("comp"):
            case "GET", _:
                return Response(200, self.store.blobs[place]) if place in self.store.blobs else Response(404)
            case _, "block":
                blocks[request.query["blockid"]] = request.body
                return Response(201)
            case _, "blocklist":
                names = re.findall(r"<(?:Latest|Uncommitted)>([^<]*)</", request.body.decode())
                if any(name not in blocks for name in names):
                    return Response(400, b"<Code>InvalidBlockList</Code>")
                self.store.blobs[place] = b"".join(blocks[name] for name in names)
            case _ if request.headers.get("x-ms-blob-type") != "BlockBlob":
                return Response(400, b"<Code>MissingRequiredHeader</Code>")
            case _ if not (request.fault and request.fault.action == "accept_but_lose"):
                self.store.blobs[place] = request.body
        stored = _stored(request)
        return replace(stored, status=201, headers={**stored.headers, "Last-Modified": "Wed, 21 Oct 2026 07:28:00 GMT"})

    def _complete(self, request: Request) -> Response:
        body = request.json()
        parts = self._uploads.get(body["upload_id"], {})
        if {part["part_number"]: part["etag"] for part in body["parts"]} != {n: _md5(p) for n, p in parts.items()}:
            return _error(400, "BAD_REQUEST", "the parts are not those that were uploaded")
        self.store.blobs[body["project_identifier"], body["path"]] = _joined(parts)
        return Response(204)

    # reading back, as neptune-query does it

    def _search_runs(self, request: Request) -> Response:
        self.store.settle()
        project, body = self.store.projects.get(request.query["projectIdentifier"]), request.json()
        if project is None:
            return _error(403, "ACCESS_DENIED", "no such project, or no access to it")
        query = (body.get("query") or {}).get("query", "")
        found = [run for run in project.runs.values() if not query or _matches(run, query)]
        if body.get("experimentLeader"):
            found = [run for run in found if run.run_id in project.experiments.values()]
        newest_first = body["sorting"]["dir"] == "descending"
        found.sort(key=lambda run: (run.value("sys/creation_time"), run.key), reverse=newest_first)
        start, wanted = body["pagination"]["offset"], [item["path"] for item in body["attributeFilters"]]
        answer = leaderboard_entries_pb2.ProtoLeaderboardEntriesSearchResultDTO(matching_item_count=len(found))
        for run in found[start : start + body["pagination"]["limit"]]:
            types = _types(run)
            answer.entries.add(attributes=[_attribute(run, path, types[path]) for path in wanted if path in types])
        return _protobuf(answer)

    def _query_definitions(self, request: Request) -> Response:
        """Always all in one page."""
        body = request.json()
        types = {item["attributeType"] for item in body.get("attributeFilter") or []}
        found = {
            (path, type_)
            for run in self._runs_asked(body["projectIdentifiers"], body.get("experimentIdsFilter"))
            for path, type_ in _types(run).items()
            if (not types or type_ in types) and _name_matches(path, body.get("attributeNameFilter"))
        }
        entries = [{"name": path, "type": type_} for path, type_ in sorted(found)]
        return Response.of_json({"entries": entries, "nextPage": {}})

    def _query_attributes(self, request: Request) -> Response:
        """Always all in one page."""
        body, answer = request.json(), attributes_pb2.ProtoQueryAttributesResultDTO()
        names = body.get("attributeNamesFilter")
        for run in self._runs_asked([request.query["projectIdentifier"]], body.get("experimentIdsFilter")):
            paths = {p: t for p, t in _types(run).items() if names is None or p in names}
            values = [
                _attribute(run, p, t) for p, t in paths.items() if _name_matches(p, body.get("attributeNameFilter"))
            ]
            answer.entries.add(experimentShortId=run.key, attributes=values)
        return _protobuf(answer)

    def _runs_asked(self, projects: Iterable[str], identifiers: list[str] | None) -> list[Run]:
        runs = [run for run in self.store.runs() if run.project in projects]
        return [run for run in runs if identifiers is None or not _identifiers(run).isdisjoint(identifiers)]

    def _float_series(self, request: Request) -> Response:
        body, answer = request.json(), series_values_pb2.ProtoFloatSeriesValuesResponseDTO()
        rising, limit = body["order"] == "ascending", body["perSeriesPointsLimit"]
        for asked, columns, (low, high) in self._series_asked(body, {"floatSeries"}):
            after = asked.get("afterStep")
            if after is not None and rising:
                low = max(round(after * MICRO) + 1, low or 0)
            elif after is not None:
                end = round(after * MICRO) - 1
                high = end if high is None else min(end, high)
            first, end = _between(columns[0], low, high)
            part = slice(first, min(end, first + limit)) if rising else slice(max(first, end - limit), end)
            steps, times, values = (column[part][:: 1 if rising else -1] for column in columns)
            series = answer.series.add(requestId=asked["requestId"]).series
            series.total_item_count = end - first
            series.MergeFromString(float_points(steps, times, values))
        return _protobuf(answer)

    def _other_series(self, request: Request) -> Response:
        body, answer = request.json(), series_values_pb2.ProtoSeriesValuesResponseDTO()
        limit = body.get("perSeriesPointsLimit")
        for asked, columns, span in self._series_asked(body, {"stringSeries", "fileRefSeries", "histogramSeries"}):
            first, end = _between(columns[0], *span)
            points = [*zip(*columns, strict=True)][first:end][::-1][:limit]
            start = int((asked.get("searchAfter") or {}).get("token", 0))
            end = start + SERIES_PAGE_POINTS
            series = answer.series.add(requestId=asked["requestId"])
            series.searchAfter.finished, series.searchAfter.token = end >= len(points), str(end)
            for step, time_us, value in points[start:end]:
                point = series.seriesValues.values.add(timestamp_millis=time_us // 1000, step=step / MICRO)
                point.completion_ratio = 1.0
                _fill(point.object, value)
        return _protobuf(answer)

    def _series_asked(
        self, body: dict[str, Any], types: set[str]
    ) -> Iterable[tuple[dict[str, Any], Columns, tuple[int | None, int | None]]]:
        """(request, points by rising step, `stepRange`) for those that exist."""
        runs = {name: run for run in self.store.runs() for name in _identifiers(run)}
        span = body.get("stepRange") or {}
        low, high = (None if (end := span.get(side)) is None else round(end * MICRO) for side in ("from", "to"))
        for asked in body["requests"]:
            series = asked["series"]
            run = runs.get(series["holder"]["identifier"])
            if run and _types(run).get(series["attribute"]) in types:
                yield asked, run.columns(series["attribute"], lineage=series["lineage"] == "FULL"), (low, high)


def _between(steps: Sequence[int], low: int | None, high: int | None) -> tuple[int, int]:
    """Where the steps of this range begin and end. It is inclusive at both ends."""
    first = 0 if low is None else bisect_left(steps, low)
    return first, max(first, len(steps) if high is None else bisect_right(steps, high))


def dump(run: Run) -> dict[str, Any]:
    """All of a run as JSON can hold it; a blob that was not uploaded is None."""
    refs = [value for _, value in run.attributes.values()]
    refs += [value for series in run.series.values() for value in series.values]
    blobs = {ref.path: run.blobs.get((run.project, ref.path)) for ref in refs if isinstance(ref, FileRef)}
    return {
        "project": run.project,
        "run": run.run_id,
        "key": run.key,
        "fork": run.fork._asdict() if run.fork else None,
        "attributes": {p: {"type": t, "value": _jsonable(v)} for p, (t, v) in run.attributes.items()},
        "series": {
            path: {
                "type": series.type,
                "steps": list(series.steps),
                "timestamps": list(series.timestamps),
                "values": [_jsonable(value) for value in series.values],
            }
            for path, series in run.series.items()
        },
        "files": {path: None if blob is None else _digest(blob) for path, blob in blobs.items()},
    }


def _jsonable(value: Any) -> Any:
    if isinstance(value, FileRef | Histogram):
        return value._asdict()
    return sorted(value) if isinstance(value, frozenset) else value


def _digest(blob: bytes) -> dict[str, Any]:
    return {"md5": _md5(blob), "size": len(blob)}


def _md5(blob: bytes) -> str:
    return hashlib.md5(blob).hexdigest()


def _joined(parts: dict[int, bytes]) -> bytes:
    return b"".join(parts[number] for number in sorted(parts))


def _azure_place(request: Request) -> tuple[str, str]:
    """(project, path) of `/azure/WORKSPACE/NAME/PATH`."""
    workspace, name, path = unquote(request.path).removeprefix("/azure/").split("/", 2)
    return f"{workspace}/{name}", path


def _stored(request: Request) -> Response:
    etag = not (request.fault and request.fault.action == "no_etag")
    return Response(200, headers={"ETag": f'"{_md5(request.body)}"'} if etag else {})


def _protobuf(message: Any) -> Response:
    return Response(200, message.SerializeToString(), "application/x-protobuf")


def _error(status: int, type_: str, message: str) -> Response:
    return Response.of_json({"code": status, "errorType": type_, "type": type_, "message": message}, status)


def _grpc(code: int) -> int:
    """The general code that goes with an IngestCode (assumed; clients tell apart only OK and the rest)."""
    match code_name(code).split("_"):
        case ["OK"]:
            return int(Code.OK)
        case [*_, "NOT", "FOUND"]:
            return int(Code.NOT_FOUND)
        case [*_, "DUPLICATE"]:
            return int(Code.ALREADY_EXISTS)
        case ["RUN", "CONFLICTING"] | ["INGEST", "SUSPENDED"]:
            return int(Code.FAILED_PRECONDITION)
        case ["INTERNAL"]:
            return int(Code.INTERNAL)
    return int(Code.INVALID_ARGUMENT)


def _identifiers(run: Run) -> set[str]:
    return {f"{run.project}/{run.key}", f"CUSTOM/{run.project}/{run.run_id}"}


def _types(run: Run) -> dict[str, str]:
    """Path -> type of all attributes, with the series inherited from the parent."""
    inherited = _types(run.parent) if run.parent else {}
    types = {path: type_ for path, type_ in inherited.items() if type_.endswith("Series")}
    types |= {path: series.type for path, series in run.series.items()}
    return types | {path: type_ for path, (type_, _) in run.attributes.items()}


def _matches(run: Run, query: str) -> bool:
    """Whether a run fits a query made of comparisons of the run id, AND, OR, NOT and brackets."""

    def compare(match: re.Match[str]) -> str:
        operator, text = match[1], re.sub(r"\\(.)", r"\1", match[2])
        if operator == "==":
            return str(run.run_id == text)
        return str(bool(re.search(text, run.run_id)) is (operator == "MATCHES"))

    text = re.sub(r'`sys/custom_run_id`:string (==|MATCHES|NOT MATCHES) "((?:[^"\\]|\\.)*)"', compare, query)
    if re.sub(r"True|False|AND|OR|NOT|[() ]", "", text):
        raise ValueError(f"the test server does not understand the query {query}")
    return bool(eval(re.sub("AND|OR|NOT", lambda word: word[0].lower(), text)))


def _name_matches(path: str, name_filter: dict[str, Any] | None) -> bool:
    alternatives = (name_filter or {}).get("mustMatchAny")
    return alternatives is None or any(
        all(re.search(regex, path) for regex in alternative.get("mustMatchRegexes") or [])
        and not any(re.search(regex, path) for regex in alternative.get("mustNotMatchRegexes") or [])
        for alternative in alternatives
    )


def _attribute(run: Run, path: str, type_: str) -> Any:
    """A ProtoAttributeDTO; series show their last value."""
    attribute = leaderboard_entries_pb2.ProtoAttributeDTO(name=path, type=type_)
    snake = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", type_)
    properties = getattr(attribute, f"{snake}_properties")
    properties.attribute_name, properties.attribute_type = path, type_
    if type_.endswith("Series"):
        steps, _, values = run.columns(path, lineage=True)
        if steps:
            properties.last_step = steps[-1] / MICRO
        if type_ == "floatSeries" and steps:
            numbers = np.asarray(values)
            with np.errstate(all="ignore"):  # infinities, and what overflows
                properties.min, properties.max = numbers.min(), numbers.max()
                properties.average, properties.variance = numbers.mean(), numbers.var()
            properties.last = values[-1]
        elif steps:
            _fill(properties, values[-1], last=True)
        return attribute
    value = run.value(path)
    if type_ == "stringSet":
        properties.value.extend(sorted(value))
    elif type_ == "fileRef":
        properties.path, properties.sizeBytes, properties.mimeType = value
    else:
        properties.value = value // 1000 if type_ == "datetime" else value
    return attribute


def _fill(message: Any, value: Any, *, last: bool = False) -> None:
    """Set the field for a value of a series; `last` is the name of the field in attributes."""
    if isinstance(value, FileRef):
        target = message.last if last else message.fileRef
        target.path, target.sizeBytes, target.mimeType = value
    elif isinstance(value, Histogram):
        target = message.last if last else message.histogram
        target.type = "DENSITY" if value.kind == "densities" else "COUNTING"
        target.edges.extend(value.edges)
        target.values.extend(value.values)
    else:
        setattr(message, "last" if last else "stringValue", value)


def main(arguments: list[str] | None = None) -> None:
    """Serve until stdin closes or SIGTERM comes."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.neptune_server", description=main.__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to every request")
    parser.add_argument("--processing-delay", default="0:0", metavar="LOW:HIGH", help="seconds, for each submission")
    parser.add_argument("--apply", choices=["eager", "lazy"], default="eager")
    parser.add_argument("--workspace", action="append", help="repeatable; default: team")
    parser.add_argument("--auto-projects", action="store_true", help="projects need not be created")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--provider", choices=["aws", "gcp", "azure"], default="aws")
    parser.add_argument("--multipart-over", type=int, metavar="BYTES", help="larger files in parts (aws)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    low, high = map(float, options.processing_delay.split(":"))
    server = NeptuneServer(
        port=options.port,
        latency_s=options.latency,
        read_only=options.read_only,
        provider=options.provider,
        multipart_over_bytes=options.multipart_over,
        apply=options.apply,
        processing_delay_s=(low, high),
        workspaces=options.workspace or ["team"],
        auto_projects=options.auto_projects,
        seed=options.seed,
    )
    serve_until_told(server)


if __name__ == "__main__":
    main()
