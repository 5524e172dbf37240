"""A loopback W&B server for wandb 0.31.0's public client: it answers reads, refuses and records writes.

    with WandbServer(sample_world(50)) as server:
        api = wandb.Api(overrides={"base_url": server.url}, api_key=server.api_key)

GraphQL documents are not interpreted: the operation's name picks a function that answers everything the
client selects, and often more. Requests are labelled `POST /graphql Runs` (the operation) or `GET /files/...`
(the path with `%` escapes) in the log and for faults. An expired signed URL is the fault
`Fault("GET /parquet/", "status", status=403)`.

As a process: `python -m tests.servers.wandb_server --port 0 --data SPEC` (see `wandb_data.world`). Controls
besides those of `tests.servers.http`, where RUN is `entity/project/run id`:

    POST /_test/delete_run  {"run": RUN}    POST /_test/append_rows  {"run": RUN, "rows": [{...}]}
    POST /_test/finish_run  {"run": RUN, "mode": "parquet"}  (mode may be left out)
    POST /_test/set_run     {"run": RUN, "fields": {...}}    GET /_test/mutations  writes that were tried
    POST /_test/add_run     {"project": "entity/project", "fields": {...}}    (fields of `wandb_data.Run`)
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import json
import mimetypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import xxhash

from tests.servers.http import Request, Response, Server, serve_until_told
from tests.servers.wandb_data import (
    Artifact,
    Entity,
    Project,
    Row,
    Run,
    Sweep,
    as_rows,
    finite,
    json_text,
    md5_base64,
    world,
)

API_KEY = "k" * 40  # the client takes no shorter one

OPERATION = re.compile(r"^\s*(query|mutation|subscription)\s+(\w+)", re.MULTILINE)


class Refused(Exception):
    """Answered with status 400 and the message, and recorded in `unknown`."""


class Broken(Exception):
    """Answered with status 500 and the message: W&B breaks where it should refuse (its issue 4068)."""


@dataclass(frozen=True)
class Query:
    name: str
    text: str
    variables: Row

    @classmethod
    def of(cls, request: Request) -> tuple[str, Query]:
        """The kind (`query`, `mutation`, ...; "" for none) and the rest of a GraphQL request."""
        body = request.json()
        found = OPERATION.search(body["query"])
        kind, name = found.groups() if found else ("", "")
        return kind, cls(name, body["query"], body.get("variables") or {})


class WandbServer(Server):
    """Serves `entities`, the first of them the account's own.

    `event_cap`: the most system rows in one answer (None: as many as asked for). `identity_token`: exchanged for an
    access token, which then is as good as the key. `absent`: fields that this server is too old to know.
    """

    def __init__(
        self,
        *entities: Entity,
        api_key: str = API_KEY,
        event_cap: int | None = None,
        identity_token: str | None = None,
        absent: Sequence[str] = (),
        port: int = 0,
        latency_s: float = 0.0,
    ) -> None:
        super().__init__(port=port, latency_s=latency_s)
        self.entities = {entity.name: entity for entity in entities}
        self.home = entities[0].name
        self.event_cap = event_cap
        self.mutations: list[str] = []  # writes that were tried; all of them are refused
        self._authorizations = ["Basic " + base64.b64encode(f"api:{api_key}".encode()).decode()]
        self.identity_token = identity_token
        self.absent = frozenset(absent)
        self.artifacts: dict[str, Artifact] = {}
        self._orders: dict[tuple[Project, str, str], list[Run]] = {}
        self.api_key = api_key
        self.version = "0.70.0"

    # --- changes while serving --------------------------------------------------------------------

    def run(self, path: str) -> Run:
        """The run at `entity/project/run id`."""
        entity, project, run_id = path.split("/", 2)
        return self._project_at(entity, project).by_id[run_id]

    def add_run(self, project: str, run: Run) -> None:
        """A new run in `entity/project`."""
        self._project_at(*project.split("/")).add(run)
        self._orders.clear()

    def delete_run(self, path: str) -> None:
        entity, project, run_id = path.split("/", 2)
        self._project_at(entity, project).delete(run_id)
        self._orders.clear()

    def set_run(self, path: str, **fields: Any) -> None:
        """Change fields of a `Run`, e.g. `state="crashed"`."""
        run = self.run(path)
        for name, value in fields.items():
            if name not in Run.__dataclass_fields__:
                raise KeyError(name)
            setattr(run, name, value)
        run.changed()
        self._orders.clear()

    def append_rows(self, path: str, rows: Sequence[Row]) -> None:
        """More history; rows that were exported stay so, the new ones are live."""
        run = self.run(path)
        exported = run.exported_count
        mode = "live" if run.mode == "live" else "mixed"
        self.set_run(path, history=[*as_rows(run.history), *rows], mode=mode, exported=exported)

    def finish_run(self, path: str, mode: str | None = None) -> None:
        """Show all rows of a run of which only the first `visible` were; `mode="parquet"` exports them."""
        run = self.run(path)
        self.set_run(path, state="finished", visible=None, mode=mode or run.mode)

    def control(self, name: str, data: Any) -> Any:
        match name:
            case "mutations":
                return self.mutations
            case "add_run":
                self.add_run(data["project"], Run(**data["fields"]))
            case "delete_run":
                self.delete_run(data["run"])
            case "finish_run":
                self.finish_run(data["run"], data.get("mode"))
            case "append_rows":
                self.append_rows(data["run"], data["rows"])
            case "set_run":
                self.set_run(data["run"], **data["fields"])
            case _:
                raise KeyError(name)
        return {}

    # --- requests ---------------------------------------------------------------------------------

    def label(self, request: Request) -> str:
        if request.path != "/graphql":
            return f"{request.method} {request.path}"
        try:
            return f"POST /graphql {Query.of(request)[1].name}"
        except (ValueError, TypeError, KeyError, AttributeError):
            return "POST /graphql"

    def handle(self, request: Request) -> Response:
        under = request.path.split("/")[1]
        if request.path == "/oidc/token":
            return self._access_token(request)
        if under in ("graphql", "files") and request.headers.get("Authorization") not in self._authorizations:
            return _refusal(401, "user is not logged in")
        if request.path == "/graphql":
            return self._graphql(request)
        if request.method != "GET":
            self.mutations.append(f"{request.method} {request.path}")
            return _refusal(403, "this server is read-only")
        steps = [unquote(step) for step in request.path.split("/")[2:]]
        try:
            match under:
                case "files" | "storage":
                    run = self._project_at(steps[0], steps[1]).by_id[steps[2]]
                    return Response(200, run.files["/".join(steps[3:])], "application/octet-stream")
                case "parquet":
                    run = self._project_at(steps[0], steps[1]).by_id[steps[2]]
                    return _ranged(run.parquet()[int(steps[3].split(".")[0])], request)
                case "artifact-manifests":
                    return Response(200, json.dumps(_manifest(steps[0], self.artifacts[steps[0]])).encode())
                case "artifact-files":
                    data = self.artifacts[steps[0]].contents()["/".join(steps[1:])]
                    return Response(200, data, "application/octet-stream")
        except (KeyError, IndexError):  # deleted, or never there
            return _refusal(404, f"not found: {request.path}")
        self.unknown.append(self.label(request))
        return _refusal(404, f"unknown: {request.path}")

    def _access_token(self, request: Request) -> Response:
        asked = dict(parse_qsl(request.body.decode()))
        if self.identity_token is None or asked.get("assertion") != self.identity_token:
            return Response.of_json({"error": "invalid_grant", "error_description": "the token has expired"}, 401)
        token = f"access-{hashlib.sha256(self.identity_token.encode()).hexdigest()}"
        self._authorizations.append(f"Bearer {token}")
        return Response.of_json({"access_token": token, "expires_in": 3600, "token_type": "Bearer"})

    def _graphql(self, request: Request) -> Response:
        kind, query = Query.of(request)
        if kind == "mutation":
            self.mutations.append(query.name)
            return _refusal(400, f"this server is read-only: {query.name}")
        answer = OPERATIONS.get(query.name)
        refused = self.absent & set(re.findall(r"\w+", re.sub(r"\([^()]*\)", "", query.text)))
        if refused:
            errors = [{"message": f'Cannot query field "{name}" on type "Run".'} for name in sorted(refused)]
            return Response.of_json({"errors": errors, "data": None}, 400)
        try:
            if answer is None:
                raise Refused(f"unknown operation: {query.name!r}")
            data = answer(self, query)
        except Refused as refused:
            self.unknown.append(f"{query.name}: {refused}")
            return _refusal(400, str(refused))
        except Broken as broken:
            return _refusal(500, str(broken))
        if self.absent:
            data = _without(self.absent, json.loads(data) if isinstance(data, bytes) else data)
        return Response(200, b'{"data": %b}' % (data if isinstance(data, bytes) else json.dumps(data).encode()))

    # --- looking things up ------------------------------------------------------------------------

    def _project_at(self, entity: str, name: str) -> Project:
        project = self.entities[entity].project(name)
        if project is None:
            raise KeyError(name)
        return project

    def project_of(self, query: Query, key: str = "project") -> Project | None:
        entity = self.entities.get(query.variables.get("entity") or self.home)
        return entity.project(query.variables[key]) if entity else None

    def url_of(self, kind: str, project: Project, run_id: str, name: str) -> str:
        """The absolute URL of something that belongs to a run; `/` within its name stays."""
        place = [quote(step, safe="") for step in (project.entity, project.name, run_id)]
        return "/".join([self.url, kind, *place, quote(name)])

    def ordered(self, project: Project, order: str, filters: str) -> list[Run]:
        """The runs that pass `filters` in `order`; kept until a run changes."""
        key = (project, order, filters)
        if key not in self._orders:
            wanted = json.loads(filters)
            runs = [run for run in project.runs if not wanted or _passes(run, wanted)]
            for name in reversed(order.split(",")):
                runs.sort(key=functools.partial(_sort_key, name.lstrip("+-")), reverse=name.startswith("-"))
            self._orders[key] = runs
        return self._orders[key]

    def register(self, project: Project, artifact: Artifact) -> str:
        """The id of an artifact, by which its manifest and files are found."""
        parts = [project.entity, project.name, artifact.name, str(artifact.version), artifact.digest]
        artifact_id = hashlib.sha256("/".join(parts).encode()).hexdigest()[:24]
        self.artifacts[artifact_id] = artifact
        return artifact_id


def _refusal(status: int, message: str) -> Response:
    return Response.of_json({"errors": [{"message": message}]}, status)


def _without(names: frozenset[str], value: Any) -> Any:
    """`value` without the fields `names`, at any depth."""
    if isinstance(value, dict):
        return {key: _without(names, inner) for key, inner in value.items() if key not in names}
    return [_without(names, inner) for inner in value] if isinstance(value, list) else value


def _ranged(data: bytes, request: Request) -> Response:
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if not wanted:
        return Response(200, data, "application/octet-stream")
    first, last = wanted.groups()
    start = int(first) if first else max(0, len(data) - int(last))
    end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    if start > end:
        return Response(416, b"", headers={"Content-Range": f"bytes */{len(data)}"})
    headers = {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
    return Response(206, data[start : end + 1], "application/octet-stream", headers)


def _number(text: str) -> str:
    """A number for `text`, as the service's internal ids are."""
    return str(int(hashlib.sha256(text.encode()).hexdigest()[:7], 16))


