"""Logs in at a Neptune server with public parts of neptune-api only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from neptune_api import AuthenticatedClient, Client
from neptune_api.api.backend import get_client_config
from neptune_api.auth_helpers import exchange_api_key
from neptune_api.credentials import Credentials

from migrator.destinations.neptune.errors import check_answer, translated
from migrator.destinations.neptune.limited import HEADERS, limit_answer
from migrator.errors import ErrorClass, Rejected, Retryable, UserError

TIMEOUT_S = 30.0  # for one request, as in neptune-scale 0.30


def client_for(api_token: str, what: str, headers: Mapping[str, str] | None = None) -> AuthenticatedClient:
    """Create a client for the server in the token (two requests). `what` is the first part of messages.

    It exchanges the token for an access token with its first request, and reads only answers of limited length.
    """
    with translated(what):
        credentials = Credentials.from_api_key(api_key=api_token)
        options: dict[str, Any] = {
            "base_url": credentials.base_url,
            "follow_redirects": True,
            "verify_ssl": verifies_ssl(),
            "timeout": TIMEOUT_S,
            "headers": {**HEADERS, **(headers or {})},
            "httpx_args": {"event_hooks": {"response": [limit_answer]}},
        }
        with Client(**options) as client:
            config = get_client_config.sync_detailed(client=client)
            _check_public(config, what)
            if config.parsed is None:
                raise ValueError("the answer is not a client config")
            discovered = client.get_httpx_client().get(config.parsed.security.open_id_discovery)
            _check_public(discovered, what)
        return AuthenticatedClient(
            credentials=credentials,
            client_id=config.parsed.security.client_id,
            token_refreshing_endpoint=discovered.json()["token_endpoint"],
            api_key_exchange_callback=exchange_api_key,
            **options,
        )


def verifies_ssl() -> bool:
    """Decide it as neptune-scale does (NEPTUNE_VERIFY_SSL, NEPTUNE_ALLOW_SELF_SIGNED_CERTIFICATE)."""
    verify = os.environ.get("NEPTUNE_VERIFY_SSL")
    if verify is not None:
        return verify.lower() not in ("false", "0")
    return os.environ.get("NEPTUNE_ALLOW_SELF_SIGNED_CERTIFICATE", "").lower() not in ("true", "1")


def _check_public(response: Any, what: str) -> None:
    """Like `check_answer`, for what anybody may ask: a refusal is not about the token, so it may pass."""
    try:
        check_answer(response, what)
    except (Rejected, UserError) as error:
        raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: HTTP {int(response.status_code)}") from error
