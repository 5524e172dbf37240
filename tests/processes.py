"""Which of a command's processes is which."""

from __future__ import annotations

from collections.abc import Iterable

import psutil


def forked(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The workers: forks of the command's fork server, which have its command line."""
    found = []
    for process in processes:
        try:
            parent = process.parent()
            if parent is not None and process.cmdline() == parent.cmdline() and is_server(parent):
                found.append(process)
        except psutil.NoSuchProcess:
            pass  # it has just ended
    return found


def is_server(process: psutil.Process) -> bool:
    return "multiprocessing.forkserver" in " ".join(process.cmdline())