def _page(query: Query, items: Sequence[Any], node: Callable[[Any], Row]) -> Row:
    """The page of a GraphQL connection that `query` asks for; the cursor of an item is its number."""
    asked = query.variables
    after = asked.get("cursor") or asked.get("fileCursor") or asked.get("after")
    first = asked.get("perPage") or asked.get("fileLimit") or asked.get("first") or 50
    start = int(after) + 1 if after else 0
    edges = [{"node": node(item), "cursor": str(n)} for n, item in enumerate(items[start : start + first], start)]
    end = edges[-1]["cursor"] if edges else None
    info = {"__typename": "PageInfo", "endCursor": end, "hasNextPage": start + first < len(items)}
    return {"edges": edges, "pageInfo": info, "totalCount": len(items)}


# --- filters and orders of runs -------------------------------------------------------------------

#: By the name in lower case and without underscores: camel and snake case both occur.
FIELDS: dict[str, Callable[[Run], Any]] = {
    "name": lambda run: run.id,
    "displayname": lambda run: run.display_name,
    "state": lambda run: run.state,
    "tags": lambda run: list(run.tags),
    "group": lambda run: run.group,
    "jobtype": lambda run: run.job_type,
    "sweep": lambda run: run.sweep,
    "createdat": lambda run: run.created_at,
    "heartbeatat": lambda run: run.heartbeat_at,
    "username": lambda run: run.user and run.user["username"],
    "description": lambda run: run.description,
    "notes": lambda run: run.notes,
}

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda value, wanted: value == wanted,
    "$gt": lambda value, wanted: _alike(value, wanted) and value > wanted,
    "$gte": lambda value, wanted: _alike(value, wanted) and value >= wanted,
    "$lt": lambda value, wanted: _alike(value, wanted) and value < wanted,
    "$lte": lambda value, wanted: _alike(value, wanted) and value <= wanted,
    "$in": lambda value, wanted: value in wanted,
    "$exists": lambda value, wanted: (value is not None) == wanted,
    "$regex": lambda value, wanted: isinstance(value, str) and re.search(wanted, value) is not None,
}


