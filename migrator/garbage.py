"""When Python looks for garbage in cycles.

By default, it does so after each 700 new objects. Imports make hundreds of thousands, and a page of rows as many, and
next to none of them are in cycles: about a tenth of the time that commands took to start went into looking for some.
"""

from __future__ import annotations

import gc

THRESHOLD = 100_000  # objects


def collect_rarely() -> None:
    gc.set_threshold(THRESHOLD)


def collect_no_more() -> None:
    """For the end of a process, at which Python would look at every object once more: 0.3 to 0.7 s, for nothing."""
    gc.freeze()
