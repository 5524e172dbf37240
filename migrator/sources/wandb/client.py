"""The only access to the wandb SDK: its environment, one `wandb.Api`, and GraphQL requests through it.

All communication with W&B's service goes through `WandbClient.ask` (and `downloads` for plain downloads), so that a
new version of the SDK can only break this file. Private names of wandb 0.31 used here: `Api._service_api` with
`execute_graphql`, `access_token`, `app_url` and `_settings`, `wbauth.authenticate_session`, `wandb_setup.singleton`,
`WandbApiFailedError`, the mailbox's errors, and the process of wandb-core (`ServiceConnection._proc._process`).

The SDK starts one helper process, `wandb-core`, for all `Api` objects of a process. It sends 10 requests at a time for
each `Api`. More objects bring no gain on the few cores that a worker has. wandb-core reads every answer as a whole, so
its memory is limited: it ends when an answer is absurdly long, and `glance` then finds out whether that was the cause.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from migrator.errors import ErrorClass, ExitCode, MigratorError, Retryable, Throttled, TooLong, UserError
from migrator.sources.wandb.answers import Json
from migrator.sources.wandb.downloads import KeyForWandb, Transport
from migrator.sources.wandb.errors import (
    CORE_ENDED,
    NO_FIELD,
    SERVICE,
    UNANSWERED,
    CoreEnded,
    Passing,
    of_message,
    one_line,
    refused_key,
    retries,
)
from migrator.sources.wandb.glance import is_too_long, obstacle
from migrator.sources.wandb.queries import OPTIONAL, VIEWER

ANSWER_BYTES_MAX = 96 << 20  # of JSON; the largest pages that are requested on purpose have 64 MiB
CORE_BYTES_MAX = 704 << 20  # for the data of wandb-core, which holds an answer several times
REQUEST_TIMEOUT_S = 120  # for one request with all tries of wandb-core: 30 s each, or as long as W&B asks to wait

DIRECTORIES = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR")
SETTINGS = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",  # otherwise wandb-core sends its errors to a third service
    # Few retries, so that our error classes decide. Whole seconds: below 1 means wandb's default (wandb-core 0.31).
    "WANDB_X_GRAPHQL_RETRY_MAX": "2",
    "WANDB_X_GRAPHQL_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB_X_GRAPHQL_RETRY_WAIT_MAX_SECONDS": "2",
    "WANDB_X_FILE_TRANSFER_RETRY_MAX": "2",
    "WANDB_X_FILE_TRANSFER_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB_X_FILE_TRANSFER_RETRY_WAIT_MAX_SECONDS": "2",
}
#: with WANDB_SERVICE, the wandb-core of a parent process would be shared; the others would be used as defaults
UNSET = ("WANDB_SERVICE", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_MODE")


log = logging.getLogger(__name__)


class _AnswerTooLong(Exception):
    """An answer that wandb-core has read is longer than we want to parse."""


class _Environment:
    """This process's wandb settings while clients are open. All clients share them, so they are counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients = 0
        self._before: dict[str, str | None] = {}

    def enter(self, scratch: Path) -> None:
        with self._lock:
            self._clients += 1
            if self._clients > 1:
                return
            wanted = SETTINGS | {name: str(scratch / name.lower()) for name in DIRECTORIES}
            for name in DIRECTORIES:
                Path(wanted[name]).mkdir(parents=True, exist_ok=True)  # if missing, wandb uses the working directory
            self._before = {name: os.environ.get(name) for name in (*wanted, *UNSET)}
            os.environ.update(wanted)
            for name in UNSET:
                os.environ.pop(name, None)

    def leave(self) -> bool:
        """Return True for the last client; the environment is then restored."""
        with self._lock:
            self._clients -= 1
            if self._clients:
                return False
            for name, value in self._before.items():
                if value is None or name == "WANDB_SERVICE":
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            return True