def _alike(one: Any, other: Any) -> bool:
    """Whether two values can be ordered: numbers with numbers, texts with texts. Others never compare."""
    numbers = (int, float)
    return isinstance(one, numbers if isinstance(other, numbers) else type(other)) and other is not None


NEGATIONS = {"$ne": "$eq", "$nin": "$in"}


def _field(run: Run, key: str) -> Any:
    """What a filter or an order names: a field of `FIELDS`, `config.K[.value]` or `summary_metrics.K`."""
    if getter := FIELDS.get(key.replace("_", "").lower()):
        return getter(run)
    root, _, path = key.partition(".")
    if root not in ("config", "summary_metrics") or not path:
        raise Refused(f"unknown run field: {key}")
    value: Any = run.config if root == "config" else run.summary_value()
    for step in path.removesuffix(".value").split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _sort_key(key: str, run: Run) -> tuple[bool, Any]:
    value = _field(run, key)
    return value is not None, value if value is not None else 0


def _passes(run: Run, filters: Row) -> bool:
    if not isinstance(filters, dict):
        raise Refused(f"invalid filter: {filters!r}")
    for key, wanted in filters.items():
        match key:
            case "$and":
                passed = all(_passes(run, part) for part in wanted)
            case "$or":
                passed = any(_passes(run, part) for part in wanted)
            case "$nor":
                passed = not any(_passes(run, part) for part in wanted)
            case "$not":
                passed = not _passes(run, wanted)
            case _:
                passed = _field_passes(_comparable(key, _field(run, key)), key, wanted)
        if not passed:
            return False
    return True


