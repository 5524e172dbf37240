"""Which signals end a command."""

from __future__ import annotations

import signal

#: what a terminal sends to all processes of a command: Ctrl-C, and that it is closed
TERMINAL = frozenset({signal.SIGINT, signal.SIGHUP})

#: what all processes of a command may get at once: a terminal's, and a service manager's
GROUP = TERMINAL | {signal.SIGTERM}


def ending() -> list[signal.Signals]:
    """A service manager's signal, and a terminal's that closes unless it is ignored (`nohup`). Ctrl-C is apart."""
    hangs_up = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, *hangs_up]
