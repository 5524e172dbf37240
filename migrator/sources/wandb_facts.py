"""Facts about W&B that its API and its local directories share."""

from __future__ import annotations

import base64
import binascii

EVENTS_TYPE = "wandb-events"
#: types of W&B's own exports of a run, which are listed among its artifacts
OWN_TYPES = frozenset({"wandb-history", EVENTS_TYPE})


def md5_hex(text: str | None) -> str | None:
    """W&B's base64 as hex; None for what is not an md5."""
    try:
        digest = base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest.hex() if len(digest) == 16 else None