def _field_passes(value: Any, key: str, wanted: Any) -> bool:
    if isinstance(wanted, list):
        raise Broken("unsupported type []interface {}")
    if not isinstance(wanted, dict):
        wanted = {"$eq": wanted}
    for operator, operand in wanted.items():
        if operator == "$not":
            passed = not _field_passes(value, key, operand)
        elif operator in NEGATIONS:
            passed = not _field_passes(value, key, {NEGATIONS[operator]: operand})
        elif operator in COMPARISONS:
            compare, against = COMPARISONS[operator], _comparable(key, operand)
            # A list matches if one of its elements does.
            values = value if isinstance(value, list) and operator != "$exists" else [value]
            passed = any(compare(one, against) for one in values)
        else:
            raise Refused(f"unknown operator: {operator}")
        if not passed:
            return False
    return True


def _comparable(key: str, value: Any) -> Any:
    """Texts of `created_at` and `heartbeat_at` as times, so that any ISO form compares with any other."""
    if key.lower().endswith(("edat", "ed_at", "beatat", "beat_at")) and isinstance(value, str):
        time = datetime.fromisoformat(value)
        return time if time.tzinfo else time.replace(tzinfo=UTC)
    return value


# --- operations -----------------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[[WandbServer, Query], Row | bytes]] = {}


def _answers(*names: str) -> Callable[[Any], Any]:
    """Register a function (server, query) -> data for these operations."""

    def register(function: Any) -> Any:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return register


