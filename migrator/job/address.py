"""A state database belongs to one destination: its cursors say what is durable there.

It is bound when the destination has taken the first project, and not before: a mistyped workspace, which Neptune
refuses, must not bind it for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from migrations_db.store import Store
from migrator.errors import UserError

COPIES, UPLOADS = "destination", "upload destination"  # keys of settings in the state database


@dataclass(frozen=True, slots=True)
class Binding:
    """`setting` is COPIES, or for offline files on their way to Neptune UPLOADS."""

    setting: str
    address: str

    def check(self, store: Store) -> None:
        """`UserError` if the database belongs to another destination."""
        self._compare(store.setting(self.setting) or self.address)

    def bind(self, store: Store) -> None:
        """From now on the database belongs to this one. `UserError` if it belongs to another already."""
        self._compare(store.claim_setting(self.setting, self.address))

    def _compare(self, bound: str) -> None:
        if bound != self.address:
            advice = "`migrate sync` uploads offline files" if bound.startswith("offline:") else "use the same settings"
            raise UserError(
                f"the runs of this state database go to {bound}, not to {self.address}: {advice}, "
                "or take --db OTHER for another destination"
            )
