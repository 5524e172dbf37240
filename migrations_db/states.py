"""The states of a run and of its parts, and the moves between them. Pure.

```
           inventory             claim              complete
  (none) ────────────> pending ────────> running ─────────────> done
                        ^ ^ │              │  │ fail              │
    skipped <───────────┼─┼─┘              │  v                   │
       └────────────────┘ │ release, lost  │  failed              │
                          ├────────────────┘    │                 │
                          └─────────────────────┴─────────────────┘
                                 retry_failed     inventory, start_upload
```

| move | by |
|---|---|
| running -> pending | `release`, `throttle`, `fail` with attempts left, `recover`: the cursors stay |
| running -> running | `claim`, when the lease has ended: the old attempt is lost |
| failed -> pending | `retry_failed`, `forget`, or an inventory that finds the source changed |
| done -> pending | an inventory that finds the source changed; `start_upload`, into phase upload; `forget` |
| pending -> failed | `fail_fork_cycles`: forks of each other, which would wait forever |
| pending, failed -> skipped | left out by `inventory --only`, or gone before anything was copied |
| skipped -> pending | an inventory that lists the run again |

A run is in one phase at a time. The same states, claims and checks serve both phases.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What a claim of the run is for."""

    COPY = "copy"  #: from the source to the destination (Neptune, or its offline file)
    UPLOAD = "upload"  #: from the offline file to Neptune, by `migrate sync`


class RunStatus(StrEnum):
    """The status of a run in its phase."""

    PENDING = "pending"  #: waits for a worker, perhaps until `not_before`
    RUNNING = "running"  #: claimed; the claim holds until `lease_until`
    DONE = "done"  #: every selected part is done and the counts agree
    FAILED = "failed"  #: rejected, or failed too often; `migrate retry-failed` makes it pending again
    SKIPPED = "skipped"  #: excluded by a filter, or gone before anything was copied; `reason` says which


class PartStatus(StrEnum):
    """The status of a part of a run."""

    OPEN = "open"  #: there may be more to read after its cursor
    DONE = "done"  #: read to its end, for the current fingerprint of the run


class Outcome(StrEnum):
    """How an attempt ended; None while it is running."""

    DONE = "done"  #: the run is complete
    RELEASED = "released"  #: clean stop; does not count as a failure
    THROTTLED = "throttled"  #: a service asked to wait; does not count as a failure
    RETRY = "retry"  #: failed, and will be tried again
    FAILED = "failed"  #: failed for good
    LOST = "lost"  #: its worker is gone, or its lease ended; does not count as a failure
    CRASHED = "crashed"  #: its worker process died during the attempt
    STALLED = "stalled"  #: stopped because it made no progress


class Verdict(StrEnum):
    """The result of a verification for a run, or for one path of it."""

    VERIFIED = "verified"  #: everything that can be read back is what was sent
    DIFFERS = "differs"  #: something is missing, was changed, or was written by somebody else
    NOT_VERIFIED = "not_verified"  #: cannot be compared; the row says why


class Proof(StrEnum):
    """What is proved of a run."""

    EQUAL = "equal"  #: verified, and nothing was skipped or changed
    EXPLAINED = "explained"  #: verified; the ledger has the reason for what was skipped or changed
    DIFFERS = "differs"
    NOT_VERIFIED = "not_verified"  #: copied
    NOT_COPIED = "not_copied"


def proof_of(status: RunStatus, verdict: Verdict | None, *, explained: bool) -> Proof:
    """`explained`: something was skipped or changed on the way."""
    if status is not RunStatus.DONE:
        return Proof.NOT_COPIED
    match verdict:
        case Verdict.VERIFIED:
            return Proof.EXPLAINED if explained else Proof.EQUAL
        case Verdict.DIFFERS:
            return Proof.DIFFERS
    return Proof.NOT_VERIFIED


class Unseen(StrEnum):
    """What it means if an inventory did not list a run of the project."""

    GONE = "gone"  #: the listing was complete: the source no longer has the run
    EXCLUDED = "excluded"  #: the filters select everything that is wanted: the run is not


MOVES: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.PENDING: frozenset({RunStatus.RUNNING, RunStatus.FAILED, RunStatus.SKIPPED}),
    RunStatus.RUNNING: frozenset({RunStatus.PENDING, RunStatus.DONE, RunStatus.FAILED, RunStatus.RUNNING}),
    RunStatus.DONE: frozenset({RunStatus.PENDING}),
    RunStatus.FAILED: frozenset({RunStatus.PENDING, RunStatus.SKIPPED}),
    RunStatus.SKIPPED: frozenset({RunStatus.PENDING}),
}
"""All allowed moves. running -> running is the takeover of an expired lease."""


def may_move(old: RunStatus, new: RunStatus) -> bool:
    """Whether a run may go from `old` to `new`."""
    return new in MOVES[old]


def listed(status: RunStatus, *, changed: bool) -> RunStatus:
    """The status after an inventory has listed the run again. `changed`: it has changed since the copy began.

    A running run is left to its worker: the change is recorded, and a later inventory sees it again.
    """
    match status:
        case RunStatus.DONE | RunStatus.FAILED if changed:
            return RunStatus.PENDING
        case RunStatus.SKIPPED:
            return RunStatus.PENDING
        case _:
            return status


def after_failure(failures: int, max_failures: int) -> RunStatus:
    """The status after the `failures`-th failure in a row. With `max_failures` the run has failed."""
    return RunStatus.PENDING if failures < max_failures else RunStatus.FAILED
