"""Facts about W&B that its API and its local directories share."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Any, NamedTuple

from migrator.records import Fork

EVENTS_TYPE = "wandb-events"
#: types of W&B's own exports of a run, which are listed among its artifacts
OWN_TYPES = frozenset({"wandb-history", EVENTS_TYPE})


def sum_hex(text: str | None) -> str | None:
    """Convert W&B's base64 of an md5 or xxh128 to hex. None: it is neither."""
    try:
        digest = base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest.hex() if len(digest) == 16 else None


def iso_time(text: Any) -> datetime | None:
    """Read a time as W&B and its SDK write it: ISO 8601, often without a zone, then UTC. None: it is something else."""
    try:
        time = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


class Branch(NamedTuple):
    """Where a run branched off another run (`fork`), or was rewound (`rewound_to`: the last step that it kept)."""

    fork: Fork | None = None
    rewound_to: float | None = None


def branch(run_id: str, parent: str, step: float) -> Branch:
    """The branch point of `run_id`: a fork if `parent` is another run, a rewind if it is the run itself."""
    if not parent:
        return Branch()
    return Branch(rewound_to=step) if parent == run_id else Branch(Fork(parent, step))


def branch_of_config(run_id: str, config: Any) -> Branch:
    """The branch point in a run's config, at the place where SDK 0.31 writes it (`wandb_init.py`), wrapped or not."""
    point = _inside(_inside(config, "_wandb"), "branch_point")
    parent, step = _inside(point, "run_id"), _inside(point, "step")
    if not isinstance(parent, str) or not isinstance(step, int | float) or isinstance(step, bool):
        return Branch()
    return branch(run_id, parent, step)


def _inside(value: Any, key: str) -> Any:
    if isinstance(value, dict) and key not in value:
        value = value.get("value")  # W&B wraps config values
    return value.get(key) if isinstance(value, dict) else None
