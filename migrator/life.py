"""Signs of life of what takes long: bytes that arrive or leave, questions that are answered.

A worker is killed when a run of its gives none for `--stall-timeout`. Slow is not dead: whatever moves calls `sign`,
in whichever thread it is, and reaches the run that it is for.
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
    """Something has moved."""
    _listener.get()()


def listener() -> Callable[[], None]:
    """Who hears `sign` here, for those who call it from elsewhere."""
    return _listener.get()


@contextmanager
def heard_by(hear: Callable[[], None]) -> Iterator[None]:
    """In the block, and in tasks that it gives to a `Pool`, signs of life go to `hear`."""
    token = _listener.set(hear)
    try:
        yield
    finally:
        _listener.reset(token)


class Pool(ThreadPoolExecutor):
    """Threads whose tasks are heard by those who hear their submitter."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return super().submit(copy_context().run, fn, *args, **kwargs)
