"""Starts worker processes quickly: their modules are imported once, in a server from which they are forked.

Imports are most of the cost of starting a worker (about 2 s of CPU time with both vendors' packages). The server begins
to import while the command still reads its database. It has none of our threads, connections or keys.

Private names of multiprocessing (3.11 to 3.14) used here: `_forkserver_pid` and `_stop` of `ForkServer`, the `tempdir`
of `_config`.

Only on Linux: on macOS, forked processes may crash in system libraries, so each worker is started from scratch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, process, resource_tracker
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import BaseContext
from typing import Any

from migrator.job.job import Job
from migrator.job.signals import GROUP

METHOD = "forkserver" if sys.platform == "linux" else "spawn"


def context() -> BaseContext:
    """The multiprocessing context for workers."""
    return multiprocessing.get_context(METHOD)


@contextmanager
def server(modules: Sequence[str]) -> Iterator[None]:
    """Start the server, which begins to import the modules in the background. It ends with the block.

    If a module cannot be imported, the workers report why.
    """
    if METHOD != "forkserver":
        yield
        return
    context().set_forkserver_preload(["migrator.job.quick_imports", *modules])
    config = process.current_process()._config  # type: ignore[attr-defined]
    before, listens_in = config.get("tempdir"), os.open(tempfile.gettempdir(), os.O_RDONLY)
    try:
        # Its socket is with our temporary files, whose paths may be too long for a socket.
        config["tempdir"] = f"/proc/{os.getpid()}/fd/{listens_in}"
        with undisturbed():
            forkserver.ensure_running()
        yield
    finally:
        _end(forkserver._forkserver)
        config["tempdir"] = before
        os.close(listens_in)


def _end(running: Any) -> None:
    """Killed, it needs no half second to tidy up all those modules; it has nothing to lose."""
    if running._forkserver_pid is not None:
        os.kill(running._forkserver_pid, signal.SIGKILL)  # not waited for yet: the number is still its own
    running._stop()


def work(job: Job, number: int, pipe: Pipe, keys: Mapping[str, str]) -> None:
    """The main function of a worker process. Only there are the modules needed that copy runs."""
    from migrator.job.worker import run_worker

    run_worker(job, number, pipe, keys)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Block the signals of terminals and service managers in processes that are started within the block.

    So they are not killed by them before they have installed handlers. The server never does; it ends with its command.
    """
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the tracker does not ignore it by itself
    resource_tracker.ensure_running()  # otherwise the first worker's start does it, which unblocks SIGINT
    signal.signal(signal.SIGHUP, before)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
