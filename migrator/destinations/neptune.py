"""Neptune online: operations go straight to the server, and a barrier is passed when the server has processed them.

    write -> one RunOperation of at most REQUEST_BYTES -> submit -> request id --StatusPoller--> answer
                                                                                    |
    files -> sign -> store (several at a time) ------------------------------> barrier

There is no local operation log: what is not confirmed is read from the source again. One connection and one poller
serve all runs of a process, so latency and processing delay of many runs overlap.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Self

import stamina

from migrator.destinations.base import Refused, RunTarget
from migrator.destinations.neptune_sdk import SERVICE, Answer, Connection, RunOperation
from migrator.destinations.neptune_wire import OperationBuilder, Upload, create_operation
from migrator.errors import ErrorClass, MigratorError, Rejected, Retryable, Throttled
from migrator.limits import STATUS_BATCH
from migrator.records import Record

REQUEST_BYTES = 4 * 1024 * 1024  # a request: large enough to be rare, small enough to overlap with building the next
POLL_SECONDS = 0.05  # between two status questions while requests are open
PROCESSING_TIMEOUT_S = 900.0  # a request that is not processed by then never will be: the run is tried again
UPLOADS_AT_A_TIME = 8  # files of one run in flight
PATIENCE_S = 20.0  # how long one call is repeated on the spot before the run gives up its claim
WAIT_ON_THE_SPOT_S = 10.0  # a Retry-After up to here is waited out on the spot

#: answers to points that an earlier attempt has sent already
BENIGN_WHEN_REPLAYED = frozenset({"SERIES_POINT_DUPLICATE", "SERIES_STEP_NON_INCREASING"})
#: the run is there already, as it should be
BENIGN = frozenset({"RUN_DUPLICATE"})
#: changes the run, and is told, but loses nothing
NOTES = frozenset({"RUN_FORK_PARENT_NOT_FOUND"})
#: the server is in trouble; the same request may pass later
TRANSIENT = frozenset({"INTERNAL", "INGEST_SUSPENDED", "BATCH_CONTAINS_DEPENDENT_RUNS"})
#: the run as a whole is refused
FATAL = frozenset(
    {
        "PROJECT_NOT_FOUND",
        "PROJECT_INVALID_NAME",
        "RUN_NOT_FOUND",
        "RUN_CONFLICTING",
        "RUN_INVALID_CREATION_PARAMETERS",
    }
)


def patiently(call: Callable[[], Any]) -> Any:
    """Repeat a call that failed in a way that may pass soon: with jitter, or after the time the server named."""

    def soon(error: Exception) -> bool | float:
        if isinstance(error, Throttled) and error.retry_after_s is not None:
            return error.retry_after_s if error.retry_after_s <= WAIT_ON_THE_SPOT_S else False
        return isinstance(error, Retryable)

    for attempt in stamina.retry_context(on=soon, attempts=5, timeout=PATIENCE_S, wait_initial=0.2, wait_max=5.0):
        with attempt:
            return call()
    raise AssertionError("unreachable: the last attempt returns or raises")


class NeptuneDestination:
    """One Neptune server. `uploads` runs file uploads; `now` stamps single values."""

    service = SERVICE

    def __init__(
        self, connection: Connection, address: str, uploads: Executor, visibility: str, now: Callable[[], datetime]
    ) -> None:
        self.address = f"neptune:{address}"
        self._connection = connection
        self._uploads = uploads
        self._visibility = visibility
        self._now = now
        self._poller = StatusPoller(connection)

    def ensure_project(self, project: str, description: str) -> None:
        workspace, name = project.split("/", 1)
        patiently(lambda: self._connection.create_project(workspace, name, description, self._visibility))

    def open_run(self, target: RunTarget, position: str | None) -> NeptuneRun:
        run = NeptuneRun(self._connection, self._poller, self._uploads, target, self._now)
        run.create()
        return run

    def resend(self, project: str, run_id: str) -> NeptuneRun:
        """A run whose operations exist already (in an offline file), its creation included."""
        target = RunTarget(project, run_id, run_id, self._now())
        return NeptuneRun(self._connection, self._poller, self._uploads, target, self._now)

    def close(self) -> None:
        self._poller.close()
        self._connection.close()


@dataclass(slots=True)
class _Request:
    """A submitted operation. `replayed`: the server may have some of it from an earlier attempt."""

    id: str
    replayed: bool
    answer: Future[Answer]


@dataclass(slots=True)
class _Sent:
    """What was sent since the last barrier."""

    requests: list[_Request] = field(default_factory=list)
    uploads: list[Future[None]] = field(default_factory=list)


class NeptuneRun:
    """Builds and submits the operations of one run."""

    def __init__(
        self,
        connection: Connection,
        poller: StatusPoller,
        uploads: Executor,
        target: RunTarget,
        now: Callable[[], datetime],
    ) -> None:
        self._connection = connection
        self._poller = poller
        self._uploads = uploads
        self._target = target
        self._builder = OperationBuilder(target.project, target.run_id, now())
        self._replayed = False
        self._sent = _Sent()

    def create(self) -> None:
        """Submit the creation; its answer is awaited with the first barrier."""
        target = self._target
        create = create_operation(target.project, target.run_id, target.name, target.created_at, target.fork)
        self.send_operation(create, replayed=False)

    def write(self, records: Sequence[Record], *, replayed: bool = False) -> None:
        if replayed != self._replayed:
            self._submit()
            self._replayed = replayed
        for record in records:
            self._builder.add(record)
            if self._builder.size_bytes >= REQUEST_BYTES:
                self._submit()

    def flush(self) -> NeptuneBarrier:
        self._submit()
        sent, self._sent = self._sent, _Sent()
        return NeptuneBarrier(self._connection, self._target.project, sent)

    def _submit(self) -> None:
        operation, uploads = self._builder.take()
        if operation is not None:
            self.send_operation(operation, replayed=self._replayed)
        self.send_files(uploads)

    def send_operation(self, operation: RunOperation, *, replayed: bool) -> None:
        """Submit a ready operation; its answer is awaited with the next barrier."""
        tries = 0

        def submit() -> str:
            nonlocal tries
            tries += 1
            return self._connection.submit(operation)

        request_id = patiently(submit)
        answer = self._poller.watch(self._target.project, request_id)
        # A repeated submission may follow one whose answer was lost after the server had applied it.
        self._sent.requests.append(_Request(request_id, replayed or tries > 1, answer))

    def send_files(self, uploads: Sequence[Upload]) -> None:
        """Upload in groups: signed addresses expire, and a group must not wait long behind another."""
        project = self._target.project
        for start in range(0, len(uploads), UPLOADS_AT_A_TIME):
            group = uploads[start : start + UPLOADS_AT_A_TIME]
            if start:
                for future in self._sent.uploads[-UPLOADS_AT_A_TIME:]:
                    future.result()
            signed = patiently(partial(self._connection.sign, project, group))
            for upload, address in zip(group, signed, strict=True):
                self._sent.uploads.append(self._uploads.submit(self._store_one, upload, address))

    def _store_one(self, upload: Upload, address: Any) -> None:
        project = self._target.project
        addresses = [address]

        def store() -> None:
            if not addresses:  # the first address may have expired
                addresses.extend(self._connection.sign(project, [upload]))
            self._connection.store(project, upload, addresses.pop())

        patiently(store)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        for future in self._sent.uploads:
            future.cancel()


class NeptuneBarrier:
    """Waits for the answers to the requests and uploads before it, and classifies them."""

    position: str | None = None

    def __init__(self, connection: Connection, project: str, sent: _Sent) -> None:
        self._connection = connection
        self._project = project
        self._sent = sent

    def ready(self) -> bool:
        return all(request.answer.done() for request in self._sent.requests) and all(
            future.done() for future in self._sent.uploads
        )

    def wait(self) -> Sequence[Refused]:
        refused: Counter[tuple[str, str]] = Counter()
        notes: list[Refused] = []
        for request in self._sent.requests:
            codes = request.answer.result().codes or {}
            notes += [Refused("", code, 0) for code in codes if code in NOTES]
            refused.update(self._refused(request, codes))
        for future in self._sent.uploads:
            future.result()
        return [*notes, *(Refused(path, code, count) for (path, code), count in refused.items())]

    def _refused(self, request: _Request, codes: Mapping[str, int]) -> Counter[tuple[str, str]]:
        """Operations of a request that were refused for good, by (path, code)."""
        benign = BENIGN | NOTES | (BENIGN_WHEN_REPLAYED if request.replayed else frozenset())
        refusals = {code: count for code, count in codes.items() if code not in benign}
        for code in refusals:
            if code in TRANSIENT:
                raise Retryable(ErrorClass.UNAVAILABLE, f"Neptune could not process data of {self._project}: {code}")
            if code in FATAL:
                error_class = ErrorClass.NOT_FOUND if code.endswith("NOT_FOUND") else ErrorClass.REJECTED_BY_NEPTUNE
                raise Rejected(error_class, f"Neptune refused the run in {self._project}: {code}")
        if not refusals:
            return Counter()
        found: Counter[tuple[str, str]] = Counter()
        try:
            for detail in self._connection.details(self._project, request.id):
                if detail.code in refusals:
                    found[detail.path, detail.code] += 1
        except MigratorError:
            pass  # paths are a courtesy of the server: the counts below stand without them
        for code, count in refusals.items():
            missing = count - sum(number for (_, known), number in found.items() if known == code)
            if missing > 0:
                found["(path unknown)", code] += missing
        return found


class StatusPoller:
    """One thread that asks the server what became of requests, for all runs of this process together."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._open: dict[str, dict[str, tuple[Future[Answer], float]]] = {}  # project -> id -> (answer, since)
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="neptune-status", daemon=True)
        self._thread.start()

    def watch(self, project: str, request_id: str) -> Future[Answer]:
        """The answer to a request, once the server has processed it."""
        answer: Future[Answer] = Future()
        with self._changed:
            self._open.setdefault(project, {})[request_id] = (answer, time.monotonic())
            self._changed.notify()
        return answer

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=5.0)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not any(self._open.values()):
                    self._changed.wait()
                if self._closed:
                    return
                questions = {project: list(ids)[:STATUS_BATCH] for project, ids in self._open.items() if ids}
            for project, ids in questions.items():
                self._ask(project, ids)
            time.sleep(POLL_SECONDS)

    def _ask(self, project: str, ids: list[str]) -> None:
        try:
            answers = patiently(lambda: self._connection.check(project, ids))
        except MigratorError as error:
            for request_id in ids:
                self._settle(project, request_id, error)
            return
        now = time.monotonic()
        for request_id, answer in zip(ids, answers, strict=True):
            if answer.codes is not None:
                self._settle(project, request_id, answer)
            elif now - self._open[project][request_id][1] > PROCESSING_TIMEOUT_S:
                message = f"Neptune did not process data of {project} in {PROCESSING_TIMEOUT_S:.0f} s"
                self._settle(project, request_id, Retryable(ErrorClass.TIMEOUT, message))
            else:
                with self._changed:  # to the end of the line, so that more than STATUS_BATCH requests all get asked
                    self._open[project][request_id] = self._open[project].pop(request_id)

    def _settle(self, project: str, request_id: str, result: Answer | MigratorError) -> None:
        with self._changed:
            answer, _ = self._open[project].pop(request_id)
        if isinstance(result, Answer):
            answer.set_result(result)
        else:
            answer.set_exception(result)
