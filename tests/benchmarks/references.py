"""The two things that figures are compared with, each run in a process of its own; prints the seconds it took."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import requests

RUN_QUERY = """query Run($project: String!, $entity: String!, $name: String!) {
  project(name: $project, entityName: $entity) { run(name: $name) { id name config summaryMetrics } } }"""
PARQUET_QUERY = """query RunParquetHistory($entity: String!, $project: String!, $runName: String!,
  $liveKeys: [String!]!) {
  project(name: $project, entityName: $entity) { run(name: $runName) {
    parquetHistory(liveKeys: $liveKeys) { parquetUrls liveData } } } }"""
FILES_QUERY = """query RunFiles($project: String!, $entity: String!, $name: String!, $fileCursor: String,
  $fileLimit: Int = 50, $fileNames: [String] = [], $upload: Boolean = false, $pattern: String) {
  project(name: $project, entityName: $entity) { run(name: $name) { files(names: $fileNames, after: $fileCursor,
  first: $fileLimit, pattern: $pattern) { edges { node { name url(upload: $upload) sizeBytes md5 } cursor }
  pageInfo { endCursor hasNextPage } } } } }"""


def public_small(runs: int) -> float:
    """The way of a script: the wandb API, one async neptune_scale.Run a run, one log_metrics a step."""
    import wandb
    from neptune_scale import Run

    api = wandb.Api()
    listed = [api.run(f"team/sample/{run.id}") for _, run in zip(range(runs), api.runs("team/sample"), strict=False)]
    started = time.perf_counter()
    for source in listed:
        _copy_publicly(source, Run)
    return time.perf_counter() - started


def public_long(steps: int) -> float:
    """One run, its first `steps` steps."""
    import wandb
    from neptune_scale import Run

    api = wandb.Api()
    first = next(iter(api.runs(next(iter(f"team/{project.name}" for project in api.projects("team"))))))
    started = time.perf_counter()
    _copy_publicly(first, Run, steps)
    return time.perf_counter() - started


def _copy_publicly(source: Any, run_class: Any, steps: int | None = None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run = run_class(
            run_id=f"reference-{source.id}",
            project="team/reference",
            experiment_name=source.name,
            log_directory=scratch,
            enable_console_log_capture=False,
            source_tracking_config=None,
        )
        run.log_configs(
            {f"config/{key}": value for key, value in source.config.items() if isinstance(value, int | float)}
        )
        for row in source.scan_history(page_size=10_000, max_step=steps, use_cache=False):
            metrics = {key: value for key, value in row.items() if key[0] != "_" and isinstance(value, int | float)}
            run.log_metrics(metrics, step=row["_step"], timestamp=datetime.fromtimestamp(row["_timestamp"], UTC))
        if steps is None:
            for file in source.files():
                path = file.download(root=scratch, replace=True)
                run.assign_files({f"files/{file.name}": path.name})
                path.close()
            run.wait_for_processing(verbose=False)
        run.close()


def bare_small(runs: int) -> float:
    """Reads each run's config, exports and files, pushes the same number of bytes; 32 runs at a time."""
    base, push = os.environ["WANDB_BASE_URL"], _Push()
    session = _session(base)
    started = time.perf_counter()

    def copy(number: int) -> None:
        names = {"entity": "team", "project": "sample", "name": f"run{number:05}"}
        run = session(RUN_QUERY, "Run", names)["project"]["run"]
        exports = _exports(session, names)
        listed = session(FILES_QUERY, "RunFiles", {**names, "fileLimit": 100, "fileNames": []})
        files = [edge["node"] for edge in listed["project"]["run"]["files"]["edges"]]
        contents = [session.get(url) for url in [*exports, *(file["url"] for file in files)]]
        push.submit(b"".join([(run["config"] or "").encode(), *contents[: len(exports)]]))
        for content in contents[len(exports) :]:
            push.submit(content)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(copy, range(runs)))
    return time.perf_counter() - started


def bare_long(points: int) -> float:
    """Reads a run's exports and pushes 30 bytes per point in requests of 4 MB."""
    base, push = os.environ["WANDB_BASE_URL"], _Push()
    session = _session(base)
    started = time.perf_counter()
    for url in _exports(session, {"entity": "team", "project": "big", "name": "big000"}):
        session.get(url)
    for _ in range(points * 30 // 4_000_000):
        push.submit(bytes(4_000_000))
    return time.perf_counter() - started


class _session:
    def __init__(self, base: str) -> None:
        self._base = base
        self._http = requests.Session()
        self._http.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
        self._auth = ("api", os.environ["WANDB_API_KEY"])

    def __call__(self, query: str, name: str, variables: dict[str, Any]) -> Any:
        body = {"query": query, "operationName": name, "variables": variables}
        answer = self._http.post(f"{self._base}/graphql", json=body, auth=self._auth)
        answer.raise_for_status()
        return answer.json()["data"]

    def get(self, url: str) -> bytes:
        answer = self._http.get(url, auth=self._auth)
        answer.raise_for_status()
        return answer.content


def _exports(session: _session, names: dict[str, str]) -> list[str]:
    variables = {
        "entity": names["entity"],
        "project": names["project"],
        "runName": names["name"],
        "liveKeys": ["_step"],
    }
    run = session(PARQUET_QUERY, "RunParquetHistory", variables)["project"]["run"]
    return list(run["parquetHistory"]["parquetUrls"])


class _Push:
    """Sends bytes to the Neptune server's ingest endpoint, which (with --apply lazy) only stores them."""

    def __init__(self) -> None:
        from migrator.destinations.neptune.connection import address_of

        self._url = f"{address_of(os.environ['NEPTUNE_API_TOKEN']).rstrip('/')}/api/client/v1/ingest"
        self._http = requests.Session()
        self._http.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
        exchange = self._url.replace("client/v1/ingest", "backend/v1/authorization/oauth-token")
        answer = self._http.get(exchange, headers={"X-Neptune-Api-Token": os.environ["NEPTUNE_API_TOKEN"]})
        self._http.headers["Authorization"] = f"Bearer {answer.json()['accessToken']}"

    def submit(self, content: bytes) -> None:
        self._http.post(self._url, data=content).raise_for_status()


if __name__ == "__main__":
    functions = {f.__name__: f for f in (public_small, public_long, bare_small, bare_long)}
    print(functions[sys.argv[1]](int(sys.argv[2])))
