"""Sends one plain request to W&B's address, to find problems that wandb-core does not report well.

wandb-core silently waits as long as Retry-After asks. Of a web page, it says only that it is not JSON; of an answer
that comes byte by byte, only that a deadline was exceeded.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

import requests
from requests.auth import AuthBase

from migrator import life
from migrator.errors import WAIT_ON_THE_SPOT_S, ErrorClass, Throttled, retry_after_s
from migrator.sources.wandb.downloads import Transport
from migrator.sources.wandb.errors import SERVICE, WEB_PAGE
from migrator.sources.wandb.queries import VIEWER

LOOK_S = 30.0  # the time limit of one try in wandb-core
PIECE_BYTES = 16 << 10  # as received; decompressed, it may be a thousand times as long
LOOK_BYTES = 64 << 10  # read of an answer, which may be endless; the real answer to VIEWER is shorter


class _NoKey(AuthBase):
    """With an auth object, requests does not look into ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def look(base_url: str, transport: Transport, look_s: float) -> requests.Response:
    """The head of the answer to a simple question without a key; the caller closes it."""
    return _post(base_url, transport, {"query": VIEWER}, _NoKey(), look_s)


def _post(base_url: str, transport: Transport, body: Any, auth: AuthBase, timeout_s: float) -> requests.Response:
    """Send a GraphQL request as the SDK does. The answer is not read yet."""
    return requests.post(
        f"{base_url}/graphql",
        json=body,
        headers=dict(transport.headers),
        auth=auth,
        stream=True,
        timeout=timeout_s,
        **transport.options(),
    )


def _beginning(answer: requests.Response) -> bytes:
    """The body, up to a piece beyond LOOK_BYTES."""
    text = b""
    for piece in answer.iter_content(PIECE_BYTES):
        text += piece
        if len(text) > LOOK_BYTES:
            break
    return text


def is_too_long(
    base_url: str, key: AuthBase, transport: Transport, request: tuple[str, Mapping[str, Any]], limit_bytes: int
) -> bool:
    """Whether the answer to a GraphQL document with variables is over `limit_bytes`, decompressed."""
    document, variables = request
    read_bytes = 0
    try:
        with _post(base_url, transport, {"query": document, "variables": dict(variables)}, key, LOOK_S) as answer:
            for piece in answer.iter_content(PIECE_BYTES):
                read_bytes += len(piece)
                life.sign()
                if read_bytes > limit_bytes:
                    return True
    except (requests.RequestException, HTTPException, OSError):
        pass  # whatever it is, the request itself will meet it again
    return False


def obstacle(base_url: str, transport: Transport, look_s: float = LOOK_S) -> Throttled | None:
    """Why W&B does not answer: it asks to wait, is too slow, is a web page, or redirects forever. None: none of these.

    wandb-core reports all other problems better, such as refused connections and keys. Sends no key, but the user's own
    headers, because a proxy may require them.
    """
    found: list[Throttled | None] = []
    # in a thread, because the time limit of requests applies to each byte, and an answer may come byte by byte
    thread = threading.Thread(
        target=lambda: found.append(_obstacle(base_url, transport, look_s)), name="look", daemon=True
    )
    thread.start()
    thread.join(look_s)
    return found[0] if found else _too_slow(base_url, look_s)


def _too_slow(base_url: str, look_s: float) -> Throttled:
    return Throttled(ErrorClass.TIMEOUT, f"W&B at {base_url} is too slow: no full answer in {look_s:.0f} s", SERVICE)


def _obstacle(base_url: str, transport: Transport, look_s: float) -> Throttled | None:
    what = f"W&B at {base_url}"
    try:
        with look(base_url, transport, look_s) as answer:
            header = answer.headers.get("Retry-After")
            wait_s = retry_after_s(header)
            if answer.status_code in (429, 503) and wait_s is not None and wait_s > WAIT_ON_THE_SPOT_S:
                told = f"{what} asks to wait: HTTP {answer.status_code}, Retry-After: {header}"
                limited = answer.status_code == 429
                error_class = ErrorClass.RATE_LIMITED if limited else ErrorClass.UNAVAILABLE
                return Throttled(error_class, told, SERVICE, wait_s)
            if answer.status_code == 200:
                text = _beginning(answer)
                if text.lstrip().startswith(b"<"):
                    return Throttled(ErrorClass.UNAVAILABLE, f"{what}: {WEB_PAGE}", SERVICE)
                if len(text) > LOOK_BYTES:
                    told = f"{what}: its answer to a simple request is over {LOOK_BYTES >> 10} KiB"
                    return Throttled(ErrorClass.UNAVAILABLE, f"{told}: check WANDB_BASE_URL", SERVICE)
    except requests.TooManyRedirects:
        return Throttled(ErrorClass.UNAVAILABLE, f"{what} redirects without end: check WANDB_BASE_URL", SERVICE)
    except requests.Timeout:
        return _too_slow(base_url, look_s)
    except (requests.RequestException, HTTPException, OSError):
        return None
    return None
