"""One run that is being compared: what needs no points and no files, and what was found of the rest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from migrator.copying.digests import AnyDigest, FileDigest, SeriesDigest, ValueDigest, decode, of_value
from migrator.copying.findings import Expected, Result
from migrator.copying.reread import Mapped
from migrator.copying.verify_words import fork_told, told, type_told, value_told
from migrator.destinations.base import ReadFile, ReadRun, ReadSeries, ReadValue

FORK = "sys/forking"  # the path of findings about the fork point
SYSTEM = "sys/"  # Neptune's own attributes are below it: compared if we sent them, ignored if not
OURS_IN_SYSTEM = frozenset({"sys/tags", "sys/group_tags", "sys/description"})
OF_THE_TOOL = frozenset({"migration/tool_version", "migration/mapping_version"})  # say nothing about the source
EXAMPLES = 5  # paths named


class RunComparison:
    """One run that is being compared."""

    def __init__(self, expected: Expected, run: ReadRun | None) -> None:
        self.result = Result(expected)
        self.run = run
        self.source = expected.source
        self.wanted: dict[str, tuple[str, AnyDigest]] = _wanted(expected)
        self.series: dict[str, SeriesDigest] = {}
        self.foreign_series: list[str] = []
        self.files: list[tuple[str, ReadFile, FileDigest]] = []
        self.series_files: dict[str, list[tuple[int, ReadFile]]] = {}
        self.moved: list[str] = []  # paths at which the source no longer has what was copied

    def begin(self) -> bool:
        """Compare what needs no further requests. False: the run cannot be compared."""
        if not self.result.expected.is_known:
            why = "copied by an older version, which kept no digests"
            self.result.cannot("", "the run", f"{why}: copy it again to verify it")
            return False
        if self.run is None:
            self.result.differs("", f"a run with {len(self.wanted):,} attributes", "is not there")
            return False
        for path, (kind, digest) in self.wanted.items():
            self._compare(path, kind, digest, self.run.values.get(path))
        for path, value in self.run.values.items():
            if path not in self.wanted and path not in OF_THE_TOOL:
                self._foreign(path, value)
        self._compare_fork(self.run)
        if self.source:
            self._compare_source(self.source)
        return True

    def end(self) -> None:
        """Report what concerns the run as a whole, and sort the findings."""
        expected, findings = self.result.expected, self.result.findings
        if self.run is not None and not any(not finding.path for finding in findings):
            if expected.source_problem:
                self.result.cannot("", "the source", expected.source_problem)
            elif self.moved:
                examples = ", ".join(sorted(self.moved)[:EXAMPLES])
                paths = f"{len(self.moved):,} paths, such as {examples}" if len(self.moved) > EXAMPLES else examples
                self.result.cannot("", "the source as it was when it was copied", f"the source has changed: {paths}")
        findings.sort(key=lambda finding: finding.path)

    def has_points(self, path: str) -> bool:
        """Whether the source has points there, of the kind that was copied."""
        return self.source is not None and path in self.series and self._kind_now(path) == self.wanted[path][0]

    def _kind_now(self, path: str) -> str | None:
        return self.source.digests[path][0] if self.source and path in self.source.digests else None

    def source_moved(self, path: str) -> None:
        """Record that the source no longer has what was copied to `path`, unless the ledger says why."""
        if path not in OF_THE_TOOL and not any(path == one or path.startswith(f"{one}/") for one in self._kept):
            self.moved.append(path)

    @property
    def _kept(self) -> Collection[str]:
        return self.result.expected.kept

    def _compare_source(self, source: Mapped) -> None:
        """Compare the source with what was sent, except series that can be compared point by point."""
        for path, (_, now) in source.digests.items():
            if self.has_points(path):
                continue
            if path not in self.wanted:
                if path not in self.result.expected.refused:
                    self.source_moved(path)
            elif not is_same(now, self.wanted[path][1]):
                self.source_moved(path)
        for path, (_, sent) in self.wanted.items():
            if path not in source.digests and not _is_nothing(sent):
                self.source_moved(path)

    def _compare(self, path: str, kind: str, want: AnyDigest, got: ReadValue | None) -> None:
        match want, got:
            case ValueDigest(), None:
                self.result.values += 1
                if not (want.uncertain or _is_nothing(want)):
                    self._differs(path, kind, want, "missing")
            case FileDigest(), None:
                self.result.files += 1
                if not want.uncertain:
                    self._differs(path, kind, want, "missing")
            case SeriesDigest(), None:
                self.result.series += 1
                if want.refused < want.count:
                    self._differs(path, kind, want, "missing")
            case ValueDigest(), bool() | int() | float() | str() | frozenset():
                self.result.values += 1
                if not is_same(want, got_digest := of_value(got)):
                    self._changed(path, kind, want, value_told(got, got_digest))
            case ValueDigest(type="datetime"), datetime():
                self.result.values += 1
                got_digest = of_value(got)
                if abs(int(want.text) // 1000 - int(got_digest.text) // 1000) > 1:
                    self._changed(path, kind, want, told(got_digest))
            case FileDigest(), ReadFile():
                self.result.files += 1
                if got.size_bytes != want.size_bytes:
                    self._changed(path, kind, want, f"{got.size_bytes:,} bytes")
                else:
                    self.files.append((path, got, want))
            case SeriesDigest(), ReadSeries() if got.kind == kind:
                self.result.series += 1
                self.series[path] = want
            case _, _:
                self._changed(path, kind, want, type_told(got))

    def _told(self, path: str, kind: str, want: AnyDigest) -> str:
        """A digest in words. What a text says is known only from the source."""
        if self.source and path in self.source.texts and is_same(self.source.digests[path][1], want):
            return self.source.texts[path]
        return told(want, kind)

    def _differs(self, path: str, kind: str, want: AnyDigest, got: str) -> None:
        self.result.differs(path, self._told(path, kind, want), got)

    def _changed(self, path: str, kind: str, want: AnyDigest, got: str) -> None:
        if getattr(want, "uncertain", False):
            why = f"{got}; Neptune refused some values and did not say which"
            self.result.cannot(path, self._told(path, kind, want), why)
        else:
            self._differs(path, kind, want, got)

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


def is_same(one: AnyDigest, other: AnyDigest) -> bool:
    """Whether the values are the same, whatever was refused of them."""
    match one, other:
        case ValueDigest(), ValueDigest():
            return (one.type, one.text) == (other.type, other.text)
        case FileDigest(), FileDigest():
            return (one.size_bytes, one.md5) == (other.size_bytes, other.md5)
        case SeriesDigest(), SeriesDigest():
            names = ("count", "hash1", "hash2", "content", "cut_ms", "rounded_ms")
            return all(getattr(one, name) == getattr(other, name) for name in names)
    return False


def _wanted(expected: Expected) -> dict[str, tuple[str, AnyDigest]]:
    """The digests of what was sent or, if none were kept, of what the source has and Neptune did not refuse."""
    if expected.digests is not None:
        return {path: decode(row) for path, row in expected.digests.items()}
    wanted: dict[str, tuple[str, AnyDigest]] = {}
    for path, (kind, digest) in (expected.source.digests if expected.source else {}).items():
        refused = expected.refused.get(path, 0)
        if isinstance(digest, SeriesDigest):
            wanted[path] = kind, replace(digest, refused=min(refused, digest.count))
        elif not refused and path not in OF_THE_TOOL:
            wanted[path] = kind, digest
    return wanted


def _is_nothing(want: AnyDigest) -> bool:
    """Whether it is as good as missing."""
    return isinstance(want, ValueDigest) and (want.type, want.text) in _NOTHING


_NOTHING = {(nothing.type, nothing.text) for nothing in (of_value(""), of_value(frozenset()))}
