"""The log of one invocation: JSON lines in `migration-logs/`, shared by the command and its workers."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from migrator.settings import LOG_DIR


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "pid": record.process,
            "thread": record.threadName,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return without_keys(json.dumps(line, ensure_ascii=False))


def without_keys(text: str) -> str:
    """`text` without the keys of this process: servers and vendors put what they like in their messages."""
    for name in ("WANDB_API_KEY", "NEPTUNE_API_TOKEN"):
        secret = os.environ.get(name)
        if secret:
            text = text.replace(secret, f"<{name}>")
    return text


def log_path(command: str) -> Path:
    """Where this invocation of a command logs."""
    return LOG_DIR.absolute() / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{command}-{os.getpid()}.jsonl"


def start_log(path: Path, verbose: bool) -> None:
    """Log this process to `path` (appending; lines of several processes mix whole)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_JsonLines())
    root = logging.getLogger("migrator")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False
    for noisy in ("neptune", "neptune_scale", "httpx", "wandb", "stamina"):
        vendor = logging.getLogger(noisy)
        vendor.handlers[:] = [handler]
        vendor.setLevel(logging.INFO if verbose else logging.WARNING)
        vendor.propagate = False
