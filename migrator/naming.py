"""W&B name -> Neptune project, run id, attribute path. Pure, deterministic, injective within a run.

The rules are those of the mapping in README. If a name has to change, the change depends only on the name (on a hash of
it), so that every attempt and every source produces the same Neptune name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from migrator.limits import PATH_MAX_BYTES, PROJECT_NAME_MAX, PROJECT_NAME_MIN, RUN_ID_MAX_BYTES, RUN_NAME_MAX_BYTES

#: first levels to which this tool writes; metrics with these names go below METRICS_NAMESPACE
RESERVED_LEVELS = frozenset(
    [
        "sys",
        "config",
        "summary",
        "wandb",
        "system",
        "runtime",
        "files",
        "source_code",
        "checkpoints",
        "artifacts",
        "migration",
    ]
)
METRICS_NAMESPACE = "metrics"
MAPPING_VERSION = 1  # changes when the same W&B run would become a different Neptune run
SHORT_PROJECT_SUFFIX = "-wandb"  # added to project names that are too short for Neptune
NOT_ALLOWED = "not allowed in Neptune"  # the reason why most projects are renamed


class Renamed(NamedTuple):
    """A name, and why it differs from the original one (None: it does not)."""

    name: str
    reason: str | None = None


def hex_digest(text: str, digits: int) -> str:
    """The first hex digits of sha256. Lone surrogates, which JSON may contain, count as their code points."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def clean_text(text: str) -> str:
    """Make text valid for UTF-8: surrogate pairs are joined, lone surrogates become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def cut_utf8(text: str, max_bytes: int) -> str:
    """The longest start of `text` that fits in `max_bytes` of UTF-8 without splitting a character."""
    return text.encode()[:max_bytes].decode(errors="ignore")


# ---------------------------------------------------------------- projects and runs


def project_names(names: Iterable[str], chosen: Mapping[str, str]) -> dict[str, Renamed]:
    """Neptune project names for the W&B projects of one entity.

    `chosen` maps W&B names to names that the user has chosen. If several projects would get the same name, compared
    without case, the one whose name needed no change keeps it, else the first by W&B name. The others get `-` and 6 hex
    digits of the sha256 of their W&B name.
    """
    names = sorted(set(names))
    result = {name: Renamed(chosen[name], "chosen by --project-map") for name in names if name in chosen}
    taken = {renamed.name.casefold() for renamed in result.values()}
    plain = {name: _legal_project_name(name) for name in names if name not in chosen}
    for name in sorted(plain, key=lambda name: (plain[name].name != name, name)):
        wanted = plain[name]
        if wanted.name.casefold() in taken:
            suffixed = (_with_project_suffix(wanted.name, hex_digest(name, digits)) for digits in (6, 16, 64))
            unique = next(free for free in suffixed if free.casefold() not in taken)
            wanted = Renamed(unique, f"{wanted.name} is taken by another project")
        result[name] = wanted
        taken.add(wanted.name.casefold())
    return result


def _legal_project_name(name: str) -> Renamed:
    """Change `name` to the characters and the length that Neptune allows."""
    plain = re.sub(r"[^A-Za-z0-9.-]", "-", name)
    if len(plain) < PROJECT_NAME_MIN:
        return Renamed(f"{plain}{SHORT_PROJECT_SUFFIX}", f"Neptune wants at least {PROJECT_NAME_MIN} characters")
    if len(plain) > PROJECT_NAME_MAX:
        cut = _with_project_suffix(plain, hex_digest(name, 6))
        return Renamed(cut, f"Neptune allows at most {PROJECT_NAME_MAX} characters")
    return Renamed(plain, None if plain == name else NOT_ALLOWED)


def _with_project_suffix(name: str, suffix: str) -> str:
    return f"{name[: PROJECT_NAME_MAX - len(suffix) - 1]}-{suffix}"


def neptune_run_id(run_id: str) -> Renamed:
    """`sys/custom_run_id`: the W&B run id or, if Neptune does not allow it, a readable part plus 8 hex digits."""
    text = clean_text(run_id)
    if text == run_id and run_id and "/" not in run_id and len(run_id.encode()) <= RUN_ID_MAX_BYTES:
        return Renamed(run_id)
    readable = cut_utf8(text.replace("/", "-"), RUN_ID_MAX_BYTES - 9)
    return Renamed(f"{readable}-{hex_digest(run_id, 8)}", "run id not allowed in Neptune")


def neptune_run_name(name: str | None, run_id: str) -> Renamed:
    """`sys/name`: the W&B display name or, if that is empty, the run id."""
    text = clean_text(name or "")
    if not text.strip():
        return Renamed(cut_utf8(clean_text(run_id), RUN_NAME_MAX_BYTES), "name is blank" if text else None)
    if len(text.encode()) > RUN_NAME_MAX_BYTES:
        return Renamed(cut_utf8(text, RUN_NAME_MAX_BYTES), f"name over {RUN_NAME_MAX_BYTES} bytes")
    return Renamed(text, None if text == name else "not valid unicode")


# ---------------------------------------------------------------- attribute paths


def source_key(keys: Sequence[str]) -> str:
    """The source key of a nested value: compact JSON, so that `a/b` and `a` > `b` differ."""
    return json.dumps(list(keys), ensure_ascii=False, separators=(",", ":"))


class Paths:
    """Assigns each source key of one part of a run its own path. The same keys in the same order get the same paths."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, key: str, wanted: str) -> Renamed:
        """A free path for source key `key`: `wanted`, or a similar path with the reason why it differs."""
        path, reason = legal_path(wanted)
        if path in self._taken:
            reason = "another key has this path"
            suffixed = (_with_suffix(path, hex_digest(key, digits)) for digits in (8, 16, 64))
            path = next(free for free in suffixed if free not in self._taken)  # a key may look like a suffix
        self._taken.add(path)
        return Renamed(path, reason)


def legal_path(wanted: str) -> Renamed:
    """Fill empty levels of `wanted` and cut it to Neptune's limit."""
    path = clean_text(wanted)
    reason = None if path == wanted else "not valid unicode"
    if not path or path[0] == "/" or path[-1] == "/" or "//" in path:
        path = "/".join(level or "_" for level in path.split("/"))
        reason = "empty level"
    if len(path.encode()) > PATH_MAX_BYTES:
        path = _with_suffix(path, hex_digest(wanted, 8))
        reason = f"path over {PATH_MAX_BYTES} bytes"
    return Renamed(path, reason)


def _with_suffix(path: str, suffix: str) -> str:
    return f"{cut_utf8(path, PATH_MAX_BYTES - len(suffix) - 1)}~{suffix}"


def metric_base(key: str, namespace: str | None) -> Renamed:
    """The path of a metric, before `Paths` makes it legal and unique."""
    if namespace:
        return Renamed(f"{namespace}/{key}")
    if key.split("/", 1)[0] in RESERVED_LEVELS:
        return Renamed(f"{METRICS_NAMESPACE}/{key}", "first level is reserved")
    return Renamed(key)
