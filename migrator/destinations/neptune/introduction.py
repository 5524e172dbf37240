"""Who we are at Neptune: asked once, by `migrate doctor`."""

from __future__ import annotations

from contextlib import closing

from migrator.destinations.neptune.connection import Connection
from migrator.destinations.neptune.errors import patiently
from migrator.destinations.neptune.token import address_of
from migrator.services import Introduction


def introduce(api_token: str) -> Introduction:
    """Logs in and asks for the projects that the account sees. Raises `MigratorError`. Neptune tells no version."""
    with closing(Connection(api_token)) as connection:
        look = patiently(connection.look)
        account = patiently(lambda: connection.account(api_token))
    return Introduction(
        address=address_of(api_token),
        account=account,
        spaces=sorted({project.partition("/")[0] for project in look.projects}),
        projects=len(look.projects),
        ahead_s=look.ahead_s,
    )
