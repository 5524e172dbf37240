"""Sweeps. Their configurations are YAML written by people, so they may contain anything."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import yaml

from migrator.errors import Rejected
from migrator.listed import RunRef
from migrator.records import Sweep
from migrator.sources.wandb import queries
from migrator.sources.wandb.answers import Json
from migrator.sources.wandb.client import WandbClient

TEXT_MAX = 256 << 10  # characters of YAML that are parsed at most: this takes about a second
LEVELS_MAX = 100  # levels of nested values
VALUES_MAX = 100_000  # values, with aliases expanded

log = logging.getLogger(__name__)


class SweepCache:
    """Caches sweeps, because many runs share one."""

    def __init__(self, client: WandbClient) -> None:
        self._client = client
        self._known: dict[tuple[str, str, str], Sweep] = {}

    def of(self, ref: RunRef, sweep_id: str) -> Sweep:
        key = (ref.entity, ref.project, sweep_id)
        if key not in self._known:
            asked = {"entity": ref.entity, "project": ref.project, "name": sweep_id}
            try:
                project = self._client.ask(queries.SWEEP, asked, f"sweep {sweep_id} of {ref}").get("project") or {}
            except Rejected as error:  # perhaps deleted: the run still has its id
                log.warning("%s: %s", ref, error)
                project = {}
            self._known[key] = _sweep(sweep_id, project.get("sweep") or {})
        return self._known[key]


def _sweep(sweep_id: str, node: Json) -> Sweep:
    config, note = node.get("config"), None
    if isinstance(config, str):
        try:
            config = parse_yaml(config)
        except ValueError as error:
            note = f"kept as YAML, not converted to JSON: {error}"
    text = None if config is None else json.dumps(_plain(config), ensure_ascii=False)
    return Sweep(sweep_id, node.get("displayName"), node.get("method"), text, note)


def parse_yaml(text: str) -> Any:
    """The value of a YAML document. ValueError, with the reason, if it is not valid or would become too large."""
    if len(text) > TEXT_MAX:
        raise ValueError(f"over {TEXT_MAX} characters")
    if _levels(text) > LEVELS_MAX:  # the parser would take minutes
        raise ValueError(f"over {LEVELS_MAX} levels")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > VALUES_MAX:  # checked before it is built: merge keys expand aliases
            raise ValueError(f"over {VALUES_MAX} values")
        return loader.construct_document(node)
    except RecursionError as error:
        raise ValueError("too many levels") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error
    except (AttributeError, TypeError, LookupError, ArithmeticError) as error:  # from PyYAML, for unusual tags
        raise ValueError(f"{type(error).__name__}: {error}"[:200]) from error
    finally:
        loader.dispose()


def _levels(text: str) -> int:
    """The depth of nested brackets. Brackets in strings count too."""
    level = deepest = 0
    for sign in text:
        if sign in "[{":
            level += 1
            deepest = max(deepest, level)
        elif sign in "]}":
            level = max(0, level - 1)
    return deepest


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values in `node` with all aliases expanded. ValueError if an alias is part of its own value."""
    size = known.get(id(node))
    if size == 0:
        raise ValueError("an alias refers to itself")
    if size is None:
        known[id(node)] = 0
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        size = known[id(node)] = 1 + sum(_values(child, known) for child in children)
    return size


def _plain(value: Any) -> Any:
    """Convert to JSON types: dates, sets, bytes and keys that are not strings become strings and lists."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else _key(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, set):
        return sorted(map(str, value))
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _key(key: Any) -> str:
    """A key as JSON writes it: `true`, `null`, `1`; anything else as text."""
    return json.dumps(key) if key is None or isinstance(key, int | float) else str(key)
