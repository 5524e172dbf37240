"""How much memory this process and wandb-core take at most while something runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

SAMPLE_S = 0.01
MB = 1_000_000


class Growth:
    """`mb`: the most that was taken beyond what was taken at the beginning."""

    mb = 0


@contextmanager
def measured() -> Iterator[Growth]:
    growth, before, done = Growth(), _resident(), threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            growth.mb = max(growth.mb, (_resident() - before) // MB)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield growth
    finally:
        done.set()
        watching.join()


def _resident() -> int:
    us = psutil.Process()
    total = int(us.memory_info().rss)
    for child in us.children():
        try:
            if child.name() == "wandb-core":
                total += child.memory_info().rss
        except psutil.NoSuchProcess:
            pass
    return total
