"""Reads the values in records of a `.wandb` log: items with a path (`nested_key` or `key`) and JSON text.

In wandb 0.31, the JSON may contain the bare words NaN, Infinity and -Infinity. A path of several elements leads through
nested dicts; its elements are not split further. Histograms and media are logged as the leaves of their dict.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from migrator import json_text

_EMPTY_JSON = "null"
_decoder = json.JSONDecoder()
YEAR_10000_S = 253_402_300_800
PATH_MAX = 100  # levels of nested dicts from paths; deeper levels become one, joined like the keys of metrics


def json_or_text(text: str) -> Any:
    """Parse JSON text. Text that is not valid JSON is returned unchanged, so that nothing is lost."""
    try:
        return json_text.parse_json(text)
    except ValueError:
        return text


def item_path(item: Any) -> Sequence[str]:
    """The path of an item of a history, summary or config record: keys from the top."""
    path = item.nested_key or (item.key,)
    return path if len(path) <= PATH_MAX else [*path[: PATH_MAX - 1], ".".join(path[PATH_MAX - 1 :])]


def item_json(item: Any) -> str:
    """The JSON text of an item's value. (History items also have typed fields, but wandb 0.31 leaves them unset.)"""
    if item.value_json:
        return str(item.value_json)
    kind = item.WhichOneof("value") if "value" in item.DESCRIPTOR.oneofs_by_name else None
    match kind:
        case None | "none":
            return _EMPTY_JSON
        case "json":
            return str(item.json)
        case _:
            return json.dumps(getattr(item, kind))


def row_values(history: Any) -> dict[str, Any]:
    """The values of a history record by key. Paths of several elements become nested dicts."""
    keys: list[str] = []
    texts: list[str] = []
    nested: list[Any] = []
    for item in history.item:
        path = item.nested_key
        if len(path) == 1:
            keys.append(path[0])
            texts.append(item.value_json)
        elif path:
            nested.append(item)
        else:
            keys.append(item.key)
            texts.append(item.value_json)
    try:  # parsing all values as one JSON text is twice as fast as one by one
        values = dict(zip(keys, _parsed_together(texts), strict=True))
    except ValueError:
        singles = (item for item in history.item if len(item.nested_key) < 2)
        values = {item_path(item)[0]: json_or_text(item_json(item)) for item in singles}
    for item in nested:
        put(values, item_path(item), json_or_text(item_json(item)))
    return values


def _parsed_together(texts: Sequence[str]) -> list[Any]:
    joined = f"[{','.join(texts)}]"
    if json_text.is_deep(joined) or json_text.has_minus_zero(joined):
        raise ValueError("one of them needs a closer look")
    values, end = _decoder.raw_decode(joined)  # json.loads also looks for whitespace
    if end != len(joined) or not isinstance(values, list):
        raise ValueError("one of them is not JSON")
    return values


def put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value at a path of nested dicts."""
    for name in path[:-1]:
        inner = values.get(name)
        if not isinstance(inner, dict):
            inner = values[name] = {}
        values = inner
    values[path[-1]] = value


def row_step(history: Any, before: int) -> int:
    """The step of a history record as logged. `before` is the step of the previous record.

    The record's own number and `_step` agree. Rows without either (several writers of one run) count up from `before`.
    """
    if history.HasField("step"):
        return int(history.step.num)
    for item in history.item:
        if tuple(item_path(item)) == ("_step",):
            step = json_or_text(item_json(item))
            return step if isinstance(step, int) else before + 1
    return before + 1


def row_time_s(history: Any) -> float | None:
    """The `_timestamp` of a history record, seconds since the epoch."""
    for item in history.item:
        if tuple(item_path(item)) == ("_timestamp",):
            return as_time_s(json_or_text(item_json(item)))
    return None


def as_time_s(value: Any) -> float | None:
    """A time in seconds. None: the value is not a time that a datetime can hold."""
    return float(value) if isinstance(value, int | float) and 0 <= value < YEAR_10000_S else None


def epoch_s(timestamp: Any) -> float:
    """Convert a protobuf Timestamp to seconds since the epoch."""
    return float(timestamp.seconds + timestamp.nanos / 1e9)


class JsonTree:
    """Config or summary: JSON texts by path, where later ones replace earlier ones. Parsed only at the end.

    A summary is updated with every row, so in a long run most texts are replaced without being parsed.
    """

    def __init__(self) -> None:
        self._top: dict[str, Any] = {}  # values are JSON texts, or dicts of the same kind

    def update(self, record: Any) -> None:
        """Apply a config or summary record: its updates, then its removals."""
        top = self._top
        for item in record.update:
            path = item.nested_key
            if len(path) == 1:
                top[path[0]] = item.value_json
            elif path:
                self.set(item_path(item), item_json(item))
            else:
                top[item.key] = item.value_json
        for item in record.remove:
            self._remove(item_path(item))

    def merge(self, record: Any) -> None:
        """Like `update`, but merge an object into an existing one, as wandb-core (0.31) does with a config."""
        for item in record.update:
            *above, name = item_path(item)
            _join(self._node(above), name, item_json(item))
        for item in record.remove:
            self._remove(item_path(item))

    def set(self, path: Sequence[str], text: str) -> None:
        """Set JSON text at a path."""
        self._node(path[:-1])[path[-1]] = text

    def set_all(self, values: Mapping[str, Any]) -> None:
        """Set complete values by key."""
        self._top.update((key, json.dumps(value)) for key, value in values.items())

    def _node(self, path: Sequence[str]) -> dict[str, Any]:
        node = self._top
        for name in path:
            inner = node.get(name)
            if not isinstance(inner, dict):
                inner = node[name] = _opened(inner)
            node = inner
        return node

    def _remove(self, path: Sequence[str]) -> None:
        node = self._top
        for name in path[:-1]:
            inner = node.get(name)
            if isinstance(inner, str):
                inner = node[name] = _opened(inner)
            if inner is None:
                return
            node = inner
        node.pop(path[-1], None)

    def values(self) -> dict[str, Any]:
        return {key: _parsed(value) for key, value in self._top.items()}

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield top-level keys with the JSON text of their values. Numbers and bare NaN are as logged."""
        for key, value in self._top.items():
            yield key, _text(value)

    def __bool__(self) -> bool:
        return bool(self._top)


def _join(node: dict[str, Any], name: str, text: str) -> None:
    old = node.get(name)
    if not (_is_object(old) and _is_object(text)):
        node[name] = text
        return
    inner = node[name] = old if isinstance(old, dict) else _opened(old)
    for key, value in _opened(text).items():
        _join(inner, key, value)


def _is_object(value: dict[str, Any] | str | None) -> bool:
    return isinstance(value, dict) or (value or "").lstrip().startswith("{")


def _opened(text: str | None) -> dict[str, Any]:
    """Convert a JSON object to a node of a tree. Any other value is replaced by an empty node."""
    value = json_or_text(text) if text else None
    return {k: json.dumps(v) for k, v in value.items()} if isinstance(value, dict) else {}


def _parsed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _parsed(inner) for key, inner in value.items()}
    return json_or_text(value or _EMPTY_JSON)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return json_object((key, _text(inner)) for key, inner in value.items())
    return value or _EMPTY_JSON


def json_object(members: Any) -> str:
    """Build a JSON object from keys and the JSON texts of their values."""
    return "{" + ", ".join(f"{json.dumps(key)}: {text}" for key, text in members) + "}"
