"""What the ingest codes in a server's answers mean for a run, also considering what earlier attempts have sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from migrator.errors import ErrorClass, Rejected, Retryable, Vanished

#: possible answers to points that an earlier attempt has already sent, depending on what the server checks first
BENIGN_WHEN_REPLAYED = frozenset(
    {"SERIES_POINT_DUPLICATE", "SERIES_STEP_NON_INCREASING", "SERIES_TIMESTAMP_DECREASING"}
)
#: positions: the run was created by this migration, or was in Neptune before
CREATED, EXISTED = "created", "existed"
#: note for such answers about a run that existed before: in Neptune, the first write wins
KEPT = "the run was already in Neptune: the points that it had were kept"
#: a run with this id exists, but was created with another fork point, or with none
CONFLICT = "RUN_CONFLICTING"
#: note if that run is ours: its parent did not exist, or was not known, when it was created
FORK_KEPT = "the run was created with another fork point, or with none, and keeps it"
#: the path of refusals if the server or the client does not name it
UNKNOWN_PATH = "(path unknown)"
#: answers to a creation that say that the run exists
THERE = frozenset({"RUN_DUPLICATE", CONFLICT})
#: answers that say that it does not exist
GONE = frozenset({"RUN_NOT_FOUND", "PROJECT_NOT_FOUND"})
#: the run exists already, as it should
BENIGN = frozenset({"RUN_DUPLICATE"})
#: changes the run, which is noted, but loses nothing
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
    """What is known about a run before this attempt: its saved position (None: nothing), and whether we created it.

    `saved`: an earlier attempt has confirmed that parts of it are in Neptune.
    """

    position: str | None
    begun: bool = False
    saved: bool = False

    @classmethod
    def of(cls, position: str | None, *, begun: bool) -> Past:
        """The past of a run with this saved position.

        If nothing is known of a run that Neptune has already (the state database may have been lost), it keeps its
        points; the position `EXISTED` records that.
        """
        begun = begun or position is not None
        return cls(position or (CREATED if begun else None), begun, position is not None)

    @property
    def is_unknown(self) -> bool:
        """Whether an existing run may be anybody's."""
        return self.position is None and not self.begun

    def found(self) -> None:
        """Record that the run exists and is a copy of the same source, begun with another state database."""
        self.position, self.begun = EXISTED, True

    def is_ahead(self) -> None:
        """Neptune has what it refuses, and it is equal: the run was further when the state database was copied."""
        self.position = EXISTED

    def judge(self, project: str, codes: Mapping[str, int], *, replayed: bool) -> tuple[set[str], dict[str, int]]:
        """Return (notes, final refusals by code) for the answer to a request; the first request holds the creation.

        Raises `RunError` if the answer concerns the run as a whole, `Vanished` if the run no longer exists.
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
