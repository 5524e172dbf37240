"""The database's own clock, so that hosts with wrong clocks cannot disagree about a lease.

The time is that of the start of the statement. SQLite keeps times as text, with the resolution of a millisecond, in the
form that SQLAlchemy reads and that sorts by time.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Double, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlalchemy.sql.functions import FunctionElement

from migrations_db.columns import UtcTime


class now_plus(FunctionElement[datetime]):
    """The time `seconds` from now (negative: ago)."""

    type = UtcTime()
    inherit_cache = True

    def __init__(self, seconds: float | ColumnElement[float] = 0.0) -> None:
        super().__init__(literal(seconds, Double()) if isinstance(seconds, float | int) else seconds)


class seconds_until(FunctionElement[float]):
    """Seconds from now to a time; negative: it is over."""

    type = Double()
    inherit_cache = True

    def __init__(self, time: SQLCoreOperations[Any]) -> None:
        super().__init__(time)


@compiles(now_plus, "sqlite")
def _sqlite_now_plus(element: now_plus, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+f seconds', {seconds}))"


@compiles(now_plus, "postgresql")
def _postgresql_now_plus(element: now_plus, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(seconds_until, "sqlite")
def _sqlite_seconds_until(element: seconds_until, compiler: SQLCompiler, **kw: Any) -> str:
    return f"((julianday({compiler.process(element.clauses, **kw)}) - julianday('now')) * 86400.0)"


@compiles(seconds_until, "postgresql")
def _postgresql_seconds_until(element: seconds_until, compiler: SQLCompiler, **kw: Any) -> str:
    time = compiler.process(element.clauses, **kw)
    return f"extract(epoch from {time} - statement_timestamp())::double precision"