def _answers_of_run(name: str, key: str) -> Callable[[Any], Any]:
    """Register a function (server, query, project, run) -> data of the run, whose id is the variable `key`.

    Where there is no such project or run the answer is null, as on the service.
    """

    def register(function: Callable[[WandbServer, Query, Project, Run], Row]) -> Any:
        def answer(server: WandbServer, query: Query) -> Row:
            project = server.project_of(query)
            if project is None:
                return {"project": None}
            run = project.by_id.get(query.variables[key])
            data = function(server, query, project, run) if run else None
            return {"project": {"internalId": _number(project.name), "run": data}}

        return _answers(name)(answer)

    return register


@_answers("Viewer", "GetDefaultEntity", "GetViewer")
def _viewer(server: WandbServer, _: Query) -> Row:
    teams = {"edges": [{"node": {"name": name}} for name in server.entities]}
    names = {"name": "Ann", "username": "ann", "email": "ann@example.com", "entity": server.home}
    more = {"admin": False, "flags": "{}", "deletedAt": None, "teams": teams, "apiKeys": {"edges": []}}
    return {"viewer": {"id": "VXNlcjox"} | names | more}


@_answers("ServerInfo")
def _server_info(server: WandbServer, _: Query) -> Row:
    return {"serverInfo": {"latestLocalVersionInfo": {"versionOnThisInstanceString": server.version}}}


@_answers("ServerFeaturesQuery")
def _features(_: WandbServer, __: Query) -> Row:
    return {"serverInfo": {"features": []}}


def _place(project: Project) -> Row:
    number = _number(project.name)
    return {
        "id": f"P{number}",
        "internalId": number,
        "name": project.name,
        "entity": {"name": project.entity},
    }


def _project_node(server: WandbServer, query: Query, project: Project) -> Row:
    node = {"__typename": "Project", "entityName": project.entity, "createdAt": project.created_at}
    return _place(project) | node | {"isBenchmark": False, "user": _viewer(server, query)["viewer"]}


@_answers("GetProjects")
def _projects(server: WandbServer, query: Query) -> Row:
    entity = server.entities.get(query.variables.get("entity") or server.home)
    projects = entity.projects if entity else []
    return {"models": _page(query, projects, functools.partial(_project_node, server, query))}


@_answers("GetProject")
def _project(server: WandbServer, query: Query) -> Row:
    project = server.project_of(query, "name")
    return {"project": project and _project_node(server, query, project)}


def _run_node(project: Project, run: Run, full: bool, with_config: bool) -> Row:
    node: Row = {
        "__typename": "Run",
        "projectId": int(_number(project.name)),
        "id": base64.b64encode(f"Run:v1:{run.id}:{project.name}".encode()).decode(),
        "name": run.id,
        "displayName": run.display_name,
        "state": run.state,
        "tags": list(run.tags),
        "sweepName": run.sweep,
        "group": run.group,
        "jobType": run.job_type,
        "commit": run.commit,
        "readOnly": False,
        "createdAt": run.created_at,
        "heartbeatAt": run.heartbeat_at,
        "description": run.description,
        "notes": run.notes,
        "historyLineCount": run.line_count,
        "user": run.user,
    }
    if full or with_config:
        node["config"] = run.config_text()
    if full:
        node["summaryMetrics"] = json_text(run.summary_value())
        node["systemMetrics"] = json_text(as_rows(run.events[-1:])[0]) if len(run.events) else None
        node["historyKeys"] = run.cached("keys", run.history_keys)
    return node


def _run_json(project: Project, run: Run, full: bool, with_config: bool = False) -> bytes:
    name = f"node {full} {with_config}"
    return run.cached(name, lambda: json.dumps(_run_node(project, run, full, with_config)).encode())


