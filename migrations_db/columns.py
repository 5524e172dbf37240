"""Column types that are the same in both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, DateTime, Dialect, Double, Enum, Integer, Text, cast, func, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import SQLCoreOperations
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

#: SQLite assigns numbers to rows only in an INTEGER PRIMARY KEY
RowNumber = BigInteger().with_variant(Integer(), "sqlite")


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime, stored and returned in UTC. A naive one is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a zone: {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class SafeText(TypeDecorator[str]):
    """Any text. Characters that a database cannot store (NUL, lone surrogates) are replaced by visible ones."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else safe(value)


def safe(text: str) -> str:
    """`text` as `SafeText` stores it; a plain str, because drivers treat enums in different ways."""
    text = str(text)
    if "\0" in text:
        text = text.replace("\0", "\N{SYMBOL FOR NULL}")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def word(kind: type[StrEnum]) -> Enum:
    """A column for the words of `kind`, stored as text."""
    return Enum(kind, native_enum=False, length=16, values_callable=lambda e: [str(m.value) for m in e])


# ---------------------------------------------------------------- the clock
#
# The database's own clock is used, so that hosts with wrong clocks cannot disagree about a lease.
#
# The time is when the statement started. SQLite stores times as text with a resolution of one millisecond, in the form
# that SQLAlchemy reads and that sorts by time.


class now_plus(FunctionElement[datetime]):
    """The time `seconds` from now (negative: ago)."""

    type = UtcTime()
    inherit_cache = True

    def __init__(self, seconds: float | ColumnElement[float] = 0.0) -> None:
        super().__init__(literal(seconds, Double()) if isinstance(seconds, float | int) else seconds)


class seconds_until(FunctionElement[float]):
    """Seconds from now to a time; negative if it has passed."""

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


def total(column: Any) -> ColumnElement[int]:
    """The sum of a column; 0 if there are no rows."""
    return cast(func.coalesce(func.sum(column), 0), BigInteger)
