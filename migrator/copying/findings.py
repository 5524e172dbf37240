"""What verifications speak of: how they compare, what they expect, and what they find."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from migrations_db.states import Verdict
from migrations_db.types import DigestRow
from migrator.copying.reread import Mapped
from migrator.records import Fork


class Level(StrEnum):
    """How much is read back."""

    COUNTS = "counts"  #: attributes, numbers of points, first and last steps; no points are transferred
    DIGESTS = "digests"  #: all points, compared with the digests kept during the copy
    VALUES = "values"  #: all points, compared one by one with the source, which is read again


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
    """A run as it should be. `number` is for the caller. `digests` None: none were kept. `fork`: its fork point.

    `source`: what the source has now; None: it was not read, or could not be (`source_problem`). Of the ledger,
    `refused` has the number of points or values that the destination refused, by path, and `kept` the paths, or their
    beginnings, where an earlier copy was kept although the source had changed.
    """

    number: int
    run_id: str
    digests: Mapping[str, DigestRow] | None
    fork: Fork | None = None
    source: Mapped | None = None
    source_problem: str = ""
    refused: Mapping[str, int] = field(default_factory=dict)
    kept: Collection[str] = ()

    @property
    def is_known(self) -> bool:
        """Whether there is anything to compare with."""
        return self.digests is not None or self.source is not None


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
