"""What a W&B value is: pure classification of logged values, shared by the sources' surveys and the history part.

A value becomes one or several *leaves*. A leaf is (key, slot, kind, payload): the metric key (nested dicts join
their keys with `.`), a slot below it (`""` for the value itself, `"0"`, `"1"`... for lists of media, `"caption"`
or `"0/caption"` for captions), the kind of series that can hold it, and the value in that kind's form.
Shapes of W&B's objects: wandb 0.31 `sdk/data_types`, and its history exports.
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
COUNTED_MAX = 10_000  # images of one step: what a damaged count may not exceed
SEVERAL = ("audio", "videos", "html", "objects")  # what W&B calls the list in its objects for several media


class SeriesKind(StrEnum):
    """Kinds of series, in order of precedence: where kinds meet at one key, the first keeps the path."""

    NUMBER = "number"
    TEXT = "text"
    HISTOGRAM = "histogram"
    FILE = "file"


class SeriesKey(NamedTuple):
    """One series of a run at its source."""

    key: str
    slot: str
    kind: SeriesKind


class Leaf(NamedTuple):
    """`note` is the reason to record when the payload is not the value itself (a bool as 0/1 ...)."""

    series: SeriesKey
    payload: float | str | Mapping[str, Any]
    note: str | None = None


def leaves(key: str, value: Any, step: float | None = None) -> Iterator[Leaf]:
    """The leaves of a logged value, in source order. None gives nothing ("not logged").

    Payloads: NUMBER an int or float, TEXT a str, HISTOGRAM and FILE W&B's own dict (FILE always with `path`).
    The series do not depend on `step`; names of files of SDKs before 0.13 do.
    """
    return _nested_leaves(key, value, step) if _is_nested(value) else _undivided(key, value, step)


def _is_nested(value: Any) -> bool:
    """Is it a dict of further keys, not an object of W&B's?"""
    return isinstance(value, Mapping) and not isinstance(value.get("_type"), str)


def _nested_leaves(key: str, value: Any, step: float | None) -> Iterator[Leaf]:
    waiting = [(key, value)]  # no recursion: dicts may be nested deep
    while waiting:
        key, value = waiting.pop()
        if _is_nested(value):
            waiting.extend((f"{key}.{name}", inner) for name, inner in reversed([*value.items()]))
        else:
            yield from _undivided(key, value, step)


def _undivided(key: str, value: Any, step: float | None) -> Iterator[Leaf]:
    """The leaves of a value that is no dict of further keys."""
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
    """The items of an object that holds several media, each with its path and caption; empty: it is no such object.

    W&B makes these of lists of media: the files themselves in a list, or only their names (`images/separated`,
    `molecule`), or in SDKs up to 0.12 only their count and format.
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
    """Images of SDKs up to 0.12, named by key, step and place (wandb 0.12 `data_types.Image.seq_to_json`)."""
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
    """People write numbers, too (`caption=label`)."""
    if _is_none(caption):
        return
    series = SeriesKey(key, slot, SeriesKind.TEXT)
    yield Leaf(series, caption) if isinstance(caption, str) else Leaf(series, history_json(caption), "caption as text")


def _is_none(caption: Any) -> bool:
    """W&B writes False where there is none, in a list of captions."""
    return caption is None or caption is False or caption == ""


def is_media(value: Any) -> bool:
    """Is it one media file, that is a W&B object that names a file of the run?"""
    return isinstance(value, Mapping) and isinstance(value.get("_type"), str) and isinstance(value.get("path"), str)


def compact_json(value: Any) -> str:
    """JSON text without blanks, keys in source order; NaN and infinities as W&B's strings."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_map_floats(value, _finite), ensure_ascii=False, separators=(",", ":"), default=str)


def history_json(value: Any) -> str:
    """As `compact_json`; whole floats lose their `.0`, as in W&B's live rows, so that all exports give one text."""
    return compact_json(_map_floats(value, _whole))


def _map_floats(value: Any, convert: Callable[[float], Any]) -> Any:
    match value:
        case float():
            return convert(value)
        case Mapping():
            converted = {}
            for name, inner in value.items():  # loops, not comprehensions: one frame a level
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
