"""Classifies logged W&B values. Pure; used by the sources' surveys and by the history part.

A value becomes one or several *leaves*. A leaf is (key, slot, kind, payload): the metric key (nested dicts join
their keys with `.`), a slot below it (`""` for the value itself, `"0"`, `"1"`... for lists of media, `"caption"`
or `"0/caption"` for captions), the kind of series that can hold it, and the value in the form of that kind.
The forms of W&B's objects are from wandb 0.31 `sdk/data_types` and its history exports.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from itertools import zip_longest
from typing import Any, NamedTuple

from migrator.json_text import JsonText

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
COUNTED_MAX = 10_000  # images of one step at most, in case a count is damaged
SEVERAL = ("audio", "videos", "html", "objects")  # W&B's names for the list in objects with several media


class SeriesKind(StrEnum):
    """Kinds of series, in order of precedence: if one key has several kinds, the first one gets the key's path."""

    NUMBER = "number"
    TEXT = "text"
    HISTOGRAM = "histogram"
    FILE = "file"


class SeriesKey(NamedTuple):
    """One series of a run in its source."""

    key: str
    slot: str
    kind: SeriesKind


class Leaf(NamedTuple):
    """A part of a value. `note` is the reason to record if the payload is not the value itself (a bool as 0/1 ...)."""

    series: SeriesKey
    payload: float | str | Mapping[str, Any]
    note: str | None = None


def leaves(key: str, value: Any, step: float | None = None) -> Iterator[Leaf]:
    """The leaves of a logged value, in source order. None has no leaves ("not logged").

    Payloads: NUMBER an int or float, TEXT a str, HISTOGRAM and FILE W&B's own dict (FILE always with `path`).
    The series do not depend on `step`, but names of files from SDKs before 0.13 do.
    """
    return _nested_leaves(key, value, step) if _is_nested(value) else _undivided(key, value, step)


def _is_nested(value: Any) -> bool:
    """Whether a value is a dict of further keys, not a W&B object."""
    return isinstance(value, Mapping) and not isinstance(value.get("_type"), str)


def _nested_leaves(key: str, value: Any, step: float | None) -> Iterator[Leaf]:
    waiting = [(key, value)]  # no recursion: dicts may be nested deeply
    while waiting:
        key, value = waiting.pop()
        if _is_nested(value):
            waiting.extend((f"{key}.{name}", inner) for name, inner in reversed([*value.items()]))
        else:
            yield from _undivided(key, value, step)


def _undivided(key: str, value: Any, step: float | None) -> Iterator[Leaf]:
    """The leaves of a value that is not a dict of further keys."""
    match value:
        case None:
            return
        case bool():
            yield Leaf(SeriesKey(key, "", SeriesKind.NUMBER), float(value), "bool as 0/1")
        case int() | float():
            yield Leaf(SeriesKey(key, "", SeriesKind.NUMBER), value)
        case JsonText():
            yield Leaf(SeriesKey(key, "", SeriesKind.TEXT), value, JsonText.NOTE)
        case str():
            if value in NON_FINITE:
                yield Leaf(SeriesKey(key, "", SeriesKind.NUMBER), NON_FINITE[value])
            else:
                yield Leaf(SeriesKey(key, "", SeriesKind.TEXT), value)
        case Mapping():
            yield from _object_leaves(key, value, step)
        case list() | tuple():
            if value and all(is_media(item) for item in value):
                yield from _media_leaves(key, value)
            else:
                yield Leaf(SeriesKey(key, "", SeriesKind.TEXT), history_json(value))
        case _:
            yield Leaf(SeriesKey(key, "", SeriesKind.TEXT), history_json(value), "unknown type as JSON text")


def _object_leaves(key: str, value: Mapping[str, Any], step: float | None) -> Iterator[Leaf]:
    kind = value["_type"]
    if kind == "histogram":
        yield Leaf(SeriesKey(key, "", SeriesKind.HISTOGRAM), value)
    elif is_media(value):
        yield Leaf(SeriesKey(key, "", SeriesKind.FILE), value)
        yield from _caption_leaves(key, "caption", value.get("caption"))
    elif items := _several(key, value, step):
        yield from _media_leaves(key, items)
    else:
        yield Leaf(SeriesKey(key, "", SeriesKind.TEXT), history_json(value), f"{kind} as JSON text")


