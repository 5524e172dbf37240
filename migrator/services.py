"""What a service says of itself, and of who is logged in: for `migrate doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Introduction:
    """A login that has worked. Empty or None: the service does not tell.

    `spaces`: the entities (W&B) or workspaces (Neptune) that the account is known to see; the account's own comes
    first. `ahead_s`: how many seconds its clock is ahead of ours. `lacks`: fields that this server is too old to know.
    `tried`: a run that was opened; `trouble`: why none could be.
    """

    address: str
    account: str = ""
    spaces: Sequence[str] = ()
    projects: int = 0
    version: str = ""
    ahead_s: float | None = None
    lacks: Sequence[str] = ()
    tried: str = ""
    trouble: str = ""


def ahead_s(date_header: str | None, asked_at: float, answered_at: float) -> float | None:
    """How far a server's clock is ahead of ours, by the Date header of an answer (RFC 9110, whole seconds).

    `asked_at` and `answered_at` are our own clock's, in seconds since the epoch.
    """
    from email.utils import parsedate_to_datetime  # only here: `--help` would wait for it

    try:
        said = parsedate_to_datetime(date_header or "").timestamp()
    except ValueError:
        return None
    return said + 0.5 - (asked_at + answered_at) / 2
