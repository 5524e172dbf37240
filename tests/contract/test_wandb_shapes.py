"""Answers of W&B as they are documented (`tests/data/wandb/SCENE/OPERATION.json`), through the real SDK.

    exported   a finished run: history and system metrics in Parquet exports, a sweep, artifacts
    running    live rows; pages of every kind; NaN as token and as text, numbers as text, addresses without a host
    sparse     an old server: nulls, absent fields, requests that it does not know (`OPERATION.400.json`)

`OPERATION.after.CURSOR.json` is a later page. What a scene does not have it has as `exported`. In the files,
`{storage}` stands for the server's address; a Parquet file is there as JSON rows.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from migrator.errors import Rejected
from migrator.listed import RunRef
from migrator.records import LocalFile
from migrator.sources.base import RunFilter
from migrator.sources.wandb import queries as wandb_queries
from migrator.sources.wandb.listing import WandbApiSource
from tests.servers.http import Request, Response, Server
from tests.servers.wandb_data import EPOCH_S, Artifact, Entity, Project, Run, Sweep, logged
from tests.servers.wandb_server import API_KEY, Query, WandbServer

DATA = Path(__file__).parents[1] / "data" / "wandb"
DOCUMENTS = {
    found[1]: document
    for name, document in vars(wandb_queries).items()
    if name not in ("ARTIFACTS", "RUN_COUNT", "ACCOUNT", "SERVER_INFO")  # the last two are of `doctor`
    and isinstance(document, str)
    and (found := re.search(r"query (\w+)", document))
}


class Golden(Server):
    """Answers everything from the files of a scene."""

    def __init__(self, scene: str) -> None:
        super().__init__()
        self._folders = [DATA / scene, DATA / "exported"]

    def handle(self, request: Request) -> Response:
        if request.path != "/graphql":
            return self._file(request.path.rsplit("/", 1)[-1])
        _, query = Query.of(request)
        asked = query.variables
        cursor = asked.get("cursor") or asked.get("fileCursor") or asked.get("after")
        name = f"{query.name}.after.{cursor}" if cursor else query.name
        for status, path in [(s, f / f"{name}{end}") for f in self._folders for s, end in ENDS]:
            if path.exists():
                return Response(status, self._text(path))
        self.unknown.append(name)
        return Response(400, b"{}")

    def _file(self, name: str) -> Response:
        folder = next(folder for folder in self._folders if list(folder.glob(f"{name}*")))
        if name.endswith(".parquet"):
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(json.loads(self._text(folder / f"{name}.json"))), sink)
            return Response(200, sink.getvalue())
        return Response(200, (folder / (name if name != "manifest" else "manifest.json")).read_bytes())

    def _text(self, path: Path) -> bytes:
        return path.read_bytes().replace(b"{storage}", self.url.encode())


ENDS = ((200, ".json"), (400, ".400.json"))


def read_all(server: Server, scratch: Path, entity: str = "acme") -> dict[str, Any]:
    """All that the source gives of the one run that the server has, as JSON values."""
    source = WandbApiSource(server.url, API_KEY, scratch / "sdk")
    try:
        (project,) = source.projects(entity)
        (listing,) = source.runs(project, RunFilter())
        with source.open_run(RunRef(entity, project.name, listing.run_id), scratch) as run:
            attributes, survey = run.attributes(), run.survey()
            found: dict[str, Any] = {
                "account": source._client.entity(),
                "listed": [listing.run_id, listing.name, listing.source_state, listing.history_rows, listing.tags],
                "times": [listing.created_at, listing.heartbeat_at, attributes.created_at],
                "name": [attributes.name, attributes.notes, attributes.tags, attributes.group],
                "sweep": attributes.sweep
                and [getattr(attributes.sweep, field) for field in ("id", "name", "method", "config")],
                "wandb": {name: value for name, value in attributes.wandb.items() if name not in OF_THE_REF},
                "config": run.config().values,
                "summary": run.summary().values,
                "series": [[key.key, key.slot, key.kind] for key in survey.series],
                "rows": [survey.rows, survey.counted, *([*row] for page in run.history(None) for row in page)],
                "media": sorted(survey.media),
                "system": [[row.time, row.values] for page in run.system(0) for row in page],
                "sampled": run.partial("system") is not None,
                "console": [[*line][1:] for page in run.console(0) for line in page],
                "files": [run.file_count(), *([file.name, content(run.fetch(file.name))] for file in run.files())],
            }
            try:
                found["artifacts"] = [
                    [one.name, one.version, one.type, one.aliases, one.digest, one.size_bytes, one.created_at]
                    + [one.metadata, one.references]
                    + [[file.name, content(run.fetch_artifact_file(one, file.name))] for file in one.files]
                    for one in run.artifacts()
                ]
                found["used"] = run.used_artifacts()
            except Rejected as error:
                found["artifacts"] = str(error.error_class)
    finally:
        source.close()
    result: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return result


OF_THE_REF = {"id", "entity", "project", "path", "url", "created_at", "heartbeat_at"}


def content(file: LocalFile | None) -> str | None:
    return file.path.read_text() if file else None


@pytest.mark.parametrize("scene", ["exported", "running", "sparse"])
def test_documented_answers_become_records(scene: str, tmp_path: Path) -> None:
    with Golden(scene) as server:
        found = read_all(server, tmp_path)
        assert not server.unknown
        assert not server.errors
    expected = json.loads((DATA / scene / "records.json").read_text())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert json.dumps(found[name], sort_keys=True) == json.dumps(value, sort_keys=True), name


# ---------------------------------------------------------------- the loopback server keeps to the same shapes

Shape = dict[str, set[str]]
KINDS = {str: "text", int: "number", float: "number", bool: "bool", type(None): "null", dict: "object", list: "list"}


def add_shape(value: Any, shape: Shape, path: str = "") -> Shape:
    """Kinds of values by path, e.g. `data.viewer.entity: text`; keys that users choose are `*`."""
    shape.setdefault(path, set()).add(KINDS[type(value)])
    if isinstance(value, dict):
        for key, inner in value.items():
            add_shape(inner, shape, f"{path}.{'*' if path.endswith(('keys', 'contents')) else key}")
    for inner in value if isinstance(value, list) else ():
        add_shape(inner, shape, f"{path}[]")
    return shape


def golden_shapes() -> dict[str, Shape]:
    """By operation, of the run that has everything; operations that it does not need, of the running one."""
    shapes: dict[str, Shape] = {}
    for scene in ("exported", "running"):
        for path in sorted((DATA / scene).glob("*.json")):
            name = path.name.removesuffix(".json")
            if name not in shapes and re.fullmatch(r"\w+", name) and name != "records":
                shapes[name] = add_shape(json.loads(path.read_text()), {})
    return shapes


def fields_of(document: str) -> set[str]:
    """The names that a document gives its fields."""
    body = re.sub(r"\.\.\.\w+|fragment \w+ on \w+|^\s*query \w+|\([^()]*\)", "", document, flags=re.MULTILINE)
    return set(re.findall(r"\w+", re.sub(r"(\w+): \w+", r"\1", body)))


def last_key(path: str) -> str:
    return path.removesuffix("[]").rpartition(".")[2]


class Recorded(WandbServer):
    """Keeps the shapes of its answers, by operation."""

    def handle(self, request: Request) -> Response:
        response = super().handle(request)
        if request.path == "/graphql":
            name = Query.of(request)[1].name
        elif request.path.startswith("/artifact-manifests/"):
            name = "manifest"
        else:
            return response
        add_shape(json.loads(response.body), self.__dict__.setdefault("shapes", {}).setdefault(name, {}))
        return response


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shape]:
    """Shapes of the loopback server's answers about a run that has everything, once exported and once live."""
    model = Artifact("model", "model", 4, {"best.pt": b"weights"}, {"data": "s3://acme/data"}, metadata={"epoch": 2})
    shapes: dict[str, Shape] = {}
    for mode in ("parquet", "live"):
        run = Run("r", "name", mode=mode, config={"lr": 0.1}, history=logged([{"loss": 1.0}]), sweep="s", tags=["a"])
        run.events = [{"_timestamp": EPOCH_S, "system.cpu": 1.5}]
        run.console = [("2025-03-04T09:00:01", "error", "line"), (None, None, "line")]
        run.files, run.logged, run.used = {"a.txt": b"text"}, [model], [Artifact("cifar")]
        run.group, run.job_type, run.commit, run.notes, run.description = "g", "train", "9fceb02d", "notes", "text"
        with Recorded(Entity("acme", [Project("vision", [run], [Sweep("s", "lr search")])])) as server:
            read_all(server, tmp_path_factory.mktemp(mode))
            for name, shape in server.__dict__["shapes"].items():
                for path, kinds in shape.items():
                    shapes.setdefault(name, {}).setdefault(path, set()).update(kinds)
    return shapes


def test_every_document_has_a_golden_answer_with_the_fields_that_it_selects() -> None:
    golden = golden_shapes()
    assert golden.keys() == DOCUMENTS.keys() | {"Viewer", "manifest"}
    for name, document in DOCUMENTS.items():
        answered = {last_key(path) for path in golden[name] if ".historyKeys." not in path and ".liveData[" not in path}
        assert answered - {"", "data"} == fields_of(document), name


@pytest.mark.parametrize("name", sorted(golden_shapes()))
def test_the_loopback_server_answers_in_the_golden_shape(name: str, served: dict[str, Shape]) -> None:
    golden, found = golden_shapes()[name], served[name]
    for path, kinds in golden.items():
        told = found.get(path, set()) - {"null"}
        assert path in found, f"the loopback server does not answer {path}"
        assert not told or not kinds - {"null"} or told == kinds - {"null"}, path