@_answers("Runs")
def _runs(server: WandbServer, query: Query) -> Row | bytes:
    project, asked = server.project_of(query), query.variables
    if project is None:
        return {"project": None}
    runs = server.ordered(project, asked.get("order") or "+created_at", asked.get("filters") or "{}")
    if not re.search(r"\bruns\s*\(", query.text):
        return {"project": {"runCount": len(runs)}}
    first, start = asked.get("perPage") or 50, _position(runs, asked.get("cursor"))
    full, with_config = "summaryMetrics" in query.text, re.search(r"\bconfig\b", query.text) is not None
    page = [(f"{n}:{run.id}", run) for n, run in enumerate(runs[start : start + first], start)]
    edges = b", ".join(
        b'{"node": %b, "cursor": %b}' % (_run_json(project, run, full, with_config), json.dumps(cursor).encode())
        for cursor, run in page
    )
    info = {"endCursor": page[-1][0] if page else None, "hasNextPage": start + first < len(runs)}
    answer: Row = {"internalId": _number(project.name), "runCount": len(runs), "readOnly": False}
    answer["runs"] = {"pageInfo": info, "edges": "EDGES"}
    return json.dumps({"project": answer}).encode().replace(b'"EDGES"', b"[%b]" % edges)


def _position(runs: Sequence[Run], cursor: str | None) -> int:
    """Where the page after `cursor` (`number:run id`) begins, also when runs were deleted meanwhile."""
    if not cursor:
        return 0
    number, _, run_id = cursor.partition(":")
    at = int(number)
    if at < len(runs) and runs[at].id == run_id:
        return at + 1
    return next((n + 1 for n, run in enumerate(runs) if run.id == run_id), at)


@_answers("Run")
def _run(server: WandbServer, query: Query) -> Row | bytes:
    project = server.project_of(query)
    run = project.by_id.get(query.variables["name"]) if project else None
    if project is None or run is None:
        return {"project": project and {"run": None}}
    return b'{"project": {"run": %b}}' % _run_json(project, run, True)


@_answers_of_run("RunHistoryKeys", "name")
def _history_keys(_: WandbServer, __: Query, ___: Project, run: Run) -> Row:
    return {"historyKeys": run.cached("keys", run.history_keys)}


@_answers_of_run("RunParquetHistory", "runName")
def _parquet_history(server: WandbServer, _: Query, project: Project, run: Run) -> Row:
    names = [f"{n}.parquet" for n in range(len(run.parquet()))]
    urls = [server.url_of("parquet", project, run.id, name) + "?X-Signature=s" for name in names]
    live = [{"_step": step} for step in run.live_steps()] if run.announce_live else []
    return {"parquetHistory": {"parquetUrls": urls, "liveData": live or None}}


@_answers_of_run("HistoryPage", "run")
def _history_page(_: WandbServer, query: Query, __: Project, run: Run) -> Row:
    return {"history": run.page(int(query.variables["minStep"]), int(query.variables["maxStep"]))}


