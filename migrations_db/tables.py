"""What all tables share: the types of their columns, the names of their keys, and indexes on a few rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, MetaData, text
from sqlalchemy.orm import DeclarativeBase

from migrations_db.columns import SafeText, UtcTime, word
from migrations_db.states import Outcome, Phase, RunStatus, Verdict


def partial_index(name: str, *columns: str, where: str) -> Index:
    """An index on the few rows that a query concerns. `columns` may contain DESC.

    The upgrades create it. `where` is for readers: as an option of a dialect, it would load all of that dialect.
    """
    return Index(name, *[text(column) if " " in column else column for column in columns], info={"where": where})


CLAIM_ORDER = ("phase", "silent_attempts", "size_hint DESC", "id")
NAMES = {"pk": "%(table_name)s_pk", "fk": "%(table_name)s_%(column_0_name)s_fk"}


class Base(DeclarativeBase):
    """All tables."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own attribute
        str: SafeText,
        datetime: UtcTime,
        int: BigInteger,
        list[str]: JSON(none_as_null=True),
        dict[str, Any]: JSON(none_as_null=True),
        Phase: word(Phase),
        RunStatus: word(RunStatus),
        Outcome: word(Outcome),
        Verdict: word(Verdict),
    }
