"""Any number of crashes ends in the same run as none.

A state machine lets workers claim a run, copy it a little way, die with some of what they sent still arriving, lose
their lease and go on all the same, stop on request, fail and be tried again, while the source grows and is listed
again. Adapters lie in memory; the state database is the real one. In the end a last worker finishes the run, and it
must be what an undisturbed copy of the same source makes of it: at the destination, in counts, and in the ledger.
"""

from __future__ import annotations

import itertools
import math
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from migrations_db import LeaseLost, RunStatus
from migrations_db.types import Claim, Failure, Retry
from migrator.copying.pipeline import Stopped
from migrator.destinations.memory import MemoryDestination
from migrator.errors import ErrorClass, Rejected, Retryable, RunError
from migrator.parts.base import MappingOptions
from migrator.records import ConsoleLine, HistoryRow, SystemRow
from migrator.sources.memory import MemoryData
from tests.migration import Migration, undisturbed

HANDOVER_S = 60.0  # a lane that does not come back in this time is a bug of this test
OPTIONS = MappingOptions(max_file_bytes=6)

# ---------------------------------------------------------------- what a run may hold

IMAGE = {"_type": "image-file", "path": "media/images/a.png", "caption": "a"}
GONE = {"_type": "image-file", "path": "media/images/gone.png"}
#: all kinds that meet at a key are there from the first row on: which one keeps the path is decided there
FIRST_ROW: Mapping[str, Any] = {"loss": 1.0, "mixed": "text", "image": IMAGE, "images": [IMAGE, GONE], "a//b": 1.0}
SECOND_ROW: Mapping[str, Any] = {"mixed": 2, "image": 3, "bars": {"_type": "histogram", "bins": [0, 1], "values": [2]}}
LATER: Mapping[str, st.SearchStrategy[Any]] = {
    "loss": st.sampled_from([0.5, 1, True, "NaN", math.nan, 2**60 + 1, None]),
    "mixed": st.sampled_from([1, "words"]),
    "image": st.sampled_from([IMAGE, GONE, 4]),
    "images": st.sampled_from([[IMAGE], [GONE, IMAGE, IMAGE]]),
    "bars": st.just({"_type": "histogram"}),
    "a/_/b": st.just(1.0),
    "config/lr": st.just(1.0),
    "_private": st.just(1.0),
    "new": st.just("text"),
    "nested": st.just({"a": 1, "b": {"c": "x"}}),
}
rows = st.lists(
    st.tuples(
        st.integers(0, 2),  # how far the step goes on; 0 only inside one growth
        st.sampled_from([None, 0.0, 1.0, 2.0, -5.0]),  # the time, against the latest
        st.fixed_dictionaries({}, optional=dict(LATER)),
    ),
    max_size=6,
)
samples = st.lists(
    st.fixed_dictionaries({}, optional={"cpu": st.sampled_from([1.0, "x"]), "gpu.0": st.just(2)}), max_size=4
)
lines = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.sampled_from([None, 1.0, -1.0])), max_size=4)
contents = st.sampled_from([b"", b"1", b"123456", b"1234567"])
names = st.sampled_from(["output.log", "code/x.py", "a//b", "a/_/b", "best.ckpt", "media/images/unused.png"])
singles = st.fixed_dictionaries(
    {}, optional={"lr": st.sampled_from([0.1, 0.2]), "a": st.just({"b": 1}), "a/b": st.just(2)}
)
slow = st.lists(st.booleans(), min_size=1, max_size=4)


def grown(data: MemoryData, more: Sequence[Any], system: Sequence[Any], console: Sequence[Any]) -> dict[str, Any]:
    """The fields of a source that has logged more."""
    history, step, time = [*data.history], data.history[-1].step + 1, 1.7e9
    for forward, difference, values in more:
        step += forward
        history.append(HistoryRow(step, None if difference is None else time + step + difference, values))
    first = len(data.system)
    samples = [SystemRow(first + i, 1.7e9 + first + i, values) for i, values in enumerate(system)]
    first = len(data.console)
    lines = [
        ConsoleLine(first + i, time and 1.7e9 + first + time, stream, f"line {first + i}")
        for i, (stream, time) in enumerate(console)
    ]
    return {"history": history, "system": [*data.system, *samples], "console": [*data.console, *lines]}


# ---------------------------------------------------------------- workers that can be held


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


