"""Parses W&B's JSON to Python values that are safe to process: not nested too deeply, and without huge integers.

Python parses about 1,000 levels and integers of 4,300 digits, and raises for more. A value beyond these limits stays
JSON text.
"""

from __future__ import annotations

import json
import re
from typing import Any

LEVELS_MAX = 300  # below the limits of parsing, pickling and writing JSON with 100 frames of our own on the stack
_HOLE = "\0JSON text"  # the key of a dict that is the placeholder for a value kept as text

_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BRACKETS = re.compile(rf"{_STRING}|[\[\]{{}}]", re.DOTALL)
_NO_BRACKETS = re.compile(rf'{_STRING}|[^\[\]{{}}"]++', re.DOTALL)
_MINUS_ZERO = re.compile(r"-0(?![.\deE])")  # how W&B (Go) writes -0.0; to Python an integer
_DECODER = json.JSONDecoder(strict=False)  # to make one takes longer than to parse a short text
_BLANKS = re.compile(rf"({_STRING})|\s++", re.DOTALL)


class JsonText(str):
    """Compact JSON text of a value that is nested too deeply, or of an integer that is too long."""

    __slots__ = ()
    NOTE = "nested too deeply, or an integer too long: kept as JSON text"


def parse_json(text: str) -> Any:
    """Parse JSON as W&B stores it, which may have bare NaN, and control characters and lone surrogates in strings.

    ValueError for anything else. If a value is nested too deeply, its outermost list becomes a `JsonText` or, if it has
    no list, the dict at LEVELS_MAX.
    """
    if is_deep(text):
        return json.loads(_without_depths(text), strict=False, parse_int=_integer, object_hook=_filled)
    try:
        if not has_minus_zero(text):
            return _DECODER.decode(text)
    except ValueError:  # not JSON, or it contains an integer of thousands of digits
        pass
    return json.loads(text, strict=False, parse_int=_integer)


def has_minus_zero(text: str) -> bool:
    """Whether JSON text may contain -0.0, which Python would read as 0."""
    return _MINUS_ZERO.search(text) is not None


def is_deep(text: str) -> bool:
    """Whether JSON text is nested too deeply to be parsed directly."""
    if text.count("{") + text.count("[") <= LEVELS_MAX:
        return False
    brackets = _NO_BRACKETS.sub("", text)
    for _ in range(LEVELS_MAX):
        brackets = brackets.replace("[]", "").replace("{}", "")  # the innermost level
        if not brackets:
            return False
    return True


def _without_depths(text: str) -> str:
    pieces: list[str] = []
    opened: list[re.Match[str]] = []  # brackets that are open
    done = 0  # the part of `text` up to here is in `pieces`
    hole: int | None = None  # the index in `opened` of the value kept as text
    for token in _BRACKETS.finditer(text):
        if token[0] in "[{":
            opened.append(token)
            if hole is None and len(opened) > LEVELS_MAX:
                hole = next((level for level, one in enumerate(opened[:-1]) if one[0] == "["), LEVELS_MAX - 1)
        elif token[0] in "]}" and opened:
            start = opened.pop().start()
            if hole == len(opened):
                left = json.dumps({_HOLE: _BLANKS.sub(r"\1", text[start : token.end()])})
                pieces += [text[done:start], left]
                done, hole = token.end(), None
    if hole is not None:
        raise ValueError("JSON that does not end")
    return "".join([*pieces, text[done:]])


def _filled(value: dict[str, Any]) -> Any:
    return JsonText(value[_HOLE]) if _HOLE in value else value


def _integer(digits: str) -> int | float | JsonText:
    try:
        return int(digits) if digits != "-0" else -0.0
    except ValueError:
        return JsonText(digits)
