"""Answers of Neptune: what they take with them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import httpx
import pytest

from migrator.destinations.neptune.limited import HEADERS, limit_answer


@pytest.fixture
def without_search() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_search")
def test_a_request_is_let_go_of_with_its_answer() -> None:
    """Columns of numbers make so few objects that Python may not look for garbage in a whole run of gigabytes."""
    service = httpx.MockTransport(lambda _: httpx.Response(200, stream=httpx.ByteStream(b"ok")))
    with httpx.Client(transport=service, headers=HEADERS, event_hooks={"response": [limit_answer]}) as client:
        answer = client.post("https://neptune.invalid/ingest", content=bytes(16))
        request = weakref.ref(answer.request)
        assert (answer.content, request() is None) == (b"ok", False)
        del answer
        assert request() is None