class Lane(threading.Thread):
    """An attempt that runs only when it is let go, from one of its questions to the next."""

    def __init__(self, migration: Migration, worker: str, claim: Claim, slow: list[bool]) -> None:
        super().__init__(name=worker, daemon=True)
        self.worker, self.claim = worker, claim
        self.error: BaseException | None = None
        self.ended = self.lost = False
        self._migration, self._slow = migration, slow
        self._order: type[BaseException] | Exception | None = None
        self._may_go, self._has_paused = threading.Semaphore(0), threading.Semaphore(0)
        self.start()
        self._await()

    # in the lane's thread

    def run(self) -> None:
        try:
            self._migration.copy(self.claim, self, self._slow)
        except BaseException as error:  # noqa: BLE001 - the test's thread looks at it
            self.error = error
        self.ended = True
        self._has_paused.release()

    def at(self, part: str) -> None:
        self._pause()
        if self._order is Killed:
            raise Killed

    def check(self) -> None:
        self._pause()
        if self._order is not None:
            raise self._order

    def confirm(self) -> None:
        self._pause()
        if self.lost:
            raise LeaseLost

    def _pause(self) -> None:
        self._has_paused.release()
        assert self._may_go.acquire(timeout=HANDOVER_S)

    # in the test's thread

    def go_on(self, pauses: int) -> None:
        """Let it run until it has paused so often, or has ended."""
        for _ in range(pauses):
            if not self.ended:
                self._may_go.release()
                self._await()

    def end(self, order: type[BaseException] | Exception | None = None) -> BaseException | None:
        """Give an order (none: go on) and let it run to its end; returns what it ended with."""
        self._order = order
        while not self.ended:
            self.go_on(1)
        return self.error

    def _await(self) -> None:
        assert self._has_paused.acquire(timeout=HANDOVER_S)


