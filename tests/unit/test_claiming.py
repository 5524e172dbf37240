"""The claim reads as its docstring says."""

from __future__ import annotations

import re

from sqlalchemy.dialects import postgresql

from migrations_db import claiming
from migrations_db.claiming import claim_statement
from migrations_db.states import Phase
from migrations_db.types import EVERYTHING

UNFINISHED_PARENT = (
    "NOT (fork_run_id IS NOT NULL AND EXISTS (a run of this project that it is forked from is not done))"
)


def test_the_claim_reads_as_its_docstring_says() -> None:
    statement = claim_statement(Phase.COPY, EVERYTHING, suspects=False)
    sql = str(
        statement.compile(
            dialect=postgresql.dialect(),  # type: ignore[no-untyped-call]
            compile_kwargs={"literal_binds": True, "render_postcompile": True},
        )
    )
    condition = "WHERE" + sql.partition("WHERE")[2]
    condition = re.sub(r"NOT \(run_2\.fork_run_id.*?\)\)\)\)", UNFINISHED_PARENT, condition, flags=re.DOTALL)
    condition = condition.replace("(statement_timestamp() + make_interval(secs => 0.0))", "now")
    condition = re.sub(r"\brun(_\d)?\.|\bAS run_\d| OF run_\d| ASC|::\w+", "", condition)
    told = "WHERE id" + (claiming.__doc__ or "").partition("WHERE id")[2].partition("RETURNING id")[0] + "RETURNING id"
    assert _words(condition) == _words(told)


def _words(text: str) -> list[str]:
    return re.findall(r"[\w.']+|[^\w\s]+?", text)
