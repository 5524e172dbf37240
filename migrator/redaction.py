"""Takes secrets out of texts that are stored, logged or shown.

Our own keys are found by their value, whole, in part and encoded, because servers may repeat any of that. Secrets of
others, such as signed addresses in vendors' messages, are found by their form.
"""

from __future__ import annotations

import json
import netrc
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import quote

from migrator import settings

PIECE = 12  # pieces of a key of this length are hidden, because servers may repeat parts of it
#: a JSON web token, such as Neptune gives in exchange for the API token: each part is JSON in base64
ACCESS_TOKEN = re.compile(r"\beyJ[\w-]{9,}(\.[\w-]+)*")
#: a word of this form may be a key
LONG_WORD = re.compile(r"\b[0-9A-Za-z_-]{40,}\b")
_SECRETS = (
    (re.compile(r"(\w+://)[^\s/@'\"]+@"), r"\1***@"),  # user:password@host
    (re.compile(r"(\w+://[^\s?'\"<>]*\?)[^\s'\"<>]+"), r"\1***"),  # signed addresses
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{16,}"), r"\1 ***"),
    (re.compile(r"(?i)\b(\w*(?:api[_-]?key|token|password)[\"']?\s*[=:]\s*[\"']?)[\w.~+/=-]{16,}"), r"\1***"),
)


# ---------------------------------------------------------------- secrets by their form


def without_secrets(text: str) -> str:
    """`text` without passwords in addresses, signatures of addresses, and values that are called keys."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def without_long_words(text: str) -> str:
    """`text` without words that are as long as keys. Names may be that long, too."""
    return LONG_WORD.sub("***", text)


# ---------------------------------------------------------------- our own keys


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
    for name, key in _environment_keys():  # short ones, too, as words; a netrc may hold any word as a password
        text = re.sub(rf"(?<![^\W_]){re.escape(key)}(?![^\W_])", f"<{name}>", text) if key else text
    return ACCESS_TOKEN.sub("<token>", text)


def key_hider() -> Callable[[str], str]:
    """A fast function that replaces complete keys of this process, for long texts."""
    forms = sorted((key.decode("utf-8", "surrogateescape") for key in own_keys()), key=len, reverse=True)
    if not forms:
        return str
    secrets = re.compile("|".join(map(re.escape, forms)))
    return lambda text: secrets.sub("***", text)


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
