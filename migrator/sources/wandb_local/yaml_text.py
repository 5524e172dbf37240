"""Reads `config.yaml` as plain values, with bounded memory whatever the file contains."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import yaml

VALUES_MAX = 1_000_000  # limit, because aliases can refer to each other many times over
LEVELS_MAX = 200


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML is untyped
    """Reads `1e-05` as a number, as in YAML 1.2: wandb-core (Go) writes it so."""


_Loader.yaml_implicit_resolvers = {
    first: [*resolvers] for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    """Parse YAML text to JSON types. ValueError if it is not YAML, or its aliases expand without end."""
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"not YAML: {error}") from error
    return _Plain().plain(value, 0)


class _Plain:
    def __init__(self) -> None:
        self._left = VALUES_MAX

    def plain(self, value: Any, level: int) -> Any:
        self._left -= 1
        if self._left < 0 or level > LEVELS_MAX:
            raise ValueError("its aliases stand for too many values")
        match value:
            case None | bool() | int() | float() | str():
                return value
            case dict():
                return {str(key): self.plain(inner, level + 1) for key, inner in value.items()}
            case list() | tuple() | set():
                return [self.plain(inner, level + 1) for inner in value]
            case date():
                return value.isoformat()
            case bytes():
                return value.decode(errors="replace")
            case _:
                return str(value)
