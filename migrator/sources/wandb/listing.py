"""The W&B service as a source: projects, runs, and one run at a time.

    WandbApiSource   lists (this file)    client  the SDK, GraphQL, the key    queries    documents
    RunLists         (run_lists)          connections  pages of lists
    WandbRun         reads (run)          errors  failures                     downloads  plain GETs
      |- RunHistory    (history, exports for Parquet files, live for rows not exported yet)
      |- SystemMetrics, ConsoleLog (streams)
      `- RunFiles (files), RunArtifacts (artifacts)

Requests for a small run: Run, RunParquetHistory, one GET of its export or one HistoryPage, RunOutputArtifacts, then
RunFullHistory (or GetArtifactMembershipFileUrls and a GET, where W&B has exported the system metrics),
RunConsoleLogPage, RunFiles, and a GET for each file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from migrator.errors import ErrorClass, ExitCode, Rejected, Retryable, UserError
from migrator.listed import LeftOut, RunListing, RunRef, SourceProject
from migrator.sources.base import RunFilter
from migrator.sources.wandb import queries
from migrator.sources.wandb.answers import Json, fork_of, nodes, number, run_of
from migrator.sources.wandb.connections import is_too_much, pages
from migrator.sources.wandb.run_lists import OLDEST, RunLists
from migrator.sources.wandb_facts import iso_time

if TYPE_CHECKING:
    from migrator.services import Introduction
    from migrator.sources.wandb.run import WandbRun

PAGE_PROJECTS = 200

#: The fields of a run that the inventory knows and that make up its fingerprint
FINGERPRINT = (
    *("state", "heartbeatAt", "historyLineCount", "displayName", "notes", "tags"),
    *("group", "jobType", "sweepName", "description"),
)


class WandbApiSource:
    """Implements `Source` for api.wandb.ai or a self-hosted server. May be used by several threads."""

    service = "wandb"
    left_out: Sequence[LeftOut] = ()

    def __init__(self, base_url: str | None, api_key: str | None, scratch: Path, timeout_s: int | None = None) -> None:
        """Log in. `base_url` None: WANDB_BASE_URL, else W&B's own service. `api_key` None: WANDB_API_KEY, else
        ~/.netrc. `timeout_s`: for one request with all its tries.

        Imports wandb and starts its helper process (0.8 s), whose files are in `scratch`.
        """
        from migrator.sources.wandb.client import WandbClient
        from migrator.sources.wandb.downloads import Downloads
        from migrator.sources.wandb.sweeps import SweepCache

        self._client = WandbClient(base_url, api_key, scratch, timeout_s)
        self._downloads = Downloads(self._client.base_url, self._client.api_key, self._client.transport)
        self._sweeps = SweepCache(self._client)
        self.problems: list[str] = []
        self._missing: dict[SourceProject, str | None] = {}

    # ------------------------------------------------------------ listing

    def projects(self, entity: str | None) -> Iterator[SourceProject]:
        named = entity or self._client.entity()
        found: list[SourceProject] = []

        def ask(cursor: str | None, at_most: int) -> Json:
            asked = {"entity": named, "cursor": cursor, "perPage": at_most}
            return self._list(queries.PROJECTS, asked, f"projects of {named}").get("models") or {}

        for page in pages(ask, PAGE_PROJECTS):
            found += [self._project(named, node["name"]) for node in nodes(page)]
        if entity and not found:
            raise UserError(
                f"W&B shows no projects of entity {entity!r} to this account. Check the spelling of --wandb-entity, "
                "and that the account is a member of the team."
            )
        yield from sorted(dict.fromkeys(found), key=lambda project: project.name)

    def count_runs(self, project: SourceProject) -> int | None:
        try:
            return number(self._page(project, {}, OLDEST, None, 0).get("runCount"))
        except Retryable as error:
            if not is_too_much(error):
                raise
            return None

    def runs(self, project: SourceProject, only: RunFilter) -> Iterator[RunListing]:
        """A fork whose parent is not listed (perhaps deleted) is a root: W&B returns inherited rows with its own."""
        if only.wandb:
            self._check_filter(project, dict(only.wandb))
        lists = RunLists(partial(self._page, project), self.ping, mongo_filter(only))
        accepted: dict[str, bool] = {}
        for node in lists.nodes():
            listing = _listing_of(node)
            if listing.fork and not accepted.get(listing.fork.run_id):
                listing = replace(listing, fork=None)
            accepted[listing.run_id] = only.accepts(listing)
            if accepted[listing.run_id]:
                yield listing
        self._missing[project] = missing = lists.missing()
        if missing:
            self.problems.append(f"incomplete: {project.entity}/{project.name}: {missing}")

    def missing(self, project: SourceProject) -> str | None:
        return self._missing.get(project)

    def _check_filter(self, project: SourceProject, filters: Json) -> None:
        """`UserError` if W&B does not accept the user's own filter.

        W&B answers some mistakes with HTTP 400 (`summary.loss`) and others with 500 (a list of tags), so a failure is
        blamed on the filter if W&B answers the same request without it.
        """
        try:
            self._page(project, filters, OLDEST, None, 0)
        except (UserError, Rejected, Retryable) as error:
            if isinstance(error, Retryable) and not is_too_much(error):
                raise
            self._page(project, {}, OLDEST, None, 0)
            raise UserError(
                f"--filter: W&B refuses it: {error}. Keys are such as config.lr, summary_metrics.loss, state and tags"
            ) from error

    def _page(self, project: SourceProject, filters: Json, order: str, cursor: str | None, size: int) -> Json:
        """Implements `AskRuns`: returns `project` of the answer."""
        asked: Json = {"project": project.name, "entity": project.entity, "filters": json.dumps(filters)}
        asked |= {"cursor": cursor, "perPage": size, "order": order} if size else {}
        path = f"{project.entity}/{project.name}"
        found = self._list(queries.RUNS if size else queries.RUN_COUNT, asked, f"runs of {path}").get("project")
        if found is None:
            raise UserError(f"W&B shows no project {path} to this account. Check --wandb-entity and --projects.")
        return dict(found)

    def _list(self, document: str, asked: dict[str, Any], what: str) -> Json:
        """Send a document for listing. A refusal is a `UserError`, because it concerns no single run."""
        try:
            return self._client.ask(document, asked, what)
        except Rejected as error:
            if error.error_class is ErrorClass.PERMISSION:
                raise UserError(f"This W&B account may not list {what}: {error}", ExitCode.CREDENTIALS) from error
            if error.error_class is ErrorClass.NOT_FOUND:
                raise UserError(f"W&B has no {what}. Check --wandb-entity and --projects. ({error})") from error
            raise

    def _project(self, entity: str, name: str) -> SourceProject:
        return SourceProject(entity, name, f"{self._client.app_url}/{quote(entity, safe='')}/{quote(name, safe='')}")

    # ------------------------------------------------------------ one run

    def open_run(self, ref: RunRef, scratch: Path) -> WandbRun:
        from migrator.sources.wandb.run import WandbRun

        asked = {"entity": ref.entity, "project": ref.project, "name": ref.run_id}
        node = run_of(self._client.ask(queries.RUN, asked, str(ref)), ref)
        return WandbRun(self._client, self._downloads, self._sweeps, ref, node, scratch)

    def introduce(self, entity: str | None) -> Introduction:
        """Who is logged in, and where. Raises as `projects` does."""
        from migrator.sources.wandb.introduction import introduce

        return introduce(self._client, self.projects, entity)

    def ping(self) -> None:
        self._client.ask(queries.VIEWER, {}, "the account")

    def close(self) -> None:
        self._downloads.close()
        self._client.close()


def mongo_filter(only: RunFilter) -> Json:
    """Convert `only` to the form of W&B's run filters. `RunFilter.accepts` makes the final decision.

    Times are sent in whole seconds, rounded outwards, and without a zone, as W&B documents them.
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
    if only.wandb:
        wanted.append(dict(only.wandb))
    return {"$and": wanted} if wanted else {}


def _utc_text(time: datetime, add_s: int) -> str:
    return datetime.fromtimestamp(int(time.timestamp()) + add_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _listing_of(node: Json) -> RunListing:
    changes = json.dumps([node.get(name) for name in FINGERPRINT])
    return RunListing(
        run_id=node["name"],
        name=node.get("displayName") or "",
        source_state=node.get("state") or "",
        created_at=iso_time(node.get("createdAt")),
        heartbeat_at=iso_time(node.get("heartbeatAt")),
        history_rows=number(node.get("historyLineCount")),
        fingerprint=hashlib.sha256(changes.encode()).hexdigest()[:32],
        fork=fork_of(node, node["name"]),
        tags=tuple(node.get("tags") or ()),
        group=node.get("group") or None,
        sweep=node.get("sweepName") or None,
    )