class WandbClient:
    """This process's own logged-in `wandb.Api`. May be used by several threads."""

    _process: ClassVar = _Environment()

    def __init__(self, base_url: str | None, api_key: str | None, scratch: Path, timeout_s: int | None = None) -> None:
        """Log in (two requests). `UserError` if the key is missing or refused, `Throttled` if W&B does not answer."""
        self._timeout_s = timeout_s or REQUEST_TIMEOUT_S
        self._process.enter(scratch)
        try:
            import wandb
            from wandb.sdk import wandb_setup
            from wandb.sdk.lib import wbauth
            from wandb.sdk.lib.service.service_connection import WandbApiFailedError
            from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

            self._wandb, self._wbauth = wandb, wbauth
            self._setup: Callable[[], Any] = wandb_setup.singleton
            self._dead = (MailboxClosedError, HandleAbandonedError, OSError)
            self._failed = WandbApiFailedError
            self._lock = threading.Lock()
            self._absent: dict[str, frozenset[str]] = {}  # optional fields that this server does not know, by document
            self._key = api_key
            scratch.mkdir(parents=True, exist_ok=True)
            self._core_output = scratch / "wandb-core.txt"
            self._url = _without_password(base_url or os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url)
            self._api = self._log_in()
        except BaseException:
            self._process.leave()
            raise
        self._entity: str | None = None

    # ------------------------------------------------------------ requests

    def ask(self, document: str, variables: Mapping[str, Any], what: str) -> Json:
        """Send a GraphQL document and return `data`. `what` names the requested data in messages.

        Raises `TooLong` if the answer is over ANSWER_BYTES_MAX.
        """
        for attempt in retries():
            with attempt:
                try:
                    with self._translated(what):
                        return dict(self._execute(document, variables) or {})
                except CoreEnded:
                    if is_too_long(
                        self.base_url, self._key_for_us, self.transport, (document, variables), ANSWER_BYTES_MAX
                    ):
                        raise TooLong(what, "W&B", ANSWER_BYTES_MAX) from None
                    raise
        raise AssertionError("retries() raises its last error")

    @property
    def _key_for_us(self) -> KeyForWandb:
        return KeyForWandb([self.base_url], self.api_key, self.transport)

    def _execute(self, document: str, variables: Mapping[str, Any]) -> Json | None:
        """Send a document without the fields that this server does not know. Its first refusal names them."""
        while True:
            absent = self._absent.get(document, frozenset())
            try:
                found: Json | None = self._api._service_api.execute_graphql(
                    document, variables, omit_fields=sorted(absent), parse=_parsed
                )
                return found
            except self._failed as error:
                refused = OPTIONAL & set(NO_FIELD.findall(str(error))) - absent
                if not refused:
                    raise
                log.warning("this W&B server is old: it has no %s; continuing without", ", ".join(sorted(refused)))
                self._absent[document] = absent | refused

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        api = self._api
        try:
            yield
        except self._failed as error:
            if CORE_ENDED.search(str(error)):
                self._revive(api)
                raise CoreEnded(what) from error
            status = error.response.http_status if error.response else 0
            if UNANSWERED.search(str(error)) and (told := obstacle(self.base_url, self.transport)):
                raise Throttled(told.error_class, f"{what}: {told}", told.service, told.retry_after_s) from error
            raise of_message(str(error), what, status) from error
        except _AnswerTooLong as error:
            raise TooLong(what, "W&B", ANSWER_BYTES_MAX) from error
        except ValueError as error:  # from json: wandb-core's own answer is not complete
            raise Passing(ErrorClass.UNAVAILABLE, f"{what}: unreadable answer") from error
        except self._dead as error:
            self._revive(api)
            raise CoreEnded(what) from error

    def _revive(self, dead: Any) -> None:
        """Start a new wandb-core if it was killed; otherwise every later run would fail."""
        with self._lock:
            if self._api is not dead:
                return
            try:
                self._api = self._log_in()  # another client of this process may already have started one
            except MigratorError:
                _tear_down(self._wandb)
                self._api = self._log_in()

    def entity(self) -> str:
        """The account's default entity."""
        if self._entity is None:
            viewer = self.ask(VIEWER, {}, "the account").get("viewer") or {}
            if not viewer.get("entity"):
                raise UserError("This W&B account has no default entity: name one with --wandb-entity.")
            self._entity = str(viewer["entity"])
        return self._entity

    # ------------------------------------------------------------ what the login found out

    @property
    def lacks(self) -> list[str]:
        """Optional fields that this server was found not to know, so far."""
        return sorted(frozenset[str]().union(*self._absent.values()))

    @property
    def api_key(self) -> str | None:
        return self._api.api_key or None

    @property
    def base_url(self) -> str:
        """The API's address without a slash at the end."""
        return str(self._api._service_api.base_url).rstrip("/")

    @property
    def transport(self) -> Transport:
        """How to send downloads: in the same way as the SDK."""
        settings = self._api._service_api._settings
        return replace(_transport(settings), bearer=self._access_token if settings.identity_token_file else None)

    def _access_token(self) -> str:
        """The access token for an identity token. wandb-core stores it, and renews it in time."""
        with self._translated("access token"):
            return self._api._service_api.access_token() or ""

    def absolute(self, url: str) -> str:
        """Make an address from an answer absolute: it may be a path on the API's host."""
        return self.base_url + url if url.startswith("/") else url

    @property
    def app_url(self) -> str:
        """The address of W&B's pages for people, without a slash at the end."""
        return str(self._api._service_api.app_url).rstrip("/")

    # ------------------------------------------------------------ begin and end

    def _log_in(self) -> Any:
        try:
            self._check_key()
            if told := obstacle(self._url.rstrip("/"), _transport(self._setup().settings)):
                raise told
            self._limit_core()
            # An explicit key is passed only to Api: nothing is written to ~/.netrc or to the environment.
            return self._wandb.Api(
                overrides={"base_url": self._url, "entity": None, "project": None},
                timeout=self._timeout_s,
                api_key=self._key,
            )
        except self._wandb.errors.AuthenticationError as error:
            raise _login_error(error, self._url) from error
        except (self._wandb.errors.UsageError, ValueError) as error:  # pydantic raises ValueError for wrong settings
            raise UserError(f"W&B settings: {one_line(str(error))}. Check WANDB_BASE_URL ({self._url}).") from error

    def _check_key(self) -> None:
        """Raise if there is no key. (`Api` would prompt for it on the terminal, which a worker does not have.)"""
        if self._key or self._wbauth.authenticate_session(
            host=self._url, source="migrate", prompt=False, update_session=False
        ):
            return
        raise UserError(
            f"No W&B API key for {self._url}. Set WANDB_API_KEY, or run `wandb login` (it writes ~/.netrc).",
            ExitCode.CREDENTIALS,
        )

    def _limit_core(self) -> None:
        """Start wandb-core unless it runs, and limit its memory. (Only Linux can do that for another process.)"""
        with _stderr_in(self._core_output):
            process = self._setup().ensure_service()._proc
        if process and hasattr(resource, "prlimit"):
            with suppress(ProcessLookupError):  # it has died already, which the first request will find out
                resource.prlimit(process._process.pid, resource.RLIMIT_DATA, (CORE_BYTES_MAX, CORE_BYTES_MAX))

    def close(self) -> None:
        """If this is the process's last client, stop wandb-core and restore the environment."""
        if not self._process.leave():
            return
        _tear_down(self._wandb)


