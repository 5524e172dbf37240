"""The classes that a report puts runs into, and the sentences about them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from migrations_db.accounts import RunAccount
from migrations_db.states import Proof, proof_of
from migrator.commands.text import counted


class RunClass(StrEnum):
    """What can be said of a run, worst first. Only `UNEXPLAINED` is a fault."""

    UNEXPLAINED = "unexplained"
    NOT_COPIED = "not copied"
    NOT_VERIFIED = "not verified"
    EXPLAINED = "explained"
    EQUAL = "equal"


#: in the order in which they are shown
CLASSES_MEAN = {
    RunClass.EQUAL: "read back and found as it was sent; nothing was skipped or changed",
    RunClass.EXPLAINED: "read back and found as it was sent; what was skipped or changed has its reason in this report",
    RunClass.UNEXPLAINED: "what was read back is not what was sent",
    RunClass.NOT_VERIFIED: "copied, but not compared with what is at the destination",
    RunClass.NOT_COPIED: "waits, is being copied, has failed, or was left out",
}


def class_of(run: RunAccount) -> RunClass:
    proof = proof_of(run.status, run.verdict, explained=bool(run.skipped or run.changed))
    return RunClass.UNEXPLAINED if proof is Proof.DIFFERS else RunClass[proof.name]


def headline(runs: Mapping[RunClass, int]) -> tuple[RunClass, str]:
    """The worst class that there is, and what follows for all runs together."""
    total = sum(runs.values())
    worst = next((one for one in RunClass if runs.get(one)), RunClass.NOT_COPIED)
    count = runs.get(worst, 0)
    match worst:
        case _ if not total:
            return worst, "There are no runs to report on."
        case RunClass.UNEXPLAINED:
            return worst, f"{counted(count, 'run')} of {total:,} {'is' if count == 1 else 'are'} not as sent."
        case RunClass.NOT_COPIED:
            return worst, f"{counted(count, 'run')} of {total:,} {'is' if count == 1 else 'are'} not copied yet."
        case RunClass.NOT_VERIFIED:
            verified = total - count
            if not verified:
                return worst, f"{_all(total)} copied. None has been read back: `migrate verify` does that."
            return worst, f"{_all(total)} copied, {verified:,} of them verified."
    told = "" if worst is RunClass.EQUAL else " What was skipped or changed on the way is explained below."
    return worst, f"{_all(total)} copied, read back, and found as sent.{told}"


def _all(total: int) -> str:
    return "The one run is" if total == 1 else f"All {total:,} runs are"
