"""Translates failures of a Neptune server into our own errors, and decides which calls to repeat at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import stamina
from google.protobuf.message import DecodeError
from neptune_api.errors import (
    ApiKeyRejectedError,
    InvalidApiTokenException,
    UnableToExchangeApiKeyError,
    UnableToParseResponse,
    UnableToRefreshTokenError,
)
from neptune_scale.exceptions import NeptuneUnexpectedResponseError

from migrator.destinations.neptune.limited import ANSWER_BYTES_MAX, AnswerTooLong
from migrator.errors import (
    ErrorClass,
    MigratorError,
    Rejected,
    Retryable,
    Throttled,
    TooLong,
    TurnedAway,
    UserError,
    again_on_the_spot,
    of_status,
    refuses_address,
    retry_after_s,
)

SERVICE = "neptune"
NEW_TOKEN = "Neptune refused NEPTUNE_API_TOKEN; create a new one"
PATIENCE_S = 20.0  # how long one call is repeated before the run gives up its claim
#: a project or run that is not there comes as an ingest code; these statuses are about the request
DIFFERS = dict.fromkeys((404, 410), (Rejected, ErrorClass.REJECTED_BY_NEPTUNE))

T = TypeVar("T")


def patiently(call: Callable[[], T]) -> T:
    """Make a call, and repeat it if the failure may pass soon: with jitter, or after the time the server named."""
    return _repeated(call, _may_pass_soon)


def patiently_in_place(call: Callable[[], T]) -> T:
    """Like `patiently`, for one step of an upload, but do not try again with an address that has expired."""
    return _repeated(call, lambda error: not _has_expired(error) and _may_pass_soon(error))


def _repeated(call: Callable[[], T], on: Callable[[Exception], bool | float]) -> T:
    tries = stamina.retry_context(on=on, attempts=5, timeout=PATIENCE_S, wait_initial=0.2, wait_max=5.0)
    for attempt in tries:
        with attempt:
            return call()
    raise AssertionError("unreachable: the last attempt returns or raises")


def _may_pass_soon(error: Exception) -> bool | float:
    """Whether to try again at once; a number: after this many seconds."""
    lasts = isinstance(error, TooLong) or (isinstance(error, Retryable) and error.error_class is ErrorClass.BAD_DATA)
    return again_on_the_spot(error, may_pass=isinstance(error, Retryable) and not lasts)


def _has_expired(error: Exception) -> bool:
    """Whether a storage refused a signed address (see `check_storage`)."""
    return isinstance(error, Retryable) and error.error_class is ErrorClass.PERMISSION


def check_answer(response: Any, what: str) -> None:
    """Raise for every status except success. We retry ourselves, because the client's retries ignore Retry-After."""
    status = int(response.status_code)
    message = f"{what}: HTTP {status}"
    if 200 <= status < 300:
        return
    if status == 401:
        raise TurnedAway(f"{message}: {NEW_TOKEN}", SERVICE)
    if status == 403:
        message += ": you may not write there"
    elif status < 500 and status not in (408, 429):
        message = f"{message} {_words(response)}".rstrip()
    refused = ErrorClass.REJECTED_BY_NEPTUNE
    raise of_status(status, message, SERVICE, _asked_s(response), refused=refused, differs=DIFFERS)


def _words(response: Any) -> str:
    """The beginning of what the server says. Empty if the answer is a stream, which nobody has read."""
    try:
        return str(response.content[:200].decode(errors="replace"))
    except httpx.ResponseNotRead:
        return ""


def _asked_s(response: Any) -> float | None:
    """How long the server asks us to wait."""
    return retry_after_s(response.headers.get("retry-after"))


def check_storage(response: Any, what: str) -> None:
    """Like `check_answer`, for a storage: it answers 400 or 403 if the address has expired, and a new one may work."""
    status = int(response.status_code)
    if refuses_address(status):
        raise Retryable(ErrorClass.PERMISSION, f"{what}: the storage refused it (HTTP {status})")
    check_answer(response, what)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Translate exceptions of the SDK, its HTTP client and the file system into our errors."""
    try:
        yield
    except AnswerTooLong as error:
        raise TooLong(what, "Neptune", ANSWER_BYTES_MAX) from error
    except ApiKeyRejectedError as error:
        raise TurnedAway(f"{what}: {NEW_TOKEN}", SERVICE) from error
    except httpx.RequestError as error:
        raise _lost(what, error) from error
    except (UnableToRefreshTokenError, UnableToExchangeApiKeyError) as error:
        raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: {error}") from error
    except httpx.HTTPStatusError as error:
        check_storage(error.response, what)
    except OSError as error:
        raise Retryable(ErrorClass.BAD_DATA, f"{what}: {error}") from error
    except (
        DecodeError,
        InvalidApiTokenException,  # the access token is not valid
        KeyError,
        NeptuneUnexpectedResponseError,
        UnableToParseResponse,
        ValueError,  # for example an HTTP status that Python does not know
    ) as error:
        message = f"{what}: the answer is not one that Neptune normally gives ({type(error).__name__})"
        raise Retryable(ErrorClass.UNAVAILABLE, message) from error


def _lost(what: str, error: httpx.RequestError) -> MigratorError:
    """The error for a lost connection. No connection: the service is down for all. A broken one: only this request."""
    message = f"{what}: {type(error).__name__} {error}".rstrip()
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return UserError(f"{message}: if you trust this server, set NEPTUNE_ALLOW_SELF_SIGNED_CERTIFICATE=true")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Throttled(ErrorClass.UNAVAILABLE, message, SERVICE)
    timed_out = isinstance(error, httpx.TimeoutException)
    return Retryable(ErrorClass.TIMEOUT if timed_out else ErrorClass.UNAVAILABLE, message)