class CopyMachine(RuleBasedStateMachine):
    holders = Bundle("holders")
    stale = Bundle("stale")

    # ------------------------------------------------------------ the source

    @initialize(
        seed=st.integers(0, 2**16),
        more=rows,
        system=samples,
        console=lines,
        config=singles,
        page_rows=st.integers(1, 3),
        columns=st.booleans(),
    )
    def begin(
        self, seed: int, more: Any, system: Any, console: Any, config: Any, page_rows: int, columns: bool
    ) -> None:
        first = [HistoryRow(0, 1.7e9, FIRST_ROW), HistoryRow(1, 1.7e9 + 1, SECOND_ROW)]
        data = MemoryData("r", name="", tags=["t"], config={"lr": 0.1}, history=first, files={IMAGE["path"]: b"png"})
        data = replace(data, **grown(data, more, system, console))
        destination = MemoryDestination(random.Random(seed))
        self.migration = Migration([data], destination, OPTIONS, page_rows=page_rows, columns=columns)
        self.migration.refresh()
        self.lanes: list[Lane] = []
        self.numbers = iter(range(10**6))

    @property
    def data(self) -> MemoryData:
        return self.migration.data[0]

    @rule(more=rows, system=samples, console=lines)
    def the_source_logs_more(self, more: Any, system: Any, console: Any) -> None:
        self.migration.data[0] = replace(self.data, **grown(self.data, more, system, console))

    @precondition(lambda self: all(lane.ended for lane in self.lanes))
    @rule(
        config=singles, summary=singles, tag=st.sampled_from(["t", "u"]), state=st.sampled_from(["running", "finished"])
    )
    def the_source_changes(self, config: Any, summary: Any, tag: str, state: str) -> None:
        """Never under a worker's hands: a value that a stale worker still has in flight may overwrite a newer one."""
        self.migration.data[0] = replace(
            self.data,
            config={**self.data.config, **config},
            summary={**self.data.summary, **summary},
            tags=[*self.data.tags, tag],
            state=state,
        )

    @precondition(lambda self: all(lane.ended for lane in self.lanes))
    @rule(name=names, content=contents)
    def a_file_changes(self, name: str, content: bytes) -> None:
        self.migration.data[0] = replace(self.data, files={**self.data.files, name: content})

    @rule()
    def the_source_is_listed_again(self) -> None:
        self.migration.refresh()

    # ------------------------------------------------------------ workers

    @rule(target=holders, slow=slow)
    def a_worker_claims(self, slow: list[bool]) -> Any:
        worker = f"worker {next(self.numbers)}"
        claim = self.migration.claim(worker)
        if claim is None:
            return multiple()
        lane = Lane(self.migration, worker, claim, slow)
        self.lanes.append(lane)
        return lane

    @rule(lane=holders, pauses=st.integers(1, 40))
    def a_worker_goes_on(self, lane: Lane, pauses: int) -> None:
        lane.go_on(pauses)
        if lane.ended:
            self._must_be_done(lane)

    @rule(lane=stale, pauses=st.integers(1, 40))
    def a_stale_worker_goes_on(self, lane: Lane, pauses: int) -> None:
        lane.go_on(pauses)
        assert not lane.ended or isinstance(lane.error, LeaseLost), lane.error

    @rule(lane=consumes(holders))
    def a_worker_dies(self, lane: Lane) -> None:
        if lane.ended:
            return
        error = lane.end(Killed)
        if error is None:  # it had asked its last question
            self._must_be_done(lane)
            return
        assert isinstance(error, Killed)
        self.migration.bury(lane.worker)

    @rule(lane=consumes(stale))
    def a_stale_worker_dies(self, lane: Lane) -> None:
        lane.end(Killed)

    @rule(target=stale, lane=consumes(holders), knows=st.booleans())
    def a_worker_loses_its_lease(self, lane: Lane, knows: bool) -> Any:
        """Who does not know it is stopped by the state database."""
        if lane.ended:
            return multiple()
        self.migration.expire(lane.worker)
        lane.lost = knows
        successor = self.migration.must_claim(f"worker {next(self.numbers)}")
        self.migration.store.release(successor)
        return lane

    @rule(lane=consumes(holders))
    def a_worker_is_asked_to_stop(self, lane: Lane) -> None:
        if lane.ended:
            return
        failures = self.migration.detail().failures
        error = lane.end(Stopped)
        if error is None:
            self._must_be_done(lane)
            return
        assert isinstance(error, Stopped), error
        self.migration.store.release(lane.claim)
        detail = self.migration.detail()
        assert detail.status is RunStatus.PENDING
        assert detail.failures <= failures

    @rule(lane=consumes(holders), kind=st.sampled_from([Retryable, Rejected]))
    def an_attempt_fails(self, lane: Lane, kind: type[RunError]) -> None:
        if lane.ended:
            return
        error = lane.end(kind(ErrorClass.UNAVAILABLE, "no answer"))
        if error is None:
            self._must_be_done(lane)
            return
        assert isinstance(error, kind), error
        retry = Retry(max_failures=1000) if kind is Retryable else None
        self.migration.store.fail(lane.claim, Failure("unavailable", "no answer"), retry)

    @rule()
    def failed_runs_are_tried_again(self) -> None:
        self.migration.store.retry_failed(self.migration.only)

    # ------------------------------------------------------------ what always holds

    def _must_be_done(self, lane: Lane) -> None:
        assert lane.error is None, lane.error
        detail = self.migration.detail()
        assert all(part.read == part.written + part.skipped for part in detail.parts.values())

    @invariant()
    def what_is_counted_as_written_is_at_the_destination(self) -> None:
        if not self.migration.destination.runs:
            return
        detail, series = self.migration.detail(), self.migration.stored().series
        there = {"system": 0, "runtime": 0, "": 0}
        for path, points in series.items():
            level = path.split("/")[0]
            there[level if level in there else ""] += len(points)
        for part, level in (("system", "system"), ("console", "runtime"), ("history", "")):
            assert part not in detail.parts or detail.parts[part].written <= there[level]

    def teardown(self) -> None:
        if not hasattr(self, "lanes"):
            return  # interrupted while it was being set up
        try:
            for lane in self.lanes:
                lane.end(Killed)
                self.migration.bury(lane.worker)
            self.migration.store.retry_failed(self.migration.only)
            self.migration.run()
            assert self.migration.arrived() == undisturbed(self.data, OPTIONS)
        finally:
            self.migration.__exit__()


TestCrashes = CopyMachine.TestCase
TestCrashes.settings = settings(
    deadline=None,
    max_examples=12,
    stateful_step_count=20,
    phases=set(Phase) - {Phase.explain},  # it would trace every line of SQLAlchemy
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("page_rows", [1, 3])
def test_a_death_at_any_question_ends_in_the_same_run_as_none(page_rows: int) -> None:
    """Also between the first intent and the first checkpoint, when nothing but the intent is known."""
    rows = [HistoryRow(0, 1.7e9, FIRST_ROW), HistoryRow(1, 1.7e9 + 1, SECOND_ROW)]
    files = {IMAGE["path"]: b"png", "output.log": b"", "code/x.py": b"1"}
    data = MemoryData("r", tags=["t"], config={"lr": 0.1}, history=rows, files=files)
    expected = undisturbed(data, OPTIONS)
    for pauses in itertools.count(1):
        with Migration([data], options=OPTIONS, page_rows=page_rows) as migration:
            migration.refresh()
            lane = Lane(migration, "first", migration.must_claim("first"), [False])
            lane.go_on(pauses)
            died = not lane.ended and lane.end(Killed) is not None
            migration.bury("first")
            migration.run()
            assert migration.arrived() == expected, f"after {pauses} questions"
        if not died:
            break
