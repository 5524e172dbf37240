"""Neptune online: operations go directly to the server, and a barrier passes when the server has processed them.

    write -> RunOperations of about REQUEST_BYTES -> submit -> request ids --StatusPoller--> answers
                                                                               |
    files -> sign -> store (several at a time) ----------------------------> barrier

There is no local operation log: what is not confirmed is read from the source again. One connection and one poller
serve all runs of a process, so the latency and processing delay of many runs overlap.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, Self

from migrator import life
from migrator.destinations.base import Confirm, Refused, RunTarget, unfenced
from migrator.destinations.neptune.answers import BENIGN_WHEN_REPLAYED, THERE, UNKNOWN_PATH, Past
from migrator.destinations.neptune.connection import Answer, Connection
from migrator.destinations.neptune.errors import SERVICE, patiently
from migrator.destinations.neptune.provenance import Provenance
from migrator.destinations.neptune.wire import OperationBuilder, Upload, create_operation
from migrator.destinations.neptune.wire_columns import Operation
from migrator.errors import ErrorClass, MigratorError, Rejected, Retryable
from migrator.limits import STATUS_BATCH
from migrator.naming import MAPPING_VERSION
from migrator.records import Assign, Record

POLL_MIN_S, POLL_MAX_S = 0.02, 0.5  # between two status requests: a tenth of the age of the oldest request
PROCESSING_TIMEOUT_S = 900.0  # a request not processed by then never will be: the run is tried again
UPLOADS_AT_A_TIME = 16  # files of one run in flight


class NeptuneDestination:
    """One Neptune server. `uploads` runs file uploads; `now` gives the times of single values."""

    service = SERVICE

    def __init__(
        self,
        connection: Connection,
        uploads: Executor,
        visibility: str,
        now: Callable[[], datetime],
        processing_timeout_s: float = PROCESSING_TIMEOUT_S,
    ) -> None:
        self._connection = connection
        self._uploads = uploads
        self._visibility = visibility
        self._now = now
        self._poller = StatusPoller(connection, processing_timeout_s)

    def ensure_project(self, project: str, description: str) -> None:
        workspace, name = project.split("/", 1)
        patiently(lambda: self._connection.create_project(workspace, name, description, self._visibility))

    def open_run(
        self, target: RunTarget, position: str | None, *, begun: bool = False, confirm: Confirm = unfenced
    ) -> NeptuneRun:
        past, source = Past.of(position, begun=begun), Provenance(target.source_url, target.created_at)
        run = self.resend(target.project, target.run_id, past, source, confirm)
        if position is not None:
            run.find()
        run.send_operation(create_operation(target), replayed=False)
        return run

    def resend(
        self, project: str, run_id: str, past: Past, source: Provenance, confirm: Confirm = unfenced
    ) -> NeptuneRun:
        """Open a run whose operations exist already in an offline file, including its creation."""
        builder = OperationBuilder(project, run_id, self._now())
        places = _Places(self._connection, self._poller, self._uploads)
        return NeptuneRun((project, run_id), builder, places, past, source, confirm)

    def ping(self) -> None:
        patiently(self._connection.projects)

    def close(self) -> None:
        self._poller.close()
        self._connection.close()


@dataclass(frozen=True, slots=True)
class _Request:
    """A submitted operation. `replayed`: the server may already have parts of it from an earlier attempt."""

    id: str
    replayed: bool
    answer: Future[Answer]
    operation: Operation


@dataclass(slots=True)
class _Sent:
    """Everything sent since the last barrier."""

    requests: list[_Request] = field(default_factory=list)
    uploads: list[Future[None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Places:
    """The resources that all runs of a destination share."""

    connection: Connection
    poller: StatusPoller
    uploads: Executor


class NeptuneRun:
    """Builds and submits the operations of one run. `name` is (project, run id)."""

    def __init__(
        self,
        name: tuple[str, str],
        builder: OperationBuilder,
        places: _Places,
        past: Past,
        source: Provenance,
        confirm: Confirm,
    ) -> None:
        self._past = past
        self._source: Provenance | None = source if past.is_unknown else None
        self._confirm = confirm
        self._project, self._run_id = name
        self._builder = builder
        self._connection, self._poller, self._uploads = places.connection, places.poller, places.uploads
        self._replayed = False
        self._sent = _Sent()

    def write(self, records: Sequence[Record], *, replayed: bool = False) -> None:
        if replayed != self._replayed:
            self._send()
            self._replayed = replayed
        for record in records:
            self._builder.add(record)
            if self._builder.is_full:
                self._send()

    def flush(self) -> NeptuneBarrier:
        self._send()
        sent, self._sent = self._sent, _Sent()
        return NeptuneBarrier(self._connection, self._uploads, self._project, sent, self._past)

    def identify(self) -> None:
        """Wait for the answer to the creation. If the run existed before, check of which source it is a copy."""
        if self._source is None:
            return
        answers = [request.answer.result().codes or {} for request in self._sent.requests]
        if any(THERE & codes.keys() for codes in answers):
            there = patiently(lambda: self._connection.provenance(self._project, self._run_id))
            self._source.check(there, self._project, self._run_id)
            self._past.found()
        self._source = None

    def finish(self) -> None:
        """Nothing to do: nothing was held back."""

    def _send(self) -> None:
        operations, uploads = self._builder.take()
        for operation in operations:
            self.send_operation(operation, replayed=self._replayed)
        self.send_files(uploads)

    def find(self) -> None:
        """Raise `Vanished` if the run no longer exists. Checked with an operation that changes nothing.

        Call it before sending the creation again, which would create the run anew and hide that its data is lost.
        """
        self.write([Assign({"migration/mapping_version": MAPPING_VERSION})])
        self.flush().wait()

    def send_operation(self, operation: Operation, *, replayed: bool) -> None:
        """Submit a complete operation. Its answer is awaited with the next barrier."""
        tries = 0

        def submit() -> str:
            nonlocal tries
            self._confirm()
            tries += 1
            return self._connection.submit(operation)

        request_id = patiently(submit)
        answer = self._poller.watch(self._project, request_id)
        # On a second try, the server may have applied the first one although its answer was lost.
        self._sent.requests.append(_Request(request_id, replayed or tries > 1, answer, operation))

    def send_files(self, uploads: Sequence[Upload]) -> None:
        """Upload in groups, so that signed addresses do not expire while files wait for others."""
        for start in range(0, len(uploads), UPLOADS_AT_A_TIME):
            for future in self._sent.uploads[-UPLOADS_AT_A_TIME:]:
                future.result()
            self._confirm()
            group = uploads[start : start + UPLOADS_AT_A_TIME]
            signed = patiently(partial(self._connection.sign, self._project, group))
            for upload, address in zip(group, signed, strict=True):
                self._sent.uploads.append(self._uploads.submit(self._upload, upload, address))

    def _upload(self, upload: Upload, address: Any) -> None:
        unused = [address]

        def store() -> None:
            self._confirm()
            signed = unused.pop() if unused else self._connection.sign(self._project, [upload])[0]
            self._connection.store(self._project, upload, signed)

        patiently(store)  # each try gets a new address, because the last may have expired

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        for future in self._sent.uploads:
            future.cancel()


class NeptuneBarrier:
    """Waits for the answers to all requests and uploads before it, and classifies them."""

    def __init__(self, connection: Connection, uploads: Executor, project: str, sent: _Sent, past: Past) -> None:
        self.position: str | None = None
        self._uploads = uploads
        self._connection = connection
        self._project = project
        self._sent = sent
        self._past = past

    def ready(self) -> bool:
        sent = self._sent
        return all(request.answer.done() for request in sent.requests) and all(file.done() for file in sent.uploads)

    def wait(self) -> Sequence[Refused]:
        refused: Counter[tuple[str, str]] = Counter()
        notes: set[str] = set()
        for request in self._sent.requests:
            codes = request.answer.result().codes or {}
            told, refusals = self._past.judge(self._project, codes, replayed=request.replayed)
            if BENIGN_WHEN_REPLAYED & refusals.keys() and self._has_the_same(request):
                self._past.is_ahead()
                told, refusals = self._past.judge(self._project, codes, replayed=request.replayed)
            notes |= told
            refused.update(self._located(request, refusals))
        for future in self._sent.uploads:
            future.result()
        self.position = self._past.position
        return [
            *(Refused("", note, 0) for note in sorted(notes)),
            *(Refused(path, code, count) for (path, code), count in refused.items()),
        ]

    def _has_the_same(self, request: _Request) -> bool:
        """Asked once: afterwards Neptune is known to be ahead."""
        from migrator.destinations.neptune.likeness import has_the_same  # rarely needed, and slow to import
        from migrator.destinations.neptune.readback import NeptuneReadBack

        try:
            return has_the_same(NeptuneReadBack(self._connection, self._uploads), request.operation)
        except Rejected:
            return False  # this server does not show runs: what it refuses is counted

    def _located(self, request: _Request, refusals: Mapping[str, int]) -> Counter[tuple[str, str]]:
        """The refused operations of a request, counted by (path, code)."""
        if not refusals:
            return Counter()
        found: Counter[tuple[str, str]] = Counter()
        try:
            for detail in self._connection.details(self._project, request.id):
                if detail.code in refusals:
                    found[detail.path, detail.code] += 1
        except MigratorError:
            pass  # paths are optional: the counts below are enough
        for code, count in refusals.items():
            missing = count - sum(number for (_, known), number in found.items() if known == code)
            if missing > 0:
                found[UNKNOWN_PATH, code] += missing
        return found


class _Open(NamedTuple):
    """A request that is, as far as we know, not processed yet. `since`: time.monotonic()."""

    answer: Future[Answer]
    since: float
    hear: Callable[[], None]  # called while the server still answers


class StatusPoller:
    """One thread that polls the status of requests, for all runs of this process together."""

    def __init__(self, connection: Connection, processing_timeout_s: float) -> None:
        self._connection = connection
        self._processing_timeout_s = processing_timeout_s
        self._open: dict[tuple[str, str], _Open] = {}  # (project, request id), the oldest first
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="neptune-status", daemon=True)
        self._thread.start()

    def watch(self, project: str, request_id: str) -> Future[Answer]:
        """Return a future for the answer to a request, which comes once the server has processed it."""
        answer: Future[Answer] = Future()
        with self._changed:
            self._open[project, request_id] = _Open(answer, time.monotonic(), life.listener())
            self._changed.notify()
        return answer

    def close(self) -> None:
        """Stop. Requests that are still open get an error."""
        with self._changed:
            self._closed.set()
            self._changed.notify()
        self._thread.join(timeout=5.0)
        for key in list(self._open):
            self._settle(key, Retryable(ErrorClass.UNAVAILABLE, "the connection to Neptune was closed"))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._open or self._closed.is_set())
                requests = list(self._open)
            if self._closed.is_set():
                return
            for project, ids in _questions(requests):
                self._ask(project, ids)
            self._closed.wait(self._pause_s())

    def _ask(self, project: str, ids: Sequence[str]) -> None:
        try:
            answers = patiently(lambda: self._connection.statuses(project, ids))
        except Exception as error:  # noqa: BLE001 - raised again in the waiting threads, which would hang otherwise
            for request_id in ids:
                self._settle((project, request_id), error)
            return
        for request_id, answer in zip(ids, answers, strict=True):
            key = (project, request_id)
            if answer.codes is not None:
                self._settle(key, answer)
            elif self._is_overdue(key):
                message = f"Neptune did not process data of {project} in {self._processing_timeout_s:.0f} s"
                self._settle(key, Retryable(ErrorClass.TIMEOUT, message))

    def _is_overdue(self, key: tuple[str, str]) -> bool:
        """Whether a request has waited too long. If not, its run is reported alive: waiting has a limit of its own."""
        with self._changed:
            request = self._open.get(key)
        if request is None:
            return False
        request.hear()
        return time.monotonic() - request.since > self._processing_timeout_s

    def _settle(self, key: tuple[str, str], result: Answer | Exception) -> None:
        with self._changed:
            request = self._open.pop(key, None)
        if request is None:  # already settled by `close`
            return
        if isinstance(result, Answer):
            request.answer.set_result(result)
        else:
            request.answer.set_exception(result)

    def _pause_s(self) -> float:
        with self._changed:
            oldest = next(iter(self._open.values()), None)
        waiting_s = time.monotonic() - oldest.since if oldest else 0.0
        return min(max(waiting_s / 10, POLL_MIN_S), POLL_MAX_S)


def _questions(requests: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """Yield (project, request ids) for each status request."""
    by_project: dict[str, list[str]] = {}
    for project, request_id in requests:
        by_project.setdefault(project, []).append(request_id)
    for project, ids in by_project.items():
        for start in range(0, len(ids), STATUS_BATCH):
            yield project, ids[start : start + STATUS_BATCH]
