"""The log of one invocation: JSON lines in `migration-logs/`, shared by the command and its workers; no keys in it."""

from __future__ import annotations

import json
import logging
import netrc
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote

import stamina.instrumentation

from migrator import settings
from migrator.errors import ExitCode, UserError
from migrator.settings import LOG_DIR

PIECE = 12  # pieces of a key of this length are hidden, because servers may repeat parts of it
#: a JSON web token, such as Neptune gives in exchange for the API token: each part is JSON in base64
ACCESS_TOKEN = re.compile(r"\beyJ[\w-]{9,}(\.[\w-]+)*")

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


def without_keys(text: str) -> str:
    """`text` without the keys of this process, in full or in part, plain or encoded: servers may repeat any of them."""
    pieces = _pieces(*_keys())
    shown: list[str] = []
    start = at = 0
    while at < len(text):
        if (name := pieces.get(text[at : at + PIECE])) is None:
            at += 1
            continue
        shown += [text[start:at], f"<{name}>"]
        while text[at + 1 : at + 1 + PIECE] in pieces:
            at += 1
        start = at = at + PIECE
    text = "".join([*shown, text[start:]])
    for name, key in _environment_keys():  # short ones, too; a netrc may hold any word as a password
        text = text.replace(key, f"<{name}>") if key else text
    return ACCESS_TOKEN.sub("<token>", text)


def own_keys() -> frozenset[bytes]:
    """The complete keys of this process in all forms that `without_keys` hides."""
    forms = (form for _, key in _keys() if len(key) >= PIECE for form in _forms(key))
    return frozenset(form.encode("utf-8", "surrogateescape") for form in forms)


@cache
def _pieces(*keys: tuple[str, str]) -> dict[str, str]:
    """All substrings of PIECE characters of all forms of the keys, with the name of the key."""
    return {
        form[at : at + PIECE]: name for name, key in keys for form in _forms(key) for at in range(len(form) - PIECE + 1)
    }


def _keys() -> list[tuple[str, str]]:
    """Each key with the name that replaces it."""
    keys = _environment_keys()
    keys += [("WANDB_API_KEY", key) for key in _netrc_keys()]
    return keys + [("WANDB_IDENTITY_TOKEN_FILE", token) for token in _identity_tokens()]


def _environment_keys() -> list[tuple[str, str]]:
    return [*settings.keys().items()]


def _netrc_keys() -> Iterator[str]:
    """The keys from where `wandb login` stores them. All hosts count: wandb's default changed, settings differ."""
    named = os.environ.get("NETRC")
    for name in [named] if named else ["~/.netrc", "~/_netrc"]:
        path = Path(name).expanduser()
        try:
            yield from (password for _, _, password in netrc.netrc(str(path)).hosts.values() if password)
        except netrc.NetrcParseError:  # wandb may read it nevertheless
            yield from re.findall(r"\bpassword\s+(\S+)", _text_of(path))
        except (OSError, ValueError):
            pass


def _identity_tokens() -> Iterator[str]:
    """The identity token, and the access tokens that wandb-core got for it."""
    named = os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
    if not named:
        return
    yield _text_of(Path(named)).strip()
    credentials = os.environ.get("WANDB_CREDENTIALS_FILE", "~/.config/wandb/credentials.json")
    yield from re.findall(r'"access_token":\s*"([^"]+)"', _text_of(Path(credentials).expanduser()))


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _forms(key: str) -> Iterator[str]:
    """The key itself, in a URL, in base64 (after 0 to 2 other bytes), and the contents of a token."""
    raw = key.encode("utf-8", "surrogateescape")
    yield key
    yield quote(raw, safe="")
    for before in range(3):
        yield (encoded := b64encode(b" " * before + raw).decode()[4 if before else 0 :].rstrip("=")[:-1])
        yield encoded.translate(str.maketrans("+/", "-_"))
    try:
        inner = json.loads(b64decode(key, validate=True))["api_key"]
    except (ValueError, KeyError, TypeError):
        return
    yield from _forms(str(inner))


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
