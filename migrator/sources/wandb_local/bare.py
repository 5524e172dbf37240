"""A run without a log: only its directory is left.

There are two kinds. SDKs before 0.10 wrote history and system metrics as JSON lines; runs whose log is gone have
neither. Both have `config.yaml`, `wandb-summary.json`, `wandb-metadata.json`, `output.log` and media: the former in
the run directory itself, the latter in its `files/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import dropwhile
from pathlib import Path
from typing import Any, Self

from migrator import json_text
from migrator.errors import ErrorClass, Rejected
from migrator.listed import UNKNOWN_ENTITY, RunListing, RunRef
from migrator.records import (
    Artifact,
    ConsoleLine,
    Document,
    Entry,
    HistoryRow,
    Kind,
    LocalFile,
    RunAttributes,
    Scalar,
    SourceFile,
    SystemRow,
)
from migrator.sources.base import Survey, Withheld
from migrator.sources.paging import Sized, pages
from migrator.sources.wandb_facts import iso_time
from migrator.sources.wandb_local.access import local_file
from migrator.sources.wandb_local.files import FoundFile, files_in
from migrator.sources.wandb_local.finding import DATED
from migrator.sources.wandb_local.identity import metadata_of, text_of
from migrator.sources.wandb_local.log import opened
from migrator.sources.wandb_local.rows import output_file_lines
from migrator.sources.wandb_local.run import NO_ENTITY
from migrator.sources.wandb_local.values import as_time_s
from migrator.sources.wandb_local.yaml_text import parse_yaml
from migrator.values import SeriesKey, SeriesKind, leaves

HISTORY, EVENTS = "wandb-history.jsonl", "wandb-events.jsonl"
NO_HISTORY = "this run has no log: history, system metrics and times of console lines are missing"
NO_SUMMARY = "there is no wandb-summary.json: taken from the last value of each key"
NO_START = "the files do not say when the run began: taken from the name of its directory"
OWN_CONFIG = ("wandb_version",)  # keys about config.yaml itself
STATES = frozenset({"finished", "failed", "crashed", "killed", "running"})


def directory_of(root: Path) -> Path:
    """The run directory of the place where a run's files are."""
    return root.parent if root.name == "files" else root


@dataclass(frozen=True, slots=True)
class BareHead:
    """What the directory of a run says about it. `estimated`: the start time is from the directory's name."""

    root: Path
    run_id: str
    started_at: datetime | None
    state: str
    metadata: dict[str, Any]
    estimated: bool = False

    @property
    def has_history(self) -> bool:
        return (self.root / HISTORY).is_file()

    @classmethod
    def of(cls, root: Path) -> BareHead:
        directory = directory_of(root)
        metadata = metadata_of(directory)
        dated = DATED.fullmatch(directory.name)
        started_at = iso_time(metadata.get("startedAt"))
        named_at = datetime.strptime(dated[1], "%Y%m%d_%H%M%S").replace(tzinfo=UTC) if dated else None
        return cls(
            root=root,
            run_id=dated[2] if dated else directory.name,
            started_at=started_at or named_at,
            state=_state(metadata, directory),
            metadata=metadata,
            estimated=started_at is None,
        )


def _state(metadata: dict[str, Any], directory: Path) -> str:
    """The state of the run in W&B's terms, from the metadata (SDKs before 0.10) or the last line of the SDK's log."""
    state, exit_code = metadata.get("state"), metadata.get("exitcode")
    if isinstance(state, str) and state in STATES - {"running"}:
        return state
    if isinstance(exit_code, int):
        return "finished" if exit_code == 0 else "failed"
    return "finished" if "finishing run" in text_of(directory / "logs" / "debug.log") else "crashed"


def bare_listing(heads: Sequence[BareHead]) -> RunListing:
    """The listing of a run from its directories, oldest first."""
    roots = [head.root for head in heads]
    files = [(name, file) for root in roots for name, file in files_in([root]).items()]
    content = [heads[-1].state, [(name, file.size_bytes, file.mtime_ns) for name, file in files]]
    written_ns = max((file.mtime_ns for _, file in files), default=0)
    return RunListing(
        run_id=heads[0].run_id,
        name="",
        source_state=heads[-1].state,
        created_at=heads[0].started_at,
        heartbeat_at=datetime.fromtimestamp(written_ns / 1e9, UTC),
        history_rows=sum(_line_count(root / HISTORY) for root in roots),
        fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        location=[str(root) for root in roots],
    )


