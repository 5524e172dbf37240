"""Signs of life from operations that take long: bytes that arrive or are sent, requests that are answered.

A worker is killed if one of its runs gives no sign of life for `--stall-timeout`. To show that slow is not dead, any
code that makes progress calls `sign`. The call reaches the run for which it works, whatever the thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

_listener: ContextVar[Callable[[], None]] = ContextVar("listener", default=lambda: None)


def sign() -> None:
    """Report progress."""
    _listener.get()()


def listener() -> Callable[[], None]:
    """The function that `sign` calls here, so that it can be called from other threads."""
    return _listener.get()


@contextmanager
def heard_by(hear: Callable[[], None]) -> Iterator[None]:
    """Send signs of life from the block, and from tasks that it submits to a `Pool`, to `hear`."""
    token = _listener.set(hear)
    try:
        yield
    finally:
        _listener.reset(token)


class Pool(ThreadPoolExecutor):
    """Threads whose tasks send their signs of life to the listener of the code that submitted them."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return super().submit(copy_context().run, fn, *args, **kwargs)
