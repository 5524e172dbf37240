"""What stands in a report, section by section, in the words of `migrate status`."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from markupsafe import Markup
from rich.filesize import decimal

from migrations_db.accounts import RunAccount, RunStory
from migrations_db.report_types import LedgerGroup, Overview
from migrations_db.states import RunStatus
from migrations_db.store import Store
from migrations_db.types import Project, Selection
from migrator.commands.left_out import meaning
from migrator.commands.relist import listed_lines
from migrator.commands.report.buckets import INTERVALS, of_steps
from migrator.commands.report.facts import Facts, ProjectFacts
from migrator.commands.report.metrics import RunPictures
from migrator.commands.report.svg import bar, curve, frame_of, stack
from migrator.commands.report.words import CLASSES_MEAN, RunClass, class_of, headline
from migrator.commands.runs import status_text
from migrator.commands.status.conclusions import (
    NEVER_COPIED,
    Bound,
    destination_of,
    is_running,
    next_step,
    skips_and_notes,
    verdicts_text,
)
from migrator.commands.status.run import next_for, time_text
from migrator.commands.text import counted, left_out_text
from migrator.commands.verify import BLIND
from migrator.copying.findings import Level
from migrator.figures import age_text, amount
from migrator.naming import MAPPING_VERSION
from migrator.records import Kind

SHOWN = tuple(CLASSES_MEAN)
GROUPS = 100  # reasons in a table
EXAMPLES = 3  # paths told for each reason of a run
REASONS_PER_RUN = 25
FINDINGS_PER_RUN = 20
COMMANDS = 40
WRITERS = ("wandb", "neptune-scale", "neptune-api")  # whose versions matter


@dataclass(frozen=True, slots=True)
class Material:
    """What a report is made of. `scope`: in words, which runs it is about; empty: all. `source_read`: for `charts`."""

    store: Store
    only: Selection
    overview: Overview
    bound: Bound
    facts: Facts
    charts: Sequence[RunPictures]
    scope: str
    source_read: bool
    created: datetime
    version: str


def contents(material: Material) -> dict[str, Any]:
    """The context of the template; `rows` and `stories` come as they are read, in this order."""
    facts, overview = material.facts, material.overview
    worst, told = headline(facts.classes)
    skips, notes = skips_and_notes(overview)
    rows = _Rows(material)
    context = {
        "created": material.created,
        "version": material.version,
        "destination": _destination(material.bound),
        "scope": material.scope,
        "worst": worst,
        "headline": told,
        "verdicts": verdicts_text(overview.verdicts),
        "verified": _verified(facts),
        "next_step": next_step(overview, material.bound),
        "words": [word for word in SHOWN if facts.classes[word]],
        "classes": [(word, facts.classes[word], CLASSES_MEAN[word]) for word in SHOWN if facts.classes[word]],
        "stack": _stack(facts),
        "figures": _figures(facts),
        "limits": list(_limits(material)),
        "projects": _projects(facts, material.bound.workspace),
        "progress": _progress(facts),
        "failures": overview.failures,
        "ledgers": [
            _ledger("skips", "Skipped values, by reason", "Skipped", skips),
            _ledger("notes", "Written, but changed", "Changed", notes),
        ],
        "problems": [_problem(group.cause, group.count, group.examples) for group in overview.problems],
        "reasons": overview.reasons,
        "charts": material.charts,
        "place": "Neptune's offline files" if material.bound.offline else "Neptune",
        "intervals": INTERVALS,
        "source_read": material.source_read,
        "total": sum(facts.classes.values()),
        "rows": rows.rows(),
        "stories": rows.stories(),
        "told_count": len(facts.told),
        "untold": facts.tellable - len(facts.told),
        "versions": [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in WRITERS)],
        "mapping_version": MAPPING_VERSION,
        "database": material.store.address,
        "commands": material.store.accounts.invocations(COMMANDS),
    }
    return context | {"sections": list(_sections(context))}


def _destination(bound: Bound) -> str:
    if bound.workspace is None:
        return "Neptune's offline files" if bound.offline else "Neptune"
    return f"Neptune, workspace {bound.workspace}" + (", by way of offline files" if bound.offline else "")


def _stack(facts: Facts) -> Markup:
    total = sum(facts.classes.values()) or 1
    told = ", ".join(f"{facts.classes[word]:,} {word}" for word in SHOWN if facts.classes[word])
    return stack(f"Runs by result: {told}", [(word.replace(" ", "-"), facts.classes[word] / total) for word in SHOWN])


def _verified(facts: Facts) -> str:
    """When runs were verified; empty: never."""
    first, last = (time_text(at) for at in facts.verified_at) if facts.verified_at else ("", "")
    return first if first == last else f"{first} to {last}"


def _figures(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "runs", f"{sum(facts.classes.values()):,}"
    yield "projects", f"{len(facts.projects):,}"
    yield "values read", f"{facts.values_read:,}"
    yield "values written", f"{facts.values_written:,}"
    yield "values skipped", f"{facts.skipped:,}"
    yield "values changed", f"{facts.changed:,}"
    yield "size", decimal(facts.size_bytes)
    yield "time spent on runs", age_text(facts.copy_s)
    if facts.copy_s:
        yield "speed of one run", f"{amount(facts.values_written / facts.copy_s)} values/s"


def _limits(material: Material) -> Iterator[str]:
    """What was not listed, not copied, not verified, or cannot be told, in sentences."""
    facts, overview = material.facts, material.overview
    listed_at = material.store.accounts.listed_at()
    if listed_at:
        yield f"The last inventory was made on {time_text(listed_at)}. Runs that came later are not listed."
    else:
        yield "No inventory has ended well: there may be runs that are not listed."
    listing = material.store.relistings.read()
    if listing and (listed_at is None or listing[0] > listed_at):
        yield f"On {time_text(listing[0])} the source was compared with this list."
        yield from (f"{line[:-1] if line.endswith('.') else line}." for line in listed_lines(listing[1]))
    else:
        yield "`migrate verify --list` compares the source with this list."
    if overview.problems:
        found = sum(group.count for group in overview.problems)
        yield f"The inventory left out {counted(found, 'path')}, or could read only a part of them: see below."
    for word in (RunClass.NOT_COPIED, RunClass.NOT_VERIFIED):
        if count := facts.classes[word]:
            yield f"{counted(count, 'run')} {word}: nothing is proved of {'it' if count == 1 else 'them'}."
    for way, count in facts.ways.most_common():
        blind = f" {BLIND}" if way.startswith(Level.COUNTS) else ""
        yield f"{counted(count, 'run')} {'was' if count == 1 else 'were'} verified at level {way}.{blind}"
    if count := facts.unverifiable:
        yield f"{counted(count, 'path')} could not be compared; the details of the runs say why."
    yield (
        "What was read back is compared with digests that were recorded while copying. They prove that what was sent "
        "is there, not that the mapping is what you want."
    )
    again = sum(count for way, count in facts.ways.items() if way.startswith(Level.VALUES))
    if again:
        yield f"The source was read again for the verification of {counted(again, 'run')}."
    if material.source_read:
        yield "The source was read again for the metrics that are drawn" + ("." if again else ", and for nothing else.")
    elif not again:
        yield "The source was not read again."
    if told := left_out_text(overview.left_out):
        yield f"{told}."
    yield f"Never copied: {', '.join(NEVER_COPIED)}."
    if is_running(overview):
        yield "The job was running while this report was made: figures may be some seconds apart."


def _projects(facts: Facts, workspace: str | None) -> list[dict[str, Any]]:
    largest = max((one.size_bytes for one in facts.projects.values()), default=0) or 1
    return [_project(one, workspace, largest) for one in facts.projects.values()]


def _project(one: ProjectFacts, workspace: str | None, largest: int) -> dict[str, Any]:
    return {
        "source": one.project.source,
        "url": _link(one.project.url),
        "destination": destination_of(one.project, workspace) or "not decided",
        "note": one.project.name_note,
        "classes": one.classes,
        "written": one.values_written,
        "skipped": one.skipped,
        "size": one.size_bytes,
        "bar": bar(one.size_bytes / largest),
    }


def _progress(facts: Facts) -> list[dict[str, Any]]:
    """Runs and values over time, each as a sum that grows."""
    times = np.array(facts.copied_at)
    if len(times) < 2 or times.min() == times.max():
        return []
    order = np.argsort(times, kind="stable")
    times, values = times[order], np.cumsum(np.array(facts.copied_values)[order])
    begin, end = (time_text(datetime.fromtimestamp(at, UTC)) for at in (times[0], times[-1]))
    pictures = []
    for name, sums in (("Runs copied", np.arange(1.0, len(times) + 1)), ("Values written", values)):
        points = of_steps(times, sums)
        title = f"{name}: {int(sums[-1]):,} from {begin} to {end}"
        picture = curve(title, points, frame_of(points, 0.0))
        pictures.append({"name": name, "total": f"{int(sums[-1]):,}", "picture": picture, "begin": begin, "end": end})
    return pictures


def _ledger(anchor: str, title: str, short: str, groups: Sequence[LedgerGroup]) -> dict[str, Any]:
    more = max(0, len(groups) - GROUPS)
    return {"anchor": anchor, "title": title, "short": short, "groups": groups[:GROUPS], "more": more}


def _problem(cause: str, count: int, examples: Sequence[str]) -> dict[str, Any]:
    means, helps = meaning(cause)
    return {"cause": cause, "count": count, "examples": examples, "means": means, "helps": helps}


def _sections(context: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "scope", "Limits"
    yield "projects", "Projects"
    if context["progress"]:
        yield "progress", "Progress"
    if context["failures"]:
        yield "failures", "Failures"
    for ledger in context["ledgers"]:
        if ledger["groups"]:
            yield ledger["anchor"], ledger["short"]
    if context["problems"]:
        yield "problems", "Left out"
    if context["charts"]:
        yield "metrics", "Metrics"
    yield "runs", "Runs"
    if context["told_count"]:
        yield "details", "Single runs"
    yield "commands", "How it was done"


class _Rows:
    """The table of runs, and after it the stories of those that it has met."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._projects = material.store.accounts.projects()
        self._told = set(material.facts.told)
        self._met: dict[int, RunAccount] = {}

    def rows(self) -> Iterator[dict[str, Any]]:
        for run in self._material.store.accounts.runs(self._material.only):
            if run.run in self._told:
                self._met[run.run] = run
            yield {
                "run": run.run,
                "name": run.name or run.run_id,
                "ref": run.ref,
                "url": _run_url(self._projects.get(run.project_id), run.run_id),
                "word": class_of(run),
                "status": status_text(run),
                "written": run.values_written,
                "skipped": run.skipped,
                "changed": run.changed,
                "size": run.size_bytes,
                "took": age_text(run.copy_s) if run.copied_at else "",
                "speed": f"{amount(run.values_written / run.copy_s)}/s" if run.copied_at and run.copy_s else "",
                "told": run.run in self._met,
            }

    def stories(self) -> Iterator[dict[str, Any]]:
        told = [number for number in self._material.facts.told if number in self._met]
        stories = self._material.store.accounts.stories(told, EXAMPLES, FINDINGS_PER_RUN)
        for number, story in stories:
            yield self._story(self._met[number], story)

    def _story(self, run: RunAccount, story: RunStory) -> dict[str, Any]:
        findings = story.findings if run.verdict else ()
        samples = sorted(story.ledger, key=lambda sample: sample.kind != Kind.SKIPPED)
        shown = samples[:REASONS_PER_RUN]
        return {
            "run": run,
            "word": class_of(run),
            "open": class_of(run) is RunClass.UNEXPLAINED or run.status is RunStatus.FAILED,
            "findings": findings,
            "more_findings": run.differing + run.unverifiable - len(findings),
            "ledger": [
                ("Skipped values, by reason", [one for one in shown if one.kind == Kind.SKIPPED]),
                ("Written, but changed", [one for one in shown if one.kind != Kind.SKIPPED]),
            ],
            "more_reasons": len(samples) - len(shown),
            "attempts": story.attempts,
            "next": next_for(run, offline=self._material.bound.offline),
        }


def _run_url(project: Project | None, run_id: str) -> str | None:
    """Where a person finds the run at W&B."""
    base = _link(project.url) if project else None
    return f"{base.rstrip('/')}/runs/{quote(run_id, safe='')}" if base else None


def _link(url: str) -> str | None:
    """An address of the web that may be shown and clicked on; None: it is not one."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.hostname and parts.username is None else None
