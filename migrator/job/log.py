"""The log of one invocation: JSON lines in `migration-logs/`, shared by the command and its workers; no keys in it."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import stamina.instrumentation

from migrator.errors import ExitCode, UserError
from migrator.redaction import without_keys
from migrator.settings import LOG_DIR

log = logging.getLogger(__name__)


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


def log_path(command: str) -> Path:
    """Where this invocation of a command logs."""
    return LOG_DIR.absolute() / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{command}-{os.getpid()}.jsonl"


def start_log(path: Path, verbose: bool) -> None:
    """Append this process's log to `path`, which several processes share line by line. Also log repeated requests."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # messages may quote people's data
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the log {path} cannot be written: {error.strerror}. Make room or get permission, or work in another "
            "directory",
            ExitCode.UNEXPECTED,
        ) from error
    handler.setFormatter(_JsonLines())
    logging.raiseExceptions = False  # a disk that is full later stops the job with a message, not with tracebacks
    stamina.instrumentation.set_on_retry_hooks([_log_retry])
    root = logging.getLogger("migrator")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False
    for noisy in ("neptune", "neptune_scale", "httpx", "wandb", "stamina"):
        vendor = logging.getLogger(noisy)
        vendor.handlers[:] = [handler]
        vendor.setLevel(logging.INFO if verbose else logging.WARNING)
        vendor.propagate = False


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    cause = details.caused_by
    log.warning("%s: %s; trying again in %.1f s", type(cause).__name__, cause, details.wait_for)
