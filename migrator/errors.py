"""The error tree.

    MigratorError                 raised on purpose by this program
    |- UserError                  a person must act; ends the command with its exit code, no traceback
    |  `- TurnedAway              a service refuses us: final only if it does so again some seconds later
    `- RunError                   this run stops, the others continue; stored with the run
       |- Retryable               may work later, unchanged
       |  |- Throttled            a service asks to wait: costs no attempt, all workers pause for that service
       |  |- TooLong              an answer too large to be read
       |  |- Vanished             the destination has lost the run: what was copied of it no longer counts
       |  `- DiskFull             no space left: stops the whole job if every other run would fail too
       `- Rejected                will not work unchanged, once a second try has confirmed it

Adapters translate vendors' errors into these with ``raise ... from``.
"""

from __future__ import annotations

import errno
import resource
import shutil
import time
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from pathlib import Path
from types import MappingProxyType

from migrator.disk import existing

RETRY_AFTER_MAX_S = 3600.0  # we never wait longer than this, whatever a server asks
FULL_BELOW_BYTES = 1 << 30  # a disk with less free space than this is full for every run, not only for a large one


class ExitCode(IntEnum):
    """The exit code of the process; documented in README."""

    OK = 0  #: all selected runs done
    UNEXPECTED = 1  #: a bug, or a full disk
    USAGE = 2  #: usage or settings
    SOME_FAILED = 3  #: finished, but some runs failed (or, with --strict, something was skipped)
    CREDENTIALS = 4  #: credentials or permission
    TRY_LATER = 5  #: stopped by a condition that may pass: a service is down or throttles us
    UNFINISHED = 6  #: `status --exit-code`: runs are pending or running
    STATE = 7  #: state database missing, unreachable, locked, read-only, full, too new or damaged
    INTERRUPTED = 130  #: Ctrl-C
    TERMINATED = 143  #: SIGTERM, SIGHUP


class ErrorClass(StrEnum):
    """Why a run failed: stored with each attempt, shown by `migrate status`, selected by `retry-failed --class`."""

    RATE_LIMITED = "rate_limited"  #: HTTP 429
    UNAVAILABLE = "unavailable"  #: 5xx, refused or dropped connections, truncated answers
    TIMEOUT = "timeout"  #: no answer in time
    STALLED = "stalled"  #: no progress for --stall-timeout; the worker was stopped
    CRASHED = "crashed"  #: the worker process died
    AUTH = "auth"  #: the key was refused
    PERMISSION = "permission"  #: the key is valid, but not allowed to do this
    NOT_FOUND = "not_found"  #: deleted or renamed in the source, or missing at the destination
    BAD_DATA = "bad_data"  #: the source's data cannot be read or does not add up
    REJECTED_BY_NEPTUNE = "rejected_by_neptune"  #: Neptune refused the run itself
    DISK_FULL = "disk_full"  #: no space for scratch, offline files or the state database
    DIFFERS = "differs"  #: done, but `migrate verify` did not find what was sent
    UNKNOWN = "unknown"  #: anything else: a bug to report


ADVICE = {
    ErrorClass.RATE_LIMITED: "The service limits requests. Run `migrate run` again later, or with fewer --workers.",
    ErrorClass.UNAVAILABLE: "No answer. `migrate retry-failed --class unavailable`, then `migrate run`.",
    ErrorClass.TIMEOUT: "The service was too slow. `migrate retry-failed --class timeout`, then `migrate run`.",
    ErrorClass.STALLED: "No progress in time. Raise --stall-timeout, then `migrate retry-failed --class stalled`.",
    ErrorClass.CRASHED: "The worker died (out of memory?). `migrate retry-failed --class crashed`, fewer --workers.",
    ErrorClass.AUTH: "Check WANDB_API_KEY and NEPTUNE_API_TOKEN, then `migrate run`.",
    ErrorClass.PERMISSION: "Ask for access to the project, then `migrate retry-failed --class permission`.",
    ErrorClass.NOT_FOUND: "Gone from W&B: `migrate inventory` updates the table. A missing file: see the message.",
    ErrorClass.BAD_DATA: "The source's data does not add up. `migrate status RUN` shows what was read.",
    ErrorClass.REJECTED_BY_NEPTUNE: "Neptune refused it. `migrate status RUN` shows the reason.",
    ErrorClass.DISK_FULL: "Free some space (or use --work-dir), then `migrate retry-failed --class disk_full`.",
    ErrorClass.DIFFERS: "`migrate retry-failed --class differs`, then `migrate run` sends the run again.",
    ErrorClass.UNKNOWN: "Please report this with the file from migration-logs/.",
}


class MigratorError(Exception):
    """Raised on purpose by this program."""


