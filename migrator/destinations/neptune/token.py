"""Reads a Neptune API token: base64 of a JSON object with `api_address`, `api_url` and `api_key`.

As `Credentials` of neptune-api 0.24 does it, whose import takes a quarter of a second.
"""

from __future__ import annotations

import json
from base64 import b64decode
from urllib.parse import urlsplit

from migrator.errors import ExitCode, UserError


def address_of(api_token: str) -> str:
    """The server that a Neptune API token names. `UserError` if it is not a valid token; the token is never shown."""
    try:
        content = json.loads(b64decode(api_token.strip()))
        url = content.get("api_url") or ""
        if not url and "api_address" not in content:
            raise ValueError("no address")
        host = urlsplit(url).hostname
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            "NEPTUNE_API_TOKEN is not a Neptune API token: copy it again from your Neptune user menu",
            ExitCode.CREDENTIALS,
        ) from None  # the cause may quote the token
    if not host:
        raise UserError("NEPTUNE_API_TOKEN carries no server address: copy it again", ExitCode.CREDENTIALS)
    if host == "neptune.ai" or host.endswith(".neptune.ai"):
        raise UserError(
            f"NEPTUNE_API_TOKEN points to {host}, but hosted Neptune closed in March 2026: use the token of a "
            "self-hosted Neptune 3.x, or `--mode offline`",
            ExitCode.CREDENTIALS,
        )
    return url
