"""What goes wrong, and when: an endless sequence of events, the same for the same seed, whatever the job does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.servers.http import Fault

PAUSE_S = (0.3, 2.0)  # between two events
WAIT = {"Retry-After": "1"}
WANDB = {
    "429, Retry-After": Fault("graphql|GET", "status", status=429, headers=WAIT),
    "429": Fault("graphql", "status", status=429),
    "500": Fault("graphql|GET", "status", status=500),
    "502": Fault("graphql|GET", "status", status=502, body="<html>Bad Gateway</html>"),
    "503": Fault("graphql|GET", "status", status=503, headers=WAIT),
    "dropped connection": Fault("graphql|GET", "drop"),
    "truncated body": Fault("graphql|GET", "truncate"),
    "truncated file": Fault("GET /(files|parquet)", "truncate"),
    "expired URL": Fault("GET /(files|parquet)", "status", status=403),
    "slow": Fault("graphql|GET", "slow", delay_s=2.0),
    "lost answer": Fault("graphql|GET", "lost_answer"),
}
NEPTUNE = {
    "429, Retry-After": Fault("submit|check|sign", "status", status=429, headers=WAIT),
    "429": Fault("submit|sign", "status", status=429),
    "500": Fault("submit|check|sign|create_project|PUT", "status", status=500),
    "502": Fault("submit|check|sign", "status", status=502, body="<html>Bad Gateway</html>"),
    "503": Fault("submit|check|sign|create_project", "status", status=503, headers=WAIT),
    "dropped connection": Fault("submit|check|sign|PUT|exchange|config", "drop"),
    "truncated body": Fault("submit|check|sign|exchange", "truncate"),
    "expired URL": Fault("PUT", "status", status=403),
    "slow": Fault("submit|check|sign|PUT", "slow", delay_s=2.0),
    "lost answer, applied": Fault("submit|PUT|create_project", "lost_answer"),
}
OUTAGE, REFUSAL = "outage", "transient refusal"
REFUSALS = [{"path": "metric|loss|^config|^$", "code": "INGEST_SUSPENDED"}, {"path": "acc|lr", "code": "INTERNAL"}]
#: weights of what happens to the processes of the command
SIGNALS = {
    "kill -9 a worker": 3,
    "kill -9 the supervisor": 1,
    "kill -9 everything": 1,
    "SIGTERM": 1,
    "SIGTERM to a worker": 1,
    "Ctrl-C": 1,
    "SIGSTOP a worker beyond its lease": 2,
    "a second command": 1.5,
    "a second database": 1.5,
}
SIGNALS_SHARE = 0.12  # of all events: every start of a command costs seconds


@dataclass(frozen=True)
class Event:
    """`after_s` after the one before. `side`: wandb, neptune or "" (a signal); `roll`, 0 to 1, is for choices."""

    after_s: float
    side: str
    name: str
    roll: float


def events(seed: int) -> Iterator[Event]:
    rng = random.Random(seed)
    sides = {"wandb": [*WANDB, OUTAGE], "neptune": [*NEPTUNE, OUTAGE, REFUSAL]}
    while True:
        after_s, roll = rng.uniform(*PAUSE_S), rng.random()
        if rng.random() < SIGNALS_SHARE:
            yield Event(after_s, "", rng.choices([*SIGNALS], [*SIGNALS.values()])[0], roll)
        else:
            side = rng.choice([*sides])
            yield Event(after_s, side, rng.choice(sides[side]), roll)


def plan(event: Event) -> Fault:
    """The fault of an event for one side: after up to ten requests, it hits up to ten; an outage hits all, until the
    next event there.
    """
    if event.name == OUTAGE:
        return Fault(".", "drop", times=None)
    fault = (WANDB if event.side == "wandb" else NEPTUNE)[event.name]
    return replace(fault, skip=int(event.roll * 1000) % 11, times=1 + int(event.roll * 10))
