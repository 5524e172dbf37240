"""Compares runs that are read back with the digests that were kept during the copy. Pure, except for the reading.

    runs and attributes  ->  single values, sizes and types, what was never sent
    points               ->  digests of what is there; at level counts only the number of points and their ends
    files                ->  their size in the storage, or their md5

Each path is either correct or a finding: it differs, or cannot be verified. Correct paths are only counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np

from migrations_db.states import Verdict
from migrations_db.types import DigestRow
from migrator.copying.digests import (
    FILES,
    FLOATS,
    HASHES,
    TEXTS,
    AnyDigest,
    FileDigest,
    SeriesDigest,
    ValueDigest,
    decode,
    hash_of,
    of_value,
    series_digest,
)
from migrator.copying.verify_words import fork_told, points_told, told, type_told, value_told
from migrator.destinations.base import (
    ReadBack,
    ReadFile,
    ReadRun,
    ReadSeries,
    ReadValue,
    SeriesPage,
    SeriesRef,
    Stored,
)
from migrator.records import Fork

FORK = "sys/forking"  # the path of findings about the fork point
SYSTEM = "sys/"  # Neptune's own attributes are below it: compared if we sent them, ignored if not
OURS_IN_SYSTEM = frozenset({"sys/tags", "sys/group_tags", "sys/description"})


class Level(StrEnum):
    """How much is read back."""

    COUNTS = "counts"  #: attributes, numbers of points, first and last steps; no points are transferred
    DIGESTS = "digests"  #: all points, compared with the digests kept during the copy


class Files(StrEnum):
    """How files are compared with the storage."""

    SIZE = "size"  #: one byte of each is requested; the answer includes the size
    MD5 = "md5"  #: each is read completely


@dataclass(frozen=True, slots=True)
class How:
    """What the user chose."""

    level: Level = Level.DIGESTS
    files: Files = Files.SIZE

    def __str__(self) -> str:
        return self.level if self.level is Level.COUNTS else f"{self.level}, files by {self.files}"


@dataclass(frozen=True, slots=True)
class Expected:
    """A run as it should be. `number` is for the caller. `digests` None: none were kept. `fork`: its fork point."""

    number: int
    run_id: str
    digests: Mapping[str, DigestRow] | None
    fork: Fork | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A path that is not correct or cannot be verified. `path` "" is the run itself."""

    path: str
    verdict: Verdict
    want: str
    got: str


@dataclass(slots=True)
class Result:
    """The findings for a run, and how much was compared."""

    expected: Expected
    findings: list[Finding] = field(default_factory=list)
    values: int = 0
    series: int = 0
    points: int = 0
    files: int = 0

    @property
    def verdict(self) -> Verdict:
        if any(finding.verdict is Verdict.DIFFERS for finding in self.findings):
            return Verdict.DIFFERS
        whole = any(not finding.path for finding in self.findings)
        return Verdict.NOT_VERIFIED if whole else Verdict.VERIFIED

    def differs(self, path: str, want: str, got: str) -> None:
        self.findings.append(Finding(path, Verdict.DIFFERS, want, got))

    def cannot(self, path: str, want: str, why: str) -> None:
        self.findings.append(Finding(path, Verdict.NOT_VERIFIED, want, why))


def verify_runs(expected: Sequence[Expected], project: str, back: ReadBack, how: How) -> list[Result]:
    """Compare runs of one project. Results are in the order of `expected`. Raises `RunError` or `UserError`."""
    known = [one for one in expected if one.digests is not None]
    found = back.runs(project, [one.run_id for one in known]) if known else {}
    checks = [_Check(one, found.get(one.run_id)) for one in expected]
    there = [check for check in checks if check.begin()]
    _compare_series(there, project, back, how)
    if how.level is not Level.COUNTS:
        _compare_files(there, project, back, how)
    for check in checks:
        check.result.findings.sort(key=lambda finding: finding.path)
    return [check.result for check in checks]