def _samples(rows: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `rows`, evenly spread."""
    return [rows[n * len(rows) // count] for n in range(count)] if len(rows) > count else list(rows)


@_answers_of_run("RunFullHistory", "name")
def _full_history(server: WandbServer, query: Query, _: Project, run: Run) -> Row:
    samples = query.variables.get("samples") or 500
    if not re.search(r"\bevents\s*\(", query.text):
        return {"history": [json_text(row) for row in _samples(run.rows(), samples)]}
    rows = _samples(as_rows(run.events), min(samples, server.event_cap or samples))
    return {"events": [json_text(row) for row in rows]}


def _series(run: Run, spec: Row) -> list[Row]:
    """The rows that have all of the keys that `spec` asks for, sampled; minStep and maxStep are inclusive."""
    keys = list(dict.fromkeys(spec["keys"]))
    low, high = spec.get("minStep", 0), spec.get("maxStep", 2**63)
    rows = [row for row in run.rows() if low <= row["_step"] <= high and all(key in row for key in keys)]
    chosen = _samples(rows, spec.get("samples") or 500)
    return [finite({key: row[key] for key in keys}) for row in chosen]


@_answers_of_run("RunSampledHistory", "name")
def _sampled_history(_: WandbServer, query: Query, __: Project, run: Run) -> Row:
    return {"sampledHistory": [_series(run, json.loads(spec)) for spec in query.variables["specs"]]}


@_answers_of_run("SampledHistoryPage", "run")
def _sampled_history_page(_: WandbServer, query: Query, __: Project, run: Run) -> Row:
    return {"sampledHistory": [_series(run, json.loads(query.variables["spec"]))]}


@_answers_of_run("RunFiles", "name")
def _run_files(server: WandbServer, query: Query, project: Project, run: Run) -> Row:
    def node(name: str) -> Row:
        return {
            "__typename": "File",
            "id": f"F:{name}",
            "name": name,
            "url": server.url_of("files", project, run.id, name),
            "directUrl": server.url_of("storage", project, run.id, name) + "?X-Signature=s",
            "sizeBytes": len(run.files[name]),
            "mimetype": mimetypes.guess_type(name)[0] or "application/octet-stream",
            "updatedAt": run.created_at,
            "md5": run.cached(f"md5 {name}", lambda: md5_base64(run.files[name])),
        }

    names = [name for name in run.files if name in (query.variables.get("fileNames") or run.files)]
    if pattern := query.variables.get("pattern"):
        like = re.escape(pattern).replace("%", ".*").replace("_", ".")
        names = [name for name in names if re.fullmatch(like, name, re.DOTALL)]
    return {"fileCount": len(run.files), "files": _page(query, names, node)}


def _line_node(item: tuple[int, tuple[str | None, str | None, str]]) -> Row:
    number, (timestamp, level, line) = item
    return {"number": number, "timestamp": timestamp, "level": level, "label": None, "line": line}


@_answers_of_run("RunConsoleLogPage", "runName")
def _console_page(_: WandbServer, query: Query, __: Project, run: Run) -> Row:
    return {
        "logLineCount": len(run.console),
        "logLines": _page(query, list(enumerate(run.console)), _line_node),
    }


@_answers_of_run("RunConsoleLogTail", "runName")
def _console_tail(_: WandbServer, query: Query, __: Project, run: Run) -> Row:
    lines = list(enumerate(run.console))[-query.variables["last"] :]
    return {
        "logLineCount": len(run.console),
        "logLines": {"edges": [{"node": _line_node(line)} for line in lines]},
    }


# --- artifacts and sweeps -------------------------------------------------------------------------


def _artifact_node(server: WandbServer, project: Project, artifact: Artifact) -> Row:
    home = {"__typename": "ArtifactSequence", "name": artifact.name, "project": _place(project)}
    alias = {"__typename": "ArtifactAlias", "artifactCollection": home}
    return {
        "__typename": "Artifact",
        "id": server.register(project, artifact),
        "artifactSequence": home,
        "versionIndex": artifact.version,
        "artifactType": {"name": artifact.type},
        "description": artifact.description,
        "metadata": json_text(artifact.metadata),
        "ttlDurationSeconds": -1,
        "ttlIsInherited": True,
        "tags": [{"__typename": "Tag", "id": f"T:{tag}", "name": tag} for tag in artifact.tags],
        "historyStep": None,
        "state": "COMMITTED",
        "size": sum(map(len, artifact.contents().values())),
        "digest": artifact.digest,
        "commitHash": artifact.digest[:20],
        "fileCount": len(artifact.contents()) + len(artifact.references),
        "createdAt": artifact.created_at,
        "updatedAt": artifact.created_at,
        "aliases": [alias | {"id": f"A:{name}", "alias": name} for name in artifact.aliases],
    }


def _manifest(artifact_id: str, artifact: Artifact) -> Row:
    entries: Row = {
        path: {"digest": md5_base64(data), "size": len(data), "birthArtifactID": artifact_id}
        for path, data in artifact.contents().items()
    }
    if artifact.algorithm != "MD5":
        for path, data in artifact.contents().items():
            digest = base64.b64encode(xxhash.xxh128(data).digest()).decode()
            entries[path] |= {"digest": digest, "extra": {"alg": artifact.algorithm}}
    entries |= {path: {"digest": url, "ref": url, "size": 1000} for path, url in artifact.references.items()}
    policy: Row = {"storagePolicy": "wandb-storage-policy-v1", "storagePolicyConfig": {"storageLayout": "V2"}}
    return {"version": 1, **policy, "contents": entries}


@_answers_of_run("RunOutputArtifacts", "run")
def _outputs(server: WandbServer, query: Query, project: Project, run: Run) -> Row:
    return {"artifacts": _page(query, run.outputs(), functools.partial(_artifact_node, server, project))}


@_answers_of_run("RunInputArtifacts", "run")
def _inputs(server: WandbServer, query: Query, project: Project, run: Run) -> Row:
    return {"artifacts": _page(query, run.used, functools.partial(_artifact_node, server, project))}


def _find(project: Project | None, collection: str, alias: str) -> Artifact | None:
    for run in project.runs if project else ():
        for artifact in [*run.outputs(), *run.used]:
            if artifact.name == collection and alias in (f"v{artifact.version}", *artifact.aliases):
                return artifact
    return None


@_answers("ArtifactMembershipByName")
def _membership(server: WandbServer, query: Query) -> Row:
    project = server.project_of(query)
    collection, _, alias = query.variables["name"].rpartition(":")
    artifact = _find(project, collection, alias)
    if project is None or artifact is None:
        return {"project": project and {"artifactCollectionMembership": None}}
    node = _artifact_node(server, project, artifact)
    membership = {key: node[key] for key in ("createdAt", "aliases", "versionIndex")}
    membership |= {"__typename": "ArtifactCollectionMembership", "id": f"M:{node['id']}"}
    membership |= {"artifactCollection": node["artifactSequence"], "artifact": node}
    return {"project": {"artifactCollectionMembership": membership}}


@_answers("FetchArtifactManifest")
def _artifact_manifest(server: WandbServer, query: Query) -> Row:
    artifact_id = query.variables["id"]
    if artifact_id not in server.artifacts:
        return {"artifact": None}
    url = f"{server.url}/artifact-manifests/{artifact_id}?X-Signature=s"
    return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}


@_answers("GetArtifactMembershipFileUrls")
def _artifact_urls(server: WandbServer, query: Query) -> Row:
    project = server.project_of(query)
    artifact = _find(project, query.variables["collection"], query.variables["alias"])
    if project is None or artifact is None:
        return {"project": project and {"artifactCollection": None}}
    place = f"{server.url}/artifact-files/{server.register(project, artifact)}"

    def node(path: str) -> Row:
        return {"__typename": "File", "name": path, "directUrl": f"{place}/{quote(path)}?X-Signature=s"}

    membership = {"files": _page(query, list(artifact.contents()), node)}
    return {"project": {"artifactCollection": {"__typename": "ArtifactSequence", "artifactMembership": membership}}}


def _sweep_node(project: Project, sweep: Sweep) -> Row:
    return {
        "__typename": "Sweep",
        "id": f"S:{sweep.id}",
        "name": sweep.id,
        "displayName": sweep.display_name,
        "method": sweep.config.get("method", "random") if isinstance(sweep.config, dict) else "random",
        "state": sweep.state,
        "description": sweep.description,
        "bestLoss": None,
        "config": sweep.config if isinstance(sweep.config, str) else json.dumps(sweep.config),
        "createdAt": sweep.created_at,
        "updatedAt": sweep.created_at,
        "runCount": sum(run.sweep == sweep.id for run in project.runs),
        "runCountExpected": None,
    }


@_answers("GetSweeps")
def _sweeps(server: WandbServer, query: Query) -> Row:
    project = server.project_of(query)
    if project is None:
        return {"project": None}
    page = _page(query, project.sweeps, functools.partial(_sweep_node, project))
    return {"project": {"totalSweeps": len(project.sweeps), "sweeps": page}}


@_answers("GetSweep")
def _sweep(server: WandbServer, query: Query) -> Row:
    project = server.project_of(query)
    if project is None:
        return {"project": None}
    found = [_sweep_node(project, sweep) for sweep in project.sweeps if sweep.id == query.variables["name"]]
    return {"project": {"sweep": found[0] if found else None}}


def main() -> None:
    parser = argparse.ArgumentParser(description="a loopback W&B server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--data", default="sample:50", help="see tests.servers.wandb_data.world")
    parser.add_argument("--entity", default="team")
    parser.add_argument("--api-key", default=API_KEY)
    parser.add_argument("--latency-s", type=float, default=0.0, help="added to every request")
    parser.add_argument("--event-cap", type=int, help="the most system rows in one answer")
    asked = vars(parser.parse_args())
    serve_until_told(WandbServer(world(asked.pop("data"), asked.pop("entity")), **asked))


if __name__ == "__main__":
    main()
