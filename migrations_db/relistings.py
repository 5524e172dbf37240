"""What sources had when they were listed again: runs that no inventory has listed, and runs that are gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import and_, delete, insert, or_, select

from migrations_db.columns import now_plus, safe
from migrations_db.database import Database
from migrations_db.models import Relisting, Run
from migrations_db.states import RunStatus


@dataclass(frozen=True, slots=True)
class ListedProject:
    """A project as its source had it. `runs` None: the project is not there; `known` None: no inventory has listed it.

    `new` counts runs that no inventory has listed, `gone` those that the source no longer has. The examples are run
    ids. `problem`: why the list may be incomplete; then nothing counts as gone.
    """

    source_service: str
    entity: str
    name: str
    runs: int | None
    known: int | None
    new: int = 0
    new_examples: Sequence[str] = ()
    gone: int = 0
    gone_examples: Sequence[str] = ()
    problem: str | None = None

    @property
    def source(self) -> str:
        return f"{self.entity}/{self.name}"


class RelistDifference(NamedTuple):
    """Run ids of a project: `new` ones that only the source has, and `gone` ones that only the database has.

    Runs that an inventory has left out are known, but are not gone.
    """

    runs: int
    known: int
    new: Sequence[str]
    gone: Sequence[str]


class Relistings:
    """`store.relistings`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def compare(self, project_id: int, run_ids: Iterable[str]) -> RelistDifference:
        """Compare the run ids that a source lists with the runs of the project that are known."""
        query = select(Run.run_id, Run.status).where(Run.project_id == project_id).order_by(Run.id)
        with self._database.read() as connection:
            known = {row.run_id: row.status for row in connection.execute(query)}
        listed = dict.fromkeys(map(safe, run_ids))
        return RelistDifference(
            runs=len(listed),
            known=len(known),
            new=[run_id for run_id in listed if run_id not in known],
            gone=[run_id for run_id, status in known.items() if run_id not in listed and status != RunStatus.SKIPPED],
        )

    def save(self, listed: Sequence[ListedProject], *, whole: bool) -> None:
        """Replace what earlier lists said about these projects or, if the list is `whole`, about all."""
        rows = [
            {
                "source_service": one.source_service,
                "entity": safe(one.entity),
                "project": safe(one.name),
                "runs": one.runs,
                "known": one.known,
                "new": one.new,
                "new_examples": [safe(run_id) for run_id in one.new_examples],
                "gone": one.gone,
                "gone_examples": [safe(run_id) for run_id in one.gone_examples],
                "problem": None if one.problem is None else safe(one.problem),
            }
            for one in listed
        ]
        same = or_(
            *(
                and_(
                    Relisting.source_service == row["source_service"],
                    Relisting.entity == row["entity"],
                    Relisting.project == row["project"],
                )
                for row in rows
            )
        )
        with self._database.write() as connection:
            if whole:
                connection.execute(delete(Relisting))
            elif rows:
                connection.execute(delete(Relisting).where(same))
            if rows:
                connection.execute(insert(Relisting).values(listed_at=now_plus()), rows)

    def read(self) -> tuple[datetime, list[ListedProject]] | None:
        """The time of the oldest list that still counts, and what was found, by project. None: nothing was listed."""
        query = select(Relisting.__table__).order_by(Relisting.entity, Relisting.project, Relisting.source_service)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        if not rows:
            return None
        listed = [
            ListedProject(
                source_service=row.source_service,
                entity=row.entity,
                name=row.project,
                runs=row.runs,
                known=row.known,
                new=row.new,
                new_examples=row.new_examples,
                gone=row.gone,
                gone_examples=row.gone_examples,
                problem=row.problem,
            )
            for row in rows
        ]
        return min(row.listed_at for row in rows), listed
