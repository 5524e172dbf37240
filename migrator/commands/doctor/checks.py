"""One line of `migrate doctor`, and how an error becomes one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from threading import Thread

from migrations_db import StateError
from migrator.commands.text import message_text
from migrator.errors import ErrorClass, ExitCode, MigratorError, Rejected, Retryable, UserError
from migrator.redaction import without_keys

#: finds some checks; may raise anything
Look = Callable[[], Iterable["Check"]]

log = logging.getLogger(__name__)

REACH = "Check that the service runs and that this machine reaches it: address, VPN, proxy, firewall"
REPORT = "Please report it with the newest file of migration-logs/"

#: of several codes the one that tells most: what a person must correct comes before what may pass
MOST_TELLING = (ExitCode.CREDENTIALS, ExitCode.USAGE, ExitCode.STATE, ExitCode.UNEXPECTED, ExitCode.TRY_LATER)


class Health(StrEnum):
    """How a check came out."""

    OK = "ok"  #: nothing stands in the way
    WARN = "warn"  #: the job can run, but look at this first
    BAD = "bad"  #: the job would stop, or go wrong


@dataclass(frozen=True, slots=True)
class Check:
    """What was found. `next_step` empty: there is nothing to do, or the message says it. `exit_code`: of a bad one."""

    name: str
    health: Health
    message: str
    next_step: str = ""
    exit_code: ExitCode = ExitCode.OK


def ok(name: str, message: str) -> Check:
    return Check(name, Health.OK, message)


def warn(name: str, message: str, next_step: str) -> Check:
    return Check(name, Health.WARN, message, next_step)


def bad(name: str, message: str, next_step: str = "", exit_code: ExitCode = ExitCode.USAGE) -> Check:
    return Check(name, Health.BAD, message, next_step, exit_code)


def worst(checks: Sequence[Check]) -> ExitCode:
    """0 where nothing is bad."""
    codes = {check.exit_code for check in checks if check.health is Health.BAD}
    return next((code for code in MOST_TELLING if code in codes), ExitCode.OK)


def attempted(name: str, look: Look) -> list[Check]:
    """What a look finds; an error becomes a bad check behind it: it never stops the others."""
    found: list[Check] = []
    try:
        for check in look():
            found.append(check)
    except (MigratorError, StateError, OSError) as error:
        found.append(_failed(name, error))
    except Exception as error:  # a bug: people get a line, the log gets the traceback
        log.error("%s: unexpected error", name, exc_info=error)
        found.append(bad(name, f"unexpected error: {type(error).__name__}: {error}", REPORT, ExitCode.UNEXPECTED))
    return found


def attempted_at_once(looks: Mapping[str, Look]) -> list[Check]:
    """What several looks find, in their order; they do not wait for each other."""
    found: dict[str, list[Check]] = {}

    def attempt(name: str) -> None:
        found[name] = attempted(name, looks[name])

    # daemons: Ctrl-C need not wait for a service that does not answer
    threads = [Thread(target=attempt, args=(name,), name=name, daemon=True) for name in looks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [check for name in looks for check in found[name]]


def _failed(name: str, error: Exception) -> Check:
    message = message_text(without_keys(str(error)))
    match error:
        case UserError():
            return bad(name, message, exit_code=error.exit_code)
        case StateError():
            return bad(name, message, exit_code=ExitCode.STATE)
        case Retryable():
            return bad(name, message, REACH, ExitCode.TRY_LATER)
        case Rejected(error_class=ErrorClass.PERMISSION):
            return bad(name, message, "Ask an administrator for access", ExitCode.CREDENTIALS)
        case OSError():
            place = f"{error.filename}: " if error.filename else ""
            return bad(name, f"{place}{error.strerror or error}", "Get permission, or name another place")
    return bad(name, message, REPORT, ExitCode.UNEXPECTED)
