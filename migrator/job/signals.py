"""Which signals end a command."""

from __future__ import annotations

import signal

#: signals that a terminal sends to all processes of a command: for Ctrl-C, and when it is closed
TERMINAL = frozenset({signal.SIGINT, signal.SIGHUP})

#: signals that all processes of a command may get at once: those of a terminal and of a service manager
GROUP = TERMINAL | {signal.SIGTERM}


def ending() -> list[signal.Signals]:
    """The signal of a service manager and, unless ignored (`nohup`), that of a closing terminal; not Ctrl-C."""
    hangs_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, *hangs_up]
