"""Conditions for many values at once.

Drivers limit the parameters of a statement (SQLite: 32,766), and a limit on runs may select more than that. So a list
travels as one parameter, JSON text, that the database takes apart.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, func, literal, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from migrations_db.columns import safe
from migrations_db.models import Part, Run
from migrations_db.states import RunStatus
from migrations_db.types import Selection


class json_values(FunctionElement[Any]):
    """The rows of a JSON list, in a column `value`."""

    name = "json_values"
    inherit_cache = True


@compiles(json_values, "sqlite")
def _sqlite_json_values(element: json_values, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **kw)})"


@compiles(json_values, "postgresql")
def _postgresql_json_values(element: json_values, compiler: SQLCompiler, **kw: Any) -> str:
    return f"json_array_elements_text(CAST({compiler.process(element.clauses, **kw)} AS JSON))"


def one_of(column: InstrumentedAttribute[Any], values: Collection[int] | Collection[str]) -> ColumnElement[bool]:
    """Whether the column has one of any number of values."""
    plain = [safe(value) if isinstance(value, str) else value for value in values]
    rows = json_values(literal(json.dumps(plain), Text())).table_valued("value")
    return column.in_(select(cast(rows.c.value, column.type)))


def in_selection(run: type[Run], only: Selection) -> list[ColumnElement[bool]]:
    """The conditions of a selection."""
    if only.runs is not None:
        return [one_of(run.id, only.runs)]
    if only.projects is not None:
        return [one_of(run.project_id, only.projects)]
    return []


def lacks(parts: Collection[str]) -> list[ColumnElement[bool]]:
    """The conditions of a run that is done, but without one of these parts, and still there at the source."""
    copied = select(func.count()).where(
        Part.run == Run.id, Part.name.in_(parts), Part.done_fingerprint == Run.fingerprint
    )
    return [Run.status == RunStatus.DONE, Run.reason.is_(None), copied.scalar_subquery() < len(set(parts))]
