"""Checks of which source an existing Neptune run is a copy, before anything is written to it.

A run records its source in `migration/source_url`. A run without it is ours if it was created at the same time: then an
attempt ended between the creation and the first values.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from neptune_api.api.retrieval import search_leaderboard_entries_proto
from neptune_api.models import SearchLeaderboardEntriesParamsDTO
from neptune_api.proto.neptune_pb.api.v1.model.leaderboard_entries_pb2 import ProtoLeaderboardEntriesSearchResultDTO

from migrator.destinations.neptune.errors import check_answer, translated
from migrator.errors import ErrorClass, Rejected

SOURCE_URL, CREATED_AT = "migration/source_url", "sys/creation_time"
SAME_TIME = timedelta(milliseconds=1)  # Neptune returns times in whole milliseconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a run comes from. `source_url` empty: not recorded, or not known."""

    source_url: str
    created_at: datetime

    def check(self, there: Provenance | None, project: str, run_id: str) -> None:
        """Raise `Rejected` if `there`, Neptune's run (None: it has none), is not a copy of this source."""
        if there is None or not self.source_url:
            return
        if there.source_url:
            if there.source_url == self.source_url:
                return
            owner = f"a copy of {there.source_url}"
        elif abs(there.created_at - self.created_at) <= SAME_TIME:
            return
        else:
            owner = f"not a copy made by this tool (created at {there.created_at:%Y-%m-%d %H:%M:%S} UTC)"
        raise Rejected(
            ErrorClass.REJECTED_BY_NEPTUNE,
            f"{project} has a run {run_id} already, which is {owner}. It was left as it is, and this run was not "
            "copied. Choose another project with `migrate inventory --project-map OLD=NEW`, or delete that run in "
            "Neptune; then `migrate retry-failed` and the same command again",
        )


def read_provenance(client: Any, project: str, run_id: str) -> Provenance | None:
    """Read the provenance of a run in Neptune with a client of neptune-api. None: there is no such run."""
    escaped = run_id.replace("\\", r"\\").replace('"', r"\"")
    question = {
        "query": {"query": f'`sys/custom_run_id`:string == "{escaped}"'},
        "attributeFilters": [{"path": SOURCE_URL}, {"path": CREATED_AT}],
        "pagination": {"limit": 1, "offset": 0},
        "experimentLeader": False,
        "sorting": {"dir": "descending", "sortBy": {"name": CREATED_AT, "type": "datetime"}},
    }
    what = f"ask Neptune whose copy {project}:{run_id} is"
    with translated(what):
        response = search_leaderboard_entries_proto.sync_detailed(
            client=client,
            project_identifier=project,
            type=["run"],
            body=SearchLeaderboardEntriesParamsDTO.from_dict(question),
        )
        check_answer(response, what)
        found = ProtoLeaderboardEntriesSearchResultDTO.FromString(response.content).entries
    if not found:
        return None
    values = {attribute.name: attribute for attribute in found[0].attributes}
    source_url = values[SOURCE_URL].string_properties.value if SOURCE_URL in values else ""
    created_ms = values[CREATED_AT].datetime_properties.value if CREATED_AT in values else 0
    return Provenance(source_url, _EPOCH + timedelta(milliseconds=created_ms))
