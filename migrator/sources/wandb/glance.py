"""One plain look at what answers under W&B's address, for what wandb-core cannot tell.

wandb-core waits as long as Retry-After asks, without a word; says of a web page that it is no JSON; and of an answer
that comes byte by byte that a deadline is exceeded.
"""

from __future__ import annotations

import threading
from http.client import HTTPException

import requests
from requests.auth import AuthBase

from migrator.errors import ErrorClass, Throttled, retry_after_s
from migrator.sources.wandb.downloads import Transport
from migrator.sources.wandb.errors import SERVICE, WEB_PAGE
from migrator.sources.wandb.queries import VIEWER

LOOK_S = 30.0  # as long as wandb-core gives one try
LOOK_BYTES = 64 << 10  # of an answer that may be endless; that to VIEWER is shorter
SHORT_WAIT_S = 10.0  # wandb-core waits for so long itself


class _NoKey(AuthBase):
    """With an auth object, requests does not look into ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def obstacle(base_url: str, transport: Transport, look_s: float = LOOK_S) -> Throttled | None:
    """What keeps W&B from answering: it asks to wait, is too slow, is a web page, redirects for ever. Else None.

    Anything else is better told by wandb-core, refused connections and keys among them. Sends no key, but people's own
    headers: a proxy may ask for them.
    """
    found: list[Throttled | None] = []
    # a thread: time limits of requests are for one byte, and an answer may come byte by byte
    thread = threading.Thread(
        target=lambda: found.append(_obstacle(base_url, transport, look_s)), name="look", daemon=True
    )
    thread.start()
    thread.join(look_s)
    return found[0] if found else _too_slow(base_url, look_s)


def _too_slow(base_url: str, look_s: float) -> Throttled:
    return Throttled(ErrorClass.TIMEOUT, f"W&B at {base_url} is too slow: no whole answer in {look_s:.0f} s", SERVICE)


def _obstacle(base_url: str, transport: Transport, look_s: float) -> Throttled | None:
    what, asked = f"W&B at {base_url}", {"query": VIEWER}
    try:
        with requests.post(
            f"{base_url}/graphql",
            json=asked,
            headers=dict(transport.headers),
            auth=_NoKey(),
            stream=True,
            timeout=look_s,
            **transport.options(),
        ) as answer:
            header = answer.headers.get("Retry-After")
            wait_s = retry_after_s(header)
            if answer.status_code in (429, 503) and wait_s is not None and wait_s > SHORT_WAIT_S:
                told = f"{what} asks to wait: HTTP {answer.status_code}, Retry-After: {header}"
                limited = answer.status_code == 429
                error_class = ErrorClass.RATE_LIMITED if limited else ErrorClass.UNAVAILABLE
                return Throttled(error_class, told, SERVICE, wait_s)
            if answer.status_code == 200 and next(answer.iter_content(LOOK_BYTES), b"").lstrip().startswith(b"<"):
                return Throttled(ErrorClass.UNAVAILABLE, f"{what}: {WEB_PAGE}", SERVICE)
    except requests.TooManyRedirects:
        return Throttled(ErrorClass.UNAVAILABLE, f"{what} redirects without end: check WANDB_BASE_URL", SERVICE)
    except requests.Timeout:
        return _too_slow(base_url, look_s)
    except (requests.RequestException, HTTPException, OSError):
        return None
    return None
