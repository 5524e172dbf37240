"""Starts worker processes quickly: what they need is imported once, in a server that they are forked from.

Imports are most of what the start of a worker costs (about 2 s of CPU with both vendors' packages). The server begins
with them while the command still looks at its database, and has no threads of ours, no connections and no keys.

Private names of multiprocessing (3.11 to 3.14) used here: `ForkServer._stop`, the `tempdir` of `_config`.

Only on Linux: on macOS forked processes may crash in the system's own libraries, so each worker starts anew there.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, process, resource_tracker
from multiprocessing.context import BaseContext

from migrator.job.signals import GROUP

METHOD = "forkserver" if sys.platform == "linux" else "spawn"


def context() -> BaseContext:
    """What `Process` of a worker is made of."""
    return multiprocessing.get_context(METHOD)


@contextmanager
def server(modules: Sequence[str]) -> Iterator[None]:
    """Begin to import what workers will need, and go on at once; at the end of the block the server is gone.

    A module that cannot be imported is left to the workers, which say why.
    """
    if METHOD != "forkserver":
        yield
        return
    context().set_forkserver_preload([*modules])
    config = process.current_process()._config  # type: ignore[attr-defined]
    before, listens_in = config.get("tempdir"), os.open(tempfile.gettempdir(), os.O_RDONLY)
    try:
        # Its socket lies with our temporary files, whose names may be longer than those that a socket can have.
        config["tempdir"] = f"/proc/{os.getpid()}/fd/{listens_in}"
        with undisturbed():
            forkserver.ensure_running()
        yield
    finally:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
        config["tempdir"] = before
        os.close(listens_in)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Processes that are started meanwhile leave a terminal's and a service manager's signals waiting.

    So they cannot die of them before they have said how to take them; the server never does, and ends with its command.
    """
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the tracker does not ignore it by itself
    resource_tracker.ensure_running()  # else the first worker's start would: it unblocks SIGINT
    signal.signal(signal.SIGHUP, before)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
