"""What a server's answers to the data of a run mean: ingest codes, and what earlier attempts have to do with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from migrator.errors import ErrorClass, Rejected, Retryable, Vanished

#: answers to points that an earlier attempt has sent already, whichever the server looks at first
BENIGN_WHEN_REPLAYED = frozenset(
    {"SERIES_POINT_DUPLICATE", "SERIES_STEP_NON_INCREASING", "SERIES_TIMESTAMP_DECREASING"}
)
#: positions: the run was created by this migration, or was in Neptune before it
CREATED, EXISTED = "created", "existed"
#: told when points of a run that existed before were answered as above: the first write wins in Neptune
KEPT = "the run was in Neptune already: points that it had were kept"
#: a run of this id is there, but was created with another fork point, or none
CONFLICT = "RUN_CONFLICTING"
#: told when that run is ours: the parent was not there when it was created, or not known
FORK_KEPT = "the run keeps the fork point, or none, that it was created with"
#: the path of refusals of which the server, or the client, does not tell it
UNKNOWN_PATH = "(path unknown)"
#: answers to a creation that say that the run is there
THERE = frozenset({"RUN_DUPLICATE", CONFLICT})
#: answers that say that it is not
GONE = frozenset({"RUN_NOT_FOUND", "PROJECT_NOT_FOUND"})
#: the run is there already, as it should be
BENIGN = frozenset({"RUN_DUPLICATE"})
#: changes the run, and is told, but loses nothing
NOTES = frozenset({"RUN_FORK_PARENT_NOT_FOUND"})
#: the server is in trouble; the same request may pass later
TRANSIENT = frozenset({"INTERNAL", "INGEST_SUSPENDED", "BATCH_CONTAINS_DEPENDENT_RUNS"})
#: the run as a whole is refused
FATAL = frozenset(
    {
        "PROJECT_NOT_FOUND",
        "PROJECT_INVALID_NAME",
        "RUN_NOT_FOUND",
        CONFLICT,
        "RUN_INVALID_CREATION_PARAMETERS",
    }
)


@dataclass(slots=True)
class Past:
    """What is known of a run before this attempt: its saved position (None: nothing), and whether we created it.

    `saved`: an earlier attempt has seen that something of it is in Neptune.
    """

    position: str | None
    begun: bool = False
    saved: bool = False

    @classmethod
    def of(cls, position: str | None, *, begun: bool) -> Past:
        """A run of which nothing is known, but that Neptune has already, keeps its points: the state database may
        have been lost. `EXISTED` remembers that.
        """
        begun = begun or position is not None
        return cls(position or (CREATED if begun else None), begun, position is not None)

    @property
    def is_unknown(self) -> bool:
        """Whether a run that is there may be anybody's."""
        return self.position is None and not self.begun

    def found(self) -> None:
        """The run is there, and is a copy of the same source: another state database has begun it."""
        self.position, self.begun = EXISTED, True

    def is_ahead(self) -> None:
        """Neptune has what it refuses, and it is equal: the run was further when the state database was copied."""
        self.position = EXISTED

    def judge(self, project: str, codes: Mapping[str, int], *, replayed: bool) -> tuple[set[str], dict[str, int]]:
        """(notes, refusals for good by code) of the answer to a request; the first request holds the creation.

        Raises `RunError` where the answer is about the run as a whole, `Vanished` where it was there and is gone.
        """
        if self.saved and GONE & codes.keys():
            raise Vanished(f"the run in {project}")
        if self.position is None:
            self.position = EXISTED if "RUN_DUPLICATE" in codes else CREATED
        notes = set(NOTES & codes.keys())
        if self.position == EXISTED and not replayed and BENIGN_WHEN_REPLAYED & codes.keys():
            notes.add(KEPT)
        if self.begun and CONFLICT in codes:
            notes.add(FORK_KEPT)
        was_there = replayed or self.position == EXISTED
        benign = BENIGN | NOTES | (BENIGN_WHEN_REPLAYED if was_there else frozenset())
        if self.begun:
            benign |= {CONFLICT}
        refusals = {code: count for code, count in codes.items() if code not in benign}
        for code in refusals:
            if code in TRANSIENT:
                raise Retryable(ErrorClass.UNAVAILABLE, f"Neptune could not process data of {project}: {code}")
            if code in FATAL:
                error_class = ErrorClass.NOT_FOUND if code.endswith("NOT_FOUND") else ErrorClass.REJECTED_BY_NEPTUNE
                raise Rejected(error_class, f"Neptune refused the run in {project}: {code}")
        return notes, refusals
