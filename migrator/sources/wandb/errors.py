"""Translates W&B's failures into our errors, and decides which requests to repeat at once.

There are two layers of retries below those of a run. wandb-core repeats GraphQL requests after 429, 5xx and dropped
connections (twice, as set in `client`). `retries` repeats the rest: truncated answers, downloads, expired addresses.
Errors that remain are raised and cost the run an attempt. The wording of messages is that of wandb-core 0.31.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import stamina

from migrator import errors
from migrator.errors import ErrorClass, MigratorError, Rejected, Retryable, Throttled, TurnedAway, disk_full
from migrator.redaction import without_long_words, without_secrets

SERVICE = "wandb"
TRIES = 4  # our tries of one request: about 2 s including the waits

STATUS = re.compile(r"\bHTTP (\d{3})\b")
CORE_ENDED = re.compile(r"service process is not running")
CUT = re.compile(r"unexpected EOF|invalid character|unexpected end of JSON|malformed chunked", re.IGNORECASE)
UNANSWERED = re.compile(r"did not respond in time")  # wandb-core is still trying
SLOW = re.compile(r"did not respond in time|deadline exceeded|timed? ?out", re.IGNORECASE)
DOWN = re.compile(r"connection refused|no such host|network is unreachable|no route to host", re.IGNORECASE)
REFUSED = re.compile(r"permission|forbidden|access denied|not authori[sz]ed", re.IGNORECASE)
ABSENT = re.compile(r"not found|could not find|does not exist", re.IGNORECASE)
LIMITED = re.compile(r"\brate.?limit|too many requests|\bthrottled\b", re.IGNORECASE)
NOT_KNOWN = re.compile(
    r"cannot query field|unknown (argument|field|type)|unsupported|requires W&B server", re.IGNORECASE
)
#: how wandb-core begins when it gives up: its cause comes behind it, after the same in other words
GIVEN_UP = re.compile(r".*while retrying:\s*", re.DOTALL)
REQUEST = re.compile(r'\b(?:Get|Head|Patch|Post|Put) "[^"]*": ')  # Go names the address again, which `what` has
NO_FIELD = re.compile(r"cannot query field \W*(\w+)\W+on type", re.IGNORECASE)


WEB_PAGE = "a web page answers, not W&B's API: check WANDB_BASE_URL, and whether a proxy wants a login"


class NotKnown(Rejected):
    """The server does not know the request or some of its fields: it is older or newer than wandb 0.31."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorClass.UNKNOWN, message)


class Passing(Retryable):
    """A fault that may be gone if the same request is sent again in a moment."""


class CoreEnded(Passing):
    """The wandb-core process ended while it worked on a request. Another one was started."""

    def __init__(self, what: str) -> None:
        super().__init__(ErrorClass.UNAVAILABLE, f"{what}: the wandb-core process ended; started again")


def retries(on: type[Exception] | Callable[[Exception], bool | float] = Passing) -> Iterator[Any]:
    """`for attempt in retries(): with attempt: ...` repeats the block on `Passing`, or as `on` says.

    After the last try, `Passing` is raised as `Retryable`, so that nested retries do not multiply.
    """
    try:
        yield from stamina.retry_context(
            on=on, attempts=TRIES, timeout=None, wait_initial=0.2, wait_max=5.0, wait_jitter=0.5
        )
    except Passing as error:
        raise Retryable(error.error_class, str(error)) from error


def of_message(message: str, what: str, status: int = 0) -> MigratorError:
    """The error for a GraphQL request that failed with wandb-core's `message`. `status` 0: not known."""
    if not status and (found := STATUS.search(message)):
        status = int(found[1])
    if status in (0, 200, 400, 403, 503) and LIMITED.search(message) and not ABSENT.search(message):
        return Throttled(ErrorClass.RATE_LIMITED, f"{what}: W&B limits requests: {one_line(message)}", SERVICE)
    if status in (0, 200, 400, 422) and NOT_KNOWN.search(message):
        return NotKnown(f"{what}: this W&B server does not know the request: {one_line(message)}")
    if status >= 400:
        return of_status(status, what, message)
    if "invalid character '<'" in message:
        return Passing(ErrorClass.UNAVAILABLE, f"{what}: {WEB_PAGE}")
    if CUT.search(message):
        return Passing(ErrorClass.UNAVAILABLE, f"{what}: W&B's answer was cut: {one_line(message)}")
    if DOWN.search(message):
        return Throttled(ErrorClass.UNAVAILABLE, f"{what}: W&B cannot be reached: {one_line(message)}", SERVICE)
    if SLOW.search(message):
        return Retryable(ErrorClass.TIMEOUT, f"{what}: W&B was too slow: {one_line(message)}")
    if REFUSED.search(message):
        return Rejected(ErrorClass.PERMISSION, f"{what}: W&B does not allow it: {one_line(message)}")
    if ABSENT.search(message):
        return Rejected(ErrorClass.NOT_FOUND, f"{what}: not found: {one_line(message)}")
    return Retryable(ErrorClass.UNAVAILABLE, f"{what}: {one_line(message)}")


def of_status(status: int, what: str, message: str = "", retry_after_s: float | None = None) -> MigratorError:
    """The error for an answer with HTTP status `status`, after all retries of the layers below."""
    text = f"{what}: HTTP {status}" + (f": {one_line(message)}" if message else "")
    return refused_key(text) if status == 401 else errors.of_status(status, text, SERVICE, retry_after_s)


def refused_key(why: str) -> TurnedAway:
    return TurnedAway(
        f"W&B refused the API key ({why}). Check WANDB_API_KEY (or WANDB_IDENTITY_TOKEN_FILE) and WANDB_BASE_URL, "
        "or run `wandb login`.",
        SERVICE,
    )


def of_disk(error: OSError, what: str, scratch: Path) -> MigratorError:
    """The error for scratch space that could not be written or read."""
    return disk_full(error, what, scratch) or Retryable(
        ErrorClass.UNKNOWN, f"{what}: scratch file: {error.strerror or error}"
    )


def one_line(message: str) -> str:
    """The beginning of `message` on one line, without possible secrets; of a request that was given up, the cause."""
    message = REQUEST.sub("", GIVEN_UP.sub("", message) or message)
    return without_long_words(without_secrets(" ".join(message.split())))[:300]
