"""Describes in words what a verification expected and found."""

from __future__ import annotations

import json

from migrator.copying.digests import AnyDigest, FileDigest, SeriesDigest, ValueDigest, of_value
from migrator.destinations.base import ReadFile, ReadOther, ReadSeries, ReadValue
from migrator.records import Fork

SHOWN_CHARS = 80  # of a value; the rest is cut


def told(digest: AnyDigest, kind: str = "") -> str:
    """A digest in readable form."""
    match digest:
        case ValueDigest("datetime", text):
            return f"time {int(text) / 1e6:.3f} s since 1970"
        case ValueDigest("stringSet", text):
            return shortened(", ".join(json.loads(text)) or "no tags")
        case ValueDigest("string", text):
            return f"text #{text}"
        case ValueDigest(type_, text):
            return f"{type_} {text}"
        case FileDigest(size_bytes, md5):
            return f"{size_bytes:,} bytes, md5 {md5}"
        case SeriesDigest():
            return f"{kind}: {points_told(digest.count, digest.first, digest.last)}"


def type_told(value: ReadValue | None) -> str:
    """What was read, described by its type."""
    match value:
        case None:
            return "missing"
        case ReadSeries():
            return f"a series of {value.kind}"
        case ReadFile():
            return f"a file of {value.size_bytes:,} bytes"
        case ReadOther():
            return f"something of type {value.type}"
    return value_told(value, of_value(value))


def value_told(value: ReadValue, digest: ValueDigest) -> str:
    return (
        f"text {shortened(json.dumps(value, ensure_ascii=False))}, #{digest.text}"
        if isinstance(value, str)
        else told(digest)
    )


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


def points_told(count: int, first: int, last: int) -> str:
    points = f"{count:,} point" if count == 1 else f"{count:,} points"
    return points if not count else f"{points}, steps {first / 1e6:.15g} to {last / 1e6:.15g}"


def fork_told(fork: Fork | None) -> str:
    return f"fork of {fork.run_id} at step {fork.step:g}" if fork else "no fork"
