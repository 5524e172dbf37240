"""Who we are at W&B, and what kind of server it is: asked once, by `migrate doctor`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice

import requests

from migrator.errors import RunError
from migrator.listed import RunRef, SourceProject
from migrator.services import Introduction, ahead_s
from migrator.sources.wandb import queries
from migrator.sources.wandb.answers import nodes
from migrator.sources.wandb.client import WandbClient
from migrator.sources.wandb.glance import LOOK_S, look
from migrator.sources.wandb.run_lists import OLDEST

PROJECTS_TRIED = 5  # until one has a run


def introduce(
    client: WandbClient, projects: Callable[[str | None], Iterator[SourceProject]], entity: str | None
) -> Introduction:
    """Asks for the account, the projects of `entity` (None: the account's own) and one of their runs.

    Raises `MigratorError`, but not where only that run cannot be opened.
    """
    viewer = client.ask(queries.ACCOUNT, {}, "the account").get("viewer") or {}
    spaces = [entity, viewer.get("entity"), *(team.get("name") for team in nodes(viewer.get("teams") or {}))]
    found = list(projects(entity))
    tried, trouble = _try_a_run(client, found)
    return Introduction(
        address=client.base_url,
        account=viewer.get("username") or "",
        spaces=list(dict.fromkeys(filter(None, spaces))),
        projects=len(found),
        version=_version(client),
        ahead_s=_ahead_s(client),
        lacks=client.lacks,
        tried=tried,
        trouble=trouble,
    )


def _try_a_run(client: WandbClient, projects: list[SourceProject]) -> tuple[str, str]:
    """A run that could be opened, or why the first one could not be. Finds out what an old server lacks, too."""
    for project in islice(projects, PROJECTS_TRIED):
        path = f"{project.entity}/{project.name}"
        asked = {"entity": project.entity, "project": project.name, "filters": json.dumps({}), "order": OLDEST}
        try:
            listed = client.ask(queries.RUNS, asked | {"cursor": None, "perPage": 1}, f"runs of {path}")
            for node in nodes((listed.get("project") or {}).get("runs") or {}):
                ref = RunRef(project.entity, project.name, node["name"])
                client.ask(queries.RUN, {"entity": ref.entity, "project": ref.project, "name": ref.run_id}, str(ref))
                return str(ref), ""
        except RunError as error:
            return "", str(error)
    return "", ""


def _version(client: WandbClient) -> str:
    """Of a server of one's own; W&B's own service does not tell."""
    try:
        info = client.ask(queries.SERVER_INFO, {}, "the server's version").get("serverInfo") or {}
    except RunError:
        return ""
    return str((info.get("latestLocalVersionInfo") or {}).get("versionOnThisInstanceString") or "")


def _ahead_s(client: WandbClient) -> float | None:
    asked_at = time.time()
    try:
        with look(client.base_url, client.transport, LOOK_S) as answer:
            return ahead_s(answer.headers.get("Date"), asked_at, time.time())
    except (requests.RequestException, OSError):
        return None
