"""The W&B service as a source: projects, runs, and one run at a time.

    WandbApiSource   lists (this file)    client  the SDK, GraphQL, the key    queries    documents
    WandbRun         reads (run)          errors  failures                     downloads  plain GETs
      |- RunHistory    (history, exports for Parquet files, live for rows not exported yet)
      |- SystemMetrics, Console (streams)
      `- RunFiles (files), RunArtifacts (artifacts)

Requests for a small run: Run, RunParquetHistory, one GET of its export or one HistoryPage, RunOutputArtifacts, then
RunFullHistory (or GetArtifactMembershipFileUrls and a GET, where W&B has exported the system metrics),
RunConsoleLogPage, RunFiles, and a GET for each file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from migrator.errors import ErrorClass, ExitCode, Rejected, Retryable, UserError
from migrator.records import RunListing, RunRef, SourceProject
from migrator.sources.base import RunFilter
from migrator.sources.wandb import queries
from migrator.sources.wandb.answers import Json, next_cursor, nodes, number, parse_time, run_of

if TYPE_CHECKING:
    from migrator.sources.wandb.run import WandbRun

PAGE_RUNS = 500  # in one answer: about 300 kB of light fields; W&B allows 1000 at most
PAGE_PROJECTS = 200
LISTINGS = 3  # of one project, when runs come and go while it is listed

#: What the inventory knows of a run, and what makes another fingerprint when it changes
FINGERPRINT = (
    *("state", "heartbeatAt", "historyLineCount", "displayName", "notes", "tags"),
    *("group", "jobType", "sweepName", "description"),
)


class WandbApiSource:
    """Implements `Source` for api.wandb.ai or a server of one's own. May be used by several threads."""

    service = "wandb"
    problems: Sequence[str] = ()  # W&B's answers are whole, or an error

    def __init__(self, base_url: str | None, api_key: str | None, scratch: Path) -> None:
        """Log in. None: WANDB_BASE_URL (else W&B's own service); WANDB_API_KEY, else ~/.netrc.

        Imports wandb and starts its helper process (0.8 s), whose files lie in `scratch`.
        """
        from migrator.sources.wandb.client import WandbClient
        from migrator.sources.wandb.downloads import Downloads
        from migrator.sources.wandb.run import SweepCache

        self._client = WandbClient(base_url, api_key, scratch)
        self._downloads = Downloads(self._client.base_url, self._client.api_key, self._client.transport)
        self._sweeps = SweepCache(self._client)

    # ------------------------------------------------------------ listing

    def projects(self, entity: str | None) -> Iterator[SourceProject]:
        named = entity or self._client.entity()
        found: list[SourceProject] = []
        cursor: str | None = None
        while True:
            asked = {"entity": named, "cursor": cursor, "perPage": PAGE_PROJECTS}
            page = self._list(queries.PROJECTS, asked, f"projects of {named}").get("models") or {}
            found += [self._project(named, node["name"]) for node in nodes(page)]
            cursor = next_cursor(page, cursor)
            if cursor is None:
                break
        if entity and not found:
            raise UserError(
                f"W&B shows no projects of entity {entity!r} to this account. Check the spelling of --wandb-entity, "
                "and that the account is a member of the team."
            )
        yield from sorted(found, key=lambda project: project.name)

    def count_runs(self, project: SourceProject) -> int | None:
        return int(self._page(project, "{}", None, 1).get("runCount") or 0)

    def runs(self, project: SourceProject, only: RunFilter) -> Iterator[RunListing]:
        """Runs deleted while the pages are read may push others over a page border: then it lists again."""
        filters = json.dumps(mongo_filter(only))
        seen: set[str] = set()
        for _ in range(LISTINGS):
            count = yield from self._listing(project, filters, only, seen)
            if filters != "{}" or len(seen) >= count:  # W&B's count of filtered runs is not relied on
                return
        raise Retryable(
            ErrorClass.BAD_DATA, f"{project.entity}/{project.name}: W&B counts {count} runs, but lists {len(seen)}"
        )

    def _listing(
        self, project: SourceProject, filters: str, only: RunFilter, seen: set[str]
    ) -> Generator[RunListing, None, int]:
        """Yields the runs that are not in `seen` and adds them; returns W&B's count at the end."""
        cursor: str | None = None
        while True:
            found = self._page(project, filters, cursor, PAGE_RUNS)
            page = found.get("runs") or {}
            for node in nodes(page):
                if node["name"] not in seen:
                    seen.add(node["name"])
                    listing = _listing_of(node)
                    if only.accepts(listing):
                        yield listing
            cursor = next_cursor(page, cursor)
            if cursor is None:
                return int(found.get("runCount") or 0)

    def _page(self, project: SourceProject, filters: str, cursor: str | None, size: int) -> Json:
        asked = {"project": project.name, "entity": project.entity, "cursor": cursor, "perPage": size}
        asked |= {"order": "+created_at", "filters": filters}
        path = f"{project.entity}/{project.name}"
        found = self._list(queries.RUNS, asked, f"runs of {path}").get("project")
        if found is None:
            raise UserError(f"W&B shows no project {path} to this account. Check --wandb-entity and --projects.")
        return dict(found)

    def _list(self, document: str, asked: dict[str, Any], what: str) -> Json:
        """A refusal is a person's business here, not a run's."""
        try:
            return self._client.ask(document, asked, what)
        except Rejected as error:
            if error.error_class is ErrorClass.PERMISSION:
                raise UserError(f"This W&B account may not list {what}: {error}", ExitCode.CREDENTIALS) from error
            if error.error_class is ErrorClass.NOT_FOUND:
                raise UserError(f"W&B knows no {what}. Check --wandb-entity and --projects. ({error})") from error
            raise

    def _project(self, entity: str, name: str) -> SourceProject:
        return SourceProject(entity, name, f"{self._client.app_url}/{quote(entity, safe='')}/{quote(name, safe='')}")

    # ------------------------------------------------------------ one run

    def open_run(self, ref: RunRef, scratch: Path) -> WandbRun:
        from migrator.sources.wandb.run import WandbRun

        asked = {"entity": ref.entity, "project": ref.project, "name": ref.run_id}
        node = run_of(self._client.ask(queries.RUN, asked, str(ref)), ref)
        return WandbRun(self._client, self._downloads, self._sweeps, ref, node, scratch)

    def ping(self) -> None:
        self._client.ask(queries.VIEWER, {}, "the account")

    def close(self) -> None:
        self._downloads.close()
        self._client.close()