class _Check:
    """One run that is being compared."""

    def __init__(self, expected: Expected, run: ReadRun | None) -> None:
        self.result = Result(expected)
        self.run = run
        rows = expected.digests or {}
        self.wanted: dict[str, tuple[str, AnyDigest]] = {path: decode(row) for path, row in rows.items()}
        self.series: dict[str, SeriesDigest] = {}
        self.foreign_series: list[str] = []
        self.files: list[tuple[str, ReadFile, FileDigest]] = []
        self.series_files: dict[str, list[tuple[int, ReadFile]]] = {}

    def begin(self) -> bool:
        """Compare what needs no further requests. False: the run cannot be compared."""
        if self.result.expected.digests is None:
            why = "copied by an older version, which kept no digests"
            self.result.cannot("", "the run", f"{why}: copy it again to verify it")
            return False
        if self.run is None:
            self.result.differs("", f"a run with {len(self.wanted):,} attributes", "is not there")
            return False
        for path, (kind, digest) in self.wanted.items():
            self._compare(path, kind, digest, self.run.values.get(path))
        for path, value in self.run.values.items():
            if path not in self.wanted:
                self._foreign(path, value)
        self._compare_fork(self.run)
        return True

    def _compare(self, path: str, kind: str, want: AnyDigest, got: ReadValue | None) -> None:
        match want, got:
            case ValueDigest(), None:
                self.result.values += 1
                if not (want.uncertain or want == of_value(frozenset()) or _is_empty_text(want)):
                    self.result.differs(path, told(want), "missing")
            case FileDigest(), None:
                self.result.files += 1
                if not want.uncertain:
                    self.result.differs(path, told(want), "missing")
            case SeriesDigest(), None:
                self.result.series += 1
                if want.refused < want.count:
                    self.result.differs(path, told(want, kind), "missing")
            case ValueDigest(), bool() | int() | float() | str() | frozenset():
                self.result.values += 1
                if not _same_but_uncertain(want, got_digest := of_value(got)):
                    self._changed(path, want.uncertain, told(want), value_told(got, got_digest))
            case ValueDigest(type="datetime"), datetime():
                self.result.values += 1
                got_digest = of_value(got)
                if abs(int(want.text) // 1000 - int(got_digest.text) // 1000) > 1:
                    self._changed(path, want.uncertain, told(want), told(got_digest))
            case FileDigest(), ReadFile():
                self.result.files += 1
                if got.size_bytes != want.size_bytes:
                    self._changed(path, want.uncertain, told(want), f"{got.size_bytes:,} bytes")
                else:
                    self.files.append((path, got, want))
            case SeriesDigest(), ReadSeries() if got.kind == kind:
                self.result.series += 1
                self.series[path] = want
            case _, _:
                self._changed(path, getattr(want, "uncertain", False), told(want, kind), type_told(got))

    def _changed(self, path: str, uncertain: bool, want: str, got: str) -> None:
        if uncertain:
            self.result.cannot(path, want, f"{got}; Neptune refused some values and did not say which")
        else:
            self.result.differs(path, want, got)

    def _foreign(self, path: str, value: ReadValue) -> None:
        """Report a value that the copy did not send, unless it is one of Neptune's own attributes."""
        if path.startswith(SYSTEM) and path not in OURS_IN_SYSTEM:
            return
        if value in ("", frozenset()):
            return
        if isinstance(value, ReadSeries):
            self.foreign_series.append(path)  # may be its parent's: a fork shows those too
        else:
            self.result.differs(path, "nothing: not written by this copy", type_told(value))

    def _compare_fork(self, run: ReadRun) -> None:
        want = self.result.expected.fork
        if not run.tells_fork:
            if want:
                self.result.cannot(FORK, fork_told(want), "Neptune does not return fork points")
        elif want != run.fork:
            self.result.differs(FORK, fork_told(want), fork_told(run.fork))


# ---------------------------------------------------------------- series


def _compare_series(checks: Sequence[_Check], project: str, back: ReadBack, how: How) -> None:
    by_key = {check.run.key: check for check in checks if check.run}
    foreign = [SeriesRef(check.run, path) for check in checks if check.run for path in check.foreign_series]
    for ref, count in _counted(back, project, foreign):
        by_key[ref.run.key].result.differs(ref.path, "nothing: not written by this copy", f"{count} points")
    wanted = [SeriesRef(check.run, path) for check in checks if check.run for path in check.series]
    if how.level is Level.COUNTS:
        _compare_ends(by_key, wanted, project, back)
        return
    found: dict[tuple[str, str], SeriesDigest] = {}
    for page in back.pages(project, wanted):
        check, path = by_key[page.series.run.key], page.series.path
        found.setdefault((page.series.run.key, path), SeriesDigest()).add(_digest_of(check, page))
    for ref in wanted:
        check = by_key[ref.run.key]
        want, got = check.series[ref.path], found.get((ref.run.key, ref.path), SeriesDigest())
        kind = check.wanted[ref.path][0]
        check.result.points += want.count
        _compare_digests(check.result, ref.path, kind, want, got)


def _counted(back: ReadBack, project: str, series: Sequence[SeriesRef]) -> Iterator[tuple[SeriesRef, str]]:
    """Yield the series that have points of their own, with the number of points."""
    counts: dict[tuple[str, str], int] = {}
    for page in back.pages(project, series) if series else ():
        name = page.series.run.key, page.series.path
        counts[name] = counts.get(name, 0) + len(page.steps)
    for ref in series:
        if count := counts.get((ref.run.key, ref.path)):
            yield ref, f"{count:,}"


def _digest_of(check: _Check, page: SeriesPage) -> SeriesDigest:
    if isinstance(page.values, np.ndarray):
        return series_digest(page.steps, page.times_ms, page.values)
    kind = check.wanted[page.series.path][0]
    hashes = np.fromiter(map(HASHES[_series_kind(kind)], page.values), np.uint64, len(page.values))
    if kind == FILES:
        files = check.series_files.setdefault(page.series.path, [])
        files += zip(page.steps.tolist(), page.values, strict=True)  # type: ignore[arg-type]
    return series_digest(page.steps, page.times_ms, hashes)


def _series_kind(kind: str) -> str:
    return kind if kind in HASHES else TEXTS


def _compare_ends(by_key: Mapping[str, _Check], wanted: Sequence[SeriesRef], project: str, back: ReadBack) -> None:
    """Compare counts and first steps of series of numbers. For others, only the last step is known without points."""
    numbers = [ref for ref in wanted if by_key[ref.run.key].wanted[ref.path][0] == FLOATS]
    heads = {(one.series.run.key, one.series.path): one for one in back.heads(project, numbers)}
    for ref in wanted:
        check = by_key[ref.run.key]
        want, series, head = check.series[ref.path], ref.run.values[ref.path], heads.get((ref.run.key, ref.path))
        kind = check.wanted[ref.path][0]
        assert isinstance(series, ReadSeries)
        if want.refused:
            check.result.cannot(ref.path, told(want, kind), "some of its points were refused: use --level digests")
            continue
        count = want.count if head is None or head.points is None else head.points
        first = want.first if head is None else head.first_step
        last = want.last if series.last_step is None else series.last_step
        if kind == FLOATS and head is None:
            check.result.differs(ref.path, told(want, kind), "no points")
        elif (count, first, last) != (want.count, want.first, want.last):
            check.result.differs(ref.path, told(want, kind), points_told(count, first, last))
        elif kind == FLOATS and not (want.nan or want.infinite) and _extremes_differ(want, series):
            check.result.differs(ref.path, f"{want.low} to {want.high}", f"{series.low} to {series.high}")
        elif head is not None and head.points is None:
            check.result.cannot(ref.path, told(want, kind), "Neptune does not say how many points there are")


def _extremes_differ(want: SeriesDigest, got: ReadSeries) -> bool:
    return (got.low is not None and got.low != want.low) or (got.high is not None and got.high != want.high)


def _compare_digests(result: Result, path: str, kind: str, want: SeriesDigest, got: SeriesDigest) -> None:
    said = [points_told(got.count, got.first, got.last)]
    if want.refused and want.count - want.refused <= got.count <= want.count:
        if (got.hash1, got.hash2) != (want.hash1, want.hash2):
            why = f"{said[0]}; Neptune refused some and did not say which"
            result.cannot(path, told(want, kind), why)
        return
    if (got.count, got.hash1, got.hash2) == (want.count, want.hash1, want.hash2):
        off_ms = min(abs(got.cut_ms - want.cut_ms), abs(got.cut_ms - want.rounded_ms))
        if off_ms > want.count:
            result.differs(path, told(want, kind), f"the same points at other times: {off_ms:,} ms off in all")
        elif off_ms:
            result.cannot(path, told(want, kind), f"times are {off_ms:,} ms off in all, under 1 ms each on average")
        return
    if (got.count, got.first, got.last) == (want.count, want.first, want.last):
        said = ["the same number of points, but different values or steps"]
    result.differs(path, told(want, kind), said[0])


# ---------------------------------------------------------------- files


def _compare_files(checks: Sequence[_Check], project: str, back: ReadBack, how: How) -> None:
    content = how.files is Files.MD5
    asked: list[tuple[_Check, str, int | None, ReadFile]] = []
    for check in checks:
        asked += [(check, path, None, file) for path, file, _ in check.files]
        asked += [(check, path, step, file) for path, files in check.series_files.items() for step, file in files]
    digests = {(id(check), path): want for check in checks for path, _, want in check.files}
    contents: dict[tuple[int, str], list[tuple[int, int]]] = {}
    bad: set[tuple[int, str]] = set()
    stored = back.stored(project, [file for *_, file in asked], content=content)
    for (check, path, step, file), seen in zip(asked, stored, strict=True):
        name = (id(check), path)
        if step is not None:
            check.result.files += 1
        if (wrong := _wrong(file, seen, digests.get(name), content=content)) is not None:
            bad.add(name)
            where = path if step is None else f"{path} at step {step / 1e6:g}"
            want = told(digests[name]) if name in digests else f"{file.size_bytes:,} bytes"
            (check.result.cannot if seen.problem else check.result.differs)(where, want, wrong)
        elif step is not None and seen.md5 is not None:
            contents.setdefault(name, []).append((step, hash_of(seen.md5.encode())))
    if content:
        for check in checks:
            _compare_contents(check, contents, bad)


def _wrong(file: ReadFile, seen: Stored, want: FileDigest | None, *, content: bool) -> str | None:
    """What is wrong with a stored file. None: nothing."""
    if seen.problem:
        return seen.problem
    if seen.size_bytes is None:
        return "the run refers to it, but the file is not in the storage"
    if seen.size_bytes != file.size_bytes:
        return f"{seen.size_bytes:,} bytes in the storage"
    if content and want is not None and seen.md5 != want.md5:
        return f"{seen.size_bytes:,} bytes, md5 {seen.md5}"
    return None


def _compare_contents(
    check: _Check, contents: Mapping[tuple[int, str], Sequence[tuple[int, int]]], bad: set[tuple[int, str]]
) -> None:
    """Compare the contents of file series. Only the sum of all md5s is known."""
    for path, files in check.series_files.items():
        found, want = contents.get((id(check), path), ()), check.series[path]
        if (id(check), path) in bad or want.refused or len(found) != len(files) or len(files) != want.count:
            continue
        steps, hashes = np.array([s for s, _ in found], np.int64), np.array([h for _, h in found], np.uint64)
        if series_digest(steps, steps, hashes, hashes).content != want.content:
            check.result.differs(path, f"{want.count:,} files", "one or more of the files have different content")


def _same_but_uncertain(want: ValueDigest, got: ValueDigest) -> bool:
    return (want.type, want.text) == (got.type, got.text)


def _is_empty_text(want: ValueDigest) -> bool:
    return want == of_value("")
