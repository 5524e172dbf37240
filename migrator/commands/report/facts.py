"""What a report says of all runs together, gathered in one pass over them; memory does not grow with their number,
but for two numbers for each run that was copied.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappush, heappushpop

from migrations_db.accounts import RunAccount
from migrations_db.states import RunStatus
from migrations_db.types import Project
from migrator.commands.report.words import RunClass, class_of

TOLD_RUNS = 1_000  # that are told one by one: about 2 kB each, and people do not read more


@dataclass(slots=True)
class Sums:
    """Sums over some runs."""

    classes: Counter[RunClass] = field(default_factory=Counter)
    values_written: int = 0
    skipped: int = 0
    changed: int = 0
    size_bytes: int = 0
    copy_s: float = 0.0

    def count(self, run: RunAccount, of_run: RunClass) -> None:
        self.classes[of_run] += 1
        self.values_written += run.values_written
        self.skipped += run.skipped
        self.changed += run.changed
        self.size_bytes += run.size_bytes
        self.copy_s += run.copy_s


@dataclass(slots=True)
class ProjectFacts(Sums):
    """Sums over the runs of one project."""

    project: Project = field(kw_only=True)


@dataclass(slots=True)
class Facts(Sums):
    """Sums over all runs.

    `ways`: how runs were verified, with their number. `told`: numbers of the runs that have something to tell, at most
    `TOLD_RUNS`, the worst first; `tellable` is how many there are. `copied_at` (s since 1970) and `copied_values` have
    an entry for each run that was copied, in any order. `verified_at`: the first and the last verification.
    """

    projects: dict[int, ProjectFacts] = field(default_factory=dict)
    ways: Counter[str] = field(default_factory=Counter)
    told: list[int] = field(default_factory=list)
    tellable: int = 0
    copied_at: array[float] = field(default_factory=lambda: array("d"))
    copied_values: array[float] = field(default_factory=lambda: array("d"))
    values_read: int = 0
    differing: int = 0
    unverifiable: int = 0
    verified_at: tuple[datetime, datetime] | None = None
    drawn: list[RunAccount] = field(default_factory=list)


def gather(
    runs: Iterable[RunAccount], projects: Mapping[int, Project], charts: int, named: Collection[str] = ()
) -> Facts:
    """Go once over all runs. `drawn` are those of which metrics are to be drawn, at most `charts`; if runs are `named`
    (by run id or ref), only those.
    """
    facts, choice = Facts(), _Choice(charts, frozenset(named))
    tellable: dict[tuple[int, bool], list[int]] = {}
    for run in runs:
        of_run = class_of(run)
        _add(facts, run, of_run, projects[run.project_id])
        choice.offer(run, of_run)
        if has_something_to_tell(run):
            facts.tellable += 1
            group = tellable.setdefault((list(RunClass).index(of_run), not run.skipped), [])
            if len(group) < TOLD_RUNS:
                group.append(run.run)
    facts.told = [number for key in sorted(tellable) for number in tellable[key]][:TOLD_RUNS]
    facts.drawn = choice.chosen()
    return facts


def has_something_to_tell(run: RunAccount) -> bool:
    """Whether there is more to say than its line in the table does."""
    trouble = run.status is RunStatus.FAILED or run.reason or run.attempts > 1
    return bool(trouble or run.skipped or run.changed or run.differing or run.unverifiable)


def _add(facts: Facts, run: RunAccount, of_run: RunClass, project: Project) -> None:
    facts.count(run, of_run)
    facts.projects.setdefault(project.id, ProjectFacts(project=project)).count(run, of_run)
    facts.values_read += run.values_read
    facts.differing += run.differing
    facts.unverifiable += run.unverifiable
    if run.copied_at:
        facts.copied_at.append(run.copied_at.timestamp())
        facts.copied_values.append(run.values_written)
    if run.verdict and run.verified_at:
        facts.ways[run.verified_by or "in an unknown way"] += 1
        first, last = facts.verified_at or (run.verified_at, run.verified_at)
        facts.verified_at = min(first, run.verified_at), max(last, run.verified_at)


class _Choice:
    """Runs to draw: those that differ first, then the largest of each project, then the largest of all."""

    def __init__(self, limit: int, named: frozenset[str]) -> None:
        self._limit, self._named = limit, named
        self._differing: list[RunAccount] = []
        self._by_project: dict[int, RunAccount] = {}
        self._largest: list[tuple[int, int, RunAccount]] = []

    def offer(self, run: RunAccount, of_run: RunClass) -> None:
        if not self._limit or run.status is not RunStatus.DONE:
            return
        if self._named and not {run.run_id, run.ref} & self._named:
            return  # a fork's ancestor, which is selected with it
        if of_run is RunClass.UNEXPLAINED and len(self._differing) < self._limit:
            self._differing.append(run)
        best = self._by_project.get(run.project_id)
        if best is None or best.values_written < run.values_written:
            self._by_project[run.project_id] = run
        entry = run.values_written, -run.run, run
        if len(self._largest) < self._limit:
            heappush(self._largest, entry)
        else:
            heappushpop(self._largest, entry)

    def chosen(self) -> list[RunAccount]:
        of_projects = sorted(self._by_project.values(), key=lambda run: -run.values_written)
        largest = [run for *_, run in sorted(self._largest, key=lambda entry: entry[:2], reverse=True)]
        order = {run.run: run for run in [*self._differing, *of_projects, *largest]}
        return list(order.values())[: self._limit]