def _line_count(path: Path) -> int:
    return sum(1 for line in _lines(path) if line.strip())


def _lines(path: Path) -> Iterator[bytes]:
    if not path.is_file() or path.is_symlink():
        return
    with opened(path) as file:
        yield from file


class BareRun:
    """A `SourceRun` of directories without a log."""

    def __init__(self, ref: RunRef, *, keys: Set[bytes] = frozenset()) -> None:
        self._ref = ref
        self._roots = [Path(place) for place in ref.location or ()]
        self._keys = keys
        for root in self._roots:
            if not root.is_dir():
                raise Rejected(ErrorClass.NOT_FOUND, f"{root} is gone")
        self._heads = [BareHead.of(root) for root in self._roots]
        self._last_step: float | None = None  # of the history; set by the survey, like the next line
        self._latest: dict[str, Any] = {}  # the last value of each key

    # ------------------------------------------------------------ single values

    def attributes(self) -> RunAttributes:
        first, last = self._heads[0], self._heads[-1]
        told = last.metadata
        git = told.get("git")
        values: dict[str, Scalar | None] = {
            "id": self._ref.run_id,
            "path": str(self._ref),
            "entity": self._ref.entity,
            "project": self._ref.project,
            "state": last.state,
            "created_at": first.started_at,
            "heartbeat_at": iso_time(told.get("heartbeatAt")),
            "job_type": _text(told.get("jobType")),
            "commit": _text(git.get("commit")) if isinstance(git, dict) else None,
            "host": _text(told.get("host")),
            "history_line_count": self._surveyed.rows,
            "last_history_step": self._last_step,
        }
        return RunAttributes(
            name=_text(told.get("name")),
            created_at=first.started_at,
            url=directory_of(self._roots[0]).absolute().as_uri(),
            notes=_text(told.get("notes")),
            wandb={name: value for name, value in values.items() if value not in (None, "")},
        )

    def findings(self) -> Sequence[Entry]:
        """Entries for what cannot be read or is not known."""
        found = [Entry(Kind.SKIPPED, place, "unreadable", count) for place, count in self._unreadable.items()]
        if not self._has_history:
            found.append(Entry(Kind.SAMPLED, "history", NO_HISTORY))
        if self._summary_is_estimated:
            found.append(Entry(Kind.ESTIMATED, "summary", NO_SUMMARY))
        if self._heads[0].estimated:
            found.append(Entry(Kind.ESTIMATED, "created_at", NO_START))
        if self._ref.entity == UNKNOWN_ENTITY:
            found.append(Entry(Kind.ESTIMATED, "entity", NO_ENTITY))
        return found

    def config(self) -> Document:
        """The contents of `config.yaml`. Later directories replace values of earlier ones."""
        raw = {key: value for key, value in self._config.items() if key not in OWN_CONFIG}
        values = {key: value["value"] if _is_wrapped(value) else value for key, value in raw.items()}
        wrapped = {key: value if _is_wrapped(value) else {"value": value} for key, value in raw.items()}
        return Document(values, json.dumps(wrapped).encode())

    def summary(self) -> Document:
        values = dict(sorted(self._summary.items()))
        return Document(values, json.dumps(values).encode())

    # ------------------------------------------------------------ rows

    def survey(self) -> Survey:
        return self._surveyed

    def history(self, after_step: float | None) -> Iterator[list[HistoryRow]]:
        rows = ((row, size) for row, size in self._rows() if after_step is None or row.step > after_step)
        return pages(rows)

    def _rows(self) -> Iterator[Sized[HistoryRow]]:
        """All rows. A step that does not rise is replaced by the previous one + 1, as in W&B."""
        last = -1
        for values, size_bytes in self._objects(HISTORY):
            logged = values.pop("_step", None)
            last = max(int(logged), last + 1) if isinstance(logged, int | float) else last + 1
            yield HistoryRow(last, as_time_s(values.pop("_timestamp", None)), values), size_bytes

    def system(self, first_row: int) -> Iterator[list[SystemRow]]:
        samples = (
            (SystemRow(number, as_time_s(values.get("_timestamp")), _sample(values)), size_bytes)
            for number, (values, size_bytes) in enumerate(self._objects(EVENTS))
            if number >= first_row
        )
        return pages(samples)

    def _objects(self, name: str) -> Iterator[tuple[dict[str, Any], int]]:
        """The objects in the JSON lines of all directories, each with its size."""
        for root in self._roots:
            for line in _lines(root / name):
                try:
                    value = json_text.parse_json(line.decode(errors="replace"))
                except ValueError:
                    continue  # counted by `_unreadable`
                if isinstance(value, dict):
                    yield value, len(line)

    def partial(self, part: str) -> str | None:
        return None

    def console(self, first_line: int) -> Iterator[list[ConsoleLine]]:
        lines = output_file_lines([root / "output.log" for root in self._roots if self._may_read(root)])
        return pages(dropwhile(lambda sized: sized[0].number < first_line, lines))

    def _may_read(self, root: Path) -> bool:
        try:
            return local_file(root / "output.log", "output.log", link_allowed=False, keys=self._keys) is not None
        except Withheld:
            return False

    # ------------------------------------------------------------ files

    def files(self) -> Sequence[SourceFile]:
        return [file.known_as(name) for name, file in self._files.items()]

    def file_count(self) -> int:
        return len(self._files)

    def fetch(self, name: str) -> LocalFile | None:
        found = self._files.get(name)
        return local_file(found.path, name, link_allowed=False, keys=self._keys) if found else None

    def release(self, file: LocalFile) -> None:
        """Nothing to release: files stay where they are."""

    # ------------------------------------------------------------ artifacts: only a log has them

    def artifacts(self) -> Iterator[Artifact]:
        return iter(())

    def fetch_artifact_file(self, artifact: Artifact, name: str) -> LocalFile:
        raise Rejected(ErrorClass.NOT_FOUND, f"{self._ref} has no log, so the files of {artifact.name} are unknown")

    def used_artifacts(self) -> Sequence[str]:
        return ()

    # ------------------------------------------------------------ the run itself

    @cached_property
    def _files(self) -> dict[str, FoundFile]:
        return files_in(self._roots)

    @cached_property
    def _has_history(self) -> bool:
        return any(head.has_history for head in self._heads)

    @cached_property
    def _surveyed(self) -> Survey:
        series: dict[SeriesKey, None] = {}
        media: set[tuple[str, str]] = set()
        rows = 0
        for row, _ in self._rows():
            rows, self._last_step = rows + 1, row.step
            self._latest |= row.values
            for key, value in sorted(row.values.items()):
                for leaf in leaves(key, value, row.step):
                    series[leaf.series] = None
                    if leaf.series.kind is SeriesKind.FILE and isinstance(leaf.payload, dict):
                        media.add((key, str(leaf.payload["path"])))
        return Survey(tuple(series), frozenset(media), rows, rows)

    @cached_property
    def _config(self) -> dict[str, Any]:
        return self._document("config.yaml", parse_yaml)

    @cached_property
    def _summary(self) -> dict[str, Any]:
        if self._summary_is_estimated:
            return self._latest
        return self._document("wandb-summary.json", json_text.parse_json)

    @cached_property
    def _summary_is_estimated(self) -> bool:
        has_summary = any((root / "wandb-summary.json").is_file() for root in self._roots)
        return not has_summary and self._surveyed.rows > 0

    def _document(self, name: str, parse: Any) -> dict[str, Any]:
        """The values in all directories' files of this name. Later ones replace earlier ones."""
        values: dict[str, Any] = {}
        for root in self._roots:
            try:
                found = parse(text_of(root / name) or "{}")
            except ValueError:
                continue  # reported by `_unreadable`
            values |= found if isinstance(found, dict) else {}
        return values

    @cached_property
    def _unreadable(self) -> dict[str, int]:
        """Places that cannot be read, with their number of values or lines."""
        found: dict[str, int] = {}
        for root in self._roots:
            for name, parse in (("config.yaml", parse_yaml), ("wandb-summary.json", json_text.parse_json)):
                if not _parses(text_of(root / name) or "{}", parse):
                    found[str(root / name)] = 1
            for name in (HISTORY, EVENTS):
                lines = (line.decode(errors="replace") for line in _lines(root / name) if line.strip())
                if bad := sum(not _parses(line, json_text.parse_json) for line in lines):
                    found[str(root / name)] = bad
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        return None


def _parses(text: str, parse: Any) -> bool:
    try:
        return isinstance(parse(text), dict)
    except ValueError:
        return False


def _is_wrapped(value: Any) -> bool:
    """Whether a config value has W&B's form, with a description."""
    return isinstance(value, dict) and "value" in value and value.keys() <= {"value", "desc"}


def _sample(values: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("system."): value for key, value in values.items() if not key.startswith("_")}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
