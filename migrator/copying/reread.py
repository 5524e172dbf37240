"""Reads a run of the source again and maps it as it was mapped for its copy, by the same parts with the same options.

Nothing is sent. What is found is kept as digests, as they were kept during the copy, and as points, to be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from migrations_db.types import Claim
from migrator.copying.copy import CopyPlan, RunTools, context_of, first_values, run_target
from migrator.copying.digests import AnyDigest, of_value
from migrator.copying.pipeline import files_of
from migrator.copying.points import PointSpool, columns_of
from migrator.copying.run_digests import Digests, measure
from migrator.copying.verify_words import value_told
from migrator.listed import RunRef
from migrator.parts import PARTS
from migrator.records import Assign, LocalFile, Points, Record
from migrator.sources.base import Source

#: what a part's cursor has decided about paths, or found out about the source; the rest says how far the copy is
DECIDED: Mapping[str, Collection[str]] = {
    "config": ("types",),
    "summary": ("types",),
    "history": ("series", "surveyed", "counted", "bad_rows", "short"),
    "system": ("names",),
    "files": ("short",),
}


@dataclass(slots=True)
class Mapped:
    """What a source has, as it would be sent. `texts` has single values in words, `files` the md5s of file series by
    step in millionths; both by path.
    """

    points: PointSpool
    digests: Mapping[str, tuple[str, AnyDigest]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[int, str]] = field(default_factory=dict)

    def take(self, records: Iterable[Record]) -> None:
        """Keep what is in some records."""
        records = list(records)
        for path, column in columns_of(records):
            self.points.add(path, column)
        for record in records:
            match record:
                case Assign(values):
                    told = {path: value for path, value in values.items() if isinstance(value, str)}
                    self.texts |= {path: value_told(value, of_value(value)) for path, value in told.items()}
                case Points(step, _, values):
                    for path, value in values.items():
                        if isinstance(value, LocalFile):
                            self.files.setdefault(path, {})[round(step * 1e6)] = value.md5


@dataclass(frozen=True, slots=True)
class Copied:
    """A run whose copy is done. `cursors`: by part, where the copy has ended; only these parts were copied."""

    claim: Claim
    cursors: Mapping[str, Mapping[str, Any]]


def read_again(copied: Copied, source: Source, plan: CopyPlan, tools: RunTools) -> Mapped:
    """Read the parts that were copied, from their start. `plan` has the options with which they were copied.

    `tools.control.check` is called between batches and may raise. Raises `RunError` or `UserError`. Until they are
    closed, the points of a large run are in the scratch directory.
    """
    claim, mapped = copied.claim, Mapped(PointSpool(tools.scratch / "points"))
    ref = RunRef(claim.entity, claim.project, claim.run_id, claim.location)
    try:
        with source.open_run(ref, tools.scratch) as run:
            target, _ = run_target(claim, run.attributes(), plan)
            context = context_of(claim, target, plan, tools)
            digests = Digests.begun(first_values(target))
            mapped.take([Assign(first_values(target))])
            for name in (name for name in PARTS if name in copied.cursors):
                cursor = {key: value for key, value in copied.cursors[name].items() if key in DECIDED.get(name, ())}
                for batch in PARTS[name](run, cursor, context):
                    tools.control.check()
                    digests.add(measure(batch.records))
                    mapped.take(batch.records)
                    for file in files_of(batch.records):
                        run.release(file)
    except BaseException:
        mapped.points.close()
        raise
    mapped.digests = digests.known
    return mapped
