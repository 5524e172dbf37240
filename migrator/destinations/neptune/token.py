"""Reads a Neptune API token. Separate from `connection`, whose import takes half a second."""

from __future__ import annotations

from urllib.parse import urlsplit

from neptune_api.credentials import Credentials
from neptune_api.errors import InvalidApiTokenException

from migrator.errors import ExitCode, UserError


def address_of(api_token: str) -> str:
    """The server that a Neptune API token names. `UserError` if it is not a valid token; the token is never shown."""
    try:
        url = str(Credentials.from_api_key(api_key=api_token).base_url)
        host = urlsplit(url).hostname
    except (InvalidApiTokenException, AttributeError, ValueError):
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