def mongo_filter(only: RunFilter) -> Json:
    """`only` in the form that W&B's run filters have; `RunFilter.accepts` has the last word.

    Times go out in whole seconds, rounded outwards, and without a zone, as W&B documents them.
    """
    wanted: list[Json] = []
    if only.states:
        wanted.append({"state": {"$in": list(only.states)}})
    if only.tags:
        wanted.append({"tags": {"$in": list(only.tags)}})
    if only.run_ids:
        wanted.append({"name": {"$in": list(only.run_ids)}})
    if only.created_after:
        wanted.append({"createdAt": {"$gte": _utc_text(only.created_after, 0)}})
    if only.created_before:
        wanted.append({"createdAt": {"$lte": _utc_text(only.created_before, 1)}})
    return {"$and": wanted} if wanted else {}


def _utc_text(time: datetime, add_s: int) -> str:
    return datetime.fromtimestamp(int(time.timestamp()) + add_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _listing_of(node: Json) -> RunListing:
    changes = json.dumps([node.get(name) for name in FINGERPRINT])
    return RunListing(
        run_id=node["name"],
        name=node.get("displayName") or "",
        source_state=node.get("state") or "",
        created_at=parse_time(node.get("createdAt")),
        heartbeat_at=parse_time(node.get("heartbeatAt")),
        history_rows=number(node.get("historyLineCount")),
        fingerprint=hashlib.sha256(changes.encode()).hexdigest()[:32],
        tags=tuple(node.get("tags") or ()),
    )