class UserError(MigratorError):
    """A person must act. The message says what is wrong and the next command."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TurnedAway(UserError):
    """`service` refuses the key, or something else that all runs need. This may be temporary."""

    def __init__(self, message: str, service: str, exit_code: ExitCode = ExitCode.CREDENTIALS) -> None:
        super().__init__(message, exit_code)
        self.service = service


class RunError(MigratorError):
    """This run stops, the others continue. `error_class` and message are stored with the run."""

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


class Retryable(RunError):
    """May work later, unchanged. Costs one attempt."""


class Throttled(Retryable):
    """`service` asks to wait for `retry_after_s` seconds (None: it did not say). Costs no attempt."""

    def __init__(self, error_class: ErrorClass, message: str, service: str, retry_after_s: float | None = None) -> None:
        super().__init__(error_class, message)
        self.service = service
        self.retry_after_s = retry_after_s


class TooLong(Retryable):
    """The answer of `service` to a request is longer than `limit_bytes`: the rest was not read.

    The same request fails again at once; a request for less may work.
    """

    def __init__(self, what: str, service: str, limit_bytes: int) -> None:
        super().__init__(
            ErrorClass.UNAVAILABLE, f"{what}: {service}'s answer is over {limit_bytes >> 20} MiB, so it was not read"
        )


class Vanished(Retryable):
    """The run was copied, completely or in part, but is no longer at the destination."""

    def __init__(self, what: str) -> None:
        super().__init__(
            ErrorClass.NOT_FOUND, f"{what} was there already, but is gone: the run is copied again from its start"
        )
        self.what = what


class DiskFull(Retryable):
    """No space left in `directory` for `what`. `quota`: the user's quota is used up, even if the disk has space."""

    def __init__(self, what: str, directory: Path, *, quota: bool = False) -> None:
        super().__init__(ErrorClass.DISK_FULL, f"no space left in {directory} for {what}")
        self.directory = directory
        self.quota = quota

    def concerns_all(self) -> bool:
        """Whether other runs would fail too. Call it after the run's own scratch files are removed."""
        return self.quota or shutil.disk_usage(existing(self.directory)).free < FULL_BELOW_BYTES


class Rejected(RunError):
    """Will not work unchanged, judging by one answer."""


# ---------------------------------------------------------------- answers of services, by HTTP status

#: what a status means for a run, whichever service sends it. All others: see `of_status`
STATUSES: Mapping[int, tuple[type[RunError], ErrorClass]] = {
    403: (Rejected, ErrorClass.PERMISSION),
    404: (Rejected, ErrorClass.NOT_FOUND),
    408: (Retryable, ErrorClass.TIMEOUT),
    410: (Rejected, ErrorClass.NOT_FOUND),
    425: (Retryable, ErrorClass.UNAVAILABLE),
    429: (Throttled, ErrorClass.RATE_LIMITED),
}
WAIT_ON_THE_SPOT_S = 10.0  # a request itself waits for up to this Retry-After; a longer one pauses all workers


def of_status(
    status: int,
    message: str,
    service: str,
    retry_after_s: float | None = None,
    *,
    refused: ErrorClass = ErrorClass.UNKNOWN,
    differs: Mapping[int, tuple[type[RunError], ErrorClass]] = MappingProxyType({}),
) -> RunError:
    """The error for an answer of `service` with a status other than 2xx and 401, which concerns the key.

    `retry_after_s`: as its Retry-After says. `differs`: what statuses mean to this service, where that is not in
    STATUSES. `refused`: the class of statuses that neither has.
    """
    if status == 503 and retry_after_s is not None:
        return Throttled(ErrorClass.UNAVAILABLE, message, service, retry_after_s)
    otherwise = (Retryable, ErrorClass.UNAVAILABLE) if status >= 500 else (Rejected, refused)
    kind, error_class = {**STATUSES, **differs}.get(status, otherwise)
    if kind is Throttled:
        return Throttled(error_class, message, service, retry_after_s)
    return kind(error_class, message)


def refuses_address(status: int) -> bool:
    """Whether a storage refuses an address, which is usually signed and expires: a new one may work."""
    return 400 <= status < 500 and STATUSES.get(status, (Rejected,))[0] is Rejected


def again_on_the_spot(error: Exception, *, may_pass: bool) -> bool | float:
    """Whether to send a request again at once; a number: after this many seconds.

    Services that say how long to wait are obeyed. `may_pass`: whether other errors may be gone in a moment.
    """
    if isinstance(error, Throttled) and error.retry_after_s is not None:
        return error.retry_after_s if error.retry_after_s <= WAIT_ON_THE_SPOT_S else False
    return may_pass


def retry_after_s(header: str | None) -> float | None:
    """Parse Retry-After, which has seconds or a date (RFC 9110). None: missing, or not a valid wait."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        from email.utils import parsedate_to_datetime  # only here: it would slow down `--help`

        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return min(seconds, RETRY_AFTER_MAX_S) if seconds >= 0 else None


def too_few_files() -> UserError:
    """The error for EMFILE: every run would fail with it, so the job stops."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return UserError(
        f"too many open files: this system allows {limit} per process (`ulimit -n`). Run `ulimit -n 1024` first, or "
        "use fewer --workers, then run the same command again",
        ExitCode.UNEXPECTED,
    )


def disk_full(error: BaseException, what: str, directory: Path) -> DiskFull | None:
    """The error for a full disk, if the operating system's `error` says so. None: it is another error."""
    number = getattr(error, "errno", None)
    return DiskFull(what, directory, quota=number == errno.EDQUOT) if number in (errno.ENOSPC, errno.EDQUOT) else None