@contextmanager
def _stderr_in(path: Path) -> Iterator[None]:
    """Send to a file what processes that start in the block write to stderr: wandb-core dies with a thousand lines."""
    try:
        ours = os.dup(2)
    except OSError:  # this process has none
        yield
        return
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)


def _parsed(text: str) -> Any:
    if len(text) > ANSWER_BYTES_MAX:
        raise _AnswerTooLong
    return json.loads(text)


def _transport(settings: Any) -> Transport:
    proxies = {"http": settings.http_proxy, "https": settings.https_proxy}
    return Transport(
        headers=dict(settings.x_extra_http_headers or {}),
        proxies={scheme: address for scheme, address in proxies.items() if address},
        verify=not settings.insecure_disable_ssl,
    )


def _without_password(url: str) -> str:
    """Return the address, or raise `UserError` if it contains a user name or password.

    Addresses are stored, sent and shown. And wandb-core would not use the password: it sends the API key instead.
    """
    if "@" in url:
        raise UserError(
            "The address of W&B contains a user name or password, which W&B does not use: remove everything up to `@` "
            "from WANDB_BASE_URL (or base_url in wandb's settings), and put your API key in WANDB_API_KEY."
        )
    return url


def _tear_down(wandb: Any) -> None:
    try:
        wandb.teardown()
    except (OSError, AssertionError):  # wandb-core has already died, or was stopped by an exit hook
        pass


def _login_error(error: Exception, url: str) -> MigratorError:
    """The error for a failed login. wandb 0.31 raises `AuthenticationError` for all of them, even if W&B is down."""
    cause = error.__cause__
    if cause is None:  # the key has the wrong form: too short, wrong characters
        return refused_key(one_line(str(error)))
    response = getattr(cause, "response", None)
    if CORE_ENDED.search(str(cause)):
        return Throttled(ErrorClass.UNAVAILABLE, f"login at {url}: the wandb-core process ended", SERVICE)
    told = of_message(str(cause), f"login at {url}", response.http_status if response else 0)
    if isinstance(told, Throttled):
        return told
    if isinstance(told, Passing) or (isinstance(told, Retryable) and told.error_class is ErrorClass.TIMEOUT):
        return Throttled(told.error_class, str(told), SERVICE)
    passing = "giving up after" in str(cause) or not hasattr(cause, "response")
    return Throttled(ErrorClass.UNAVAILABLE, str(told), SERVICE) if passing else refused_key(one_line(str(cause)))
