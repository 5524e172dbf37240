"""`migrate report`: one self-contained HTML file for those who own the runs.

facts       sums over all runs, in one pass
metrics     curves of some runs, read back from the destination;  source  the same from the source
words       the classes of runs, and the verdict
contents    what stands in the page, section by section
page        the template (in templates/), and the door that every text passes
svg         pictures;  buckets  long curves in few points
output      the file
"""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from migrations_db import open_store
from migrations_db.selecting import Wanted
from migrations_db.store import Store
from migrations_db.types import Selection
from migrator.commands.choosing import chosen
from migrator.commands.report.contents import Material, contents
from migrator.commands.report.facts import Facts, gather
from migrator.commands.report.metrics import Reader, RunPictures
from migrator.commands.report.output import Written, check_place, write_report
from migrator.commands.report.page import LAST_LINE, pages
from migrator.commands.report.source import SourceReader
from migrator.commands.report.words import RunClass, headline
from migrator.commands.status.conclusions import Bound, bound_to, find_run
from migrator.commands.text import counted, message_text
from migrator.errors import UserError
from migrator.job.scratch import scratch_directory
from migrator.parts import STANDARD_PARTS
from migrator.redaction import without_keys
from migrator.settings import REPORT, Globals, tool_version, work_directory
from migrator.visible import tell, visible

CHARTS = 3  # runs whose metrics are drawn, unless --charts says otherwise
MOST_NAMED = 20  # of runs that are asked for by name


@dataclass(frozen=True, slots=True)
class ReportQuery:
    """What to report on: one `run`, or the runs `wanted`. `charts` None: `CHARTS`, or the runs asked for by name.

    `source`: metrics of the source are drawn, too.
    """

    run: str = ""
    wanted: Wanted = field(default_factory=Wanted)
    out: Path = REPORT
    charts: int | None = None
    source: bool = False
    force: bool = False
    open: bool = False


def report_command(query: ReportQuery, common: Globals, now: datetime) -> None:
    """Write the file, and say where it is and what it says."""
    check_place(query.out, force=query.force)
    with open_store(common.db, create=False) as store:
        only = _selection(store, query)
        bound = bound_to(store)
        projects = store.accounts.projects()
        named = query.wanted.run_ids
        usual = min(len(named), MOST_NAMED) or (1 if query.run else CHARTS)
        charts_wanted = usual if query.charts is None else query.charts
        facts = gather(store.accounts.runs(only), projects, charts_wanted, named)
        charts = _charts(Reader(store, bound, projects), facts, with_source=query.source)
        material = Material(
            store=store,
            only=only,
            overview=store.reports.overview(only, STANDARD_PARTS),
            bound=bound,
            facts=facts,
            charts=charts,
            scope=_scope(query),
            source_read=query.source,
            created=now,
            version=tool_version(),
        )
        written = write_report(query.out, pages(contents(material)), LAST_LINE)
    if common.json:
        print(json.dumps(_document(written, facts, bound, charts)))
    elif not common.quiet:
        _say(written, facts, charts)
    if query.open and not webbrowser.open(written.path.absolute().as_uri()):
        tell("No browser could be started: open the file yourself")


def _charts(reader: Reader, facts: Facts, *, with_source: bool) -> list[RunPictures]:
    if not (with_source and facts.drawn):
        return list(reader.pictures(facts.drawn))
    with scratch_directory(work_directory(None)) as scratch:
        reader.source = SourceReader(reader.store, scratch)
        try:
            return list(reader.pictures(facts.drawn))
        finally:
            reader.source.close()


def _selection(store: Store, query: ReportQuery) -> Selection:
    if not query.run:
        return chosen(store, query.wanted)
    if query.wanted != Wanted():
        raise UserError("name a RUN, or choose runs by options: not both")
    return Selection(runs=(find_run(store, query.run).run,))


def _scope(query: ReportQuery) -> str:
    """In words, which runs it is about; empty: all."""
    if query.run:
        return f"run {query.run}"
    chosen_by = [
        f"{'all ' if name.startswith('exclude') else ''}{name.replace('_', ' ')} {', '.join(values)}"
        for name, values in asdict(query.wanted).items()
        if values
    ]
    return "; ".join(chosen_by)


def _say(written: Written, facts: Facts, charts: Sequence[RunPictures]) -> None:
    _, told = headline(facts.classes)
    print(told)
    runs = counted(sum(facts.classes.values()), "run")
    print(f"{visible(str(written.path.absolute()))}: {runs}, {written.size_bytes / 1e6:.1f} MB")
    print(f"sha256 of all but its last line: {written.sha256}")
    for problem in _problems(charts):
        tell(f"Not drawn: {problem}")


def _problems(charts: Sequence[RunPictures]) -> list[str]:
    """Why runs, or their sources, could not be drawn, each once."""
    told = [told for one in charts for told in (one.problem, one.source_problem) if told]
    return [without_keys(message_text(problem)) for problem in dict.fromkeys(told)]


def _document(written: Written, facts: Facts, bound: Bound, charts: Sequence[RunPictures]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "file": str(written.path.absolute()),
        "bytes": written.size_bytes,
        "sha256": written.sha256,
        "workspace": bound.workspace,
        "runs": {word.replace(" ", "_"): facts.classes[word] for word in RunClass},
        "charts": sum(len(one.curves) for one in charts),
        "problems": _problems(charts),
    }