def _several(key: str, value: Mapping[str, Any], step: float | None) -> list[Mapping[str, Any]]:
    """The items of an object with several media, each with its path and caption. Empty: it is not such an object.

    W&B creates these objects for lists of media. They contain the files in a list, or only their names
    (`images/separated`, `molecule`) or, from SDKs up to 0.12, only their count and format.
    """
    lists = (value.get(name) for name in SEVERAL)
    items = next((items for items in lists if isinstance(items, list) and all(map(is_media, items))), None)
    if items is None:
        names = value.get("filenames")
        items = [{"path": str(name)} for name in names] if isinstance(names, list) else _counted(key, value, step)
    captions = value.get("captions")
    if not isinstance(captions, list):
        captions = []
    captioned = zip_longest(items, captions[: len(items)])
    return [{**item, "caption": caption} if _is_none(item.get("caption")) else item for item, caption in captioned]


def _counted(key: str, value: Mapping[str, Any], step: float | None) -> list[Mapping[str, Any]]:
    """Images from SDKs up to 0.12, named by key, step and position (wandb 0.12 `data_types.Image.seq_to_json`)."""
    count, suffix = value.get("count"), value.get("format")
    if value["_type"] != "images/separated" or not isinstance(count, int) or not isinstance(suffix, str):
        return []
    number = "" if step is None else f"{step:.0f}"
    return [{"path": f"media/images/{key}_{number}_{i}.{suffix}"} for i in range(min(count, COUNTED_MAX))]


def _media_leaves(key: str, items: Any) -> Iterator[Leaf]:
    for i, item in enumerate(items):
        yield Leaf(SeriesKey(key, str(i), SeriesKind.FILE), item)
        yield from _caption_leaves(key, f"{i}/caption", item.get("caption"))


def _caption_leaves(key: str, slot: str, caption: Any) -> Iterator[Leaf]:
    """The leaf of a caption. It may be a number (`caption=label`)."""
    if _is_none(caption):
        return
    series = SeriesKey(key, slot, SeriesKind.TEXT)
    yield Leaf(series, caption) if isinstance(caption, str) else Leaf(series, history_json(caption), "caption as text")


def _is_none(caption: Any) -> bool:
    """Whether there is no caption. In a list of captions, W&B writes False for that."""
    return caption is None or caption is False or caption == ""


def is_media(value: Any) -> bool:
    """Whether a value is one media file: a W&B object that names a file of the run."""
    return isinstance(value, Mapping) and isinstance(value.get("_type"), str) and isinstance(value.get("path"), str)


def compact_json(value: Any) -> str:
    """JSON text without whitespace, with keys in source order, and NaN and infinities as W&B's strings."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_map_floats(value, _finite), ensure_ascii=False, separators=(",", ":"), default=str)


def history_json(value: Any) -> str:
    """Like `compact_json`, but whole floats lose their `.0` as in W&B's live rows, so all exports give equal text."""
    return compact_json(_map_floats(value, _whole))


def _map_floats(value: Any, convert: Callable[[float], Any]) -> Any:
    match value:
        case float():
            return convert(value)
        case Mapping():
            converted = {}
            for name, inner in value.items():  # loops, not comprehensions: one frame per level
                converted[str(name)] = _map_floats(inner, convert)
            return converted
        case list() | tuple():
            items = []
            for inner in value:
                items.append(_map_floats(inner, convert))
            return items
        case _:
            return value


def _finite(number: float) -> float | str:
    if math.isnan(number):
        return "NaN"
    return number if math.isfinite(number) else "Infinity" if number > 0 else "-Infinity"


def _whole(number: float) -> float | int:
    is_minus_zero = number == 0 and math.copysign(1, number) < 0
    return int(number) if number.is_integer() and abs(number) < 1e15 and not is_minus_zero else number
