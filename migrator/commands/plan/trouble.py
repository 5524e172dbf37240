"""What will not arrive as it is: names that change, and runs that will not fit. Neither needs the source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from migrations_db.report_types import RunSummary
from migrations_db.types import Project
from migrator.naming import neptune_run_id, neptune_run_name

EXAMPLES = 3  # of each kind


@dataclass(slots=True)
class Group:
    """Things of one kind: how many, and the first of them as (what, what of it)."""

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, what: str, of_it: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((what, of_it))


@dataclass(slots=True)
class Trouble:
    """`renamed` by kind and reason: (old name, new one). `unfit` by why: (run, more of it)."""

    renamed: defaultdict[tuple[str, str], Group] = field(default_factory=lambda: defaultdict(Group))
    unfit: defaultdict[str, Group] = field(default_factory=lambda: defaultdict(Group))

    def of_projects(self, projects: Iterable[Project]) -> None:
        for project in projects:
            if project.name_note:
                self.renamed["project", project.name_note].add(project.source, project.destination_name or "")

    def of_run(self, run: RunSummary, files: Sequence[int] | None, max_file_bytes: int | None) -> None:
        """`files`: the sizes of a local run's files; None: it is not local, or gone."""
        named = neptune_run_id(run.run_id)
        if named.reason:
            self.renamed["run id", named.reason].add(run.run_id, named.name)
        named = neptune_run_name(run.name, run.run_id)
        if named.reason:
            self.renamed["run name", named.reason].add(run.name, named.name)
        if run.location and files is None:
            self.unfit["nothing lies in its directory any more"].add(run.ref, ", ".join(run.location))
        large = [size for size in files or () if max_file_bytes is not None and size > max_file_bytes]
        if large:
            self.unfit["files over --max-file-size are skipped"].add(run.ref, f"{len(large)} of {len(files or ())}")

    def of_circles(self, circles: Iterable[Sequence[str]]) -> None:
        for circle in circles:
            for ref in circle:
                self.unfit["forks of each other, none of which can be copied first"].add(ref, " -> ".join(circle))
