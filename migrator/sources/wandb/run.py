"""One run at W&B, read part by part."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from migrator.errors import ErrorClass, Rejected
from migrator.json_text import parse_json
from migrator.listed import RunRef
from migrator.records import (
    Artifact,
    ConsoleLine,
    Document,
    Entry,
    HistoryColumns,
    HistoryRow,
    LocalFile,
    RunAttributes,
    Scalar,
    SourceFile,
    SystemRow,
)
from migrator.sources.base import Survey
from migrator.sources.wandb.answers import LIVE, Json, fork_of, number, parsed, step_metrics
from migrator.sources.wandb.artifacts import RunArtifacts
from migrator.sources.wandb.client import WandbClient
from migrator.sources.wandb.downloads import Downloads
from migrator.sources.wandb.files import RunFiles
from migrator.sources.wandb.history import RunHistory
from migrator.sources.wandb.live import HistoryFacts
from migrator.sources.wandb.streams import ConsoleLog, SystemMetrics
from migrator.sources.wandb.sweeps import SweepCache
from migrator.sources.wandb_facts import iso_time

log = logging.getLogger(__name__)

WRAPPER = {"value", "desc"}  # keys of the dict in which W&B wraps each top-level config value


class WandbRun:
    """Implements `SourceRun`. `node` is the run in the answer to `queries.RUN`."""

    def __init__(
        self, client: WandbClient, downloads: Downloads, sweeps: SweepCache, ref: RunRef, node: Json, scratch: Path
    ) -> None:
        self._client, self._sweeps, self._ref, self._node = client, sweeps, ref, node
        self._ended = node.get("state") not in LIVE
        self._files = RunFiles(client, downloads, ref, scratch)
        self._artifacts = RunArtifacts(client, downloads, ref, scratch)
        self._history = RunHistory(client, downloads, ref, self._facts(), scratch)
        self._system = SystemMetrics(client, ref, self._artifacts, self._ended)
        self._console = ConsoleLog(client, ref, self._files, self._ended)

    # ------------------------------------------------------------ single values

    def attributes(self) -> RunAttributes:
        node, ref = self._node, self._ref
        parts = (ref.entity, ref.project, "runs", ref.run_id)
        url = "/".join([self._client.app_url, *(quote(part, safe="") for part in parts)])
        known: dict[str, Scalar | None] = {
            "id": ref.run_id,
            "name": node.get("displayName"),
            "url": url,
            "path": str(ref),
            "entity": ref.entity,
            "project": ref.project,
            "state": node.get("state"),
            "created_at": iso_time(node.get("createdAt")),
            "heartbeat_at": iso_time(node.get("heartbeatAt")),
            "job_type": node.get("jobType"),
            "group": node.get("group"),
            "sweep": node.get("sweepName"),
            "commit": node.get("commit"),
            "user": (node.get("user") or {}).get("username"),
            "description": node.get("description"),
            "history_line_count": number(node.get("historyLineCount")),
            "last_history_step": self._facts().last_step,
            "read_only": node.get("readOnly"),
        }
        created = known["created_at"]
        return RunAttributes(
            name=node.get("displayName"),
            created_at=created if isinstance(created, datetime) else None,
            url=url,
            notes=node.get("notes"),
            tags=tuple(node.get("tags") or ()),
            group=node.get("group"),
            wandb={name: value for name, value in {**known, **self._step_metrics()}.items() if value is not None},
            sweep=self._sweeps.of(ref, sweep) if (sweep := node.get("sweepName")) else None,
            fork=fork_of(node, ref.run_id),
        )

    def _step_metrics(self) -> dict[str, str]:
        own = self.config().values.get("_wandb")
        defined = step_metrics(own.get("m")) if isinstance(own, Mapping) else {}
        return {f"step_metric/{key}": defined[key] for key in sorted(defined)}  # W&B returns them in random order

    def findings(self) -> Sequence[Entry]:
        return ()

    def config(self) -> Document:
        """The config, including `_wandb`, without the wrappers around values. W&B stores wrapped and bare values."""
        document = self._document("config")
        return Document({key: _unwrapped(value) for key, value in document.values.items()}, document.raw)

    def summary(self) -> Document:
        return self._document("summaryMetrics")

    def _document(self, name: str) -> Document:
        found = self._node.get(name) or "{}"
        text = found if isinstance(found, str) else json.dumps(found)
        try:
            values = parse_json(text)
        except ValueError as error:
            raise Rejected(ErrorClass.BAD_DATA, f"{name} of {self._ref} is not JSON") from error
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise Rejected(ErrorClass.BAD_DATA, f"{name} of {self._ref} is not a JSON object")
        return Document(values, text.encode("utf-8", "surrogatepass"))

    # ------------------------------------------------------------ series

    def survey(self) -> Survey:
        return self._history.survey()

    def history(self, after_step: float | None) -> Iterator[list[HistoryRow]]:
        return self._history.pages(after_step)

    def history_pages(self, after_step: float | None) -> Iterator[list[HistoryRow] | HistoryColumns]:
        return self._history.mixed_pages(after_step)

    def system(self, first_row: int) -> Iterator[list[SystemRow]]:
        return self._system.pages(first_row)

    def partial(self, part: str) -> str | None:
        match part:
            case "system":
                return self._system.partial
            case "console":
                return self._console.partial
            case "artifacts":
                return self._artifacts.partial
        return None

    def console(self, first_line: int) -> Iterator[list[ConsoleLine]]:
        return self._console.pages(first_line)

    def _facts(self) -> HistoryFacts:
        keys = parsed(self._node.get("historyKeys")) or {}
        rows, summary = number(self._node.get("historyLineCount")), str(self._node.get("summaryMetrics") or "")
        step = keys.get("lastStep")
        # If the server does not say, the summary has it too. (In a run without rows, the user has set that key.)
        if "lastStep" not in keys and rows != 0:
            step = self._summary_step()
        if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 <= step < math.inf:
            step = None
        return HistoryFacts(step, rows or 0, len(summary), self._ended, rows is None and '"_step"' in summary)

    def _summary_step(self) -> Any:
        try:
            return self.summary().values.get("_step")
        except Rejected:
            return None

    # ------------------------------------------------------------ files

    def files(self) -> Sequence[SourceFile]:
        return self._files.all()

    def file_count(self) -> int:
        return self._files.count()

    def fetch(self, name: str) -> LocalFile | None:
        return self._files.fetch(name)

    def release(self, file: LocalFile) -> None:
        self._files.release(file)
        self._artifacts.release(file)

    def artifacts(self) -> Iterator[Artifact]:
        return self._artifacts.logged()

    def fetch_artifact_file(self, artifact: Artifact, name: str) -> LocalFile:
        return self._artifacts.fetch(artifact, name)

    def used_artifacts(self) -> Sequence[str]:
        return self._artifacts.used()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._history.close()
        self._system.close()


def _unwrapped(value: Any) -> Any:
    """Remove W&B's wrapper `{"desc": ..., "value": ...}` once: a user's own dict of that form inside it stays."""
    if isinstance(value, Mapping) and "value" in value and value.keys() <= WRAPPER:
        return value["value"]
    return value
