"""Neptune online, through neptune-scale's public API only: slow, but works with other versions of it (`--safe-client`).

    write -> a client: one Run(mode="async"), whose own process sends what we log
    flush -> wait until all is processed, close the client -> its errors -> a barrier that has already passed

Each barrier has its own client, and so its own process, because a client's errors do not name the operation.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from neptune_api import AuthenticatedClient
from neptune_scale.exceptions import (
    NeptuneBadRequestError,
    NeptuneProjectAlreadyExists,
    NeptuneRetryableError,
    NeptuneScaleError,
)
from neptune_scale.projects import create_project, list_projects

from migrator.destinations.base import Confirm, Refused, RunTarget, unfenced
from migrator.destinations.neptune.answers import THERE, UNKNOWN_PATH, Past
from migrator.destinations.neptune.errors import SERVICE, patiently, translated
from migrator.destinations.neptune.login import client_for
from migrator.destinations.neptune.provenance import Provenance, read_provenance
from migrator.destinations.neptune.refusals import check_case, is_refusal_of_all, not_created
from migrator.destinations.neptune.safe_client import Client
from migrator.destinations.neptune.token import address_of
from migrator.errors import ErrorClass, ExitCode, Rejected, Retryable, Throttled, TurnedAway, Vanished
from migrator.records import Record

PROCESSING_TIMEOUT_S = 900.0  # as in the fast client: what is not processed by then never will be


class SafeDestination:
    """One Neptune server."""

    service = SERVICE

    def __init__(self, api_token: str, visibility: str, processing_timeout_s: float = PROCESSING_TIMEOUT_S) -> None:
        address_of(api_token)  # reports an invalid token at once
        self._api_token = api_token
        self._visibility = visibility
        self._processing_timeout_s = processing_timeout_s
        self._starting = threading.Lock()
        self._reader: AuthenticatedClient | None = None

    def ensure_project(self, project: str, description: str) -> None:
        patiently(lambda: self._create_project(project, description))

    def _create_project(self, project: str, description: str) -> None:
        what = f"create project {project}"
        with translated(what):
            try:
                create_project(
                    project,
                    description=description,
                    visibility=self._visibility,
                    fail_if_exists=True,
                    api_token=self._api_token,
                )
            except NeptuneProjectAlreadyExists:
                check_case(project, self._projects())
            except NeptuneBadRequestError as error:
                words = _text(error)
                message = f"{what}: {words}. Check --neptune-workspace and NEPTUNE_API_TOKEN"
                is_refused = "(401)" in message
                if (found := re.search(r"\((\d{3})\)", words)) and is_refusal_of_all(int(found[1]), words):
                    if project in self._projects():
                        return  # people who can write to a project cannot always create one
                    raise not_created(project, words, self._visibility) from error
                raise TurnedAway(message, SERVICE, ExitCode.CREDENTIALS if is_refused else ExitCode.USAGE) from error
            except NeptuneScaleError as error:
                if error.__cause__ is None:
                    raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: {_text(error)}") from error
                raise error.__cause__ from error

    def open_run(
        self, target: RunTarget, position: str | None, *, begun: bool = False, confirm: Confirm = unfenced
    ) -> SafeRun:
        past = Past.of(position, begun=begun)
        if past.saved:
            confirm()
            self._find(target, past)
        if past.is_unknown and target.source_url:
            there = patiently(lambda: read_provenance(self._reading(), target.project, target.run_id))
            Provenance(target.source_url, target.created_at).check(there, target.project, target.run_id)
        return SafeRun(self, target, past, confirm)

    def _reading(self) -> AuthenticatedClient:
        """A client that can read: neptune-api. The public API of neptune-scale cannot."""
        with self._starting:
            if self._reader is None:
                self._reader = client_for(self._api_token, "connect to Neptune")
            return self._reader

    def _find(self, target: RunTarget, past: Past) -> None:
        """Raise `Vanished` if the run no longer exists. Otherwise a client would create it again, without its data."""
        client = self.start(target)
        client.finish()
        codes = client.codes()
        past.judge(target.project, codes, replayed=False)
        self.check(client, target)
        if not THERE & codes.keys():
            raise Vanished(f"{target.project}:{target.run_id}")

    def start(self, target: RunTarget) -> Client:
        with self._starting:  # one at a time: see Client
            return Client(target, self._api_token, self._processing_timeout_s)

    def check(self, client: Client, target: RunTarget) -> None:
        """Raise an error if a client that has ended did not finish its work."""
        what = f"send data of {target.project}:{target.run_id}"
        trouble = client.trouble()
        if "NeptuneUnauthorizedError" in trouble:
            raise Rejected(ErrorClass.PERMISSION, f"{what}: you may not write there")
        if "NeptuneFileUploadError" in trouble:
            raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: the storage refused a file")
        unexpected = trouble.get("NeptuneUnexpectedError")  # an unknown answer, or the client's process crashed
        if client.is_done and not unexpected:
            return
        self._projects()  # raises if the server cannot be reached
        if unexpected:
            raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: {_text(unexpected)}")
        for name, error in trouble.items():
            if isinstance(error, NeptuneRetryableError):
                is_rate = name == "NeptuneTooManyRequestsResponseError"
                error_class = ErrorClass.RATE_LIMITED if is_rate else ErrorClass.UNAVAILABLE
                raise Throttled(error_class, f"{what}: {_text(error)}", SERVICE)
        if client.has_died:
            raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: the client's process ended")
        raise Retryable(ErrorClass.TIMEOUT, f"{what}: not processed in {self._processing_timeout_s:.0f} s")

    def ping(self) -> None:
        patiently(self._projects)

    def _projects(self) -> Sequence[str]:
        with translated("list projects"):
            found: list[str] = list_projects(api_token=self._api_token)
            return found

    def close(self) -> None:
        if self._reader is not None:
            self._reader.get_httpx_client().close()


class SafeRun:
    """Passes the records of one run to one client after another."""

    def __init__(self, destination: SafeDestination, target: RunTarget, past: Past, confirm: Confirm) -> None:
        self._destination = destination
        self._target = target
        self._past = past
        self._confirm = confirm
        self._client: Client | None = None
        self._is_created = False
        self._replayed = False
        self._refused: Counter[tuple[str, str]] = Counter()  # since the last barrier, by (path, reason)
        self._notes: set[tuple[str, str]] = set()

    def write(self, records: Sequence[Record], *, replayed: bool = False) -> None:
        if not records:
            return
        if replayed != self._replayed:
            self._settle()  # otherwise answers would not say which of the two they concern
            self._replayed = replayed
        self._confirm()
        self._opened().log(records)

    def flush(self) -> SafeBarrier:
        if not self._is_created:
            self._opened()
        self._settle()
        told = [
            *(Refused(path, note, 0) for path, note in sorted(self._notes)),
            *(Refused(path, reason, count) for (path, reason), count in self._refused.items()),
        ]
        self._notes, self._refused = set(), Counter()
        return SafeBarrier(self._past.position, told)

    def identify(self) -> None:
        """Done by `open_run`."""

    def finish(self) -> None:
        """Nothing to do: nothing was held back."""

    def _opened(self) -> Client:
        if self._client is None:
            self._client = self._destination.start(self._target)
            self._is_created = True
        return self._client

    def _settle(self) -> None:
        """Wait until everything written is in Neptune, or raise."""
        client, self._client = self._client, None
        if client is None:
            return
        client.finish()
        notes, refusals = self._past.judge(self._target.project, client.codes(), replayed=self._replayed)
        self._destination.check(client, self._target)
        self._notes |= client.notes | {("", note) for note in notes}
        self._refused += client.refused
        self._refused.update({(UNKNOWN_PATH, code): count for code, count in refusals.items()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._client is not None:
            self._client.abandon()


@dataclass(slots=True)
class SafeBarrier:
    """Has already passed. Of refusals, only the number of requests that had them is known."""

    position: str | None
    refused: Sequence[Refused]

    def ready(self) -> bool:
        return True

    def wait(self) -> Sequence[Refused]:
        return self.refused


def _text(error: BaseException) -> str:
    """The client's message, which has several lines, as one line."""
    return " ".join(str(error).split())[:300]
